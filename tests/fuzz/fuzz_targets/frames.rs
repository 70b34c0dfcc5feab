//! The host's frame decoder compared with tungstenite alone: the same messages, end and answers.
#![no_main]

use std::io::{self, Read, Write};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use plugsocket::internals::{Framing, read_all};
use plugsocket::protocol::chunk::Form;
use plugsocket::protocol::ws::frame::{Fault, FrameHead, parse_header};
use plugsocket_fuzz::{Input, frames};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_message = [125, 1000, 70_000][input.below(3)];
    let cuts = input.cuts();
    let bytes = if input.below(4) == 0 { input.0.to_vec() } else { frames(&mut input) };
    let outcome = read_all(Framing::WebSocket, &[], &cuts.of(&bytes), max_message);
    let (sound, end) = before_end(&bytes, max_message);
    let mut expected = alone(sound, max_message);
    match (expected.code, end) {
        // Invalid UTF-8 is detected before the frame is complete, and so before what follows.
        (1006, _) if outcome.end == (1007, true) => expected.code = 1007,
        // Valid up to a frame that the host handles without tungstenite.
        (1006, Some((code, answer))) => {
            expected.code = code;
            expected.answers.extend(answer);
        }
        _ => {}
    }
    assert_eq!(outcome.messages, expected.messages);
    assert_eq!(outcome.end.0, expected.code);
    assert_eq!(outcome.answers, expected.answers);
});

/// Returns the frames before the first one that the host handles without tungstenite, with the
/// close code of that one and the answer to a valid close frame. Such a frame is a close frame, or
/// one whose header is invalid by itself or after the previous frames.
fn before_end(bytes: &[u8], max_message: usize) -> (&[u8], Option<(u16, Vec<u8>)>) {
    let (mut at, mut open) = (0, None);
    loop {
        let (header, length) = match parse_header(&bytes[at..], max_message) {
            FrameHead::Faulty(Fault::TooLong) => return (&bytes[..at], Some((1009, Vec::new()))),
            FrameHead::Faulty(_) => return (&bytes[..at], Some((1002, Vec::new()))),
            FrameHead::Plain(plain) => (plain.header, plain.length),
            FrameHead::Other(other) => (other.header, other.length),
            FrameHead::Short => return (&bytes[..at], None),
        };
        let (opcode, is_final) = (bytes[at] & 0x0f, bytes[at] & 0x80 != 0);
        let frame = bytes.get(at..at + header + length);
        match opcode {
            8 => return (&bytes[..at], frame.map(|frame| goodbye(frame, header))),
            9.. => {}
            _ if (opcode == 0) != open.is_some() => {
                return (&bytes[..at], Some((1002, Vec::new())));
            }
            _ => {
                let sum = open.unwrap_or(0) + length;
                if sum > max_message {
                    return (&bytes[..at], Some((1009, Vec::new())));
                }
                open = (!is_final).then_some(sum);
            }
        }
        if frame.is_none() {
            return (bytes, None);
        }
        at += header + length;
    }
}

/// Returns the close code that results from a close frame, and the answer if the frame is valid.
fn goodbye(frame: &[u8], header: usize) -> (u16, Vec<u8>) {
    let (mask, payload) = frame[header - 4..].split_at(4);
    let payload: Vec<u8> =
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let code = match payload[..] {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 1005,
    };
    match code {
        0..=999 | 1004 | 1006 | 1015..=2999 | 5000.. => return (1002, Vec::new()),
        1005 if !payload.is_empty() => return (1002, Vec::new()),
        _ => {}
    }
    if payload.get(2..).is_some_and(|text| std::str::from_utf8(text).is_err()) {
        return (1007, Vec::new());
    }
    (code, [&[0x88, payload.len() as u8], &payload[..]].concat())
}

struct Expected {
    messages: Vec<(Form, Bytes)>,
    code: u16,
    answers: Vec<u8>,
}

/// Decodes with tungstenite alone.
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
    // Writes the pong to the last ping, or the answer to a close.
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
