//! `plugsocket events`: shows what the host did.

use std::fmt;
use std::io::{self, Write};

use clap::Args;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use super::{StreamEnd, follow, until_interrupted};
use crate::ops::control::client::{AskError, HostAddress};
use crate::ops::control::protocol::ControlRequest;
use crate::ops::control::terminal::{Colours, Style};
use crate::ops::logging::escaped;

/// How many earlier events `--follow` shows.
const LAST_OF_FOLLOW: usize = 10;
/// Width of the column of events.
const EVENT_WIDTH: usize = 40;

/// What to show, and how.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EventsView {
    /// Show further events when they happen, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
    /// Show only this many earlier events; default: all that the host has kept, with --follow 10.
    #[arg(long, short = 'n', value_name = "N")]
    last: Option<usize>,
}

impl EventsView {
    /// Runs the command.
    ///
    /// # Errors
    /// No host answers, it refuses, or it ends.
    pub(super) fn run(self, host: &HostAddress) -> Result<(), AskError> {
        let last = self.last.or(self.follow.then_some(LAST_OF_FOLLOW));
        let request = ControlRequest::Events { last, follow: self.follow };
        let colours = Colours::of_stdout();
        let show = move |line: &str| match self.json {
            true => writeln!(io::stdout(), "{line}"),
            false => writeln!(io::stdout(), "{}", text(line, colours)),
        };
        if !self.follow {
            return follow(host, &request, show).map(drop);
        }
        let host = host.clone();
        match until_interrupted(move || follow(&host, &request, show))?.transpose()? {
            Some(StreamEnd::Done(sentence)) => Err(AskError::Ended(sentence)),
            Some(StreamEnd::OutputClosed) | None => Ok(()),
        }
    }
}

/// An event as the control socket sends it.
#[derive(Debug, Default)]
pub(super) struct EventLine {
    time: String,
    level: String,
    event: String,
    /// In the order of the host.
    fields: Vec<(String, Value)>,
}

impl<'de> Deserialize<'de> for EventLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = EventLine;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<EventLine, M::Error> {
                let mut line = EventLine::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "time" => line.time = map.next_value()?,
                        "level" => line.level = map.next_value()?,
                        "event" => line.event = map.next_value()?,
                        _ => line.fields.push((key, map.next_value()?)),
                    }
                }
                match line.time.is_empty() {
                    true => Err(M::Error::missing_field("time")),
                    false => Ok(line),
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Formats a line of the stream for people.
pub(super) fn text(line: &str, colours: Colours) -> String {
    match serde_json::from_str(line) {
        Ok(event) => event_text(&event, colours),
        // Of a newer host.
        Err(_) => escaped(line),
    }
}

fn event_text(EventLine { time, level, event, fields }: &EventLine, colours: Colours) -> String {
    // Milliseconds suffice for people.
    let time = time.get(..23).map_or_else(|| time.clone(), |time| format!("{time}Z"));
    let style = match level.as_str() {
        "ERROR" => Style::Red,
        "WARN" => Style::Yellow,
        _ => Style::Green,
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    let fields = escaped(&fields.join(" "));
    let event = escaped(event);
    let event = if fields.is_empty() { event } else { format!("{event:EVENT_WIDTH$}") };
    let text = [
        colours.paint(Style::Dim, &escaped(&time)),
        colours.paint(style, &format!("{:5}", escaped(level))),
        event,
        colours.paint(Style::Dim, &fields),
    ];
    text.join("  ").trim_end().to_owned()
}

/// Formats a field as `key=value`; a text with spaces is quoted.
fn field((key, value): &(String, Value)) -> String {
    let is_plain = |text: &str| !text.is_empty() && !text.contains([' ', '"', '=']);
    match value {
        Value::String(text) if is_plain(text) => format!("{key}={text}"),
        value => format!("{key}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-11-26T16:55:30.855036Z","level":"WARN","event":"callback stuck","resource":"/a b","lasted":"30s","count":3,"text":"\u001b[2J\nforged"}"#;

    #[test]
    fn an_event_is_one_line_in_which_nothing_can_be_forged() {
        assert_eq!(
            text(LINE, Colours::Off),
            "2026-11-26T16:55:30.855Z  WARN   callback stuck                            resource=\"/a b\" lasted=30s count=3 text=\\u{1b}[2J\\nforged"
        );
        let coloured = text(LINE, Colours::On);
        assert!(coloured.contains("\x1b[33mWARN \x1b[0m"), "{coloured:?}");
        assert_eq!(text("{\"a\":\"\u{9b}\"}", Colours::On), "{\"a\":\"\\u{9b}\"}");
        let plain = r#"{"time":"2026-11-26T16:55:30.855036Z","level":"INFO","event":"ready"}"#;
        assert_eq!(text(plain, Colours::Off), "2026-11-26T16:55:30.855Z  INFO   ready");
    }
}
