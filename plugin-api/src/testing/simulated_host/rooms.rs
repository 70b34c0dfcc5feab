//! Rooms, their members, and the data of rooms and connections.

use abi_stable::std_types::{RSlice, RStr};

use super::clients::put_data;
use super::sending::{MAX_NAME, check_length, visit};
use super::{SimulatedHost, Works, call, count_of, lock, status_of};
use crate::abi::{Count, HostContext, Sink, Visitor, status};

/// Maximum bytes of the data of a room or a connection.
const MAX_DATA: usize = 65_536;

/// A room with at least one member.
#[derive(Debug, Default)]
pub(super) struct Room {
    members: Vec<u64>,
    pub(super) data: Vec<u8>,
}

impl SimulatedHost {
    pub(in crate::testing) fn data_of(&self, room: &str) -> Vec<u8> {
        self.rooms.get(room).map(|room| room.data.clone()).unwrap_or_default()
    }

    pub(in crate::testing) fn members_of(&self, room: &str) -> Vec<u64> {
        self.rooms.get(room).map(|room| room.members.clone()).unwrap_or_default()
    }

    pub(super) fn remove_from_room(&mut self, id: u64, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.members.retain(|member| *member != id);
            if room.members.is_empty() {
                self.rooms.remove(name);
            }
        }
    }
}

pub(super) extern "C" fn join(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    status_of(call(context, (1, Works::Serving), |host, _| {
        check_length(&room, MAX_NAME)?;
        let max_rooms = host.limits.max_rooms;
        let joined = &mut host.member(id)?.rooms;
        if joined.iter().any(|joined| joined.as_str() == room.as_str()) {
            return Ok(());
        }
        if joined.len() >= max_rooms {
            return Err(status::TOO_MANY);
        }
        joined.push(room.to_string());
        host.rooms.entry(room.to_string()).or_default().members.push(id);
        Ok(())
    }))
}

pub(super) extern "C" fn leave(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    status_of(call(context, (1, Works::Serving), |host, _| {
        host.member(id)?.rooms.retain(|joined| joined.as_str() != room.as_str());
        host.remove_from_room(id, &room);
        Ok(())
    }))
}

pub(super) extern "C" fn members(
    context: HostContext,
    room: RStr<'_>,
    visitor: Visitor<'_>,
) -> u32 {
    let members = |host: &mut SimulatedHost, _| Ok(host.records(host.members_of(&room)));
    visit(visitor, call(context, (3, Works::Serving), members))
}

pub(super) extern "C" fn room_count(context: HostContext, room: RStr<'_>) -> Count {
    let count = |host: &mut SimulatedHost, _| Ok(host.members_of(&room).len() as u64);
    count_of(call(context, (3, Works::Serving), count))
}

pub(super) extern "C" fn rooms(context: HostContext, id: u64, sink: Sink<'_>) -> u32 {
    let names = |host: &mut SimulatedHost, _| Ok(host.member(id)?.rooms.clone());
    put_names(call(context, (3, Works::Serving), names), sink)
}

pub(super) extern "C" fn room_names(context: HostContext, sink: Sink<'_>) -> u32 {
    let names = |host: &mut SimulatedHost, _| Ok(host.rooms.keys().cloned().collect());
    put_names(call(context, (3, Works::Serving), names), sink)
}

fn put_names(names: Result<Vec<String>, u32>, sink: Sink<'_>) -> u32 {
    status_of(names.map(|names| {
        for name in names {
            (sink.put)(sink.context, name.as_bytes().into());
        }
    }))
}

fn check_data(data: &[u8]) -> Result<(), u32> {
    if data.len() > MAX_DATA { Err(status::TOO_LARGE) } else { Ok(()) }
}

pub(super) extern "C" fn set_room_data(
    context: HostContext,
    room: RStr<'_>,
    data: RSlice<'_, u8>,
) -> u32 {
    status_of(call(context, (3, Works::Serving), |host, _| {
        check_data(&data)?;
        host.rooms.get_mut(room.as_str()).ok_or(status::GONE)?.data = data.to_vec();
        Ok(())
    }))
}

pub(super) extern "C" fn room_data(context: HostContext, room: RStr<'_>, sink: Sink<'_>) -> u32 {
    let data = call(context, (3, Works::Serving), |host, _| {
        Ok(host.rooms.get(room.as_str()).map(|room| room.data.clone()))
    });
    status_of(data.map(|data| put_data(&data.unwrap_or_default(), sink)))
}

pub(super) extern "C" fn set_data(context: HostContext, id: u64, data: RSlice<'_, u8>) -> u32 {
    status_of(call(context, (3, Works::Retiring), |host, _| {
        check_data(&data)?;
        *lock(&host.member(id)?.record.data) = data.to_vec();
        Ok(())
    }))
}

pub(super) extern "C" fn data(context: HostContext, id: u64, sink: Sink<'_>) -> u32 {
    let data = call(context, (3, Works::Serving), |host, _| {
        Ok(lock(&host.member(id)?.record.data).clone())
    });
    status_of(data.map(|data| put_data(&data, sink)))
}
