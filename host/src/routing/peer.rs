//! A connection as the rest of the host sees it; only its own task sees the socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use plugsocket_plugin::{CloseCode, ClosedBy, ConnectionId, HostError, Kind};
use tracing::warn;

use super::outbox::{Answer, Entered, Gone, Outbox, OutboxBounds};
use super::resource::Resource;
use super::trace::{Direction, Passed};
use crate::auth::Login;
use crate::config::pattern;
use crate::protocol::buffered::Share;
use crate::protocol::chunk::Form;
use crate::protocol::close::{CloseReason, sendable};
use crate::protocol::dialog;
use crate::protocol::http::{self, Head};
use crate::protocol::identity::Identity;
use crate::protocol::payload::{Outgoing, Payload};

/// Most bytes that an application stores with a connection, and with a room.
pub(crate) const MAX_DATA: usize = 65_536;

/// A connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// Whether the client receives `ready`, `next` and `close`.
    pub(crate) dialog: bool,
    pub(crate) client: Client,
    pub(crate) resource: Arc<Resource>,
    pub(crate) outbox: Outbox,
    pub(crate) bounds: OutboxBounds,
    /// Written and read only by `resource.rs`.
    pub(crate) membership: Membership,
    pub(crate) state: PeerState,
}

/// What is known of the client since the handshake.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The IP address in text, or `unix`.
    pub(crate) address: Box<str>,
    /// The opening request: query, headers, ident.
    pub(crate) head: Head,
    /// The authenticated user, where the resource requires authentication.
    pub(crate) login: Option<Box<Login>>,
    /// Whether the client may be a backend. Only then its `Ident` counts: otherwise any client
    /// could receive messages meant for a script.
    pub(crate) may_announce: bool,
}

/// The peer's membership of its resource.
#[derive(Debug)]
pub(crate) struct Membership {
    /// Maximum number of rooms.
    pub(super) max_rooms: usize,
    /// Index in the resource's list of members; `usize::MAX`: not a member.
    pub(super) slot: AtomicUsize,
}

impl Membership {
    pub(crate) fn new(max_rooms: usize) -> Self {
        Self { max_rooms, slot: AtomicUsize::new(usize::MAX) }
    }
}

/// What changes while the peer is connected.
#[derive(Debug, Default)]
pub(crate) struct PeerState {
    /// Seconds from the start of the host to the handshake.
    opened: u32,
    /// Bytes read from the client, and of messages written to it. Written by its task only.
    read: AtomicU64,
    written: AtomicU64,
    /// Whether nothing arrived since the last ping.
    is_silent: AtomicBool,
    /// Whether the host does not read from the connection at present.
    is_held: AtomicBool,
    /// Whether a frame or line has begun and not ended.
    is_mid_message: AtomicBool,
    /// Whether an operator traces the connection.
    is_traced: AtomicBool,
    /// The beginning of a message that the connection has read.
    input: Share,
    /// Messages dropped for a slow consumer, and the minute in which that was last logged.
    dropped: AtomicU32,
    dropped_logged: AtomicU32,
    /// What the application stores with the connection. A pointer, because most store nothing.
    data: ArcSwapOption<Box<[u8]>>,
}

/// How an application completes a message that it has deferred.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Completion<'a> {
    Done,
    /// With this `fyi`.
    Fyi(&'a str),
    Refused(CloseCode, &'a str),
    Failed(&'static str),
}

impl PeerState {
    pub(crate) fn new(host_started: Instant) -> Self {
        let opened = u32::try_from(host_started.elapsed().as_secs()).unwrap_or(u32::MAX);
        Self { opened, ..Self::default() }
    }
}

/// Separates decoded parameters; a path holds no control character, not even an encoded one.
const SEPARATOR: &str = "\0";

/// Attaches the decoded parameters of the resource's key to a head whose path is encoded. Other
/// connections need no memory for their parameters.
pub(crate) fn with_parameters(mut head: Head, key: &str) -> Head {
    if pattern::is_pattern(key) && head.path().contains('%') {
        let parts = pattern::parameters(key, head.path());
        let decoded: Vec<_> = parts.map(|(_, part)| pattern::decode(part)).collect();
        head.attach(&decoded.join(SEPARATOR));
    }
    head
}

impl Client {
    /// Returns the part of the path that the resource's key leaves open under this name, decoded.
    pub(crate) fn parameter<'a>(&'a self, key: &'a str, name: &str) -> Option<&'a str> {
        if !pattern::is_pattern(key) {
            return None;
        }
        let mut parameters = pattern::parameters(key, self.head.path()).enumerate();
        let (index, (_, part)) = parameters.find(|(_, (found, _))| *found == name)?;
        match part.contains('%') {
            true => self.head.attached().split(SEPARATOR).nth(index),
            false => Some(part),
        }
    }
}

impl Peer {
    /// Returns how long the connection has been open.
    pub(crate) fn age(&self, host_started: Instant) -> Duration {
        let opened = Duration::from_secs(self.state.opened.into());
        host_started.elapsed().saturating_sub(opened)
    }

    /// Returns the bytes read from the client, and those of messages written to it.
    pub(crate) fn bytes(&self) -> [u64; 2] {
        [&self.state.read, &self.state.written].map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Counts bytes read from the client. Called only by the connection's task.
    pub(crate) fn count_read(&self, bytes: u64) {
        let read = &self.state.read;
        // Not an atomic addition: there is one writer.
        read.store(read.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.resource.counters.add_read(self.id(), bytes);
    }

    /// Counts messages written to the client, and their bytes. Called only by the connection's task.
    pub(crate) fn count_written(&self, messages: usize, bytes: u64) {
        let written = &self.state.written;
        written.store(written.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.resource.counters.add_sent(self.id(), messages as u64, bytes);
    }

    /// Records whether the client is in the middle of a message, and the memory of its beginning.
    /// Called only by the connection's task.
    pub(crate) fn note_partial(&self, is_mid_message: bool, bytes: usize) {
        self.state.is_mid_message.store(is_mid_message, Ordering::Relaxed);
        self.state.input.set(bytes);
    }

    /// Returns whether an operator traces the connection.
    pub(crate) fn is_traced(&self) -> bool {
        self.state.is_traced.load(Ordering::Relaxed)
    }

    /// Called only by `trace.rs`, which holds its lock.
    pub(super) fn set_traced(&self, is_traced: bool) {
        self.state.is_traced.store(is_traced, Ordering::Relaxed);
    }

    /// Records what passed, for the traces of this connection.
    #[cold]
    pub(crate) fn trace(&self, direction: Direction, kind: &'static str, form: Form, bytes: &[u8]) {
        let item = Passed { form, ..Passed::new(direction, kind, bytes.len()) };
        self.resource.traces.record(self, &item, Some(bytes));
    }

    /// Records what passed without its payload, also where payloads are shown.
    #[cold]
    pub(crate) fn trace_redacted(&self, direction: Direction, kind: &'static str, bytes: usize) {
        self.resource.traces.record(self, &Passed::new(direction, kind, bytes), None);
    }

    /// Records why the connection ends.
    #[cold]
    pub(crate) fn trace_close(&self, direction: Direction, code: u16, reason: &str) {
        let close = Some((code, reason.to_owned()));
        let item = Passed { close, ..Passed::new(direction, "close", reason.len()) };
        self.resource.traces.record(self, &item, None);
    }

    /// Returns the counted memory of a message whose beginning was read.
    pub(crate) fn input_bytes(&self) -> usize {
        self.state.input.bytes()
    }

    pub(crate) fn id(&self) -> ConnectionId {
        ConnectionId(self.identity.key())
    }

    /// Returns the announced `Ident`, where it counts.
    pub(crate) fn ident(&self) -> Option<&str> {
        http::ident(&self.client.head).filter(|_| self.client.may_announce)
    }

    /// Puts a message into the outbox. `key`: see [`Outbox::push_keyed`].
    ///
    /// # Errors
    /// `TooLarge` if the message exceeds what the outbox can ever hold; `Gone` if the connection
    /// ends.
    pub(crate) fn send(&self, payload: Payload, key: Option<&Arc<str>>) -> Result<(), HostError> {
        if !self.bounds.can_hold(&payload) {
            return Err(HostError::TooLarge);
        }
        let pushed = self.outbox.push_keyed(Outgoing::Message(payload), key, self.bounds);
        match pushed.map_err(|Gone| HostError::Gone)? {
            Entered::Added { dropped: 0 } => {}
            Entered::Added { dropped } => self.count_dropped(dropped),
            Entered::Replaced => self.resource.counters.add_conflated(),
        }
        Ok(())
    }

    /// Counts messages dropped for a slow consumer, and logs that at most once a minute.
    #[cold]
    fn count_dropped(&self, dropped: u32) {
        self.resource.counters.add_dropped(u64::from(dropped));
        let state = &self.state;
        let count = state.dropped.fetch_add(dropped, Ordering::Relaxed).wrapping_add(dropped);
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        // The low 32 bits distinguish minutes.
        let now = (since.as_secs() / 60) as u32;
        if state.dropped_logged.swap(now, Ordering::Relaxed) != now {
            let (id, resource) = (self.id(), self.resource.path.as_str());
            let peer = &*self.client.address;
            warn!(%id, resource, peer, dropped = count, "slow consumer: messages dropped");
        }
    }

    /// Acknowledges one message, where there is a dialog.
    pub(crate) fn acknowledge(&self) {
        if self.dialog {
            // Fails only if the connection is gone.
            let _gone = self.outbox.acknowledge(self.bounds);
        }
    }

    /// Answers a message whose acknowledgement was deferred.
    ///
    /// # Errors
    /// `Gone` if the connection has ended.
    pub(crate) fn settle(&self, ticket: u64, completion: Completion<'_>) -> Result<(), HostError> {
        if let Completion::Refused(..) = completion {
            self.resource.counters.add_refused();
        }
        let answer = match completion {
            Completion::Done => self.acknowledgement(),
            Completion::Fyi(fyi) if self.dialog => Answer::NextWith(next_packet(fyi)),
            Completion::Fyi(_) => Answer::Silent,
            Completion::Refused(code, reason) => {
                Answer::Close(CloseReason::new(sendable(code), ClosedBy::Plugin, reason))
            }
            Completion::Failed(reason) => {
                Answer::Close(CloseReason::new(CloseCode::ERROR, ClosedBy::Plugin, reason))
            }
        };
        self.outbox.settle(ticket, answer, self.bounds).map_err(|Gone| HostError::Gone)
    }

    /// Ends a call that has deferred a message: acknowledges the other messages of it.
    pub(crate) fn end_deferring_call(&self) {
        self.outbox.end_deferring_call(|| self.acknowledgement(), self.bounds);
    }

    fn acknowledgement(&self) -> Answer {
        if self.dialog { Answer::Next } else { Answer::Silent }
    }

    pub(crate) fn set_fyi(&self, fyi: &str) {
        self.outbox.set_next(next_packet(fyi));
    }

    /// Returns what the application has stored with the connection.
    pub(crate) fn data(&self) -> Option<Arc<Box<[u8]>>> {
        self.state.data.load_full()
    }

    /// Stores data with the connection; empty data removes it.
    ///
    /// # Errors
    /// [`HostError::TooLarge`].
    pub(crate) fn set_data(&self, data: &[u8]) -> Result<(), HostError> {
        if data.len() > MAX_DATA {
            return Err(HostError::TooLarge);
        }
        self.state.data.store((!data.is_empty()).then(|| Arc::new(data.into())));
        Ok(())
    }

    pub(super) fn forget_data(&self) {
        self.state.data.store(None);
    }

    /// Returns whether the application has accepted the connection and not yet seen `close`.
    pub(crate) fn is_member(&self) -> bool {
        self.membership.slot.load(Ordering::Relaxed) != usize::MAX
    }

    /// Records that something arrived.
    pub(crate) fn received(&self) {
        self.state.is_silent.store(false, Ordering::Relaxed);
    }

    /// Returns whether the host does not read from the connection at present.
    pub(crate) fn is_held(&self) -> bool {
        self.state.is_held.load(Ordering::Relaxed)
    }

    /// Records that the host stops or resumes reading; while it does not read, silence of the
    /// client means nothing. Called only by the connection's task.
    pub(crate) fn hold(&self, is_held: bool) {
        self.state.is_held.store(is_held, Ordering::Relaxed);
        self.received();
    }

    /// Pings the client, or closes the connection if nothing arrived since the last ping. Backends
    /// are exempt: a script reads nothing between two reports, and the old PHP client answers an
    /// empty ping with a close frame. In the middle of a message, which has a time limit of its own,
    /// a client cannot answer: some write the pong into their unfinished frame.
    pub(crate) fn ping_or_expire(&self) {
        // While the host does not read, a message may stay unfinished for long; only a write then
        // finds that the client has left.
        let is_mid_message = self.state.is_mid_message.load(Ordering::Relaxed) && !self.is_held();
        if self.kind != Kind::WebSocket || is_mid_message {
            return;
        }
        // While the host does not read it expects no answer, but the write detects a broken
        // connection.
        let _gone = if self.state.is_silent.swap(true, Ordering::Relaxed) && !self.is_held() {
            self.outbox.close(CloseReason::peer(CloseCode::AWAY, "no answer to a ping"))
        } else {
            self.outbox.push(Outgoing::Ping, self.bounds)
        };
    }
}

/// Returns the `next` packet with this `fyi`; `None` for an empty one.
fn next_packet(fyi: &str) -> Option<Arc<str>> {
    (!fyi.is_empty()).then(|| dialog::next(fyi).into())
}
