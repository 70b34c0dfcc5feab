//! Output of the host on a socket that takes it in pieces: tungstenite and a line reader decode the
//! same messages in order.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::{Framing, HostMessage, close_code, write_all};
use plugsocket::protocol::dialog;
use plugsocket::protocol::lines::Tail;
use plugsocket_fuzz::Input;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let count = input.below(5);
    let mut allowed: Vec<usize> =
        input.take(count).iter().map(|byte| usize::from(*byte) * 3).collect();
    if allowed.iter().all(|count| *count == 0) {
        allowed.clear();
    }
    let (code, reason) = (close_code(input.word()), input.text());
    let mut messages = Vec::new();
    while !input.is_empty() {
        let choice = input.byte();
        messages.push(match choice % 8 {
            0 => HostMessage::Ready,
            1 | 2 => HostMessage::Text(input.text()),
            3 => HostMessage::Binary(input.piece().to_vec()),
            4 => HostMessage::Next(input.text()),
            5 => HostMessage::Ping,
            6 => HostMessage::Flush,
            // Around the length above which a payload is not copied.
            _ => HostMessage::Text("x".repeat(16_000 + 4 * usize::from(choice))),
        });
    }
    check_frames(&messages, (code, &reason), &allowed);
    check_lines(&messages, (code, &reason), &allowed);
});

fn check_frames(messages: &[HostMessage], goodbye: (u16, &str), allowed: &[usize]) {
    let (written, uuid) = write_all(Framing::WebSocket, messages, goodbye, allowed);
    // Compares bytes: tungstenite does not accept the registered code 1014.
    let end = written.len() - reason_length(goodbye.1) - 4;
    let head = [0x88, 2 + reason_length(goodbye.1) as u8];
    assert_eq!(
        written[end..],
        [&head[..], &goodbye.0.to_be_bytes()[..], goodbye.1[..reason_length(goodbye.1)].as_bytes()]
            .concat()
    );
    let stream = Memory(io::Cursor::new(written));
    let mut client = WebSocket::from_raw_socket(stream, Role::Client, None);
    for message in messages {
        let expected = match message {
            HostMessage::Ready => Message::text(dialog::ready(&uuid)),
            HostMessage::Text(text) => Message::text(text.clone()),
            HostMessage::Binary(bytes) => Message::binary(bytes.clone()),
            HostMessage::Next(fyi) => Message::text(dialog::next(fyi)),
            HostMessage::Ping => Message::Ping(Vec::new().into()),
            HostMessage::Flush => continue,
        };
        assert_eq!(read(&mut client), expected);
    }
    assert_eq!(read(&mut client), Message::text(dialog::close(goodbye.1)));
    assert!(matches!(read(&mut client), Message::Close(Some(_))));
}

/// Returns the length to which a reason is truncated: at most 123 bytes (RFC 6455 section 5.5), at
/// a character boundary.
fn reason_length(reason: &str) -> usize {
    (0..=reason.len().min(123)).rfind(|at| reason.is_char_boundary(*at)).unwrap_or_default()
}

fn read(client: &mut WebSocket<Memory>) -> Message {
    client.read().expect("the host sends valid frames")
}

/// Discards the client's pongs and close frame.
struct Memory(io::Cursor<Vec<u8>>);

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_lines(messages: &[HostMessage], goodbye: (u16, &str), allowed: &[usize]) {
    let (written, uuid) = write_all(Framing::Lines(Tail::Closed), messages, goodbye, allowed);
    let written = String::from_utf8(written).expect("lines are text");
    let mut lines = written.split('\n');
    for message in messages {
        let expected = match message {
            HostMessage::Ready => dialog::ready(&uuid),
            HostMessage::Text(text) => text.replace('\n', " "),
            HostMessage::Binary(bytes) => String::from_utf8_lossy(bytes).replace('\n', " "),
            HostMessage::Next(fyi) => dialog::next(fyi),
            HostMessage::Ping | HostMessage::Flush => continue,
        };
        assert_eq!(lines.next(), Some(&expected[..]));
    }
    assert_eq!(lines.next(), Some(&dialog::close(goodbye.1)[..]));
    assert_eq!((lines.next(), lines.next()), (Some(""), None));
}
