//! Connections: their state, and how they are lent to callbacks.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Mutex;

use abi_stable::std_types::{ROption, RSlice, RStr};

use super::outbox::{Outbox, Outgoing, Overflow};
use super::{SimulatedHost, lock};
use crate::abi::{self, Opaque, RawMessage, RawSession, Sink, field, status};
use crate::testing::Received;
use crate::testing::peer::{Peer, value_of};
use crate::types::{CloseCode, ClosedBy, Kind};

/// What callbacks see of a connection. Leaked: a test process ends soon.
#[derive(Debug)]
pub(in crate::testing) struct Record {
    id: u64,
    /// Index in [`RECORDS`].
    index: usize,
    /// ABI step of the host.
    step: u32,
    pub(in crate::testing) peer: Peer,
    pub(in crate::testing) data: Mutex<Vec<u8>>,
}

/// The records of all simulated hosts. The context of a session is an index.
static RECORDS: Mutex<Vec<&'static Record>> = Mutex::new(Vec::new());

/// One connection, open or closed.
#[derive(Debug)]
pub(in crate::testing) struct Client {
    pub(in crate::testing) record: &'static Record,
    /// Whether the application knows it: from `open` to `close`.
    pub(super) is_member: bool,
    pub(in crate::testing) end: Option<End>,
    pub(in crate::testing) outbox: Outbox,
    /// The messages that are not acknowledged, in order.
    pub(in crate::testing) handled: VecDeque<Handled>,
    pub(in crate::testing) fyi: String,
    /// Rooms in the order of joining.
    pub(in crate::testing) rooms: Vec<String>,
}

/// A message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::testing) enum Handled {
    /// The callback has not returned.
    Now,
    /// Deferred by the ticket with this number.
    Deferred(u64),
    /// Done, with the `fyi` of its `next`.
    Done(String),
}

/// Why a connection has ended.
#[derive(Clone, Debug)]
pub(in crate::testing) struct End {
    pub(in crate::testing) code: CloseCode,
    pub(in crate::testing) by: ClosedBy,
    pub(in crate::testing) text: String,
}

impl End {
    pub(in crate::testing) fn new(code: CloseCode, by: ClosedBy, text: &str) -> Self {
        Self { code, by, text: text.to_owned() }
    }

    /// Creates the end of a connection that the application closes. As on the host, a code that
    /// must not be sent becomes 1008.
    pub(in crate::testing) fn by_plugin(code: CloseCode, text: &str) -> Self {
        let is_sendable = matches!(code.0, 1000..=1003 | 1007..=1014 | 3000..=4999);
        Self::new(if is_sendable { code } else { CloseCode::POLICY }, ClosedBy::Plugin, text)
    }

    /// Creates the end of a connection whose callback has panicked or whose ticket has failed.
    pub(in crate::testing) fn failed() -> Self {
        Self::by_plugin(CloseCode::ERROR, "the application failed")
    }

    /// Returns whether `error` precedes `close`.
    pub(in crate::testing) fn is_fault(&self) -> bool {
        match self.by {
            ClosedBy::Peer => self.code == CloseCode::ABNORMAL,
            ClosedBy::Plugin => false,
            ClosedBy::Host => !matches!(self.code, CloseCode::NORMAL | CloseCode::AWAY),
        }
    }
}

impl SimulatedHost {
    /// Adds a connection, which is a member from now on, and returns its id.
    pub(in crate::testing) fn admit(&mut self, mut peer: Peer) -> u64 {
        let id = self.clients.last_key_value().map_or(1, |(last, _)| last + 1);
        if peer.uuid.is_empty() {
            peer.uuid = format!("00000000-0000-4000-8000-{id:012x}.{id:064x}");
        }
        let outbox = Outbox::new(peer.is_slow);
        let mut records = lock(&RECORDS);
        let (index, step, data) = (records.len(), self.step, Mutex::default());
        let record: &'static Record = Box::leak(Box::new(Record { id, index, step, peer, data }));
        records.push(record);
        let client = Client {
            record,
            is_member: true,
            end: None,
            outbox,
            handled: VecDeque::new(),
            fyi: String::new(),
            rooms: Vec::new(),
        };
        self.clients.insert(id, client);
        id
    }

    /// Returns the ids of the members, in the order in which they connected.
    pub(in crate::testing) fn members(&self) -> Vec<u64> {
        self.clients.iter().filter(|(_, client)| client.is_member).map(|(id, _)| *id).collect()
    }

    /// Returns a member.
    pub(super) fn member(&mut self, id: u64) -> Result<&mut Client, u32> {
        self.clients.get_mut(&id).filter(|client| client.is_member).ok_or(status::GONE)
    }

    /// Returns a member that is not closing.
    pub(super) fn open_member(&mut self, id: u64) -> Result<&mut Client, u32> {
        self.member(id)
            .and_then(|client| if client.end.is_none() { Ok(client) } else { Err(status::GONE) })
    }

    pub(in crate::testing) fn is_open(&self, id: u64) -> bool {
        self.clients.get(&id).is_some_and(|client| client.is_member && client.end.is_none())
    }

    /// Ends a connection: the callback `close` follows. The first reason counts.
    pub(in crate::testing) fn end(&mut self, id: u64, end: End) -> Result<(), u32> {
        self.open_member(id)?.end = Some(end);
        self.tickets.retain(|_, ticket| ticket.id != id);
        self.closing.push_back(id);
        Ok(())
    }

    /// Ends a connection that the application refuses: no callback follows, and what was sent to it
    /// is dropped.
    pub(in crate::testing) fn refuse(&mut self, id: u64, end: End) {
        self.closing.retain(|closing| *closing != id);
        self.dismiss(id);
        if let Some(client) = self.clients.get_mut(&id) {
            client.outbox = Outbox::default();
            client.end = Some(end);
        }
    }

    /// Returns the next connection that has ended and whose `close` is due. It is not a member any
    /// more.
    pub(in crate::testing) fn next_closing(&mut self) -> Option<(u64, End)> {
        let id = self.closing.pop_front()?;
        self.dismiss(id);
        let end = self.clients.get(&id)?.end.clone()?;
        Some((id, end))
    }

    fn dismiss(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.is_member = false;
        for room in std::mem::take(&mut client.rooms) {
            self.remove_from_room(id, &room);
        }
    }

    /// Puts a message into an outbox.
    pub(super) fn push(
        &mut self,
        id: u64,
        raw: &RawMessage<'_>,
        key: Option<&str>,
    ) -> Result<u64, u32> {
        self.member(id)?;
        if raw.bytes.len() > self.limits.max_sent() {
            return Err(status::TOO_LARGE);
        }
        let message = match raw.kind {
            abi::message::TEXT => Received::Text(String::from_utf8_lossy(&raw.bytes).into_owned()),
            _ => Received::Binary(raw.bytes.to_vec()),
        };
        self.append(id, Outgoing::Message { message, key: key.map(str::to_owned) })
    }

    pub(super) fn append(&mut self, id: u64, content: Outgoing) -> Result<u64, u32> {
        let limits = self.limits.clone();
        let client = self.open_member(id)?;
        if let Err(Overflow) = client.outbox.push(content, &limits) {
            client.outbox.clear();
            let text = "too slow: more waits than outbox_messages or outbox_bytes allow";
            self.end(id, End::new(CloseCode::TRY_AGAIN, ClosedBy::Host, text))?;
            return Err(status::GONE);
        }
        Ok(1)
    }
}

/// Lends a connection to the application for one call.
pub(in crate::testing) fn raw_session(record: &'static Record) -> RawSession<'static> {
    RawSession {
        id: record.id,
        kind: raw_kind(record.peer.kind),
        uuid: record.peer.uuid.as_str().into(),
        context: Opaque { pointer: std::ptr::without_provenance(record.index), life: PhantomData },
        field,
    }
}

pub(super) fn raw_kind(kind: Kind) -> u32 {
    match kind {
        Kind::WebSocket => abi::kind::WEBSOCKET,
        Kind::Backend => abi::kind::BACKEND,
        Kind::Tcp => abi::kind::TCP,
    }
}

fn record_of(context: Opaque<'_>) -> &'static Record {
    lock(&RECORDS)[context.pointer.addr()]
}

extern "C" fn field<'a>(context: Opaque<'a>, field: u32, name: RStr<'_>) -> ROption<RStr<'a>> {
    let record = record_of(context);
    let peer = &record.peer;
    let name = name.as_str();
    match field {
        field::IDENT => peer.ident.as_deref(),
        field::ADDRESS => Some(peer.address.as_str()),
        field::RESOURCE => Some(peer.resource.as_str()),
        field::QUERY => Some(peer.query.as_str()),
        field::HEADER => value_of(&peer.headers, |key| key.eq_ignore_ascii_case(name)),
        field::USER => peer.user.as_deref(),
        field::CLAIMS => peer.claims.as_deref(),
        field::PATH if record.step >= 3 => peer.path.as_deref().or(Some(peer.resource.as_str())),
        field::PARAMETER if record.step >= 3 => value_of(&peer.parameters, |key| key == name),
        _ => None,
    }
    .map(RStr::from)
    .into()
}

pub(super) extern "C" fn session_data(context: Opaque<'_>, sink: Sink<'_>) -> u32 {
    let record = record_of(context);
    if record.step < 3 {
        return super::UNSUPPORTED;
    }
    // A copy: the receiver must not run under the lock.
    let data = lock(&record.data).clone();
    put_data(&data, sink);
    status::OK
}

/// Puts data, unless there is none.
pub(super) fn put_data(data: &[u8], sink: Sink<'_>) {
    if !data.is_empty() {
        (sink.put)(sink.context, RSlice::from_slice(data));
    }
}
