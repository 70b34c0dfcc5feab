//! Rooms, their members, and the data of rooms and connections.
//!
//! A plugin is called back with copies, never under a lock: it may call the host again.

use std::sync::Arc;

use abi_stable::std_types::{RSlice, RStr};
use plugsocket_plugin::abi::{Count, HostContext, Opaque, Sink, Visitor};
use plugsocket_plugin::{ConnectionId, HostError};

use super::{InstanceContext, counted, lent_peer, raw_session, status_of};
use crate::routing::peer::Peer;

pub(super) extern "C" fn members(
    context: HostContext,
    room: RStr<'_>,
    visitor: Visitor<'_>,
) -> u32 {
    status_of(active(context).map(|context| {
        for peer in context.resource.members_of(room.as_str()) {
            (visitor.visit)(visitor.context, raw_session(&peer));
        }
    }))
}

pub(super) extern "C" fn room_count(context: HostContext, room: RStr<'_>) -> Count {
    counted(active(context).map(|context| context.resource.room_count(room.as_str()) as u64))
}

pub(super) extern "C" fn rooms(context: HostContext, id: u64, sink: Sink<'_>) -> u32 {
    let peer = active(context).and_then(|context| member(context, id));
    status_of(peer.map(|peer| put_each(sink, &peer.resource.rooms_of(&peer))))
}

pub(super) extern "C" fn room_names(context: HostContext, sink: Sink<'_>) -> u32 {
    status_of(active(context).map(|context| put_each(sink, &context.resource.room_names())))
}

pub(super) extern "C" fn set_room_data(
    context: HostContext,
    room: RStr<'_>,
    data: RSlice<'_, u8>,
) -> u32 {
    let (room, data) = (room.as_str(), data.as_slice());
    status_of(active(context).and_then(|context| context.resource.set_room_data(room, data)))
}

pub(super) extern "C" fn room_data(context: HostContext, room: RStr<'_>, sink: Sink<'_>) -> u32 {
    let data = active(context).map(|context| context.resource.room_data(room.as_str()));
    status_of(data.map(|data| put(sink, data.as_deref())))
}

pub(super) extern "C" fn data(context: HostContext, id: u64, sink: Sink<'_>) -> u32 {
    let peer = active(context).and_then(|context| member(context, id));
    status_of(peer.map(|peer| put_data(sink, &peer)))
}

pub(super) extern "C" fn session_data(session: Opaque<'_>, sink: Sink<'_>) -> u32 {
    put_data(sink, lent_peer(session));
    status_of(Ok(()))
}

pub(super) extern "C" fn set_data(context: HostContext, id: u64, data: RSlice<'_, u8>) -> u32 {
    let peer = addressing(context).and_then(|context| member(context, id));
    status_of(peer.and_then(|peer| peer.set_data(data.as_slice())))
}

/// Returns the context of an instance that may address connections.
fn addressing(context: HostContext) -> Result<&'static InstanceContext, HostError> {
    let context = InstanceContext::from_raw(context);
    if context.may_address() { Ok(context) } else { Err(context.refuse()) }
}

/// Returns the context of an active instance.
fn active(context: HostContext) -> Result<&'static InstanceContext, HostError> {
    let context = InstanceContext::from_raw(context);
    context.is_active().then_some(context).ok_or_else(|| context.refuse())
}

/// Returns a connection from `open` until before `close`.
fn member(context: &InstanceContext, id: u64) -> Result<Arc<Peer>, HostError> {
    let peer = context.router.member(&context.resource, ConnectionId(id))?;
    peer.is_member().then_some(peer).ok_or(HostError::Gone)
}

fn put_each(sink: Sink<'_>, texts: &[Arc<str>]) {
    texts.iter().for_each(|text| put(sink, Some(text.as_bytes())));
}

fn put_data(sink: Sink<'_>, peer: &Peer) {
    put(sink, peer.data().as_deref().map(|data| &**data));
}

fn put(sink: Sink<'_>, bytes: Option<&[u8]>) {
    if let Some(bytes) = bytes {
        (sink.put)(sink.context, bytes.into());
    }
}
