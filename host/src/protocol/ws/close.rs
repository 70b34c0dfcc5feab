//! The payload of close frames (RFC 6455, sections 5.5.1 and 7.4).

use plugsocket_plugin::CloseCode;

use super::frame;
use crate::protocol::close::CloseReason;
use crate::protocol::wire::not_utf8;

/// 1005: a close frame without a code. Reported, never sent.
const NO_CODE: CloseCode = CloseCode(1005);

/// The code and the reason that a peer gives.
///
/// # Errors
/// How the host closes for it: no code that may be sent, or a reason that is not UTF-8.
pub(super) fn parse(payload: &[u8]) -> Result<(CloseCode, String), CloseReason> {
    let Some((code, text)) = payload.split_first_chunk() else {
        return Ok((NO_CODE, String::new()));
    };
    let code = u16::from_be_bytes(*code);
    if !frame::is_close_code(code) {
        let text = format!("a close frame with the code {code}");
        return Err(CloseReason::host(CloseCode::PROTOCOL, text));
    }
    let text = str::from_utf8(text).map_err(|_| not_utf8())?;
    Ok((CloseCode(code), text.to_owned()))
}

/// Appends the host's close frame. A control frame holds 125 bytes, two of them are the code: the text is cut to the rest.
pub(super) fn append(out: &mut Vec<u8>, code: CloseCode, text: &str) {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend([frame::CLOSE, 2 + end as u8]);
    out.extend(code.0.to_be_bytes());
    out.extend(&text.as_bytes()[..end]);
}

/// Appends the answer to a close frame with this payload: the same.
pub(super) fn append_answer(out: &mut Vec<u8>, payload: &[u8]) {
    // One of more than 125 bytes was refused.
    out.extend([frame::CLOSE, payload.len() as u8]);
    out.extend(payload);
}

const MAX_TEXT: usize = 123;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_may_be_sent_are_told_and_others_are_violations() {
        for code in [1000, 1003, 1007, 1012, 1013, 1014, 3000, 4999] {
            let payload = [&u16::to_be_bytes(code)[..], "ü".as_bytes()].concat();
            assert_eq!(parse(&payload), Ok((CloseCode(code), "ü".to_owned())));
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
            let refused = parse(&u16::to_be_bytes(code)).map_err(|reason| reason.code);
            assert_eq!(refused, Err(CloseCode::PROTOCOL), "{code}");
        }
        assert_eq!(parse(b""), Ok((NO_CODE, String::new())));
        let invalid = parse(b"\x03\xe8\xff").map_err(|reason| reason.code);
        assert_eq!(invalid, Err(CloseCode::INVALID));
    }

    #[test]
    fn a_long_reason_is_cut_at_the_end_of_a_character() {
        let mut out = Vec::new();
        append(&mut out, CloseCode::NORMAL, &"ü".repeat(100));
        assert_eq!((out[1], out.len()), (124, 126));
        assert_eq!(parse(&out[2..]), Ok((CloseCode::NORMAL, "ü".repeat(61))));
    }
}
