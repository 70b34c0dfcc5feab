//! [`Host`]: the functions that an application calls.

mod data;
mod events;
mod metrics;
mod pending;
mod rooms;
mod ticket;
mod timers;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use std::sync::Arc;

use crate::Session;
use crate::abi::{
    self, HostRef, Opaque, RawAudience, RawMessage, RawSession, RawTarget, Sink, Visitor,
};
use crate::types::{
    Audience, CloseCode, ConnectionId, HostError, Level, Message, Scope, Target, Verdict,
};

pub use self::events::Event;
pub use self::metrics::{Counter, Gauge, Histogram};
pub(crate) use self::pending::Pending;
pub use self::ticket::Ticket;

/// The functions of the host, for one instance. Cheap to clone, usable from any thread.
///
/// No function blocks or waits for a client. A message is copied into the outbox of each receiver's
/// connection, and messages to one connection arrive in the order of the calls. The outbox is
/// bounded (`outbox_messages`, `outbox_bytes`): a slow consumer is closed with 1013, or handled as
/// the resource's `outbox_policy` says. The sender does not have to act.
///
/// Every function that returns a `Result` fails with [`HostError::Retired`] in
/// [`Plugin::start`](crate::Plugin::start) and after the instance has been replaced.
#[derive(Clone)]
pub struct Host {
    raw: HostRef,
    pending: Arc<Pending>,
}

impl Host {
    pub(crate) fn new(raw: HostRef) -> Self {
        Self { raw, pending: Arc::default() }
    }

    /// Creates the host of an instance that a host has loaded.
    pub(crate) fn collecting(raw: HostRef, pending: Arc<Pending>) -> Self {
        Self { raw, pending }
    }

    /// Returns the newest ABI step that the host knows. A function of a later step returns
    /// [`HostError::Unsupported`] or has a documented fallback.
    #[must_use]
    pub fn abi_step(&self) -> u32 {
        self.raw.table.abi_version().unwrap_or(match self.raw.table.send_latest() {
            Some(_) => 2,
            None => 1,
        })
    }

    /// Sends a message to one connection of this resource.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] above `max_message` plus 4 MiB, or above
    /// `outbox_bytes` if that is larger.
    pub fn send<'m>(
        &self,
        to: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<(), HostError> {
        check(self.raw.table.send()(self.raw.context, to.0, raw_message(message.into())))
    }

    /// Sends a message to multiple connections; returns the number of outboxes that took it.
    ///
    /// The payload is copied once for all of them.
    ///
    /// ```
    /// # use plugsocket_plugin::{Host, Session, Audience, HostError};
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.broadcast(Audience::resource().except(&[session.id()]), "a client connected")?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HostError::Retired`].
    pub fn broadcast<'m>(
        &self,
        to: Audience<'_>,
        message: impl Into<Message<'m>>,
    ) -> Result<usize, HostError> {
        let except = raw_ids(to.except);
        let audience = raw_audience(to, &except);
        count(self.raw.table.broadcast()(self.raw.context, audience, raw_message(message.into())))
    }

    /// Sends a value of which only the latest matters: a price, a position, a percentage.
    ///
    /// With `outbox_policy = "conflate"` it replaces the message with the same `key` that is still
    /// waiting for this connection, so a slow consumer skips intermediate values. With any other
    /// policy, and on a host before ABI step 2, it is [`send`](Self::send).
    ///
    /// ```
    /// # use plugsocket_plugin::{Host, Session, HostError};
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.send_latest(session.id(), "load", r#"{"opcode":"load","percent":73}"#)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of [`send`](Self::send); [`HostError::TooLarge`] for a key over 256 bytes.
    pub fn send_latest<'m>(
        &self,
        to: ConnectionId,
        key: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<(), HostError> {
        let Some(send_latest) = self.raw.table.send_latest() else {
            return self.send(to, message);
        };
        check(send_latest(self.raw.context, to.0, key.into(), raw_message(message.into())))
    }

    /// Broadcasts a value of which only the latest matters, see [`send_latest`](Self::send_latest).
    ///
    /// ABI step 2; on an older host it is [`broadcast`](Self::broadcast).
    ///
    /// # Errors
    /// [`HostError::TooLarge`] for a key over 256 bytes.
    pub fn broadcast_latest<'m>(
        &self,
        to: Audience<'_>,
        key: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<usize, HostError> {
        let Some(broadcast_latest) = self.raw.table.broadcast_latest() else {
            return self.broadcast(to, message);
        };
        let except = raw_ids(to.except);
        let audience = raw_audience(to, &except);
        count(broadcast_latest(self.raw.context, audience, key.into(), raw_message(message.into())))
    }

    /// Sends a message to the client with this uuid or ident, on any resource.
    ///
    /// Returns [`Verdict::Gone`] if there is no such client.
    ///
    /// # Errors
    /// [`HostError::TooLarge`], as [`send`](Self::send).
    pub fn feedback<'m>(
        &self,
        to: Target<'_>,
        message: impl Into<Message<'m>>,
    ) -> Result<Verdict, HostError> {
        let target = match to {
            Target::Uuid(uuid) => RawTarget { by: abi::target::UUID, text: uuid.into() },
            Target::Ident(ident) => RawTarget { by: abi::target::IDENT, text: ident.into() },
        };
        match check(self.raw.table.feedback()(
            self.raw.context,
            target,
            raw_message(message.into()),
        )) {
            Ok(()) => Ok(Verdict::Delivered),
            Err(HostError::Gone) => Ok(Verdict::Gone),
            Err(error) => Err(error),
        }
    }

    /// Adds a connection to a room of this resource.
    ///
    /// A room exists while it has members, and survives a reload. A connection that ends leaves all
    /// of its rooms. Joining a room again has no effect.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] for a name over 256 bytes;
    /// [`HostError::TooMany`] beyond `max_rooms` rooms of this connection.
    pub fn join(&self, id: ConnectionId, room: &str) -> Result<(), HostError> {
        check(self.raw.table.join()(self.raw.context, id.0, room.into()))
    }

    /// Removes a connection from a room. It need not be a member.
    ///
    /// # Errors
    /// [`HostError::Gone`].
    pub fn leave(&self, id: ConnectionId, room: &str) -> Result<(), HostError> {
        check(self.raw.table.leave()(self.raw.context, id.0, room.into()))
    }

    /// Sends a message to the members of a room without those in `except`; returns the number of
    /// outboxes that took it, 0 for an empty room.
    ///
    /// # Errors
    /// [`HostError::Retired`].
    pub fn publish<'m>(
        &self,
        room: &str,
        except: &[ConnectionId],
        message: impl Into<Message<'m>>,
    ) -> Result<usize, HostError> {
        let except = raw_ids(except);
        count(self.raw.table.publish()(
            self.raw.context,
            room.into(),
            except.as_slice().into(),
            raw_message(message.into()),
        ))
    }

    /// Publishes a value of which only the latest matters, see [`send_latest`](Self::send_latest).
    ///
    /// ABI step 2; on an older host it is [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`HostError::TooLarge`] for a key over 256 bytes.
    pub fn publish_latest<'m>(
        &self,
        room: &str,
        except: &[ConnectionId],
        key: &str,
        message: impl Into<Message<'m>>,
    ) -> Result<usize, HostError> {
        let Some(publish_latest) = self.raw.table.publish_latest() else {
            return self.publish(room, except, message);
        };
        let except = raw_ids(except);
        count(publish_latest(
            self.raw.context,
            room.into(),
            except.as_slice().into(),
            key.into(),
            raw_message(message.into()),
        ))
    }

    /// Closes a connection after everything that was sent to it before.
    ///
    /// On a resource with a dialog, the client receives `{"opcode":"close","error":"<reason>"}`
    /// first, except with [`CloseCode::NORMAL`]. A close frame holds the first 123 bytes of
    /// `reason`. [`Plugin::close`](crate::Plugin::close) follows.
    ///
    /// # Errors
    /// [`HostError::Gone`].
    pub fn close(&self, id: ConnectionId, code: CloseCode, reason: &str) -> Result<(), HostError> {
        check(self.raw.table.close()(self.raw.context, id.0, code.0, reason.into()))
    }

    /// Sets the `fyi` of this connection's following `next` packets, until it is set again.
    ///
    /// A text for the client, for example the result of its message. Empty by default.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] for more than 4096 bytes.
    pub fn set_fyi(&self, id: ConnectionId, fyi: &str) -> Result<(), HostError> {
        check(self.raw.table.set_fyi()(self.raw.context, id.0, fyi.into()))
    }

    /// Calls `visit` for every open connection of this resource, in no particular order.
    ///
    /// # Errors
    /// [`HostError::Retired`].
    pub fn sessions(&self, mut visit: impl FnMut(&Session<'_>)) -> Result<(), HostError> {
        self.visit(&mut visit, |visitor| self.raw.table.sessions()(self.raw.context, visitor))
    }

    fn visit(
        &self,
        visit: &mut dyn FnMut(&Session<'_>),
        call: impl FnOnce(Visitor<'_>) -> u32,
    ) -> Result<(), HostError> {
        let table = self.raw.table;
        let mut panic = None;
        let mut raw_visit = |raw: RawSession<'_>| {
            if panic.is_none() {
                let session = Session::new(raw, table);
                panic = catch_unwind(AssertUnwindSafe(|| visit(&session))).err();
            }
        };
        let visited = {
            let mut raw_visit: &mut dyn FnMut(RawSession<'_>) = &mut raw_visit;
            abi::visit_with(&mut raw_visit, call)
        };
        // It must not unwind into the host, but it is a panic of the callback.
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        check(visited)
    }

    /// Writes a line to the host's log, with the fields plugin, generation and resource.
    ///
    /// The macros of `tracing` and `log` do the same without the resource. Works in every state of
    /// the instance.
    pub fn log(&self, level: Level, text: &str) {
        self.raw.table.log()(self.raw.context, level as u32, "".into(), text.into());
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

fn raw_ids(ids: &[ConnectionId]) -> Vec<u64> {
    ids.iter().map(|id| id.0).collect()
}

fn raw_audience<'a>(to: Audience<'_>, except: &'a [u64]) -> RawAudience<'a> {
    let scope = match to.scope {
        Scope::Resource => abi::scope::RESOURCE,
        Scope::All => abi::scope::ALL,
    };
    RawAudience { scope, websockets_only: to.websockets_only, except: except.into() }
}

fn raw_message(message: Message<'_>) -> RawMessage<'_> {
    match message {
        Message::Text(text) => {
            RawMessage { kind: abi::message::TEXT, bytes: text.as_bytes().into() }
        }
        Message::Binary(bytes) => RawMessage { kind: abi::message::BINARY, bytes: bytes.into() },
    }
}

pub(crate) fn check(status: u32) -> Result<(), HostError> {
    match status {
        abi::status::OK => Ok(()),
        abi::status::GONE => Err(HostError::Gone),
        abi::status::RETIRED => Err(HostError::Retired),
        abi::status::TOO_LARGE => Err(HostError::TooLarge),
        abi::status::TOO_MANY => Err(HostError::TooMany),
        abi::status::INVALID => Err(HostError::Invalid),
        _ => Err(HostError::Unsupported),
    }
}

fn count(count: abi::Count) -> Result<usize, HostError> {
    check(count.status).map(|()| usize::try_from(count.count).unwrap_or(usize::MAX))
}

/// Returns the bytes that the host puts, or `None` if it puts none.
pub(crate) fn collect_bytes(
    call: impl FnOnce(Sink<'_>) -> u32,
) -> Result<Option<Vec<u8>>, HostError> {
    let mut bytes = None;
    let mut put = |part: &[u8]| bytes.get_or_insert_with(Vec::new).extend_from_slice(part);
    let mut put: &mut dyn FnMut(&[u8]) = &mut put;
    check(abi::collect(&mut put, call))?;
    Ok(bytes)
}

/// Returns the texts that the host puts.
pub(crate) fn collect_texts(call: impl FnOnce(Sink<'_>) -> u32) -> Result<Vec<String>, HostError> {
    let mut texts = Vec::new();
    let mut put = |text: &[u8]| texts.push(String::from_utf8_lossy(text).into_owned());
    let mut put: &mut dyn FnMut(&[u8]) = &mut put;
    check(abi::collect(&mut put, call))?;
    Ok(texts)
}

/// Calls the closure of [`Host::sessions`], which does not panic. If it did, that must not unwind
/// into the host.
pub(crate) extern "C" fn visit<'a>(context: Opaque<'a>, session: RawSession<'_>) {
    let visited = catch_unwind(AssertUnwindSafe(|| {
        abi::with_visitor(context, |visit| visit(session));
    }));
    if let Err(payload) = visited {
        crate::export::discard(payload);
    }
}
