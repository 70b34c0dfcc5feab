//! Prints results as Markdown tables, as used in `docs/explanation/performance.md`.

use std::fmt;

use crate::measure::{Row, Sample};

/// Title and columns of a table.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: Vec<Column>,
}

struct Column {
    head: String,
    cell: Cell,
}

/// Computes the cell of a row; the second argument contains all rows.
type Cell = Box<dyn Fn(&Row, &[Row]) -> String>;

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)
    }
}

/// Selects a figure of a sample.
type Of = fn(&Sample) -> f64;

impl Table {
    /// Creates a table without columns.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), columns: Vec::new() }
    }

    fn column(mut self, head: &str, cell: impl Fn(&Row, &[Row]) -> String + 'static) -> Self {
        self.columns.push(Column { head: head.to_owned(), cell: Box::new(cell) });
        self
    }

    /// Adds the median of `value`, and its minimum and maximum.
    #[must_use]
    pub fn value(self, head: &str) -> Self {
        self.column(head, |row, _| number(row.median(|sample| sample.value))).column(
            "min–max",
            |row, _| {
                let values = row.samples.iter().map(|sample| sample.value);
                let (least, most) = values.fold((f64::MAX, f64::MIN), |(least, most), value| {
                    (least.min(value), most.max(value))
                });
                format!("{}–{}", number(least), number(most))
            },
        )
    }

    /// Adds the CPU use of the server.
    #[must_use]
    pub fn busy(self) -> Self {
        self.column("busy", |row, _| format!("{:.0} %", 100.0 * row.median(|s| s.busy)))
    }

    /// Adds the median of a figure as a number.
    #[must_use]
    pub fn number(self, head: &str, of: Of) -> Self {
        self.column(head, move |row, _| number(row.median(of)))
    }

    /// Adds the median of a duration in microseconds or milliseconds.
    #[must_use]
    pub fn time(self, head: &str, of: Of) -> Self {
        self.column(head, move |row, _| time(row.median(of)))
    }

    /// Adds the median of a duration as a multiple of `unit`.
    #[must_use]
    pub fn multiple(self, head: &str, of: Of, unit: f64) -> Self {
        self.column(head, move |row, _| format!("{:.1}", row.median(of) / unit))
    }

    /// Adds the ratio to the row `base`, multiplied by `scale`; empty if there is no such row.
    #[must_use]
    pub fn ratio(self, head: &str, base: &str, of: Of, scale: f64) -> Self {
        let base = base.to_owned();
        self.column(head, move |row, rows| {
            let base = rows.iter().find(|row| row.name == base);
            base.map_or(String::new(), |base| ratio(row.ratio(base, of) * scale))
        })
    }

    /// Renders the table with its title.
    #[must_use]
    pub fn render(&self, rows: &[Row]) -> String {
        let heads = self.columns.iter().map(|column| column.head.clone());
        let mut lines = vec![std::iter::once(String::new()).chain(heads).collect::<Vec<_>>()];
        for row in rows {
            let cells = self.columns.iter().map(|column| (column.cell)(row, rows));
            lines.push(std::iter::once(row.name.clone()).chain(cells).collect());
        }
        let widths: Vec<usize> = (0..=self.columns.len())
            .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\n{}\n\n", self.title);
        for (number, line) in lines.iter().enumerate() {
            for (at, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                text += &match at {
                    0 => format!("| {cell:width$} "),
                    _ => format!("| {cell:>width$} "),
                };
            }
            text += "|\n";
            if number == 0 {
                text += &format!("|---{}|\n", "|--:".repeat(self.columns.len()));
            }
        }
        text
    }
}

fn ratio(value: f64) -> String {
    if value.is_nan() { String::new() } else { format!("{value:.2}") }
}

/// Formats a number with about three digits: 2.86 M, 165 k, 2,803, 0.35.
fn number(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => String::new(),
        v if v >= 999_500.0 => format!("{:.2} M", value / 1e6),
        v if v >= 9_999.5 => format!("{:.0} k", value / 1e3),
        v if v >= 999.5 => {
            format!("{},{:03}", value.round() as i64 / 1000, value.round() as i64 % 1000)
        }
        v if v >= 9.95 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

fn time(seconds: f64) -> String {
    match seconds * 1e6 {
        micros if micros.is_nan() => String::new(),
        micros if micros < 9.95 => format!("{micros:.2} µs"),
        micros if micros < 999.5 => format!("{micros:.0} µs"),
        micros => format!("{:.1} ms", micros / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_contains_medians_ranges_and_ratios() {
        let row = |name: &str, values: [f64; 3]| Row {
            name: name.to_owned(),
            samples: values.map(|value| Sample { value, ..Sample::default() }).to_vec(),
        };
        let rows = [row("raw", [100.0, 200.0, 400.0]), row("host", [90.0, 100.0, 360.0])];
        let table = Table::new("t").value("rate").ratio("of raw", "raw", |s| s.value, 2.0);
        let text = table.render(&rows);
        assert!(text.contains("| host |  100 |  90–360 |   1.80 |"), "{text}");
    }

    #[test]
    fn numbers_have_about_three_digits() {
        for (value, text) in [
            (2_861_000.0, "2.86 M"),
            (165_400.0, "165 k"),
            (2803.4, "2,803"),
            (35.2, "35"),
            (0.348, "0.35"),
            (f64::NAN, ""),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
