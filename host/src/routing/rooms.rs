//! The rooms of a resource: their members, and the data that the application stores with them.

use std::collections::HashMap;
use std::sync::Arc;

use plugsocket_plugin::{ConnectionId, HostError};

use super::peer::Peer;
use super::registry::ById;

/// All rooms of a resource. A room exists while it has a member.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    by_name: HashMap<Arc<str>, Room>,
    /// The rooms of each peer that is in one, in the order in which it joined them.
    of_peer: ById<Vec<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Room {
    members: ById<Arc<Peer>>,
    data: Option<Arc<[u8]>>,
}

impl Rooms {
    /// Adds a peer to a room, unless it is a member.
    ///
    /// # Errors
    /// [`HostError::TooMany`] if the peer is in `max_rooms` rooms.
    pub(super) fn join(&mut self, peer: &Arc<Peer>, name: &str) -> Result<(), HostError> {
        let id = peer.id().0;
        let known = self.by_name.get_key_value(name);
        if known.is_some_and(|(_, room)| room.members.contains_key(&id)) {
            return Ok(());
        }
        if self.of_peer.get(&id).map_or(0, Vec::len) >= peer.membership.max_rooms {
            return Err(HostError::TooMany);
        }
        let name = known.map_or_else(|| Arc::from(name), |(name, _)| name.clone());
        self.of_peer.entry(id).or_default().push(name.clone());
        self.by_name.entry(name).or_default().members.insert(id, peer.clone());
        Ok(())
    }

    pub(super) fn leave(&mut self, id: ConnectionId, name: &str) {
        self.remove_member(name, id);
        if let Some(rooms) = self.of_peer.get_mut(&id.0) {
            rooms.retain(|joined| &**joined != name);
            if rooms.is_empty() {
                self.of_peer.remove(&id.0);
            }
        }
    }

    pub(super) fn leave_all(&mut self, id: ConnectionId) {
        for name in self.of_peer.remove(&id.0).unwrap_or_default() {
            self.remove_member(&name, id);
        }
    }

    fn remove_member(&mut self, name: &str, id: ConnectionId) {
        if let Some(room) = self.by_name.get_mut(name) {
            room.members.remove(&id.0);
            if room.members.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    pub(super) fn members(
        &self,
        name: &str,
    ) -> impl ExactSizeIterator<Item = &Arc<Peer>> + use<'_> {
        self.by_name.get(name).map_or_else(Default::default, |room| room.members.values())
    }

    /// Returns the rooms of a peer in the order in which it joined them.
    pub(super) fn of_peer(&self, id: ConnectionId) -> Vec<Arc<str>> {
        self.of_peer.get(&id.0).cloned().unwrap_or_default()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }

    pub(super) fn data(&self, name: &str) -> Option<Arc<[u8]>> {
        self.by_name.get(name)?.data.clone()
    }

    /// Stores or removes the data of a room; returns the data before.
    ///
    /// # Errors
    /// [`HostError::Gone`] if the room does not exist.
    pub(super) fn set_data(
        &mut self,
        name: &str,
        data: Option<Arc<[u8]>>,
    ) -> Result<Option<Arc<[u8]>>, HostError> {
        let room = self.by_name.get_mut(name).ok_or(HostError::Gone)?;
        Ok(std::mem::replace(&mut room.data, data))
    }

    /// Removes the data of all rooms.
    pub(super) fn forget_data(&mut self) {
        self.by_name.values_mut().for_each(|room| room.data = None);
    }
}
