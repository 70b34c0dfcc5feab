//! Prints tables: columns as wide as their widest cell, two spaces apart. Pure.
//!
//! Cells are escaped as in the log: a name chosen by a client could contain line feeds or terminal
//! control sequences.

use crate::ops::logging::escaped;

/// Formats rows under headings; a row may have fewer cells than there are headings.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([heading.len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(headings.to_vec());
    for row in &rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// Formats a duration in its largest whole unit: `3 s`, `4 min`, `5 h`, `6 d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["ä".to_owned(), "long cell".to_owned()], vec!["bc".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows), "A   B\nä   long cell\nbc\n");
        let rows = [vec!["\u{1b}\n".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows), "A         B\n\\u{1b}\\n  x\n");
        assert_eq!([59, 60, 7200, 86_400 * 3].map(age), ["59 s", "1 min", "2 h", "3 d"]);
    }
}
