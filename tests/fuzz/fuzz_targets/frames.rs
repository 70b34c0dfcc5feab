//! The short way for plain frames against tungstenite alone: the same messages, the same end, the same answers.
#![no_main]

use std::io::{self, Read, Write};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use plugsocket::chunk::Form;
use plugsocket::frame::{Fault, Look, look};
use plugsocket::internals::{Manner, hear};
use plugsocket_fuzz::{Input, frames};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_message = [125, 1000, 70_000][input.below(3)];
    let cuts = input.cuts();
    let bytes = if input.below(4) == 0 { input.0.to_vec() } else { frames(&mut input) };
    let heard = hear(Manner::WebSocket, &[], &cuts.of(&bytes), max_message);
    let (sound, code) = before_fault(&bytes, max_message);
    let mut expected = alone(sound, max_message);
    match (expected.code, code) {
        // Text that cannot become UTF-8 any more is told before its frame or message has come, and so before what follows.
        (1006 | 1002 | 1009, _) if heard.end.0 == 1007 => expected.code = 1007,
        // All was well up to a header that the host itself finds fault with.
        (1006, Some(code)) => expected.code = code,
        _ => {}
    }
    assert_eq!(heard.messages, expected.messages);
    assert_eq!(heard.end.0, expected.code);
    assert_eq!(heard.answers, expected.answers);
});

/// The frames before the first one whose header is faulty by itself or continues no message, and the close code for that one:
/// tungstenite is more lenient, or waits for its end.
fn before_fault(bytes: &[u8], max_message: usize) -> (&[u8], Option<u16>) {
    let (mut at, mut is_open) = (0, false);
    loop {
        let found = look(&bytes[at..], max_message);
        if matches!(found, Look::Plain(_) | Look::Other(_)) {
            let (opcode, is_final) = (bytes[at] & 0x0f, bytes[at] & 0x80 != 0);
            if opcode == 0 && !is_open {
                return (&bytes[..at], Some(1002));
            }
            if opcode < 3 {
                is_open = !is_final;
            }
        }
        at += match found {
            Look::Faulty(Fault::TooLong) => return (&bytes[..at], Some(1009)),
            Look::Faulty(_) => return (&bytes[..at], Some(1002)),
            Look::Plain(plain) => plain.header + plain.length,
            Look::Other(other) => other.size,
            Look::Short => return (bytes, None),
        };
        if at >= bytes.len() {
            return (bytes, None);
        }
    }
}

struct Expected {
    messages: Vec<(Form, Bytes)>,
    code: u16,
    answers: Vec<u8>,
}

/// What tungstenite makes of it, without anything of the host's in between.
fn alone(bytes: &[u8], max_message: usize) -> Expected {
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message))
        .write_buffer_size(0);
    let stream = Memory { input: bytes, output: Vec::new() };
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
    let mut messages = Vec::new();
    let code = loop {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push((Form::Text, Bytes::from(text))),
            Ok(Message::Binary(bytes)) => messages.push((Form::Binary, bytes)),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Ok(Message::Close(frame)) => break frame.map_or(1005, |frame| frame.code.into()),
            Err(error) => break code(&error),
        }
    };
    // The pong to the last ping, or the answer to a close.
    drop(socket.flush());
    Expected { messages, code, answers: socket.get_ref().output.clone() }
}

fn code(error: &Error) -> u16 {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => 1006,
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_) => 1006,
        Error::Utf8(_) => 1007,
        Error::Capacity(_) => 1009,
        _ => 1002,
    }
}

struct Memory<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
