//! What the host says, on a socket that takes it in pieces: a client of another make reads the same, in order.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::dialog;
use plugsocket::internals::{Framing, HostMessage, close_code, write_all};
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
    let mut things = Vec::new();
    while !input.is_empty() {
        let what = input.byte();
        things.push(match what % 8 {
            0 => HostMessage::Ready,
            1 | 2 => HostMessage::Text(input.text()),
            3 => HostMessage::Binary(input.piece().to_vec()),
            4 => HostMessage::Next(input.text()),
            5 => HostMessage::Ping,
            6 => HostMessage::Flush,
            // Too long to be copied, and about as long as that.
            _ => HostMessage::Text("x".repeat(16_000 + 4 * usize::from(what))),
        });
    }
    check_frames(&things, (code, &reason), &allowed);
    check_lines(&things, (code, &reason), &allowed);
});

fn check_frames(things: &[HostMessage], goodbye: (u16, &str), allowed: &[usize]) {
    let (written, uuid) = write_all(Framing::WebSocket, things, goodbye, allowed);
    // Bytes, not what the client makes of them: to this one the registered code 1014 is none.
    let end = written.len() - reason_length(goodbye.1) - 4;
    let head = [0x88, 2 + reason_length(goodbye.1) as u8];
    assert_eq!(
        written[end..],
        [&head[..], &goodbye.0.to_be_bytes()[..], goodbye.1[..reason_length(goodbye.1)].as_bytes()]
            .concat()
    );
    let stream = Memory(io::Cursor::new(written));
    let mut client = WebSocket::from_raw_socket(stream, Role::Client, None);
    for thing in things {
        let expected = match thing {
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

/// A control frame holds 125 bytes (RFC 6455, section 5.5), and no half characters.
fn reason_length(reason: &str) -> usize {
    (0..=reason.len().min(123)).rfind(|at| reason.is_char_boundary(*at)).unwrap_or_default()
}

fn read(client: &mut WebSocket<Memory>) -> Message {
    client.read().expect("the host's frames are right")
}

/// What the client answers to pings and the close goes nowhere.
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

fn check_lines(things: &[HostMessage], goodbye: (u16, &str), allowed: &[usize]) {
    let (written, uuid) = write_all(Framing::Lines(Tail::Closed), things, goodbye, allowed);
    let written = String::from_utf8(written).expect("lines are text");
    let mut lines = written.split('\n');
    for thing in things {
        let expected = match thing {
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
