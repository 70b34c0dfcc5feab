//! What an author may call.

use crate::abi::{self, HostRef, Opaque, RawAudience, RawMessage, RawSession, RawTarget, Visitor};
use crate::plugin::Session;
use crate::types::{
    Audience, CloseCode, ConnectionId, HostError, Level, Message, Scope, Target, Verdict,
};

/// The host, as one instance sees it: cheap to clone, usable from any thread, also after the instance
/// has been replaced (every call is then [`HostError::Retired`]).
///
/// Nothing here blocks and nothing waits for a peer: a message goes into the outbox of the peer's
/// connection. A peer that does not read fills its outbox and is disconnected (1013), unless the operator says otherwise
/// (`outbox_policy`); the sender need not care.
#[derive(Clone)]
pub struct Host {
    raw: HostRef,
}

impl Host {
    pub(crate) fn new(raw: HostRef) -> Self {
        Self { raw }
    }

    /// Sends a message to one connection of this resource.
    ///
    /// # Errors
    /// [`HostError::Gone`] if it has ended.
    pub fn send<'m>(
        &self,
        to: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<(), HostError> {
        check(self.raw.table.send()(self.raw.context, to.0, raw_message(message.into())))
    }

    /// Sends a message to many connections; answers to how many. The payload is copied once, not once for each.
    ///
    /// ```
    /// # use plugsocket_plugin::{Host, Session, Audience, HostError};
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.broadcast(Audience::resource().except(&[session.id()]), "somebody is here")?;
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

    /// Sends a value that grows old: a price, a position, a percentage. On a resource with `outbox_policy = "conflate"` it takes the
    /// place of the message with the same `key` that still waits for this connection, if there is one; so a peer that reads slowly
    /// reads fewer values, and always the last one. Elsewhere, and on a host that is older than this function, it is
    /// [`send`](Self::send).
    ///
    /// ```
    /// # use plugsocket_plugin::{Host, Session, HostError};
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.send_latest(session.id(), "load", r#"{"opcode":"load","percent":73}"#)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send); [`HostError::TooLarge`] for a key of over 256 bytes.
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

    /// [`broadcast`](Self::broadcast) of a value that grows old, as [`send_latest`](Self::send_latest).
    ///
    /// # Errors
    /// [`HostError::Retired`]; [`HostError::TooLarge`] for a key of over 256 bytes.
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

    /// Sends a message to the one peer with this uuid or ident, on whichever resource it is.
    ///
    /// # Errors
    /// [`HostError::Retired`]. A peer that is not there is no error but [`Verdict::Gone`].
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

    /// Puts a connection into a room of this resource; the room exists while somebody is in it.
    /// Joining twice is joining once. Rooms outlive a reload; a connection that ends leaves all of its rooms.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] for a name of over 256 bytes; [`HostError::TooMany`] if it is in as many rooms
    /// as the operator allows (`max_rooms`, 100 by default).
    pub fn join(&self, id: ConnectionId, room: &str) -> Result<(), HostError> {
        check(self.raw.table.join()(self.raw.context, id.0, room.into()))
    }

    /// Takes a connection out of a room; no error if it was not in it.
    ///
    /// # Errors
    /// [`HostError::Gone`].
    pub fn leave(&self, id: ConnectionId, room: &str) -> Result<(), HostError> {
        check(self.raw.table.leave()(self.raw.context, id.0, room.into()))
    }

    /// Sends a message to everybody in a room but the connections of `except`; answers to how many.
    ///
    /// # Errors
    /// [`HostError::Retired`]. An empty room is 0.
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

    /// [`publish`](Self::publish) of a value that grows old, as [`send_latest`](Self::send_latest).
    ///
    /// # Errors
    /// [`HostError::Retired`]; [`HostError::TooLarge`] for a key of over 256 bytes.
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

    /// Closes a connection after everything already sent to it. On a resource with a dialog, the peer
    /// reads `{"opcode":"close","error":"<reason>"}` first, except with [`CloseCode::NORMAL`].
    ///
    /// # Errors
    /// [`HostError::Gone`].
    pub fn close(&self, id: ConnectionId, code: CloseCode, reason: &str) -> Result<(), HostError> {
        check(self.raw.table.close()(self.raw.context, id.0, code.0, reason.into()))
    }

    /// Sets the `fyi` that this connection's acknowledgements carry, until it is set again. Empty by default.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] over 4096 bytes.
    pub fn set_fyi(&self, id: ConnectionId, fyi: &str) -> Result<(), HostError> {
        check(self.raw.table.set_fyi()(self.raw.context, id.0, fyi.into()))
    }

    /// Shows every connection of this resource that is open now, in no order.
    ///
    /// # Errors
    /// [`HostError::Retired`].
    pub fn sessions(&self, mut visit: impl FnMut(&Session<'_>)) -> Result<(), HostError> {
        let mut visit: &mut dyn FnMut(&Session<'_>) = &mut visit;
        check(abi::visit_with(&mut visit, |visitor: Visitor<'_>| {
            self.raw.table.sessions()(self.raw.context, visitor)
        }))
    }

    /// Writes a line to the host's log, with the plugin's name, its generation and the resource.
    /// `tracing`'s and `log`'s macros do the same without the resource.
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

fn check(status: u32) -> Result<(), HostError> {
    match status {
        abi::status::OK => Ok(()),
        abi::status::GONE => Err(HostError::Gone),
        abi::status::RETIRED => Err(HostError::Retired),
        abi::status::TOO_LARGE => Err(HostError::TooLarge),
        abi::status::TOO_MANY => Err(HostError::TooMany),
        _ => Err(HostError::Unsupported),
    }
}

fn count(count: abi::Count) -> Result<usize, HostError> {
    check(count.status).map(|()| usize::try_from(count.count).unwrap_or(usize::MAX))
}

/// The host's call back into [`Host::sessions`]' closure. A panic of the closure must not cross the boundary.
pub(crate) extern "C" fn visit<'a>(context: Opaque<'a>, session: RawSession<'_>) {
    let session = Session::new(session);
    let visited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        abi::with_visitor(context, |visit| visit(&session));
    }));
    if let Err(payload) = visited {
        crate::export::discard(payload);
    }
}
