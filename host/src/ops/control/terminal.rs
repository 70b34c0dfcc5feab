//! What the commands need of a terminal: colours, its size, and a screen of their own.

use std::env;
use std::io::{self, IsTerminal, Write};

use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;

use super::protocol::{PluginReport, ResourceReport};

/// Whether output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    On,
    Off,
}

/// A colour or weight of text, as the parameter of the escape sequence "Select Graphic Rendition".
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Bold = 1,
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

impl ResourceReport {
    /// Returns the style of its row: red if no application serves it, yellow on probation.
    pub(super) fn style(&self) -> Option<Style> {
        match (&self.closed, self.on_probation) {
            (Some(_), _) => Some(Style::Red),
            (None, true) => Some(Style::Yellow),
            (None, false) => None,
        }
    }
}

impl PluginReport {
    /// Returns the style of its row: red if it does not run, yellow on probation and where its
    /// newest library was refused.
    pub(super) fn style(&self) -> Option<Style> {
        match self.state.as_str() {
            "refused" | "disabled" => Some(Style::Red),
            _ if self.refused.is_some() || self.probation.on_probation => Some(Style::Yellow),
            _ => None,
        }
    }
}

/// Columns and rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

impl Size {
    /// Returns the size of the terminal; unlimited where there is none.
    pub(super) fn of_stdout() -> Self {
        let unlimited = Self { width: usize::MAX, height: usize::MAX };
        match tcgetwinsize(stdout()) {
            Ok(size) if io::stdout().is_terminal() && size.ws_col > 0 && size.ws_row > 0 => {
                Self { width: size.ws_col.into(), height: size.ws_row.into() }
            }
            _ => unlimited,
        }
    }
}

/// The alternate screen of the terminal. Dropping it restores what was there before.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    /// Switches to the alternate screen and hides the cursor.
    pub(super) fn enter() -> Self {
        print("\x1b[?1049h\x1b[?25l");
        Self(())
    }

    /// Replaces what is shown, without flicker.
    pub(super) fn show(&self, page: &str) {
        let lines: String = page.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        // Without the last line feed, which would scroll a full screen.
        print(&format!("\x1b[H{}\x1b[J", lines.trim_end_matches('\n')));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print("\x1b[?25h\x1b[?1049l");
    }
}

/// The terminal may have gone.
fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
}

/// Returns the beginning of a line that fits a width; escape sequences of [`Colours`] have none.
pub(super) fn fitted(line: &str, width: usize) -> String {
    let (mut fitted, mut left, mut is_sequence) = (String::new(), width, false);
    for c in line.chars() {
        is_sequence |= c == '\x1b';
        if !is_sequence {
            match left.checked_sub(1) {
                Some(rest) => left = rest,
                None => continue,
            }
        }
        fitted.push(c);
        is_sequence &= c != 'm';
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_width_and_its_colours_end() {
        let painted = format!("ab{}ef", Colours::On.paint(Style::Red, "cd"));
        assert_eq!(fitted(&painted, 3), "ab\x1b[31mc\x1b[0m");
        assert_eq!(fitted(&painted, 99), painted);
        assert_eq!(fitted("äöü", 2), "äö");
        assert_eq!(Colours::Off.paint(Style::Red, "cd"), "cd");
    }
}
