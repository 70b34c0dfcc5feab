//! What the commands need of a terminal: colours.

use std::env;
use std::io::{self, IsTerminal};

/// Whether output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    On,
    Off,
}

/// A colour or weight of text, as the parameter of the escape sequence "Select Graphic Rendition".
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Dim = 2,
    Red = 31,
    Green = 32,
    Yellow = 33,
}

impl Colours {
    /// Returns whether standard output is coloured: on a terminal, unless `NO_COLOR` is set.
    pub(super) fn of_stdout() -> Self {
        let is_unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
        match io::stdout().is_terminal() && !is_unwanted && !is_dumb {
            true => Self::On,
            false => Self::Off,
        }
    }

    /// Returns the text in a style. The text must be escaped.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::On if !text.is_empty() => format!("\x1b[{}m{text}\x1b[0m", style as u8),
            _ => text.to_owned(),
        }
    }
}
