//! The payload of close frames (RFC 6455, sections 5.5.1 and 7.4).

use plugsocket_plugin::CloseCode;

use super::frame;
use crate::protocol::close::{CloseReason, is_sendable};
use crate::protocol::io::not_utf8;

/// 1005: a close frame without a code. Reported to the application, never sent.
const NO_CODE: CloseCode = CloseCode(1005);

/// Parses the code and the reason of the peer's close frame.
///
/// # Errors
/// The code may not be sent, or the reason is not UTF-8: how the host closes.
pub(super) fn parse(payload: &[u8]) -> Result<(CloseCode, String), CloseReason> {
    let Some((code, text)) = payload.split_first_chunk() else {
        return Ok((NO_CODE, String::new()));
    };
    let code = u16::from_be_bytes(*code);
    if !is_sendable(code) {
        let text = format!("a close frame with the code {code}");
        return Err(CloseReason::host(CloseCode::PROTOCOL, text));
    }
    let text = str::from_utf8(text).map_err(|_| not_utf8())?;
    Ok((CloseCode(code), text.to_owned()))
}

/// Appends the host's close frame. A control frame has at most 125 bytes of payload, so `text` is
/// truncated to 123.
pub(super) fn append(out: &mut Vec<u8>, code: CloseCode, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend([frame::CLOSE, 2 + end as u8]);
    out.extend(code.0.to_be_bytes());
    out.extend(&text.as_bytes()[..end]);
}

/// Appends the answer to a close frame, which has the same payload.
pub(super) fn append_answer(out: &mut Vec<u8>, payload: &[u8]) {
    // At most 125 bytes: longer control frames are rejected.
    out.extend([frame::CLOSE, payload.len() as u8]);
    out.extend(payload);
}

const MAX_TEXT: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sendable_codes_are_reported_and_others_are_violations() {
        for code in [1000, 1003, 1007, 1012, 1013, 1014, 3000, 4999] {
            let payload = [&u16::to_be_bytes(code)[..], "ü".as_bytes()].concat();
            assert_eq!(parse(&payload), Ok((CloseCode(code), "ü".to_owned())));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let rejected = parse(&u16::to_be_bytes(code)).map_err(|reason| reason.code);
            assert_eq!(rejected, Err(CloseCode::PROTOCOL), "{code}");
        }
        assert_eq!(parse(b""), Ok((NO_CODE, String::new())));
        let invalid = parse(b"\x03\xe8\xff").map_err(|reason| reason.code);
        assert_eq!(invalid, Err(CloseCode::INVALID));
    }

    #[test]
    fn a_long_reason_is_truncated_at_a_character_boundary() {
        let mut out = Vec::new();
        append(&mut out, CloseCode::NORMAL, &"ü".repeat(100));
        assert_eq!((out[1], out.len()), (124, 126));
        assert_eq!(parse(&out[2..]), Ok((CloseCode::NORMAL, "ü".repeat(61))));
    }
}
