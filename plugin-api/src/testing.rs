//! Tests of an application without a socket or a host.
//!
//! [`Harness`] plays the host: it calls the application in the order that the host guarantees, over the same table of
//! functions, and keeps what the application sends. No peer is slow: of [`Host::send_latest`] and its like each value arrives. Time stands still: ticks come when [`Harness::tick`] is called.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RSlice, RStr};

use crate::abi::{
    self, Count, HostContext, HostRef, HostTable, Opaque, RawAudience, RawMessage, RawSession,
    RawTarget, Visitor, status,
};
use crate::types::{
    CloseCode, CloseReason, ClosedBy, ConnectionId, Kind, Message, Refused, StartError,
};
use crate::{Host, Plugin, Session};

/// A peer that connects to the application under test.
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
    /// A browser at 192.0.2.1 on the resource `/test`.
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

    /// One of the operator's scripts at 127.0.0.1.
    #[must_use]
    pub fn backend() -> Self {
        Self { kind: Kind::Backend, address: "127.0.0.1".to_owned(), ..Self::websocket() }
    }

    /// With this query, without `?`.
    #[must_use]
    pub fn query(self, query: &str) -> Self {
        Self { query: query.to_owned(), ..self }
    }

    /// With this `Ident`.
    #[must_use]
    pub fn ident(self, ident: &str) -> Self {
        Self { ident: Some(ident.to_owned()), ..self }
    }

    /// From this address.
    #[must_use]
    pub fn address(self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self }
    }

    /// Authenticated as this user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self }
    }

    /// Authenticated with these claims (JSON).
    #[must_use]
    pub fn claims(self, claims: &str) -> Self {
        Self { claims: Some(claims.to_owned()), ..self }
    }

    /// With this header in its request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// An application with its peers.
///
/// Dropping it drops the application.
pub struct Harness<P: Plugin> {
    plugin: P,
    context: usize,
    stage: Arc<Mutex<Stage>>,
}

impl<P: Plugin> Harness<P> {
    /// Starts the application with this configuration (JSON).
    ///
    /// # Errors
    /// The application's own.
    pub fn start(config: &str) -> Result<Self, StartError> {
        Self::start_on(config, Arc::default())
    }

    fn start_on(config: &str, stage: Arc<Mutex<Stage>>) -> Result<Self, StartError> {
        let context = {
            let mut stages = lock(&STAGES);
            stages.push(stage.clone());
            stages.len()
        };
        let raw = HostRef {
            context: HostContext(std::ptr::without_provenance(context)),
            table: table().leak_into_prefix(),
        };
        Ok(Self { plugin: P::start(Host::new(raw), config)?, context, stage })
    }

    /// A peer connects.
    ///
    /// # Errors
    /// The application's refusal.
    pub fn open(&mut self, peer: Peer) -> Result<ConnectionId, Refused> {
        let id = lock(&self.stage).admit(peer);
        let result = self.call(id, |plugin, session| plugin.open(session));
        if result.is_err() {
            lock(&self.stage).open.retain(|open| *open != id);
        }
        result.map(|()| ConnectionId(id))
    }

    /// A peer sends a message. A refusal ends its connection, as the host would.
    ///
    /// # Errors
    /// The application's refusal.
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

    /// A peer goes away.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id, &CloseReason { code: CloseCode::AWAY, by: ClosedBy::Peer, text: "" });
    }

    fn end(&mut self, id: ConnectionId, reason: &CloseReason<'_>) {
        self.call(id.0, |plugin, session| plugin.close(session, reason));
        let mut stage = lock(&self.stage);
        stage.open.retain(|open| *open != id.0);
        for room in stage.rooms.values_mut() {
            room.retain(|member| *member != id.0);
        }
    }

    /// It is this time now, and a tick is due.
    pub fn tick(&mut self, now: SystemTime) {
        self.plugin.tick(now);
    }

    /// Replaces the application by `Q` (a newer version, or the same), as a hot reload does. Peers and rooms stay.
    ///
    /// # Errors
    /// What kept the successor from starting or taking over. Unlike on the host, the old one is gone then.
    pub fn reload<Q: Plugin>(mut self, config: &str) -> Result<Harness<Q>, StartError> {
        let mut next = Harness::<Q>::start_on(config, self.stage.clone())?;
        if let Some(snapshot) = self.plugin.snapshot() {
            next.plugin.restore(snapshot).map_err(|error| StartError(error.0))?;
        }
        // From here on the old one's host answers `Retired`.
        lock(&STAGES)[self.context - 1] =
            Arc::new(Mutex::new(Stage { retired: true, ..Stage::default() }));
        Ok(next)
    }

    /// What this peer was sent since the last call; a binary message as text, replaced where it is no UTF-8.
    #[must_use]
    pub fn received(&self, id: ConnectionId) -> Vec<String> {
        self.received_bytes(id).iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
    }

    /// What this peer was sent since the last call.
    #[must_use]
    pub fn received_bytes(&self, id: ConnectionId) -> Vec<Vec<u8>> {
        lock(&self.stage).outboxes.remove(&id.0).unwrap_or_default()
    }

    /// Whether and with which code and reason the application asked to close this connection.
    #[must_use]
    pub fn closed(&self, id: ConnectionId) -> Option<(CloseCode, String)> {
        lock(&self.stage).closed.get(&id.0).cloned()
    }

    /// The `fyi` that this peer's acknowledgements carry.
    #[must_use]
    pub fn fyi(&self, id: ConnectionId) -> String {
        lock(&self.stage).fyi.get(&id.0).cloned().unwrap_or_default()
    }

    /// The uuid of a peer.
    #[must_use]
    pub fn uuid(&self, id: ConnectionId) -> String {
        lock(&self.stage).peers.get(&id.0).map(|peer| peer.uuid.clone()).unwrap_or_default()
    }

    /// The application itself.
    pub fn plugin(&mut self) -> &mut P {
        &mut self.plugin
    }

    fn call<T>(&mut self, id: u64, call: impl FnOnce(&mut P, &Session<'_>) -> T) -> T {
        let peer = lock(&self.stage).peers.get(&id).copied();
        let peer = peer.expect("a connection that this harness opened");
        call(&mut self.plugin, &Session::new(raw_session(id, peer)))
    }
}

impl<P: Plugin + std::fmt::Debug> std::fmt::Debug for Harness<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.plugin.fmt(f)
    }
}

/// What the played host knows. Peers are leaked: a test ends soon.
#[derive(Default)]
struct Stage {
    retired: bool,
    peers: BTreeMap<u64, &'static Peer>,
    open: Vec<u64>,
    outboxes: BTreeMap<u64, Vec<Vec<u8>>>,
    rooms: BTreeMap<String, Vec<u64>>,
    closed: BTreeMap<u64, (CloseCode, String)>,
    fyi: BTreeMap<u64, String>,
}

impl Stage {
    fn admit(&mut self, mut peer: Peer) -> u64 {
        let id = self.peers.last_key_value().map_or(1, |(last, _)| last + 1);
        if peer.uuid.is_empty() {
            peer.uuid = format!("00000000-0000-4000-8000-{id:012x}.test");
        }
        let peer: &'static Peer = Box::leak(Box::new(peer));
        lock(&PEERS).push(peer);
        self.peers.insert(id, peer);
        self.open.push(id);
        id
    }

    fn send(&mut self, ids: &[u64], message: RawMessage<'_>) -> u64 {
        for id in ids {
            self.outboxes.entry(*id).or_default().push(message.bytes.to_vec());
        }
        ids.len() as u64
    }

    fn with_open(&mut self, id: u64, act: impl FnOnce(&mut Self)) -> u32 {
        if self.retired {
            return status::RETIRED;
        }
        if !self.open.contains(&id) {
            return status::GONE;
        }
        act(self);
        status::OK
    }
}

/// By the number that stands in the context's place, from 1.
static STAGES: Mutex<Vec<Arc<Mutex<Stage>>>> = Mutex::new(Vec::new());
/// Every peer of every test: the numbers that stand in for pointers are indices here.
static PEERS: LazyLock<Mutex<Vec<&'static Peer>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stage(context: HostContext) -> Arc<Mutex<Stage>> {
    lock(&STAGES)[context.0.addr() - 1].clone()
}

fn table() -> HostTable {
    HostTable {
        send,
        broadcast,
        feedback,
        join,
        leave,
        publish,
        close,
        set_fyi,
        sessions,
        log,
        send_latest,
        broadcast_latest,
        publish_latest,
    }
}

/// No peer of a test is slow: each reads all values, as it would on a host.
extern "C" fn send_latest(
    context: HostContext,
    id: u64,
    _key: RStr<'_>,
    message: RawMessage<'_>,
) -> u32 {
    send(context, id, message)
}

extern "C" fn broadcast_latest(
    context: HostContext,
    to: RawAudience<'_>,
    _key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    broadcast(context, to, message)
}

extern "C" fn publish_latest(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    _key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    publish(context, room, except, message)
}

fn raw_session(id: u64, peer: &'static Peer) -> RawSession<'static> {
    let index = lock(&PEERS).iter().position(|p| std::ptr::eq(*p, peer)).unwrap_or_default();
    RawSession {
        id,
        kind: match peer.kind {
            Kind::WebSocket => abi::kind::WEBSOCKET,
            Kind::Backend => abi::kind::BACKEND,
            Kind::Tcp => abi::kind::TCP,
        },
        uuid: peer.uuid.as_str().into(),
        context: Opaque { pointer: std::ptr::without_provenance(index), life: PhantomData },
        field,
    }
}

extern "C" fn field<'a>(context: Opaque<'a>, field: u32, name: RStr<'_>) -> ROption<RStr<'a>> {
    let peer: &'static Peer = lock(&PEERS)[context.pointer.addr()];
    match field {
        abi::field::IDENT => peer.ident.as_deref(),
        abi::field::ADDRESS => Some(peer.address.as_str()),
        abi::field::RESOURCE => Some(peer.resource.as_str()),
        abi::field::QUERY => Some(peer.query.as_str()),
        abi::field::HEADER => peer
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name.as_str()))
            .map(|(_, value)| value.as_str()),
        abi::field::USER => peer.user.as_deref(),
        abi::field::CLAIMS => peer.claims.as_deref(),
        _ => None,
    }
    .map(RStr::from)
    .into()
}

extern "C" fn send(context: HostContext, id: u64, message: RawMessage<'_>) -> u32 {
    lock(&stage(context)).with_open(id, |stage| {
        stage.send(&[id], message);
    })
}

extern "C" fn broadcast(
    context: HostContext,
    to: RawAudience<'_>,
    message: RawMessage<'_>,
) -> Count {
    let stage = stage(context);
    let mut stage = lock(&stage);
    let ids: Vec<u64> = stage
        .open
        .iter()
        .copied()
        .filter(|id| !to.except.contains(id))
        .filter(|id| !to.websockets_only || stage.peers[id].kind == Kind::WebSocket)
        .collect();
    counted(&mut stage, &ids, message)
}

extern "C" fn feedback(context: HostContext, to: RawTarget<'_>, message: RawMessage<'_>) -> u32 {
    let stage = stage(context);
    let mut stage = lock(&stage);
    let by_uuid = to.by == abi::target::UUID;
    let found = stage.open.iter().rev().copied().find(|id| {
        let peer = stage.peers[id];
        if by_uuid {
            peer.uuid == to.text.as_str() && peer.kind == Kind::WebSocket
        } else {
            peer.ident.as_deref() == Some(to.text.as_str())
        }
    });
    stage.with_open(found.unwrap_or(0), |stage| {
        stage.send(found.as_slice(), message);
    })
}

extern "C" fn join(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    lock(&stage(context)).with_open(id, |stage| {
        let members = stage.rooms.entry(room.to_string()).or_default();
        if !members.contains(&id) {
            members.push(id);
        }
    })
}

extern "C" fn leave(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    lock(&stage(context)).with_open(id, |stage| {
        if let Some(members) = stage.rooms.get_mut(room.as_str()) {
            members.retain(|member| *member != id);
        }
    })
}

extern "C" fn publish(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    message: RawMessage<'_>,
) -> Count {
    let stage = stage(context);
    let mut stage = lock(&stage);
    let members = stage.rooms.get(room.as_str()).cloned().unwrap_or_default();
    let ids: Vec<u64> = members.into_iter().filter(|id| !except.contains(id)).collect();
    counted(&mut stage, &ids, message)
}

fn counted(stage: &mut Stage, ids: &[u64], message: RawMessage<'_>) -> Count {
    if stage.retired {
        return Count { status: status::RETIRED, count: 0 };
    }
    Count { status: status::OK, count: stage.send(ids, message) }
}

extern "C" fn close(context: HostContext, id: u64, code: u16, reason: RStr<'_>) -> u32 {
    lock(&stage(context)).with_open(id, |stage| {
        stage.closed.insert(id, (CloseCode(code), reason.to_string()));
    })
}

extern "C" fn set_fyi(context: HostContext, id: u64, fyi: RStr<'_>) -> u32 {
    lock(&stage(context)).with_open(id, |stage| {
        stage.fyi.insert(id, fyi.to_string());
    })
}

extern "C" fn sessions(context: HostContext, visitor: Visitor<'_>) -> u32 {
    let open: Vec<(u64, &'static Peer)> = {
        let stage = stage(context);
        let stage = lock(&stage);
        if stage.retired {
            return status::RETIRED;
        }
        stage.open.iter().map(|id| (*id, stage.peers[id])).collect()
    };
    for (id, peer) in open {
        (visitor.visit)(visitor.context, raw_session(id, peer));
    }
    status::OK
}

extern "C" fn log(_: HostContext, _: u32, _: RStr<'_>, _: RStr<'_>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Audience, HostError, Target, Verdict};

    struct App(Host);

    impl Plugin for App {
        fn start(host: Host, config: &str) -> Result<Self, StartError> {
            serde_json::from_str::<serde_json::Value>(config)?;
            Ok(Self(host))
        }

        fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
            match session.query_value("name") {
                Some(_) => {
                    self.0.join(session.id(), "all").unwrap();
                    Ok(())
                }
                None => Err(Refused::new("say who you are")),
            }
        }

        fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
            match message.to_text() {
                Some("quit") => self.0.close(session.id(), CloseCode::NORMAL, "bye").unwrap(),
                Some("count") => {
                    let mut count = 0;
                    self.0.sessions(|_| count += 1).unwrap();
                    self.0.send(session.id(), &count.to_string()).unwrap();
                }
                Some(uuid) if uuid.contains('.') => {
                    let verdict = self.0.feedback(Target::Uuid(uuid), "for you").unwrap();
                    self.0.set_fyi(session.id(), verdict.as_str()).unwrap();
                }
                Some(text) => drop(self.0.publish("all", &[session.id()], text).unwrap()),
                None => return Err(Refused::with_code(CloseCode::UNSUPPORTED, "text only")),
            }
            Ok(())
        }
    }

    #[test]
    fn the_harness_keeps_the_promises_of_the_host() {
        assert!(Harness::<App>::start("no json").is_err());
        let mut app = Harness::<App>::start("{}").unwrap();
        assert!(app.open(Peer::websocket()).is_err());
        let ann = app.open(Peer::websocket().query("name=ann")).unwrap();
        let bob = app.open(Peer::websocket().query("x&name=bob+b")).unwrap();
        app.message(ann, "hello").unwrap();
        assert_eq!((app.received(ann).len(), app.received(bob)), (0, vec!["hello".to_owned()]));
        app.message(ann, &app.uuid(bob)).unwrap();
        assert_eq!((app.fyi(ann).as_str(), app.received(bob).len()), ("delivered", 1));
        app.message(bob, &[0xff][..]).unwrap_err();
        app.message(ann, &app.uuid(bob)).unwrap();
        assert_eq!(app.fyi(ann), "gone");
        app.message(ann, "count").unwrap();
        assert_eq!(app.received(ann), ["1"]);

        let old = app.plugin().0.clone();
        let mut app = app.reload::<App>("{}").unwrap();
        assert_eq!(old.send(ann, "late"), Err(HostError::Retired));
        assert_eq!(old.broadcast(Audience::all(), "late"), Err(HostError::Retired));
        app.message(ann, "quit").unwrap();
        assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, "bye".to_owned())));
        assert_eq!(Verdict::Gone.as_str(), "gone");
    }
}
