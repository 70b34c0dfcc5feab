//! Both kinds of sockets, read and written in memory, as `connection` does it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::CloseCode;

use super::crowd;
use super::script::Script;
use crate::config::Limits;
use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::lines::Tail;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::payload::Payload;
use crate::protocol::wire::{Progress, Received, Wire};

/// How messages lie on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Frames, after the handshake.
    WebSocket,
    /// Lines, after the opening.
    Lines(Tail),
}

/// What came of the bytes that a peer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// In order.
    pub messages: Vec<(Form, Bytes)>,
    /// With which close code, and whether it is the host that would say so.
    pub end: (u16, bool),
    /// What the host answered by itself: pongs, and its side of a close that the peer began.
    pub answers: Vec<u8>,
    /// The most memory that was kept between two reads for what was no message yet.
    pub most_kept: usize,
    /// The most messages that one read handed on.
    pub most_at_once: usize,
}

/// Reads to the end: first what came `behind` the handshake, then each of `reads`.
pub fn hear(manner: Manner, behind: &[u8], reads: &[&[u8]], max_message: usize) -> Heard {
    let limits = Limits { max_message, ..Limits::default() };
    let script = Script::of_reads(reads);
    let mut wire = match manner {
        Manner::WebSocket => Wire::websocket(script, behind.to_vec(), &limits),
        Manner::Lines(tail) => Wire::lines(script, behind, tail, &limits),
    };
    let (mut messages, mut batch) = (Vec::new(), Vec::new());
    let (mut most_kept, mut most_at_once) = (0, 0);
    let end = loop {
        let progress = finish(poll_fn(|cx| wire.poll_receive(cx, &mut batch)));
        most_at_once = most_at_once.max(batch.len());
        most_kept = most_kept.max(wire.kept());
        messages.extend(batch.drain(..).map(|received| (received.form, received.bytes)));
        finish(wire.flush()).expect("a script takes everything");
        match progress {
            Progress::More | Progress::Pong => {}
            Progress::Done(reason) => {
                finish(wire.answer_goodbye()).expect("a script takes everything");
                break (reason.code.0, false);
            }
            Progress::Left(reason) => break (reason.code.0, false),
            Progress::Violated(reason) => break (reason.code.0, true),
        }
    };
    let answers = stream(wire).written;
    Heard { messages, end, answers, most_kept, most_at_once }
}

/// A WebSocket that is read over and over.
#[derive(Debug)]
pub struct Ear {
    wire: Wire<Script>,
    batch: Vec<Received>,
}

impl Ear {
    /// Of a connection that has been idle so far.
    pub fn new(max_message: usize) -> Self {
        let limits = Limits { max_message, ..Limits::default() };
        Self {
            wire: Wire::websocket(Script::of_reads(&[]), Vec::new(), &limits),
            batch: Vec::new(),
        }
    }

    /// One read that brings `bytes`; how many messages it was.
    pub fn read(&mut self, bytes: Vec<u8>) -> usize {
        let Wire::WebSocket(socket) = &mut self.wire else { return 0 };
        socket.stream_mut().reads.push_back(bytes);
        finish(poll_fn(|cx| self.wire.poll_receive(cx, &mut self.batch)));
        self.batch.drain(..).count()
    }
}

/// One thing that the host says.
#[derive(Clone, Debug)]
pub enum Said {
    /// `ready`, with the uuid that [`say`] returns.
    Ready,
    /// An application's text.
    Text(String),
    /// An application's bytes.
    Binary(Vec<u8>),
    /// `next`, with this `fyi`.
    Next(String),
    /// A ping.
    Ping,
    /// What was said before is written before the rest.
    Flush,
}

/// Writes these and says goodbye with this code and reason, on a socket whose writes take as much as `allowed` says, over and over (0: not
/// now; empty: all). Returns the bytes and the peer's uuid.
pub fn say(
    manner: Manner,
    things: &[Said],
    goodbye: (u16, &str),
    allowed: &[usize],
) -> (Vec<u8>, String) {
    let peer = crowd::peer(&crowd::resource("/web"), "127.0.0.1", "");
    let script = Script::of_writes(allowed);
    let mut wire = match manner {
        Manner::WebSocket => Wire::websocket(script, Vec::new(), &Limits::default()),
        Manner::Lines(tail) => Wire::lines(script, &[], tail, &Limits::default()),
    };
    for queue in things.split(|thing| matches!(thing, Said::Flush)) {
        let queue = queue.iter().map(outgoing).collect();
        finish(wire.write(queue, peer.identity.as_str(), LIMIT))
            .expect("a script takes everything");
    }
    let reason = CloseReason::host(CloseCode(goodbye.0), goodbye.1);
    finish(wire.say_goodbye(&reason, true)).expect("a script takes everything");
    (stream(wire).written, peer.identity.as_str().to_owned())
}

/// The code that an application's choice becomes in a close frame.
pub fn close_code(code: u16) -> u16 {
    crate::protocol::close::sendable(CloseCode(code)).0
}

/// Nothing waits: a write that is put off is polled again at once, without a clock.
const LIMIT: Duration = Duration::MAX;

fn outgoing(thing: &Said) -> Outgoing {
    match thing {
        Said::Ready => Outgoing::Ready,
        Said::Text(text) => Outgoing::Message(Payload::copied(true, text.as_bytes())),
        Said::Binary(bytes) => Outgoing::Message(Payload::copied(false, bytes)),
        Said::Next(fyi) => Outgoing::Next((!fyi.is_empty()).then(|| dialog::next(fyi).into())),
        Said::Ping | Said::Flush => Outgoing::Ping,
    }
}

fn stream(wire: Wire<Script>) -> Script {
    match wire {
        Wire::WebSocket(socket) => socket.into_stream(),
        Wire::Lines(lines) => lines.into_stream(),
    }
}

/// Polls to the end: nothing in memory waits for anything else.
pub(super) fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}
