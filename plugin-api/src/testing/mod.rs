//! Tests of an application without a socket or a host.
//!
//! [`Harness`] simulates the host: it makes callbacks in the guaranteed order, offers the host's
//! functions, and records what the application sends. Differences from a host:
//!
//! - No client is slow, so a receiver of [`Host::send_latest`] gets every value.
//! - Time does not pass: [`Harness::tick`] is the only source of ticks.
//! - Size limits are not enforced, and the functions of [`Host`] work in `start` too.
//! - [`Host::close`] outside of `message` is recorded ([`Harness::closed`]); no callback follows.
//! - A panic of the application fails the test.

mod simulated_host;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use self::simulated_host::{SimulatedHost, host_ref, lock, raw_session, retire};
use crate::abi::{HostContext, HostTableRef};
use crate::types::{
    CloseCode, CloseReason, ClosedBy, ConnectionId, Kind, Message, Refused, StartError,
};
use crate::{Host, Plugin, Session};

/// A simulated client, to be passed to [`Harness::open`].
#[derive(Clone, Debug)]
pub struct Peer {
    kind: Kind,
    uuid: String,
    ident: Option<String>,
    address: String,
    resource: String,
    query: String,
    headers: Vec<(String, String)>,
    user: Option<String>,
    claims: Option<String>,
}

impl Peer {
    /// Creates a browser with the address 192.0.2.1, on the resource `/test`.
    #[must_use]
    pub fn websocket() -> Self {
        Self {
            kind: Kind::WebSocket,
            uuid: String::new(),
            ident: None,
            address: "192.0.2.1".to_owned(),
            resource: "/test".to_owned(),
            query: String::new(),
            headers: Vec::new(),
            user: None,
            claims: None,
        }
    }

    /// Creates a script of the operator ([`Kind::Backend`]) with the address 127.0.0.1.
    #[must_use]
    pub fn backend() -> Self {
        Self { kind: Kind::Backend, address: "127.0.0.1".to_owned(), ..Self::websocket() }
    }

    /// Sets the query of the request, without `?`.
    #[must_use]
    pub fn query(self, query: &str) -> Self {
        Self { query: query.to_owned(), ..self }
    }

    /// Sets the announced `Ident`.
    #[must_use]
    pub fn ident(self, ident: &str) -> Self {
        Self { ident: Some(ident.to_owned()), ..self }
    }

    /// Sets the address.
    #[must_use]
    pub fn address(self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self }
    }

    /// Sets the authenticated user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self }
    }

    /// Sets the claims of the authenticated user, as JSON text.
    #[must_use]
    pub fn claims(self, claims: &str) -> Self {
        Self { claims: Some(claims.to_owned()), ..self }
    }

    /// Adds a header to the request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// An instance of the application `P`, with simulated clients.
pub struct Harness<P: Plugin> {
    plugin: P,
    context: HostContext,
    table: HostTableRef,
    host: Arc<Mutex<SimulatedHost>>,
}

impl<P: Plugin> Harness<P> {
    /// Starts the application with this configuration, a JSON object.
    ///
    /// # Errors
    /// The error of [`Plugin::start`].
    pub fn start(config: &str) -> Result<Self, StartError> {
        Self::start_on(config, Arc::default())
    }

    fn start_on(config: &str, host: Arc<Mutex<SimulatedHost>>) -> Result<Self, StartError> {
        let raw = host_ref(host.clone());
        Ok(Self {
            plugin: P::start(Host::new(raw), config)?,
            context: raw.context,
            table: raw.table,
            host,
        })
    }

    /// Connects a client; calls [`Plugin::open`].
    ///
    /// # Errors
    /// The application's refusal.
    pub fn open(&mut self, peer: Peer) -> Result<ConnectionId, Refused> {
        let id = lock(&self.host).admit(peer);
        let result = self.call(id, |plugin, session| plugin.open(session));
        if result.is_err() {
            lock(&self.host).open.retain(|open| *open != id);
        }
        result.map(|()| ConnectionId(id))
    }

    /// Sends a message from a client; calls [`Plugin::message`].
    ///
    /// If the application refuses it or has closed the connection, [`Plugin::close`] follows.
    ///
    /// # Errors
    /// The application's refusal.
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn message<'m>(
        &mut self,
        from: ConnectionId,
        message: impl Into<Message<'m>>,
    ) -> Result<(), Refused> {
        let message = message.into();
        let result = self.call(from.0, |plugin, session| plugin.message(session, message));
        let closed = match &result {
            Err(refused) => Some((refused.code, refused.reason.clone())),
            Ok(()) => self.closed(from),
        };
        if let Some((code, text)) = closed {
            self.end(from, &CloseReason { code, by: ClosedBy::Plugin, text: &text });
        }
        result
    }

    /// Ends a connection from the client's side, with code 1001; calls [`Plugin::close`].
    ///
    /// # Panics
    /// If this harness did not open the connection.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id, &CloseReason { code: CloseCode::AWAY, by: ClosedBy::Peer, text: "" });
    }

    fn end(&mut self, id: ConnectionId, reason: &CloseReason<'_>) {
        self.call(id.0, |plugin, session| plugin.close(session, reason));
        let mut host = lock(&self.host);
        host.open.retain(|open| *open != id.0);
        for room in host.rooms.values_mut() {
            room.retain(|member| *member != id.0);
        }
    }

    /// Calls [`Plugin::tick`] with this time, whatever [`Plugin::tick_every`] returns.
    pub fn tick(&mut self, now: SystemTime) {
        self.plugin.tick(now);
    }

    /// Replaces the application with `Q` (another version, or the same) and hands over its state,
    /// as a hot reload does. Connections and rooms remain.
    ///
    /// # Errors
    /// The error of the successor's `start` or `restore`. Unlike on the host, the old instance is
    /// dropped then.
    pub fn reload<Q: Plugin>(mut self, config: &str) -> Result<Harness<Q>, StartError> {
        let mut next = Harness::<Q>::start_on(config, self.host.clone())?;
        if let Some(snapshot) = self.plugin.snapshot() {
            next.plugin.restore(snapshot).map_err(|error| StartError(error.0))?;
        }
        retire(self.context);
        Ok(next)
    }

    /// Returns the messages sent to a client since the last call, as text. Invalid UTF-8 in a
    /// binary message is replaced by U+FFFD.
    #[must_use]
    pub fn received(&self, id: ConnectionId) -> Vec<String> {
        self.received_bytes(id).iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
    }

    /// Returns the messages sent to a client since the last call, as bytes.
    #[must_use]
    pub fn received_bytes(&self, id: ConnectionId) -> Vec<Vec<u8>> {
        lock(&self.host).outboxes.remove(&id.0).unwrap_or_default()
    }

    /// Returns code and reason with which the application closed a connection by [`Host::close`].
    #[must_use]
    pub fn closed(&self, id: ConnectionId) -> Option<(CloseCode, String)> {
        lock(&self.host).closed.get(&id.0).cloned()
    }

    /// Returns the `fyi` that the client's `next` packets contain.
    #[must_use]
    pub fn fyi(&self, id: ConnectionId) -> String {
        lock(&self.host).fyi.get(&id.0).cloned().unwrap_or_default()
    }

    /// Returns the uuid of a client.
    #[must_use]
    pub fn uuid(&self, id: ConnectionId) -> String {
        lock(&self.host).peers.get(&id.0).map(|peer| peer.uuid.clone()).unwrap_or_default()
    }

    /// Returns the application.
    pub fn plugin(&mut self) -> &mut P {
        &mut self.plugin
    }

    fn call<T>(&mut self, id: u64, call: impl FnOnce(&mut P, &Session<'_>) -> T) -> T {
        let peer = lock(&self.host).peers.get(&id).copied();
        let peer = peer.expect("a connection that this harness opened");
        call(&mut self.plugin, &Session::new(raw_session(id, peer), self.table))
    }
}

impl<P: Plugin + std::fmt::Debug> std::fmt::Debug for Harness<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.plugin.fmt(f)
    }
}

#[cfg(test)]
mod tests;
