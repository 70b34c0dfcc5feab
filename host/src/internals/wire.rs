//! Reads and writes both kinds of sockets in memory, as `connection` does.

use std::future::{Future, poll_fn};
use std::mem::take;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::CloseCode;

use super::{fixture, script::Script};
use crate::config::MessageLimits;
use crate::protocol::close::{CloseReason, close_packet};
use crate::protocol::io::{Progress, Received};
use crate::protocol::lines::Tail;
use crate::protocol::payload::{Outgoing, Payload};
use crate::protocol::{chunk::Form, wire::Wire};

/// How messages are framed on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Frames, after the handshake.
    WebSocket,
    /// Lines, after the opening.
    Lines(Tail),
}

/// The result of reading all bytes that a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The messages in order.
    pub messages: Vec<(Form, Bytes)>,
    /// The close code, and whether the host closes.
    pub end: (u16, bool),
    /// Pongs, and the answer to the peer's close frame.
    pub answers: Vec<u8>,
    /// The most memory held between two reads for incomplete messages.
    pub most_buffered: usize,
    /// The most messages of one read.
    pub most_at_once: usize,
}

/// Reads to the end: first what came `behind` the handshake, then each of `reads`.
pub fn read_all(
    framing: Framing,
    behind: &[u8],
    reads: &[&[u8]],
    max_message: usize,
) -> ReadOutcome {
    let limits = MessageLimits { max_message, ..MessageLimits::default() };
    let script = Script::of_reads(reads);
    let mut wire = match framing {
        Framing::WebSocket => Wire::websocket(script, behind.to_vec(), &limits),
        Framing::Lines(tail) => Wire::lines(script, behind, tail, &limits),
    };
    let (mut messages, mut batch) = (Vec::new(), Vec::new());
    let (mut most_buffered, mut most_at_once) = (0, 0);
    let end = loop {
        let progress = finish(poll_fn(|cx| wire.poll_receive(cx, &mut batch)));
        most_at_once = most_at_once.max(batch.len());
        most_buffered = most_buffered.max(wire.buffered_bytes());
        messages.extend(batch.drain(..).map(|received| (received.form, received.bytes)));
        finish(wire.flush(NO_LIMIT)).expect(TAKES_ALL);
        match progress {
            Progress::More | Progress::Pong => {}
            Progress::Done(reason) => {
                finish(wire.answer_close()).expect(TAKES_ALL);
                break (reason.code.0, false);
            }
            Progress::Broken(reason) => break (reason.code.0, false),
            Progress::Violation(reason) => break (reason.code.0, true),
        }
    };
    let answers = take(&mut wire.stream.written);
    ReadOutcome { messages, end, answers, most_buffered, most_at_once }
}

/// A WebSocket for benchmarks of reading.
#[derive(Debug)]
pub struct SocketReader {
    wire: Wire<Script>,
    batch: Vec<Received>,
}

impl SocketReader {
    /// A connection that was idle so far.
    pub fn new(max_message: usize) -> Self {
        let limits = MessageLimits { max_message, ..MessageLimits::default() };
        let wire = Wire::websocket(Script::of_reads(&[]), Vec::new(), &limits);
        Self { wire, batch: Vec::new() }
    }

    /// Performs one read that brings `bytes` and returns the number of messages.
    pub fn read(&mut self, bytes: Vec<u8>) -> usize {
        self.wire.stream.reads.push_back(bytes);
        finish(poll_fn(|cx| self.wire.poll_receive(cx, &mut self.batch)));
        self.batch.drain(..).count()
    }
}

/// One item that the host writes.
#[derive(Clone, Debug)]
pub enum HostMessage {
    /// `ready`, with the uuid that [`write_all`] returns.
    Ready,
    /// A text message of an application.
    Text(String),
    /// A binary message of an application.
    Binary(Vec<u8>),
    /// `next`, with this `fyi`.
    Next(String),
    /// A ping.
    Ping,
    /// Writes the items before it first.
    Flush,
}

/// Writes `things` and closes with this code and reason. The writes of the socket take as many
/// bytes as `allowed` lists, cyclically (0: not now; empty: all). Returns the bytes and the peer's
/// uuid.
pub fn write_all(
    framing: Framing,
    things: &[HostMessage],
    close: (u16, &str),
    allowed: &[usize],
) -> (Vec<u8>, String) {
    let peer = fixture::peer(&fixture::resource("/web"), "127.0.0.1", "");
    let script = Script::of_writes(allowed);
    let mut wire = match framing {
        Framing::WebSocket => Wire::websocket(script, Vec::new(), &MessageLimits::default()),
        Framing::Lines(tail) => Wire::lines(script, &[], tail, &MessageLimits::default()),
    };
    for queue in things.split(|thing| matches!(thing, HostMessage::Flush)) {
        let queue = queue.iter().map(outgoing).collect();
        // A write that must wait is polled again at once, without a clock.
        finish(wire.write(queue, &peer.identity, NO_LIMIT)).expect(TAKES_ALL);
    }
    let reason = CloseReason::host(CloseCode(close.0), close.1);
    finish(wire.send_close(&reason, Some(close_packet(&reason)))).expect(TAKES_ALL);
    (take(&mut wire.stream.written), peer.identity.as_str().to_owned())
}

/// Returns the code that is sent in a close frame when an application chooses `code`.
pub fn close_code(code: u16) -> u16 {
    crate::protocol::close::sendable(CloseCode(code)).0
}

const NO_LIMIT: Duration = Duration::from_secs(60 * 60 * 24);
const TAKES_ALL: &str = "a script takes everything";

fn outgoing(thing: &HostMessage) -> Outgoing {
    match thing {
        HostMessage::Ready => Outgoing::Ready,
        HostMessage::Text(text) => Outgoing::Message(Payload::copied(Form::Text, text.as_bytes())),
        HostMessage::Binary(bytes) => Outgoing::Message(Payload::copied(Form::Binary, bytes)),
        HostMessage::Next(fyi) => {
            Outgoing::Next((!fyi.is_empty()).then(|| crate::protocol::dialog::next(fyi).into()))
        }
        HostMessage::Ping | HostMessage::Flush => Outgoing::Ping,
    }
}

/// Polls a future to completion: in memory nothing waits for another task.
pub(super) fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}
