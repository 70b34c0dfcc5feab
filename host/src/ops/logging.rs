//! The log: destination, format and escaping.
//!
//! One event is one line, whatever text clients and plugins put into it: line feeds, control
//! sequences and invisible characters are escaped here only. Libraries that log through the crate
//! `log` are left out: with `RUST_LOG=trace`, tungstenite would print every payload.

use std::fmt::{self, Debug, Write as _};
use std::io::{self, IsTerminal, Write};
use std::panic;

use clap::ValueEnum;
use tracing::error;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use super::events::WithEvents;
use super::log_writer;
use crate::plugin::dylib;

/// The format of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// Starts the log on standard error. `RUST_LOG` sets the level (default `info`), for example
/// `plugsocket=debug`.
///
/// # Errors
/// `RUST_LOG` cannot be parsed.
pub(crate) fn start(format: LogFormat) -> Result<(), ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives.parse()?,
        _ => EnvFilter::new("info"),
    };
    dylib::set_log_level(filter.max_level_hint().unwrap_or(LevelFilter::TRACE));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Lines that cannot be written (full disk, closed pipe) are lost: reporting that on the
        // same standard error would panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    // `init` would also install the adapter for the crate `log`. A second start has no effect.
    drop(match format {
        LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            let log = log.with_writer(log_writer::writer).with_target(false).fmt_fields(fields);
            set_global_default(WithEvents(log.finish()))
        }
        LogFormat::Json => {
            let log = log.json().with_writer(|| JsonLines(log_writer::writer()));
            set_global_default(WithEvents(log.finish()))
        }
    });
    // The default hook writes to standard error itself, which may block.
    panic::set_hook(Box::new(|panic| {
        let reason = panic.payload();
        let text = reason.downcast_ref::<&str>().copied();
        let text = text.or_else(|| reason.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string);
        error!(reason = text, place, "thread panicked");
    }));
    Ok(())
}

/// Writes a last line, if any, and waits at most one second until all lines are written.
pub(crate) fn finish(last: Option<&str>) {
    if let Some(line) = last {
        // Never fails.
        drop(log_writer::writer().write_all(format!("{line}\n").as_bytes()));
    }
    log_writer::finish();
}

/// Writes one field of `message key=value key=value`.
fn write_field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(to, "{}=", field.name())?;
    }
    write!(Escaped(to), "{value:?}")
}

/// Returns whether a character could forge a log line or make two names look alike: control
/// characters (C0, DEL, C1), line separators, direction marks, and invisible characters (Unicode's
/// Default_Ignorable_Code_Point, annotations, the empty Braille pattern). Joiners and variation
/// selectors are included: two names that look alike are worse than a split emoji.
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

/// Escapes text as the log does, for output on a terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    // Writing to a String never fails.
    let _infallible = Escaped(&mut escaped).write_str(text);
    escaped
}

/// Writes text with the escapes of a Rust string.
struct Escaped<W>(W);

impl<W: fmt::Write> fmt::Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_hidden) {
            let hidden = part.chars().next_back().filter(|c| is_hidden(*c));
            self.0.write_str(part.trim_end_matches(is_hidden))?;
            hidden.map_or(Ok(()), |c| write!(self.0, "{}", c.escape_default()))?;
        }
        Ok(())
    }
}

/// Writes lines of JSON and escapes hidden characters as JSON does; they occur only in strings.
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
                    // Writing to a String never fails.
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
    fn invisible_characters_are_escaped() {
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
    fn characters_that_could_forge_a_line_are_escaped_and_no_others() {
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
