//! Rooms with their members and latest messages. Independent of packets and host.
//!
//! A room exists while it has members, so the number of connections bounds all of this.

use std::collections::{BTreeMap, HashMap, VecDeque};

use plugsocket_plugin::ConnectionId;
use serde::{Deserialize, Serialize};

/// All rooms. Names are stored unescaped; they are escaped when they are sent.
pub(crate) struct Rooms {
    members: HashMap<ConnectionId, Member>,
    rooms: HashMap<String, Room>,
    /// Messages that a room keeps.
    history: usize,
    last_arrival: u64,
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) room: String,
    /// Position in the order of arrival.
    arrival: u64,
}

#[derive(Default)]
struct Room {
    /// Keyed by arrival.
    members: BTreeMap<u64, ConnectionId>,
    messages: VecDeque<ChatMessage>,
}

/// A message as the members receive it: already escaped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "usermsg")]
pub(crate) struct ChatMessage {
    pub(crate) name: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) color: Option<String>,
}

impl Rooms {
    pub(crate) fn new(history: usize) -> Self {
        Self { members: HashMap::new(), rooms: HashMap::new(), history, last_arrival: 0 }
    }

    /// Moves a connection to a room. If it is there already, only its name changes.
    pub(crate) fn enter(&mut self, id: ConnectionId, room: String, name: String) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| member.room == room) {
            member.name = name;
            return;
        }
        self.leave(id);
        self.last_arrival += 1;
        let arrival = self.last_arrival;
        self.rooms.entry(room.clone()).or_default().members.insert(arrival, id);
        self.members.insert(id, Member { name, room, arrival });
    }

    /// Removes a connection. A room without members is removed with its history.
    pub(crate) fn leave(&mut self, id: ConnectionId) -> Option<Member> {
        let member = self.members.remove(&id)?;
        if let Some(room) = self.rooms.get_mut(&member.room) {
            room.members.remove(&member.arrival);
            if room.members.is_empty() {
                self.rooms.remove(&member.room);
            }
        }
        Some(member)
    }

    pub(crate) fn member(&self, id: ConnectionId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Returns the previous name, or `None` if the connection is in no room.
    pub(crate) fn rename(&mut self, id: ConnectionId, name: String) -> Option<String> {
        self.members.get_mut(&id).map(|member| std::mem::replace(&mut member.name, name))
    }

    /// Returns the names of the newest `limit` members of a room, in the order of arrival.
    pub(crate) fn names(&self, room: &str, limit: usize) -> Vec<&str> {
        let Some(room) = self.rooms.get(room) else { return Vec::new() };
        let ids = room.members.values().rev().take(limit);
        let mut names: Vec<&str> = ids.map(|id| self.members[id].name.as_str()).collect();
        names.reverse();
        names
    }

    /// Appends a message to a room's history.
    pub(crate) fn remember(&mut self, room: &str, message: &ChatMessage) {
        if self.history == 0 {
            return;
        }
        if let Some(room) = self.rooms.get_mut(room) {
            room.messages.push_back(message.clone());
            let excess = room.messages.len().saturating_sub(self.history);
            room.messages.drain(..excess);
        }
    }

    /// Returns a room's latest messages, oldest first.
    pub(crate) fn history(&self, room: &str) -> impl ExactSizeIterator<Item = &ChatMessage> {
        static EMPTY: VecDeque<ChatMessage> = VecDeque::new();
        self.rooms.get(room).map_or(&EMPTY, |room| &room.messages).iter()
    }

    pub(crate) fn save(&self) -> Saved {
        let mut ids: Vec<(&ConnectionId, &Member)> = self.members.iter().collect();
        ids.sort_unstable_by_key(|(_, member)| member.arrival);
        let members = ids.into_iter().map(|(id, member)| SavedMember {
            id: id.0,
            room: member.room.clone(),
            name: member.name.clone(),
        });
        let rooms = self.rooms.iter().filter(|(_, room)| !room.messages.is_empty());
        Saved {
            members: members.collect(),
            messages: rooms.map(|(name, room)| (name.clone(), room.messages.clone())).collect(),
        }
    }

    /// Restores a snapshot; skips members for whom `is_connected` returns false.
    pub(crate) fn load(&mut self, saved: Saved, is_connected: impl Fn(ConnectionId) -> bool) {
        for SavedMember { id, room, name } in saved.members {
            if is_connected(ConnectionId(id)) {
                self.enter(ConnectionId(id), room, name);
            }
        }
        for (room, messages) in saved.messages {
            messages.iter().for_each(|message| self.remember(&room, message));
        }
    }
}

/// The snapshot, format version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    /// In the order of arrival.
    members: Vec<SavedMember>,
    #[serde(rename = "said")]
    messages: HashMap<String, VecDeque<ChatMessage>>,
}

#[derive(Serialize, Deserialize)]
struct SavedMember {
    id: u64,
    room: String,
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_room_is_removed_with_its_history() {
        let mut rooms = Rooms::new(5);
        for id in 0..100 {
            rooms.enter(ConnectionId(id), format!("room {}", id % 7), "x".to_owned());
            rooms.remember(
                "room 0",
                &ChatMessage { name: "x".into(), message: "y".into(), color: None },
            );
        }
        assert_eq!(rooms.history("room 0").len(), 5);
        for id in 0..100 {
            rooms.enter(ConnectionId(id), "elsewhere".to_owned(), "x".to_owned());
        }
        assert_eq!((rooms.rooms.len(), rooms.names("elsewhere", 500).len()), (1, 100));
        for id in 0..100 {
            assert!(
                rooms.leave(ConnectionId(id)).is_some() && rooms.leave(ConnectionId(id)).is_none()
            );
        }
        assert!(rooms.rooms.is_empty() && rooms.members.is_empty());
    }

    #[test]
    fn a_limited_list_of_names_contains_the_newest_in_order() {
        let mut rooms = Rooms::new(0);
        for id in 0..10 {
            rooms.enter(ConnectionId(id), "lobby".to_owned(), id.to_string());
        }
        assert_eq!(rooms.names("lobby", 3), ["7", "8", "9"]);
        assert_eq!(rooms.names("nowhere", 3), [""; 0]);
    }
}
