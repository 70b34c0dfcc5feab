//! Who is connected to this host.
//!
//! Owns the one map from a connection's id to its [`Peer`], and the index of idents. The id is the first half of
//! the peer's random uuid, so looking a uuid up is looking an id up, and no key needs hashing. Sharded, because every
//! message that an application sends passes here. Its locks are held for a lookup, never across a call or an await.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use plugsocket_plugin::{CloseCode, ClosedBy, ConnectionId, HostError, Kind};
use tracing::warn;

use super::outbox::{Gone, Outbox, OutboxBounds};
use super::resource::Resource;
use crate::auth::Login;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::http::{self, Head};
use crate::protocol::identity::Identity;
use crate::protocol::outgoing::Outgoing;
use crate::protocol::payload::Payload;

/// A connection, as everybody but its own task sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    id: ConnectionId,
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    /// Whether it gets `ready`, `next` and `close`.
    pub(crate) dialog: bool,
    /// The IP address in text, or `unix`.
    pub(crate) address: Box<str>,
    /// The request that opened it: query, headers, ident.
    pub(crate) head: Head,
    /// Who it is, where the resource asks for that.
    pub(crate) login: Option<Box<Login>>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) outbox: Outbox,
    pub(crate) bounds: OutboxBounds,
    /// In how many rooms it may be.
    pub(crate) max_rooms: usize,
    /// Whether the ident that it announces counts.
    may_announce: bool,
    /// Whether anything came from it since the last ping.
    alive: AtomicBool,
    is_held: AtomicBool,
    /// Messages to it that were dropped, and the minute in which that was last said.
    dropped: AtomicU32,
    dropped_told: AtomicU32,
    /// Its place in the resource's list of members; only `resource.rs` reads and writes it.
    pub(crate) slot: AtomicUsize,
}

/// What a peer is made of.
pub(crate) struct Arrival {
    pub(crate) identity: Identity,
    pub(crate) kind: Kind,
    pub(crate) dialog: bool,
    pub(crate) address: Box<str>,
    pub(crate) head: Head,
    pub(crate) login: Option<Box<Login>>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) bounds: OutboxBounds,
    pub(crate) max_rooms: usize,
    /// Whether it may be a backend, wherever it comes from: a stranger's `Ident` would turn a backend's messages to the stranger.
    pub(crate) may_announce: bool,
}

impl Peer {
    pub(crate) fn new(arrival: Arrival) -> Self {
        Self {
            id: ConnectionId(arrival.identity.key()),
            identity: arrival.identity,
            kind: arrival.kind,
            dialog: arrival.dialog,
            address: arrival.address,
            head: arrival.head,
            login: arrival.login,
            resource: arrival.resource,
            outbox: Outbox::default(),
            bounds: arrival.bounds,
            max_rooms: arrival.max_rooms,
            may_announce: arrival.may_announce,
            alive: AtomicBool::new(true),
            is_held: AtomicBool::new(false),
            dropped: AtomicU32::new(0),
            dropped_told: AtomicU32::new(0),
            slot: AtomicUsize::new(usize::MAX),
        }
    }

    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// What it announced as its `Ident`, where that counts.
    pub(crate) fn ident(&self) -> Option<&str> {
        http::ident(&self.head).filter(|_| self.may_announce)
    }

    /// Puts a message into the outbox. One that is larger than the whole outbox may be is the sender's mistake, not a slow peer.
    /// `key`: see [`Outbox::push_keyed`].
    pub(crate) fn send(&self, payload: Payload, key: Option<&Arc<str>>) -> Result<(), HostError> {
        if !self.bounds.can_hold(&payload) {
            return Err(HostError::TooLarge);
        }
        let dropped = self
            .outbox
            .push_keyed(Outgoing::Message(payload), key, self.bounds)
            .map_err(|Gone| HostError::Gone)?;
        if dropped > 0 {
            self.tell_dropped(dropped);
        }
        Ok(())
    }

    /// Counts messages that were dropped because it reads slowly, and says so, now and then.
    #[cold]
    fn tell_dropped(&self, dropped: u32) {
        const SECONDS: u64 = 60;
        self.resource.counters.add_dropped(u64::from(dropped));
        let count = self.dropped.fetch_add(dropped, Ordering::Relaxed).wrapping_add(dropped);
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        // Enough of the time to tell minutes apart.
        let now = (since.as_secs() / SECONDS) as u32;
        if self.dropped_told.swap(now, Ordering::Relaxed) != now {
            let (id, resource) = (self.id, self.resource.path.as_str());
            warn!(%id, resource, peer = &*self.address, dropped = count, "slow peer: messages dropped");
        }
    }

    /// Acknowledges one message, where there is a dialog.
    pub(crate) fn acknowledge(&self) {
        if self.dialog {
            // A connection that has gone needs no acknowledgement.
            let _gone = self.outbox.acknowledge(self.bounds);
        }
    }

    pub(crate) fn set_fyi(&self, fyi: &str) {
        self.outbox.set_next((!fyi.is_empty()).then(|| dialog::next(fyi).into()));
    }

    /// Whether its application has taken it and not been told of its end.
    pub(crate) fn is_member(&self) -> bool {
        self.slot.load(Ordering::Relaxed) != usize::MAX
    }

    pub(crate) fn received(&self) {
        self.alive.store(true, Ordering::Relaxed);
    }

    /// Whether the host itself does not read it for the moment.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    /// The host does not read it for a while, or does again: its silence says nothing then. Only its own task says so.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        self.received();
    }

    /// Pings, or closes a peer that was not heard of since the last ping. Scripts are spared: one that works between two
    /// reports reads nothing meanwhile, and the old PHP client answers an empty ping with a close frame.
    pub(crate) fn ping_or_expire(&self) {
        if self.kind != Kind::WebSocket {
            return;
        }
        // Of one that the host does not read no answer is awaited; but the system says at the next write if it has gone.
        let _gone = if self.alive.swap(false, Ordering::Relaxed) || self.is_held() {
            self.outbox.push(Outgoing::Ping, self.bounds)
        } else {
            self.outbox.close(CloseReason::new(
                CloseCode::AWAY,
                ClosedBy::Peer,
                "no answer to a ping",
            ))
        };
    }
}

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    shards: [Shard; Self::SHARDS],
    idents: Mutex<HashMap<Box<str>, Vec<Arc<Peer>>>>,
}

type Shard = RwLock<ById<Arc<Peer>>>;
/// A map whose keys are random already.
pub(crate) type ById<T> = HashMap<u64, T, BuildHasherDefault<AsIs>>;

impl Registry {
    const SHARDS: usize = 16;

    /// Makes a peer findable for as long as the entry lives.
    pub(crate) fn enter(self: &Arc<Self>, peer: Arc<Peer>) -> Entry {
        write(self.shard(peer.id())).insert(peer.id().0, peer.clone());
        if let Some(ident) = peer.ident() {
            let mut idents = self.idents.lock().unwrap_or_else(PoisonError::into_inner);
            idents.entry(ident.into()).or_default().push(peer.clone());
        }
        Entry { registry: self.clone(), peer }
    }

    pub(crate) fn find(&self, id: ConnectionId) -> Option<Arc<Peer>> {
        read(self.shard(id)).get(&id.0).cloned()
    }

    /// The peer that announced this ident; the newest if there are several, and one that is going does not count.
    pub(crate) fn find_ident(&self, ident: &str) -> Option<Arc<Peer>> {
        let idents = self.idents.lock().unwrap_or_else(PoisonError::into_inner);
        idents.get(ident)?.iter().rfind(|peer| !peer.outbox.is_ending()).cloned()
    }

    /// Calls `act` for the peers of one of [`slices`](Self::slices) parts, without holding a lock.
    pub(crate) fn for_each_in(&self, slice: usize, act: impl FnMut(&Arc<Peer>)) {
        let peers: Vec<Arc<Peer>> = read(&self.shards[slice]).values().cloned().collect();
        peers.iter().for_each(act);
    }

    /// How many parts [`for_each_in`](Self::for_each_in) knows.
    pub(crate) const fn slices() -> usize {
        Self::SHARDS
    }

    pub(crate) fn for_each(&self, mut act: impl FnMut(&Arc<Peer>)) {
        for slice in 0..Self::SHARDS {
            self.for_each_in(slice, &mut act);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        // The low bits choose the bucket inside the map; these are others.
        &self.shards[(id.0 >> 60) as usize % Self::SHARDS]
    }
}

/// Takes its peer out of the registry when it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    pub(crate) peer: Arc<Peer>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let id = self.peer.id();
        write(self.registry.shard(id)).remove(&id.0);
        if let Some(ident) = self.peer.ident() {
            let mut idents = self.registry.idents.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(peers) = idents.get_mut(ident) {
                peers.retain(|peer| peer.id() != id);
                if peers.is_empty() {
                    idents.remove(ident);
                }
            }
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a key for its own hash: ids are random and chosen by the host, never by a peer.
#[derive(Debug, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
