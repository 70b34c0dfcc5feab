//! Formats what passes a traced connection as lines of JSON.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::Value;

use crate::net::tls;
use crate::protocol::chunk::Form;
use crate::routing::peer::Peer;
use crate::routing::trace::{Direction, MAX_SHOWN, Passed, Recorded};

/// Formats the first line, which names the connection.
pub(super) fn first_line(peer: &Peer) -> String {
    let time = timestamp(SystemTime::now());
    let (uuid, resource) = (Value::from(peer.identity.as_str()), Value::from(&*peer.resource.path));
    let address = Value::from(&*peer.client.address);
    format!(
        r#"{{"time":"{time}","kind":"trace","uuid":{uuid},"resource":{resource},"address":{address}}}"#
    ) + "\n"
}

/// Formats one JSON object per line.
pub(super) fn lines(recorded: &Recorded) -> String {
    let mut lines: String = recorded.items.iter().map(line).collect();
    if recorded.lost > 0 {
        // Writing to a String never fails.
        let time = timestamp(SystemTime::now());
        let _infallible = writeln!(lines, r#"{{"time":"{time}","lost":{}}}"#, recorded.lost);
    }
    lines
}

fn line(item: &Passed) -> String {
    let Passed { at, direction, kind, bytes, form, shown, close } = item;
    let (time, direction) =
        (timestamp(*at), if *direction == Direction::In { "in" } else { "out" });
    let mut line =
        format!(r#"{{"time":"{time}","direction":"{direction}","kind":"{kind}","bytes":{bytes}"#);
    // Writing to a String never fails.
    if let Some((code, reason)) = close {
        let _infallible = write!(line, r#","code":{code},"reason":{}"#, Value::from(&**reason));
    }
    if let Some(shown) = shown {
        let text = match form {
            Form::Binary => shown.escape_ascii().to_string(),
            Form::Text | Form::Unchecked => String::from_utf8_lossy(shown).into_owned(),
        };
        let _infallible = write!(line, r#","payload":{}"#, Value::from(text));
        if *bytes > MAX_SHOWN {
            line.push_str(r#","cut":true"#);
        }
    }
    line.push_str("}\n");
    line
}

/// Formats a time as `2026-11-26T16:55:30.855036Z`.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let [hours, minutes] = [seconds / 3600 % 24, seconds / 60 % 60];
    format!("{}T{hours:02}:{minutes:02}:{:02}.{micros:06}Z", tls::date(seconds), seconds % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_line_has_the_beginning_of_the_payload_only_where_it_is_shown() {
        let item = Passed {
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_712_130_855_036),
            direction: Direction::In,
            kind: "text",
            bytes: 5,
            form: Form::Text,
            shown: None,
            close: None,
        };
        let head =
            r#"{"time":"2026-11-26T16:55:30.855036Z","direction":"in","kind":"text","bytes":5"#;
        assert_eq!(line(&item), format!("{head}}}\n"));
        let shown = Passed { shown: Some((*b"a\"\n\xff").into()), ..item.clone() };
        assert_eq!(line(&shown), format!("{head},\"payload\":\"a\\\"\\n\u{fffd}\"}}\n"));
        let binary = line(&Passed { form: Form::Binary, bytes: 999, ..shown });
        assert!(binary.contains(r"\\xff") && binary.ends_with(",\"cut\":true}\n"), "{binary}");
        let close = Passed { close: Some((1001, "gone".to_owned())), ..item };
        assert!(line(&close).ends_with(",\"code\":1001,\"reason\":\"gone\"}\n"));
    }
}
