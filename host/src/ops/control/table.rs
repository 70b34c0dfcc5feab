//! Prints tables: columns as wide as their widest cell, two spaces apart. Pure.
//!
//! Cells are escaped as in the log: a name chosen by a client could contain line feeds or terminal
//! control sequences.

use super::terminal::{Colours, Style};
use crate::ops::logging::escaped;

/// A heading, and the text of the cell below it for an item.
pub(super) type Column<T> = (&'static str, fn(&T) -> String);

/// Formats one row for each item under the headings of the columns.
pub(super) fn table<T>(items: &[T], columns: &[Column<T>]) -> String {
    let column = |(heading, cell): &Column<T>| -> Vec<String> {
        let cells = items.iter().map(|item| escaped(&cell(item)));
        let cells: Vec<String> = [(*heading).to_owned()].into_iter().chain(cells).collect();
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        cells.iter().map(|cell| format!("{cell:width$}")).collect()
    };
    let columns: Vec<Vec<String>> = columns.iter().map(column).collect();
    let line = |row: usize| columns.iter().map(|cells| &*cells[row]).collect::<Vec<_>>().join("  ");
    (0..=items.len()).map(|row| format!("{}\n", line(row).trim_end())).collect()
}

/// Formats a table as [`table`] does; on a terminal the heading is bold, and each row has the style
/// of its item.
pub(super) fn coloured_table<T>(
    items: &[T],
    style: fn(&T) -> Option<Style>,
    columns: &[Column<T>],
) -> String {
    let (text, colours) = (table(items, columns), Colours::of_stdout());
    let styles = [Some(Style::Bold)].into_iter().chain(items.iter().map(style));
    let lines = text.lines().zip(styles).map(|(line, style)| match style {
        Some(style) => format!("{}\n", colours.paint(style, line)),
        None => format!("{line}\n"),
    });
    lines.collect()
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
        let columns: [Column<[&str; 2]>; 2] =
            [("A", |row| row[0].to_owned()), ("B", |row| row[1].to_owned())];
        let rows = [["ä", "long cell"], ["bc", ""]];
        assert_eq!(table(&rows, &columns), "A   B\nä   long cell\nbc\n");
        let rows = [["\u{1b}\n", "x"]];
        assert_eq!(table(&rows, &columns), "A         B\n\\u{1b}\\n  x\n");
        assert_eq!([59, 60, 7200, 86_400 * 3].map(age), ["59 s", "1 min", "2 h", "3 d"]);
    }
}
