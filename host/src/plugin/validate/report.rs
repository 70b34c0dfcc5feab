//! What checks find, and how it is printed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    Pass,
    /// Works, but will surprise operators or clients.
    Warn,
    Fail,
    /// Does not apply to this library.
    Skip,
}

/// What a check has found; one that finds nothing passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    pub(super) grade: Grade,
    pub(super) text: String,
}

/// The result of a part of a check.
pub(super) type Checked<T = ()> = Result<T, Finding>;

pub(super) fn fail(text: impl Into<String>) -> Finding {
    Finding { grade: Grade::Fail, text: text.into() }
}

pub(super) fn warn(text: impl Into<String>) -> Finding {
    Finding { grade: Grade::Warn, text: text.into() }
}

pub(super) fn skip(text: impl Into<String>) -> Finding {
    Finding { grade: Grade::Skip, text: text.into() }
}

/// A check that has run.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    #[serde(rename = "result")]
    pub(super) grade: Grade,
    pub(super) text: String,
    seconds: f64,
}

impl Outcome {
    pub(super) fn new(name: &'static str, finding: Option<Finding>, time: Duration) -> Self {
        let finding = finding.unwrap_or(Finding { grade: Grade::Pass, text: String::new() });
        // To the millisecond.
        let seconds = (time.as_secs_f64() * 1000.0).round() / 1000.0;
        Self { name, grade: finding.grade, text: finding.text, seconds }
    }

    pub(super) fn line(&self) -> String {
        let (name, text) = (self.name, printable(&self.text));
        match self.grade {
            Grade::Pass => format!("pass  {name}  ({:.0} ms)", self.seconds * 1000.0),
            Grade::Warn => format!("warn  {name}  {text}"),
            Grade::Fail => format!("FAIL  {name}  {text}"),
            Grade::Skip => format!("skip  {name}  {text}"),
        }
    }
}

/// Escapes control characters: the text may come from the library.
fn printable(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Shortens a text, such as a message, for a finding.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_result_and_check_and_escapes_what_the_library_says() {
        let time = Duration::from_micros(12_400);
        for (finding, expected) in [
            (None, "pass  x  (12 ms)"),
            (Some(warn("slow")), "warn  x  slow"),
            (Some(fail("bad\u{1b}[2J\n")), "FAIL  x  bad\\u{1b}[2J\\n"),
            (Some(skip("none")), "skip  x  none"),
        ] {
            assert_eq!(Outcome::new("x", finding, time).line(), expected);
        }
        assert_eq!(excerpt(&"é".repeat(61)), "é".repeat(60) + "…");
    }
}
