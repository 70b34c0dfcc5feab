//! A resource: its members, their rooms, and the inbox of the lane that serves it.
//!
//! Lives as long as its path is in plugins.toml or a connection belongs to it; the application
//! behind it is replaced. Does not know sockets or libraries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, HostError};

use super::counters::Counters;
use super::metrics::Metrics;
use super::peer::{MAX_DATA, Peer};
use super::requests::Requests;
use super::rooms::Rooms;
use super::sync::{read, write};
use super::tickets::Tickets;
use super::timer_queue::TimerQueue;
use super::trace::Traces;
use crate::config::LaneKind;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::{CloseReason, RETRY_AFTER};

/// One path of the host, or the paths of one pattern.
#[derive(Debug)]
pub(crate) struct Resource {
    /// Its key in plugins.toml.
    pub(crate) path: String,
    pub(crate) counters: Counters,
    pub(crate) tickets: Tickets,
    pub(crate) timers: TimerQueue,
    pub(crate) metrics: Metrics,
    pub(crate) requests: Requests,
    pub(crate) traces: Traces,
    /// Whether its instance answers plain HTTP requests. Kept while no application serves.
    takes_requests: AtomicBool,
    service: ArcSwap<Service>,
    members: RwLock<Members>,
}

/// How new connections are served.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) dialog: bool,
    pub(crate) subprotocols: Vec<String>,
    pub(crate) lane: LaneKind,
    pub(crate) state: ServiceState,
}

/// Whether an application serves the resource.
#[derive(Clone, Debug)]
pub(crate) enum ServiceState {
    Serving(Inbox),
    Unavailable(Outage),
}

/// Why no application serves, and when to retry; both are sent to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) text: String,
    pub(crate) retry_after: Duration,
}

impl Outage {
    /// Returns the outage of an application that could not be loaded or started.
    pub(crate) fn of_plugin(plugin: &str) -> Self {
        let text = format!("the application {plugin} is not available now");
        Self { text, retry_after: RETRY_AFTER }
    }

    /// Returns the outage of an application that hangs and is restarted.
    pub(crate) fn of_stuck(retry_after: Duration) -> Self {
        let text = "the application does not respond and is being restarted".to_owned();
        Self { text, retry_after }
    }

    pub(crate) fn close_reason(&self) -> CloseReason {
        let reason = CloseReason::host(CloseCode::TRY_AGAIN, self.text.clone());
        CloseReason { retry_after: Some(self.retry_after), ..reason }
    }
}

#[derive(Debug, Default)]
struct Members {
    /// Unordered; each peer knows its index, so that removal needs no search.
    all: Vec<Arc<Peer>>,
    rooms: Rooms,
}

impl Resource {
    pub(crate) fn new(path: String, service: Service) -> Self {
        Self {
            path,
            counters: Counters::default(),
            tickets: Tickets::default(),
            timers: TimerQueue::default(),
            metrics: Metrics::default(),
            requests: Requests::default(),
            traces: Traces::default(),
            takes_requests: AtomicBool::new(false),
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

    /// Returns whether plain HTTP requests are for the application.
    pub(crate) fn takes_requests(&self) -> bool {
        self.takes_requests.load(Ordering::Acquire)
    }

    /// Publishes what the instance that serves from now on declares.
    pub(crate) fn set_takes_requests(&self, takes_requests: bool) {
        self.takes_requests.store(takes_requests, Ordering::Release);
    }

    /// Adds a member; the lane calls this just before `open`.
    pub(crate) fn admit(&self, peer: Arc<Peer>) {
        let mut members = write(&self.members);
        peer.membership.slot.store(members.all.len(), Ordering::Relaxed);
        members.all.push(peer);
    }

    /// Removes a member from the resource and its rooms; returns whether it was a member.
    pub(crate) fn dismiss(&self, peer: &Peer) -> bool {
        let mut members = write(&self.members);
        let slot = peer.membership.slot.swap(usize::MAX, Ordering::Relaxed);
        if slot == usize::MAX {
            return false;
        }
        members.all.swap_remove(slot);
        if let Some(moved) = members.all.get(slot) {
            moved.membership.slot.store(slot, Ordering::Relaxed);
        }
        if members.all.is_empty() {
            members.all = Vec::new();
        }
        members.rooms.leave_all(peer.id());
        true
    }

    /// Adds a peer to a room. Does nothing for a peer that is not a member any more.
    ///
    /// # Errors
    /// [`HostError::TooMany`] if the peer is in `max_rooms` rooms.
    pub(crate) fn join(&self, peer: &Arc<Peer>, room: &str) -> Result<(), HostError> {
        let mut members = write(&self.members);
        if !peer.is_member() {
            return Ok(());
        }
        members.rooms.join(peer, room)
    }

    pub(crate) fn leave(&self, peer: &Peer, room: &str) {
        write(&self.members).rooms.leave(peer.id(), room);
    }

    /// Calls `act` for each member under the read lock: `act` must not block or call back.
    pub(crate) fn for_each_member(&self, act: impl FnMut(&Arc<Peer>)) {
        read(&self.members).all.iter().for_each(act);
    }

    /// Calls `act` for each member of a room, as [`for_each_member`](Self::for_each_member) does.
    pub(crate) fn for_each_in_room(&self, room: &str, act: impl FnMut(&Arc<Peer>)) {
        read(&self.members).rooms.members(room).for_each(act);
    }

    /// Returns a copy of the list of members.
    pub(crate) fn members(&self) -> Vec<Arc<Peer>> {
        read(&self.members).all.clone()
    }

    /// Returns the number of members.
    pub(crate) fn count(&self) -> usize {
        read(&self.members).all.len()
    }

    /// Returns a copy of the list of members of a room.
    pub(crate) fn members_of(&self, room: &str) -> Vec<Arc<Peer>> {
        read(&self.members).rooms.members(room).cloned().collect()
    }

    /// Returns the number of members of a room.
    pub(crate) fn room_count(&self, room: &str) -> usize {
        read(&self.members).rooms.members(room).len()
    }

    /// Returns the rooms of a peer in the order in which it joined them.
    pub(crate) fn rooms_of(&self, peer: &Peer) -> Vec<Arc<str>> {
        read(&self.members).rooms.of_peer(peer.id())
    }

    /// Returns the names of all rooms.
    pub(crate) fn room_names(&self) -> Vec<Arc<str>> {
        read(&self.members).rooms.names()
    }

    pub(crate) fn room_data(&self, room: &str) -> Option<Arc<[u8]>> {
        read(&self.members).rooms.data(room)
    }

    /// Stores data with a room until its last member leaves; empty data removes it.
    ///
    /// # Errors
    /// [`HostError::TooLarge`]; [`HostError::Gone`] if the room has no members.
    pub(crate) fn set_room_data(&self, room: &str, data: &[u8]) -> Result<(), HostError> {
        if data.len() > MAX_DATA {
            return Err(HostError::TooLarge);
        }
        let data = (!data.is_empty()).then(|| Arc::from(data));
        let former = write(&self.members).rooms.set_data(room, data);
        former.map(drop)
    }

    /// Removes what an application has stored with connections and rooms: another one takes over.
    pub(crate) fn forget_data(&self) {
        write(&self.members).rooms.forget_data();
        self.members().iter().for_each(|peer| peer.forget_data());
    }
}
