//! Posted events and timers.

use abi_stable::std_types::{RSlice, RStr};
use plugsocket_plugin::abi::{self, Count, HostContext};

pub(super) extern "C" fn post(_: HostContext, _: RSlice<'_, u8>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn post_value(_: HostContext, _: abi::RawValue) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn set_timer(_: HostContext, _: RStr<'_>, _: u64, _: bool) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn cancel_timer(_: HostContext, _: RStr<'_>) -> Count {
    Count { status: u32::MAX, count: 0 }
}
