//! The registry of all connections, by id and by ident.
//!
//! The id is the first half of the random uuid, so a uuid needs no second index and an id no
//! hashing. Sharded, because every message of an application is looked up here. Locks are held for
//! a lookup, never across a call or an await.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use plugsocket_plugin::ConnectionId;

use super::peer::Peer;
use super::sync::{read, write};

/// All connections of this host.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    shards: [Shard; Self::SHARDS],
    idents: Mutex<HashMap<Box<str>, Vec<Arc<Peer>>>>,
}

type Shard = RwLock<ById<Arc<Peer>>>;
/// A map whose keys are random, and so need no hash.
pub(crate) type ById<T> = HashMap<u64, T, BuildHasherDefault<AsIs>>;

impl Registry {
    pub(crate) const SHARDS: usize = 16;

    /// Registers a peer for as long as the entry lives.
    pub(crate) fn enter(self: &Arc<Self>, peer: Arc<Peer>) -> Entry {
        peer.resource.counters.add_opened();
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

    /// Returns the newest peer with this ident that is not closing.
    pub(crate) fn find_ident(&self, ident: &str) -> Option<Arc<Peer>> {
        let idents = self.idents.lock().unwrap_or_else(PoisonError::into_inner);
        idents.get(ident)?.iter().rfind(|peer| !peer.outbox.is_ending()).cloned()
    }

    /// Calls `act` for the peers of one of the [`SHARDS`](Self::SHARDS), without holding a lock.
    pub(crate) fn for_each_in(&self, shard: usize, act: impl FnMut(&Arc<Peer>)) {
        let peers: Vec<Arc<Peer>> = read(&self.shards[shard]).values().cloned().collect();
        peers.iter().for_each(act);
    }

    pub(crate) fn for_each(&self, mut act: impl FnMut(&Arc<Peer>)) {
        (0..Self::SHARDS).for_each(|shard| self.for_each_in(shard, &mut act));
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, id: ConnectionId) -> &Shard {
        // The map uses the low bits to choose a bucket; these are the high ones.
        &self.shards[(id.0 >> 60) as usize % Self::SHARDS]
    }
}

/// Removes its peer from the registry when dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    registry: Arc<Registry>,
    pub(crate) peer: Arc<Peer>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let id = self.peer.id();
        write(self.registry.shard(id)).remove(&id.0);
        // After the removal: a trace that begins later finds no entry.
        if self.peer.is_traced() {
            self.peer.resource.traces.end(&self.peer);
        }
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

/// Uses a key as its own hash: ids are random and chosen by the host, never by a client.
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
