//! Rooms, their members, and the data of rooms and connections.

use abi_stable::std_types::{RSlice, RStr};
use plugsocket_plugin::abi::{self, Count, HostContext, Opaque, Visitor};

pub(super) extern "C" fn members(_: HostContext, _: RStr<'_>, _: Visitor<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn room_count(_: HostContext, _: RStr<'_>) -> Count {
    Count { status: u32::MAX, count: 0 }
}

pub(super) extern "C" fn rooms(_: HostContext, _: u64, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn room_names(_: HostContext, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn set_room_data(_: HostContext, _: RStr<'_>, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn room_data(_: HostContext, _: RStr<'_>, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn data(_: HostContext, _: u64, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn session_data(_: Opaque<'_>, _: abi::Sink<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn set_data(_: HostContext, _: u64, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}
