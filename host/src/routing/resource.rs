//! A path of the host: who is on it, which rooms they are in, and what serves it.
//!
//! A resource lives as long as its path stands in plugins.toml or somebody is connected to it; what serves it is
//! replaced underneath. It knows neither sockets nor libraries.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, ConnectionId, HostError};

use super::counters::Counters;
use super::registry::{ById, Peer};
use crate::config::LaneKind;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::CloseReason;

/// All resources by path. Replaced as a whole, so that an edit of plugins.toml is seen whole or not at all.
pub(crate) type Resources = BTreeMap<String, Arc<Resource>>;

#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) path: String,
    /// What its applications have done so far.
    pub(crate) counters: Counters,
    service: ArcSwap<Service>,
    members: RwLock<Members>,
}

/// What a new connection finds.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) dialog: bool,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) lane: LaneKind,
    pub(crate) state: ServiceState,
}

#[derive(Clone, Debug)]
pub(crate) enum ServiceState {
    Serving(Inbox),
    Unavailable(Outage),
}

/// Why nothing serves, and when it may be worth another try; both as a peer may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) text: String,
    pub(crate) retry_after: Duration,
}

impl Outage {
    /// The application could not be loaded or started, and nobody knows when it can.
    pub(crate) fn of_plugin(plugin: &str) -> Self {
        let text = format!("the application {plugin} is not available now");
        Self { text, retry_after: Self::RETRY_AFTER }
    }

    /// The application hangs, and another instance of it follows.
    pub(crate) fn of_stuck(retry_after: Duration) -> Self {
        let text = "the application does not answer; it is being started again".to_owned();
        Self { text, retry_after }
    }

    pub(crate) fn close_reason(&self) -> CloseReason {
        let reason = CloseReason::host(CloseCode::TRY_AGAIN, self.text.clone());
        CloseReason { retry_after: Some(self.retry_after), ..reason }
    }

    const RETRY_AFTER: Duration = Duration::from_secs(5);
}

#[derive(Debug, Default)]
struct Members {
    /// In no order; each knows its place, so that one can be taken out without a search.
    all: Vec<Arc<Peer>>,
    rooms: HashMap<Box<str>, ById<Arc<Peer>>>,
    /// Only those who are in a room.
    rooms_of: ById<Vec<Box<str>>>,
}

impl Resource {
    pub(crate) fn new(path: String, service: Service) -> Self {
        Self {
            path,
            counters: Counters::default(),
            service: ArcSwap::from_pointee(service),
            members: RwLock::default(),
        }
    }

    pub(crate) fn service(&self) -> Arc<Service> {
        self.service.load_full()
    }

    pub(crate) fn set_service(&self, service: Service) {
        self.service.store(Arc::new(service));
    }

    /// Makes a peer part of the resource; the lane does so just before `open`.
    pub(crate) fn admit(&self, peer: Arc<Peer>) {
        let mut members = self.write();
        peer.slot.store(members.all.len(), Ordering::Relaxed);
        members.all.push(peer);
    }

    /// Takes a peer out, with all its rooms; false if it was not in.
    pub(crate) fn dismiss(&self, peer: &Peer) -> bool {
        let mut members = self.write();
        let slot = peer.slot.swap(usize::MAX, Ordering::Relaxed);
        if slot == usize::MAX {
            return false;
        }
        members.all.swap_remove(slot);
        if let Some(moved) = members.all.get(slot) {
            moved.slot.store(slot, Ordering::Relaxed);
        }
        if members.all.is_empty() {
            members.all = Vec::new();
        }
        for room in members.rooms_of.remove(&peer.id().0).unwrap_or_default() {
            members.vacate(&room, peer.id());
        }
        true
    }

    /// Puts a peer into a room.
    ///
    /// # Errors
    /// [`HostError::TooMany`] if it is in as many as it may be. So there are never more rooms than members have places for.
    pub(crate) fn join(&self, peer: &Arc<Peer>, room: &str) -> Result<(), HostError> {
        let mut members = self.write();
        // It may have gone since the caller found it; a room must not keep it then.
        if !peer.is_member() {
            return Ok(());
        }
        let id = peer.id().0;
        if members.rooms.get(room).is_some_and(|members| members.contains_key(&id)) {
            return Ok(());
        }
        let joined = members.rooms_of.entry(id).or_default();
        if joined.len() >= peer.max_rooms {
            return Err(HostError::TooMany);
        }
        joined.push(room.into());
        members.rooms.entry(room.into()).or_default().insert(id, peer.clone());
        Ok(())
    }

    pub(crate) fn leave(&self, peer: &Peer, room: &str) {
        let mut members = self.write();
        members.vacate(room, peer.id());
        if let Some(rooms) = members.rooms_of.get_mut(&peer.id().0) {
            rooms.retain(|joined| &**joined != room);
            if rooms.is_empty() {
                members.rooms_of.remove(&peer.id().0);
            }
        }
    }

    /// Calls `act` for each member while the list is locked: `act` must not wait and not come back here.
    pub(crate) fn for_each_member(&self, act: impl FnMut(&Arc<Peer>)) {
        self.read().all.iter().for_each(act);
    }

    /// The same for the members of a room.
    pub(crate) fn for_each_in_room(&self, room: &str, act: impl FnMut(&Arc<Peer>)) {
        if let Some(room) = self.read().rooms.get(room) {
            room.values().for_each(act);
        }
    }

    /// The members at this moment, for whoever needs time.
    pub(crate) fn members(&self) -> Vec<Arc<Peer>> {
        self.read().all.clone()
    }

    /// How many members there are.
    pub(crate) fn count(&self) -> usize {
        self.read().all.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Members> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    fn vacate(&mut self, room: &str, id: ConnectionId) {
        if let Some(members) = self.rooms.get_mut(room) {
            members.remove(&id.0);
            if members.is_empty() {
                self.rooms.remove(room);
            }
        }
    }
}
