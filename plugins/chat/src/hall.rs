//! Who is in which room, and what was said there last. A room is there as long as somebody is in it, so all of this is
//! bounded by the number of connections. Knows no packets and no host.

use std::collections::{BTreeMap, HashMap, VecDeque};

use plugsocket_plugin::ConnectionId;
use serde::{Deserialize, Serialize};

/// Names and rooms are kept as they were given: escaping is for what is sent.
pub(crate) struct Hall {
    members: HashMap<ConnectionId, Member>,
    rooms: HashMap<String, Room>,
    /// How many messages a room keeps.
    history: usize,
    arrivals: u64,
}

pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) room: String,
    arrival: u64,
}

#[derive(Default)]
struct Room {
    /// By arrival.
    members: BTreeMap<u64, ConnectionId>,
    said: VecDeque<Said>,
}

/// A message as everybody in the room reads it: already escaped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "usermsg")]
pub(crate) struct Said {
    pub(crate) name: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) color: Option<String>,
}

impl Hall {
    pub(crate) fn new(history: usize) -> Self {
        Self { members: HashMap::new(), rooms: HashMap::new(), history, arrivals: 0 }
    }

    /// Leaves another room that it was in; in the same room it keeps its place, and the room what was said.
    pub(crate) fn enter(&mut self, id: ConnectionId, room: String, name: String) {
        if let Some(member) = self.members.get_mut(&id).filter(|member| member.room == room) {
            member.name = name;
            return;
        }
        self.leave(id);
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.rooms.entry(room.clone()).or_default().members.insert(arrival, id);
        self.members.insert(id, Member { name, room, arrival });
    }

    /// The last one out takes the room and its history along.
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

    /// Answers the former name; None if the connection is not here.
    pub(crate) fn rename(&mut self, id: ConnectionId, name: String) -> Option<String> {
        self.members.get_mut(&id).map(|member| std::mem::replace(&mut member.name, name))
    }

    /// The names in a room in the order of arrival, the last `limit` of them.
    pub(crate) fn names(&self, room: &str, limit: usize) -> Vec<&str> {
        let Some(room) = self.rooms.get(room) else { return Vec::new() };
        let ids = room.members.values().rev().take(limit);
        let mut names: Vec<&str> = ids.map(|id| self.members[id].name.as_str()).collect();
        names.reverse();
        names
    }

    pub(crate) fn remember(&mut self, room: &str, said: &Said) {
        if self.history == 0 {
            return;
        }
        if let Some(room) = self.rooms.get_mut(room) {
            room.said.push_back(said.clone());
            let excess = room.said.len().saturating_sub(self.history);
            room.said.drain(..excess);
        }
    }

    pub(crate) fn said(&self, room: &str) -> impl ExactSizeIterator<Item = &Said> {
        static SILENCE: VecDeque<Said> = VecDeque::new();
        self.rooms.get(room).map_or(&SILENCE, |room| &room.said).iter()
    }

    pub(crate) fn save(&self) -> Saved {
        let mut ids: Vec<(&ConnectionId, &Member)> = self.members.iter().collect();
        ids.sort_unstable_by_key(|(_, member)| member.arrival);
        let members = ids.into_iter().map(|(id, member)| SavedMember {
            id: id.0,
            room: member.room.clone(),
            name: member.name.clone(),
        });
        let rooms = self.rooms.iter().filter(|(_, room)| !room.said.is_empty());
        Saved {
            members: members.collect(),
            said: rooms.map(|(name, room)| (name.clone(), room.said.clone())).collect(),
        }
    }

    /// Takes over those for whom `is_here` holds.
    pub(crate) fn load(&mut self, saved: Saved, is_here: impl Fn(ConnectionId) -> bool) {
        for SavedMember { id, room, name } in saved.members {
            if is_here(ConnectionId(id)) {
                self.enter(ConnectionId(id), room, name);
            }
        }
        for (room, said) in saved.said {
            said.iter().for_each(|said| self.remember(&room, said));
        }
    }
}

/// What a successor is handed, version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    /// By arrival.
    members: Vec<SavedMember>,
    said: HashMap<String, VecDeque<Said>>,
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
    fn nothing_is_left_of_a_room_that_everybody_has_left() {
        let mut hall = Hall::new(5);
        for id in 0..100 {
            hall.enter(ConnectionId(id), format!("room {}", id % 7), "x".to_owned());
            hall.remember("room 0", &Said { name: "x".into(), message: "y".into(), color: None });
        }
        assert_eq!(hall.said("room 0").len(), 5);
        for id in 0..100 {
            hall.enter(ConnectionId(id), "elsewhere".to_owned(), "x".to_owned());
        }
        assert_eq!((hall.rooms.len(), hall.names("elsewhere", 500).len()), (1, 100));
        for id in 0..100 {
            assert!(
                hall.leave(ConnectionId(id)).is_some() && hall.leave(ConnectionId(id)).is_none()
            );
        }
        assert!(hall.rooms.is_empty() && hall.members.is_empty());
    }

    #[test]
    fn a_long_list_of_names_is_that_of_the_newest_in_order() {
        let mut hall = Hall::new(0);
        for id in 0..10 {
            hall.enter(ConnectionId(id), "lobby".to_owned(), id.to_string());
        }
        assert_eq!(hall.names("lobby", 3), ["7", "8", "9"]);
        assert_eq!(hall.names("nowhere", 3), [""; 0]);
    }
}
