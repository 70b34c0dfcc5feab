//! What simulated clients do: they connect, send, and leave.

use super::simulated_host::End;
use super::{Harness, Panicked, Peer};
use crate::Plugin;
use crate::types::{CloseCode, ClosedBy, ConnectionId, Message, Refused};

impl<P: Plugin> Harness<P> {
    /// Connects a client; calls [`Plugin::open`].
    ///
    /// # Errors
    /// The application's refusal.
    pub fn open(&mut self, peer: Peer) -> Result<ConnectionId, Refused> {
        self.settle();
        let id = self.lease.host.lock().admit(peer);
        let opened = self.call_open(id);
        self.settle();
        opened.map(|()| ConnectionId(id))
    }

    pub(super) fn call_open(&mut self, id: u64) -> Result<(), Refused> {
        let opened = self.call_with(id, |plugin, session| plugin.open(session));
        let opened = opened.unwrap_or_else(|Panicked| Err(failed()));
        if let Err(refused) = &opened {
            let end = End::by_plugin(refused.code, &refused.reason);
            self.lease.host.lock().refuse(id, end);
        }
        opened
    }

    /// Sends a message from a client; calls [`Plugin::message`], or [`Plugin::messages`] if
    /// [`Plugin::BATCHES`] is set.
    ///
    /// If the application refuses it or has closed the connection, [`Plugin::close`] follows. A
    /// message above `max_message` closes the connection with 1009.
    ///
    /// # Errors
    /// The application's refusal. If the connection has ended before, why it has: no callback is
    /// made.
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn message<'m>(
        &mut self,
        from: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<(), Refused> {
        self.deliver(from.0, &[message.into()])
    }

    /// Sends multiple messages from a client, which one read brings: calls [`Plugin::messages`]
    /// if [`Plugin::BATCHES`] is set, otherwise [`Plugin::message`] for each one until the
    /// connection ends.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct Log(Host);
    /// # impl Plugin for Log {
    /// #   const BATCHES: bool = true;
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn messages(&mut self, s: &Session<'_>, b: &[Message<'_>]) -> Result<(), Refused> {
    /// #       Ok(self.0.send(s.id(), &format!("{} lines", b.len()))?)
    /// #   }
    /// #   fn message(&mut self, s: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
    /// #       self.messages(s, &[m])
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<Log>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// app.messages(ann, ["a", "b", "c"]).unwrap();
    /// assert_eq!(app.received(ann), ["3 lines"]);
    /// assert_eq!(app.acknowledged(ann).len(), 3);
    /// ```
    ///
    /// # Errors
    /// As [`message`](Self::message).
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn messages<'m, M: Into<Message<'m>>>(
        &mut self,
        from: ConnectionId,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<(), Refused> {
        let batch: Vec<Message<'m>> = messages.into_iter().map(Into::into).collect();
        self.deliver(from.0, &batch)
    }

    fn deliver(&mut self, id: u64, batch: &[Message<'_>]) -> Result<(), Refused> {
        self.settle();
        if let Some(end) = self.client(id, |client| client.end.clone()) {
            return Err(Refused { code: end.code, reason: end.text });
        }
        let max_message = self.lease.host.lock().limits.max_message;
        let taken = batch.iter().take_while(|message| message.as_bytes().len() <= max_message);
        let (taken, rest) = batch.split_at(taken.count());
        let size = if P::BATCHES && self.step() >= 3 { taken.len().max(1) } else { 1 };
        for batch in taken.chunks(size) {
            if self.lease.host.lock().is_open(id) {
                self.handle(id, batch)?;
            }
        }
        if !rest.is_empty() {
            let text = format!("larger than max_message ({max_message} bytes)");
            self.end(id, End::new(CloseCode::TOO_BIG, ClosedBy::Host, &text));
        }
        Ok(())
    }

    fn handle(&mut self, id: u64, batch: &[Message<'_>]) -> Result<(), Refused> {
        let is_batch = P::BATCHES && self.step() >= 3;
        self.lease.host.lock().begin_handling(id, batch.len());
        let handled = self.call_with(id, |plugin, session| match batch {
            [message] if !is_batch => plugin.message(session, *message),
            _ => plugin.messages(session, batch),
        });
        let handled = handled.unwrap_or_else(|Panicked| Err(failed()));
        let mut host = self.lease.host.lock();
        if let Err(refused) = &handled {
            // It may be closing already.
            host.end(id, End::by_plugin(refused.code, &refused.reason)).ok();
        }
        host.end_handling();
        drop(host);
        self.settle();
        handled
    }

    /// Ends a connection from the client's side, with code 1001; calls [`Plugin::close`]. Does
    /// nothing if the connection has ended.
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id.0, End::new(CloseCode::AWAY, ClosedBy::Peer, ""));
    }

    /// Breaks a connection, with code 1006; calls [`Plugin::error`], then [`Plugin::close`]. Does
    /// nothing if the connection has ended.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # #[derive(Default)]
    /// # struct App { left: Vec<u16>, errors: Vec<String> }
    /// # impl Plugin for App {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self::default()) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// #   fn error(&mut self, _: &Session<'_>, reason: &str) {
    /// #       self.errors.push(reason.to_owned());
    /// #   }
    /// #   fn close(&mut self, _: &Session<'_>, reason: &CloseReason<'_>) {
    /// #       self.left.push(reason.code.0);
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// app.fail(ann, "connection reset by peer");
    /// assert_eq!(app.plugin().errors, ["connection reset by peer"]);
    /// assert_eq!(app.plugin().left, [1006]);
    /// ```
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn fail(&mut self, id: ConnectionId, reason: &str) {
        self.end(id.0, End::new(CloseCode::ABNORMAL, ClosedBy::Peer, reason));
    }

    pub(super) fn end(&mut self, id: u64, end: End) {
        self.settle();
        self.client(id, |_| ());
        // It may have ended already.
        self.lease.host.lock().end(id, end).ok();
        self.settle();
    }

    /// Calls [`Plugin::suspended`], which hosts do not call yet.
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn suspend(&mut self, id: ConnectionId) {
        self.call_with(id.0, |plugin, session| plugin.suspended(session)).ok();
        self.settle();
    }

    /// Calls [`Plugin::resumed`], which hosts do not call yet.
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn resume(&mut self, id: ConnectionId) {
        self.call_with(id.0, |plugin, session| plugin.resumed(session)).ok();
        self.settle();
    }

    /// Sets whether a client is slow: whether it does not read what is sent to it.
    ///
    /// Messages then wait in its outbox, and [`received`](Self::received) returns them when it is
    /// not slow any more. At the limits of the outbox the connection is closed with 1013, or
    /// [`Limits::outbox_policy`](super::Limits::outbox_policy) applies.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Limits, OutboxPolicy, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct Prices(Host);
    /// # impl Plugin for Prices {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn message(&mut self, _: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
    /// #       self.0.broadcast_latest(Audience::resource(), "price", m)?;
    /// #       Ok(())
    /// #   }
    /// # }
    ///
    /// let limits = Limits { outbox_policy: OutboxPolicy::Conflate, ..Limits::default() };
    /// let mut app = Harness::<Prices>::start_with(limits, "{}").unwrap();
    /// let ann = app.open(Peer::websocket().slow()).unwrap();
    /// let bob = app.open(Peer::websocket()).unwrap();
    /// app.messages(bob, ["5", "6", "7"]).unwrap();
    /// app.slow(ann, false);
    /// assert_eq!(app.received(ann), ["7"]);
    /// assert_eq!(app.received(bob), ["5", "6", "7"]);
    /// ```
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn slow(&mut self, id: ConnectionId, is_slow: bool) {
        self.client(id.0, |client| {
            client.outbox.is_slow = is_slow;
            if !is_slow {
                client.outbox.drain();
            }
        });
    }
}

/// Returns the result of a callback that has panicked.
fn failed() -> Refused {
    let End { code, text, .. } = End::failed();
    Refused { code, reason: text }
}
