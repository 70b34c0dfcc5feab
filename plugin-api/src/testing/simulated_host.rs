//! The host's function table over maps in memory, one [`SimulatedHost`] per harness.
//!
//! The context that an instance passes to the functions is not a pointer but an index into
//! [`HOSTS`]; likewise a session's context is an index into [`PEERS`].

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RSlice, RStr};

use super::Peer;
use crate::abi::{
    self, Count, HostContext, HostRef, HostTable, Opaque, RawAudience, RawMessage, RawSession,
    RawTarget, Visitor, status,
};
use crate::types::{CloseCode, Kind};

/// State of a simulated host. Its maps are keyed by connection.
#[derive(Default)]
pub(super) struct SimulatedHost {
    is_retired: bool,
    /// Includes closed connections. Leaked: a test process ends soon.
    pub(super) peers: BTreeMap<u64, &'static Peer>,
    pub(super) open: Vec<u64>,
    pub(super) outboxes: BTreeMap<u64, Vec<Vec<u8>>>,
    pub(super) rooms: BTreeMap<String, Vec<u64>>,
    pub(super) closed: BTreeMap<u64, (CloseCode, String)>,
    pub(super) fyi: BTreeMap<u64, String>,
}

impl SimulatedHost {
    /// Adds an open connection and returns its id.
    pub(super) fn admit(&mut self, mut peer: Peer) -> u64 {
        let id = self.peers.last_key_value().map_or(1, |(last, _)| last + 1);
        if peer.uuid.is_empty() {
            peer.uuid = format!("00000000-0000-4000-8000-{id:012x}.{id:064x}");
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
        if self.is_retired {
            return status::RETIRED;
        }
        if !self.open.contains(&id) {
            return status::GONE;
        }
        act(self);
        status::OK
    }
}

/// All simulated hosts; the context of the first one is 1.
static HOSTS: Mutex<Vec<Arc<Mutex<SimulatedHost>>>> = Mutex::new(Vec::new());
/// All peers of all simulated hosts.
static PEERS: LazyLock<Mutex<Vec<&'static Peer>>> = LazyLock::new(Mutex::default);

/// Returns what an instance receives in `start` to call this host.
pub(super) fn host_ref(host: Arc<Mutex<SimulatedHost>>) -> HostRef {
    let mut hosts = lock(&HOSTS);
    hosts.push(host);
    HostRef {
        context: HostContext(std::ptr::without_provenance(hosts.len())),
        table: table().leak_into_prefix(),
    }
}

/// Makes every later call with this context return `Retired`.
pub(super) fn retire(context: HostContext) {
    let retired = SimulatedHost { is_retired: true, ..SimulatedHost::default() };
    lock(&HOSTS)[context.0.addr() - 1] = Arc::new(Mutex::new(retired));
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host_of(context: HostContext) -> Arc<Mutex<SimulatedHost>> {
    lock(&HOSTS)[context.0.addr() - 1].clone()
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
        abi_version: abi::ABI_VERSION,
        defer,
        complete,
        respond,
        post,
        post_value,
        set_timer,
        cancel_timer,
        members,
        room_count,
        rooms,
        room_names,
        set_room_data,
        room_data,
        data,
        session_data,
        set_data,
        metric,
        record,
    }
}

extern "C" fn defer(_: HostContext, _: u64, _: u32) -> Count {
    Count { status: u32::MAX, count: 0 }
}

extern "C" fn complete(_: HostContext, _: u64, _: abi::RawCompletion<'_>) -> u32 {
    u32::MAX
}

extern "C" fn respond(_: HostContext, _: u64, _: abi::RawResponse<'_>) -> u32 {
    u32::MAX
}

extern "C" fn post(_: HostContext, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}

extern "C" fn post_value(_: HostContext, _: abi::RawValue) -> u32 {
    u32::MAX
}

extern "C" fn set_timer(_: HostContext, _: RStr<'_>, _: u64, _: bool) -> u32 {
    u32::MAX
}

extern "C" fn cancel_timer(_: HostContext, _: RStr<'_>) -> Count {
    Count { status: u32::MAX, count: 0 }
}

extern "C" fn members(_: HostContext, _: RStr<'_>, _: Visitor<'_>) -> u32 {
    u32::MAX
}

extern "C" fn room_count(_: HostContext, _: RStr<'_>) -> Count {
    Count { status: u32::MAX, count: 0 }
}

extern "C" fn rooms(_: HostContext, _: u64, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

extern "C" fn room_names(_: HostContext, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

extern "C" fn set_room_data(_: HostContext, _: RStr<'_>, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}

extern "C" fn room_data(_: HostContext, _: RStr<'_>, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

extern "C" fn data(_: HostContext, _: u64, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

extern "C" fn session_data(_: Opaque<'_>, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

extern "C" fn set_data(_: HostContext, _: u64, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}

extern "C" fn metric(_: HostContext, _: abi::RawMetric<'_>) -> Count {
    Count { status: u32::MAX, count: 0 }
}

extern "C" fn record(_: HostContext, _: u64, _: u32, _: f64) -> u32 {
    u32::MAX
}

/// No peer of a test is slow, so each one receives all values.
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

/// Lends a peer to the application for one call.
pub(super) fn raw_session(id: u64, peer: &'static Peer) -> RawSession<'static> {
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
    lock(&host_of(context)).with_open(id, |host| {
        host.send(&[id], message);
    })
}

extern "C" fn broadcast(
    context: HostContext,
    to: RawAudience<'_>,
    message: RawMessage<'_>,
) -> Count {
    let host = host_of(context);
    let mut host = lock(&host);
    let ids: Vec<u64> = host
        .open
        .iter()
        .copied()
        .filter(|id| !to.except.contains(id))
        .filter(|id| !to.websockets_only || host.peers[id].kind == Kind::WebSocket)
        .collect();
    counted(&mut host, &ids, message)
}

extern "C" fn feedback(context: HostContext, to: RawTarget<'_>, message: RawMessage<'_>) -> u32 {
    let host = host_of(context);
    let mut host = lock(&host);
    let by_uuid = to.by == abi::target::UUID;
    let found = host.open.iter().rev().copied().find(|id| {
        let peer = host.peers[id];
        if by_uuid {
            peer.uuid == to.text.as_str() && peer.kind == Kind::WebSocket
        } else {
            peer.ident.as_deref() == Some(to.text.as_str())
        }
    });
    host.with_open(found.unwrap_or(0), |host| {
        host.send(found.as_slice(), message);
    })
}

extern "C" fn join(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    lock(&host_of(context)).with_open(id, |host| {
        let members = host.rooms.entry(room.to_string()).or_default();
        if !members.contains(&id) {
            members.push(id);
        }
    })
}

extern "C" fn leave(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    lock(&host_of(context)).with_open(id, |host| {
        if let Some(members) = host.rooms.get_mut(room.as_str()) {
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
    let host = host_of(context);
    let mut host = lock(&host);
    let members = host.rooms.get(room.as_str()).cloned().unwrap_or_default();
    let ids: Vec<u64> = members.into_iter().filter(|id| !except.contains(id)).collect();
    counted(&mut host, &ids, message)
}

fn counted(host: &mut SimulatedHost, ids: &[u64], message: RawMessage<'_>) -> Count {
    if host.is_retired {
        return Count { status: status::RETIRED, count: 0 };
    }
    Count { status: status::OK, count: host.send(ids, message) }
}

extern "C" fn close(context: HostContext, id: u64, code: u16, reason: RStr<'_>) -> u32 {
    lock(&host_of(context)).with_open(id, |host| {
        host.closed.insert(id, (CloseCode(code), reason.to_string()));
    })
}

extern "C" fn set_fyi(context: HostContext, id: u64, fyi: RStr<'_>) -> u32 {
    lock(&host_of(context)).with_open(id, |host| {
        host.fyi.insert(id, fyi.to_string());
    })
}

extern "C" fn sessions(context: HostContext, visitor: Visitor<'_>) -> u32 {
    let open: Vec<(u64, &'static Peer)> = {
        let host = host_of(context);
        let host = lock(&host);
        if host.is_retired {
            return status::RETIRED;
        }
        host.open.iter().map(|id| (*id, host.peers[id])).collect()
    };
    for (id, peer) in open {
        (visitor.visit)(visitor.context, raw_session(id, peer));
    }
    status::OK
}

extern "C" fn log(_: HostContext, _: u32, _: RStr<'_>, _: RStr<'_>) {}
