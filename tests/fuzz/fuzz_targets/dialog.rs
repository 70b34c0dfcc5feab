//! The host's packets: with any text they are JSON of that text, in the fixed layout, on one line.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::dialog::{close, close_retry, next, ready};
use serde_json::{Value, json};

fuzz_target!(|input: (&str, u64, u32)| {
    let (text, seconds, nanos) = input;
    let pause = Duration::new(seconds, nanos % 1_000_000_000);
    let whole = seconds.saturating_add(u64::from(!nanos.is_multiple_of(1_000_000_000)));
    for (printed, expected, layout) in [
        (ready(text), json!({ "opcode": "ready", "uuid": text }), r#"{"opcode":"ready","uuid":""#),
        (next(text), json!({ "opcode": "next", "fyi": text }), r#"{"opcode":"next","fyi":""#),
        (
            close(text),
            json!({ "opcode": "close", "error": text }),
            r#"{"opcode":"close","error":""#,
        ),
        (
            close_retry(text, pause),
            json!({ "opcode": "close", "error": text, "retry_after": whole }),
            r#"{"opcode":"close","error":""#,
        ),
    ] {
        let parsed: Value = serde_json::from_str(&printed).expect("it is JSON");
        assert_eq!(parsed, expected);
        assert!(printed.starts_with(layout), "{printed}");
        // On plain TCP a line feed ends the packet.
        assert!(!printed.contains(['\n', '\r', '\0']), "{printed:?}");
    }
});
