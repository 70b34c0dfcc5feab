//! The log: where it goes, in which form, and how a plugin's lines enter it.
//!
//! One event is one line, whatever peers and plugins put into it: what could end a line, move a cursor or turn text around is
//! written as an escape, here and nowhere else. What is logged at all is up to each place; no library that the host uses
//! has a voice of its own in it, because some print what they carry: with `RUST_LOG=trace`, tungstenite every payload.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use tracing::field::Field;
use tracing::subscriber::set_global_default;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Starts the log, on standard error. `RUST_LOG` says what of it (`info` by default), e.g. `plugsocket=debug`.
///
/// # Errors
/// `RUST_LOG` cannot be read.
pub(crate) fn start(format: LogFormat) -> Result<(), ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives.parse()?,
        _ => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // What cannot be written (a full disk, a pipe that nobody reads) is lost: to say so on the same standard error would panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    // Not `init`: it would let in what libraries write through the crate `log`. A second start changes nothing.
    drop(match format {
        LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            set_global_default(
                log.with_writer(io::stderr).with_target(false).fmt_fields(fields).finish(),
            )
        }
        LogFormat::Json => {
            set_global_default(log.json().with_writer(|| JsonLines(io::stderr())).finish())
        }
    });
    Ok(())
}

/// `message key=value key=value`.
fn write_field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(to, "{}=", field.name())?;
    }
    write!(Escaped(to), "{value:?}")
}

/// Whether a character could make one line look like another, or one name like another: control characters (C0, DEL, C1), line
/// separators, marks that turn the direction of text around, and what is not seen: Unicode's Default_Ignorable_Code_Point, the
/// annotations and the empty Braille pattern. Joiners and variation selectors are among them: a name that is two names is worse than
/// an emoji in pieces.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        )
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
        || matches!(c, '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}')
        || matches!(c, '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Text as it stands in a line of the log: for tables and sentences on a terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a String does not fail.
    let _infallible = Escaped(&mut escaped).write_str(text);
    escaped
}

/// Writes text with escapes, as in a Rust string.
struct Escaped<W>(W);

impl<W: fmt::Write> fmt::Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_hidden) {
            let (plain, hidden) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = hidden.chars();
            for c in chars.by_ref().take(1) {
                write!(self.0, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Writes lines of JSON, in which only the line's end is a control character below 0x80; the others are escaped as JSON has it.
/// They can only be in strings.
struct JsonLines<W>(W);

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_plain = line.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n');
        if is_plain {
            self.0.write_all(line)?;
            return Ok(line.len());
        }
        let mut escaped = String::with_capacity(line.len() + 16);
        for c in String::from_utf8_lossy(line).chars() {
            if c != '\n' && is_hidden(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String does not fail.
                    let _infallible = write!(escaped, "\\u{unit:04x}");
                }
            } else {
                escaped.push(c);
            }
        }
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_not_seen_is_left_as_it_is() {
        // Default_Ignorable_Code_Point of Unicode 16, as ranges.
        for range in [
            0xad..=0xad,
            0x34f..=0x34f,
            0x61c..=0x61c,
            0x115f..=0x1160,
            0x17b4..=0x17b5,
            0x180b..=0x180f,
            0x200b..=0x200f,
            0x202a..=0x202e,
            0x2060..=0x206f,
            0x3164..=0x3164,
            0xfe00..=0xfe0f,
            0xfeff..=0xfeff,
            0xffa0..=0xffa0,
            0xfff0..=0xfff8,
            0x1bca0..=0x1bca3,
            0x1d173..=0x1d17a,
            0xe0000..=0xe0fff,
        ] {
            for code in range {
                assert!(is_hidden(char::from_u32(code).unwrap()), "{code:x}");
            }
        }
        assert!(!"ä字\u{1f600}\u{300}\u{ac00}\u{1100}\u{2801}\u{fe10}".chars().any(is_hidden));
    }

    #[test]
    fn what_could_forge_a_line_is_escaped_and_nothing_else_is() {
        for (text, as_text, as_json) in [
            (
                "plain ä 字 \u{1f600} \\ \"",
                "plain ä 字 \u{1f600} \\ \"",
                "plain ä 字 \u{1f600} \\ \"",
            ),
            ("a\r\nb", "a\\r\\nb", "a\\u000d\nb"),
            (
                "\u{1b}[31m\t\0\u{7f}",
                "\\u{1b}[31m\\t\\u{0}\\u{7f}",
                "\\u001b[31m\\u0009\\u0000\\u007f",
            ),
            ("\u{85}\u{9b}2J", "\\u{85}\\u{9b}2J", "\\u0085\\u009b2J"),
            ("\u{2028}\u{202e}\u{2066}", "\\u{2028}\\u{202e}\\u{2066}", "\\u2028\\u202e\\u2066"),
            ("\u{61c}\u{200b}\u{feff}", "\\u{61c}\\u{200b}\\u{feff}", "\\u061c\\u200b\\ufeff"),
            ("\u{ad}\u{2060}\u{200d}", "\\u{ad}\\u{2060}\\u{200d}", "\\u00ad\\u2060\\u200d"),
            (
                "a\u{34f}\u{3164}\u{fe0f}\u{2800}",
                "a\\u{34f}\\u{3164}\\u{fe0f}\\u{2800}",
                "a\\u034f\\u3164\\ufe0f\\u2800",
            ),
            ("\u{e0041}\u{e007f}", "\\u{e0041}\\u{e007f}", "\\udb40\\udc41\\udb40\\udc7f"),
        ] {
            let mut found = String::new();
            write!(Escaped(&mut found), "{text}").unwrap();
            assert_eq!(found, as_text);
            let mut found = Vec::new();
            JsonLines(&mut found).write_all(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(found).unwrap(), as_json);
        }
    }
}
