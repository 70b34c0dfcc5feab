//! Deferred acknowledgements and HTTP responses.

use plugsocket_plugin::abi::{self, Count, HostContext};

pub(super) extern "C" fn defer(_: HostContext, _: u64, _: u32) -> Count {
    Count { status: u32::MAX, count: 0 }
}

pub(super) extern "C" fn complete(_: HostContext, _: u64, _: abi::RawCompletion<'_>) -> u32 {
    u32::MAX
}

pub(super) extern "C" fn respond(_: HostContext, _: u64, _: abi::RawResponse<'_>) -> u32 {
    u32::MAX
}
