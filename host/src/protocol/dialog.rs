//! The dialog: the host's own JSON packets, and the commands that open and close a chunk buffer.
//!
//! No other module spells an opcode. Layouts are fixed byte for byte, because some clients compare
//! strings; only the strings inside are escaped.

use std::time::Duration;

/// Returns `{"opcode":"ready","uuid":"U"}`: the client may send messages.
pub fn ready(uuid: &str) -> String {
    format!(r#"{{"opcode":"ready","uuid":{}}}"#, quoted(uuid))
}

/// `{"opcode":"next","fyi":""}`: the last message was accepted, without a text of the application.
pub const NEXT: &str = r#"{"opcode":"next","fyi":""}"#;

/// Returns `{"opcode":"next","fyi":"…"}`: the last message was accepted.
pub fn next(fyi: &str) -> String {
    format!(r#"{{"opcode":"next","fyi":{}}}"#, quoted(fyi))
}

/// `{"opcode":"heartbeat"}`: the host is there, and has sent nothing else for a while.
pub const HEARTBEAT: &str = r#"{"opcode":"heartbeat"}"#;

/// Returns `{"opcode":"close","error":"why"}`: the host closes the connection.
pub fn close(error: &str) -> String {
    format!(r#"{{"opcode":"close","error":{}}}"#, quoted(error))
}

/// Returns `{"opcode":"close","error":"why","retry_after":30}`: the same, with the seconds (rounded
/// up) to wait before reconnecting.
pub fn close_retry(error: &str, retry_after: Duration) -> String {
    let seconds = whole_seconds(retry_after);
    format!(r#"{{"opcode":"close","error":{},"retry_after":{seconds}}}"#, quoted(error))
}

/// Returns whether a message is the command that opens a chunk buffer.
pub fn is_buffer_on(message: &[u8]) -> bool {
    message == b"bufferON"
}

/// Returns whether a message is the command that closes a chunk buffer.
pub fn is_buffer_off(message: &[u8]) -> bool {
    message == b"bufferOFF"
}

/// Returns the seconds of a duration, rounded up.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// Returns a JSON string literal.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a str is always representable in JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(printed: &str, expected: &str) {
        assert_eq!(printed, expected);
        assert!(serde_json::from_str::<serde_json::Value>(printed).unwrap().is_object());
    }

    #[test]
    fn packets_have_the_exact_layout() {
        for (printed, expected) in [
            (ready("U"), r#"{"opcode":"ready","uuid":"U"}"#),
            (next(""), r#"{"opcode":"next","fyi":""}"#),
            (next("gone"), r#"{"opcode":"next","fyi":"gone"}"#),
            (next("a\"b\\c\n\u{1}/ä"), r#"{"opcode":"next","fyi":"a\"b\\c\n\u0001/ä"}"#),
            (HEARTBEAT.to_owned(), r#"{"opcode":"heartbeat"}"#),
            (close("why"), r#"{"opcode":"close","error":"why"}"#),
            (close("\",\"x\":\""), r#"{"opcode":"close","error":"\",\"x\":\""}"#),
            (
                close_retry("full", Duration::from_secs(30)),
                r#"{"opcode":"close","error":"full","retry_after":30}"#,
            ),
            (
                close_retry("", Duration::from_millis(1)),
                r#"{"opcode":"close","error":"","retry_after":1}"#,
            ),
            (close_retry("", Duration::ZERO), r#"{"opcode":"close","error":"","retry_after":0}"#),
        ] {
            check(&printed, expected);
        }
        assert_eq!(next(""), NEXT);
    }

    #[test]
    fn only_the_exact_commands_are_recognized() {
        for (message, on, off) in [
            (&b"bufferON"[..], true, false),
            (b"bufferOFF", false, true),
            (b"bufferON\n", false, false),
            (b"bufferon", false, false),
            (b"", false, false),
            (b"\"bufferON\"", false, false),
        ] {
            assert_eq!((is_buffer_on(message), is_buffer_off(message)), (on, off), "{message:?}");
        }
    }
}
