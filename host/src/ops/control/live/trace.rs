//! `plugsocket trace`: what passes one connection.

use std::io::{self, Write};

use clap::Args;
use serde::Deserialize;

use super::{StreamEnd, follow, until_interrupted};
use crate::ops::control::client::{AskError, HostAddress};
use crate::ops::control::protocol::ControlRequest;
use crate::ops::control::terminal::{Colours, Style};
use crate::ops::logging::escaped;

/// Which connection, and what of it.
#[derive(Clone, Debug, Args)]
pub(crate) struct TraceView {
    /// Its uuid, or the beginning of it, such as the ID in the list of connections.
    uuid: String,
    /// Show the first 200 bytes of each payload.
    #[arg(long)]
    payloads: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

impl TraceView {
    /// Runs the command.
    ///
    /// # Errors
    /// No host answers, it refuses, or it ends.
    pub(super) fn run(self, host: &HostAddress) -> Result<(), AskError> {
        let Self { uuid, payloads, json } = self;
        let (host, colours) = (host.clone(), Colours::of_stdout());
        let request = ControlRequest::Trace { uuid, payloads };
        let show = move |line: &str| match json {
            true => writeln!(io::stdout(), "{line}"),
            false => writeln!(io::stdout(), "{}", text(line, colours)),
        };
        if let Some(StreamEnd::Done(sentence)) =
            until_interrupted(move || follow(&host, &request, show))?.transpose()?
        {
            // Standard output is for what passes the connection.
            drop(writeln!(io::stderr(), "plugsocket: {}", escaped(&sentence)));
        }
        Ok(())
    }
}

/// A line of the stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TraceLine {
    time: String,
    direction: String,
    kind: String,
    bytes: u64,
    payload: Option<String>,
    cut: bool,
    code: Option<u16>,
    reason: String,
    lost: u64,
    uuid: String,
    resource: String,
    address: String,
}

/// Formats a line of the stream for people.
fn text(line: &str, colours: Colours) -> String {
    let Ok(line) = serde_json::from_str::<TraceLine>(line) else { return escaped(line) };
    let time = line.time.get(11..23).unwrap_or_default();
    let time = colours.paint(Style::Dim, &escaped(time));
    if line.lost > 0 {
        let text = format!("{} more were not read in time and are lost", line.lost);
        return format!("{time}  {}", colours.paint(Style::Red, &text));
    }
    if line.kind == "trace" {
        let TraceLine { uuid, resource, address, .. } = &line;
        return format!("{time}  {}", escaped(&format!("{uuid} at {resource} from {address}")));
    }
    let arrow = if line.direction == "in" { "<-" } else { "->" };
    let style = if line.direction == "in" { Style::Green } else { Style::Yellow };
    let what = format!("{arrow} {:6} {:>9} B", escaped(&line.kind), line.bytes);
    let close = line.code.map(|code| format!("{code} {}", line.reason));
    let more = if line.cut { "…" } else { "" };
    let rest = close.or(line.payload).map_or_else(String::new, |text| escaped(&text));
    format!("{time}  {}  {rest}{more}", colours.paint(style, &what)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_direction_kind_and_size_and_nothing_can_be_forged() {
        let time = r#"{"time":"2026-11-26T16:55:30.855036Z""#;
        for (line, expected) in [
            (r#""direction":"in","kind":"text","bytes":5}"#, "16:55:30.855  <- text           5 B"),
            (
                r#""direction":"out","kind":"binary","bytes":999,"payload":"a\u001b[2J\nb","cut":true}"#,
                "16:55:30.855  -> binary       999 B  a\\u{1b}[2J\\nb…",
            ),
            (
                r#""direction":"in","kind":"close","bytes":0,"code":1001,"reason":"gone"}"#,
                "16:55:30.855  <- close          0 B  1001 gone",
            ),
            (
                r#""kind":"trace","uuid":"u","resource":"/a","address":"::1"}"#,
                "16:55:30.855  u at /a from ::1",
            ),
            (r#""lost":3}"#, "16:55:30.855  3 more were not read in time and are lost"),
        ] {
            assert_eq!(text(&format!("{time},{line}"), Colours::Off), expected);
        }
    }
}
