//! The types of `plugsocket.h`, field by field. The header documents them.
//!
//! Fields are appended only. What C passes is checked here before it becomes a reference: pointers
//! with their lengths, and UTF-8.
#![expect(unsafe_code, reason = "borrows what C lends with a pointer and a length")]

use std::borrow::Cow;
use std::ffi::{c_int, c_void};
use std::mem::size_of;

use abi_stable::std_types::RStr;
use plugsocket_plugin::abi::{self, HostContext, InstancePtr, RawMessage, ValuePtr};

/// `PS_MAGIC`.
pub(super) const MAGIC: u32 = 0x5053_4b54;
/// The step with which `plugsocket.h` began.
pub(super) const FIRST_STEP: u32 = 3;
/// From here on, `abi_version` is of an incompatible plugsocket.h.
pub(super) const NEXT_MAJOR: u32 = 1 << 16;

/// Bits of `ps_plugin.flags`.
pub(super) mod flag {
    pub(in super::super) const NEVER_BLOCKS: u64 = 1;
    pub(in super::super) const BATCHES: u64 = 2;
    pub(in super::super) const HTTP: u64 = 4;
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsStr {
    pub(super) data: *const u8,
    pub(super) size: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsBytes {
    pub(super) data: *const u8,
    pub(super) size: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsIds {
    pub(super) data: *const u64,
    pub(super) count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsPair {
    pub(super) name: PsStr,
    pub(super) value: PsStr,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsCount {
    pub(super) status: c_int,
    pub(super) count: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsMessage {
    pub(super) kind: u32,
    pub(super) bytes: PsBytes,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsSink {
    pub(super) context: *mut c_void,
    pub(super) put: Option<extern "C" fn(*mut c_void, PsBytes)>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsFail {
    pub(super) context: *mut c_void,
    pub(super) put: extern "C" fn(*mut c_void, u16, PsStr),
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsSession {
    pub(super) id: u64,
    pub(super) kind: u32,
    pub(super) uuid: PsStr,
    pub(super) opaque: *const c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsRequest {
    pub(super) ticket: u64,
    pub(super) kind: u32,
    pub(super) method: PsStr,
    pub(super) body: PsBytes,
    pub(super) opaque: *const c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsCloseReason {
    pub(super) code: u16,
    pub(super) by: u32,
    pub(super) text: PsStr,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsAudience {
    pub(super) scope: u32,
    pub(super) websockets_only: u32,
    pub(super) except: PsIds,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsVisitor {
    pub(super) context: *mut c_void,
    pub(super) visit: Option<extern "C" fn(*mut c_void, *const PsSession)>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsCompletion {
    pub(super) kind: u32,
    pub(super) code: u16,
    pub(super) text: PsStr,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsResponse {
    pub(super) status: u16,
    pub(super) headers: *const PsPair,
    pub(super) header_count: usize,
    pub(super) body: PsBytes,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsEvent {
    pub(super) value: ValuePtr,
    pub(super) bytes: PsBytes,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsMetric {
    pub(super) kind: u32,
    pub(super) name: PsStr,
    pub(super) help: PsStr,
    pub(super) labels: *const PsPair,
    pub(super) label_count: usize,
    pub(super) buckets: *const f64,
    pub(super) bucket_count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct PsLog {
    pub(super) context: *const c_void,
    pub(super) max_level: u32,
    pub(super) write: extern "C" fn(*const c_void, u32, PsStr, PsStr),
}

/// A free function of a value that was posted.
pub(super) type Free = extern "C" fn(ValuePtr);

#[repr(C)]
pub(super) struct PsHost {
    pub(super) magic: u32,
    pub(super) abi_version: u32,
    pub(super) size: usize,
    pub(super) send: extern "C" fn(HostContext, u64, PsMessage) -> c_int,
    pub(super) broadcast: extern "C" fn(HostContext, *const PsAudience, PsMessage) -> PsCount,
    pub(super) feedback: extern "C" fn(HostContext, u32, PsStr, PsMessage) -> c_int,
    pub(super) join: extern "C" fn(HostContext, u64, PsStr) -> c_int,
    pub(super) leave: extern "C" fn(HostContext, u64, PsStr) -> c_int,
    pub(super) publish: extern "C" fn(HostContext, PsStr, PsIds, PsMessage) -> PsCount,
    pub(super) send_latest: extern "C" fn(HostContext, u64, PsStr, PsMessage) -> c_int,
    pub(super) broadcast_latest:
        extern "C" fn(HostContext, *const PsAudience, PsStr, PsMessage) -> PsCount,
    pub(super) publish_latest:
        extern "C" fn(HostContext, PsStr, PsIds, PsStr, PsMessage) -> PsCount,
    pub(super) close: extern "C" fn(HostContext, u64, u16, PsStr) -> c_int,
    pub(super) set_fyi: extern "C" fn(HostContext, u64, PsStr) -> c_int,
    pub(super) sessions: extern "C" fn(HostContext, PsVisitor) -> c_int,
    pub(super) log: extern "C" fn(HostContext, u32, PsStr),
    pub(super) defer: extern "C" fn(HostContext, u64, u32) -> PsCount,
    pub(super) complete: extern "C" fn(HostContext, u64, *const PsCompletion) -> c_int,
    pub(super) respond: extern "C" fn(HostContext, u64, *const PsResponse) -> c_int,
    pub(super) post: extern "C" fn(HostContext, PsBytes) -> c_int,
    pub(super) post_value: extern "C" fn(HostContext, ValuePtr, Option<Free>) -> c_int,
    pub(super) set_timer: extern "C" fn(HostContext, PsStr, u64, u32) -> c_int,
    pub(super) cancel_timer: extern "C" fn(HostContext, PsStr) -> PsCount,
    pub(super) members: extern "C" fn(HostContext, PsStr, PsVisitor) -> c_int,
    pub(super) room_count: extern "C" fn(HostContext, PsStr) -> PsCount,
    pub(super) rooms: extern "C" fn(HostContext, u64, PsSink) -> c_int,
    pub(super) room_names: extern "C" fn(HostContext, PsSink) -> c_int,
    pub(super) set_room_data: extern "C" fn(HostContext, PsStr, PsBytes) -> c_int,
    pub(super) room_data: extern "C" fn(HostContext, PsStr, PsSink) -> c_int,
    pub(super) data: extern "C" fn(HostContext, u64, PsSink) -> c_int,
    pub(super) set_data: extern "C" fn(HostContext, u64, PsBytes) -> c_int,
    pub(super) session_field: extern "C" fn(*const PsSession, u32, PsStr) -> PsStr,
    pub(super) session_data: extern "C" fn(*const PsSession, PsSink) -> c_int,
    pub(super) request_field: extern "C" fn(*const PsRequest, u32, PsStr) -> PsStr,
    pub(super) request_headers: extern "C" fn(*const PsRequest, PsSink) -> c_int,
    pub(super) metric: extern "C" fn(HostContext, *const PsMetric) -> PsCount,
    pub(super) record: extern "C" fn(HostContext, u64, u32, f64) -> c_int,
}

/// The first fields of each table.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PsHead {
    pub(super) magic: u32,
    pub(super) abi_version: u32,
    pub(super) size: usize,
}

type SessionFn = extern "C" fn(InstancePtr, *const PsSession);

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct PsPlugin {
    pub(super) head: PsHead,
    pub(super) flags: u64,
    pub(super) name: PsStr,
    pub(super) version: PsStr,
    pub(super) build: PsStr,
    pub(super) config_schema: PsStr,
    pub(super) attach: Option<extern "C" fn(*const PsLog)>,
    pub(super) start: Option<StartFn>,
    pub(super) open: Option<extern "C" fn(InstancePtr, *const PsSession, PsFail) -> c_int>,
    pub(super) message: Option<MessageFn>,
    pub(super) messages: Option<MessagesFn>,
    pub(super) close: Option<extern "C" fn(InstancePtr, *const PsSession, *const PsCloseReason)>,
    pub(super) error: Option<extern "C" fn(InstancePtr, *const PsSession, PsStr)>,
    pub(super) tick_every: Option<extern "C" fn(InstancePtr) -> u64>,
    pub(super) tick: Option<extern "C" fn(InstancePtr, u64)>,
    pub(super) snapshot: Option<extern "C" fn(InstancePtr, u32, PsSink, *mut u32, PsFail) -> c_int>,
    pub(super) restore: Option<extern "C" fn(InstancePtr, u32, PsBytes, PsFail) -> c_int>,
    pub(super) event: Option<extern "C" fn(InstancePtr, *const PsEvent)>,
    pub(super) timer: Option<extern "C" fn(InstancePtr, PsStr)>,
    pub(super) retiring: Option<extern "C" fn(InstancePtr, u32, u64)>,
    pub(super) config_changed: Option<extern "C" fn(InstancePtr, PsStr, *mut u32, PsFail) -> c_int>,
    pub(super) request: Option<RequestFn>,
    pub(super) suspended: Option<SessionFn>,
    pub(super) resumed: Option<SessionFn>,
    pub(super) destroy: Option<extern "C" fn(InstancePtr)>,
}

pub(super) type StartFn = extern "C" fn(*const PsHost, HostContext, PsStr, PsFail) -> InstancePtr;
pub(super) type MessageFn =
    extern "C" fn(InstancePtr, *const PsSession, PsMessage, PsFail) -> c_int;
pub(super) type MessagesFn =
    extern "C" fn(InstancePtr, *const PsSession, *const PsMessage, usize, PsFail) -> c_int;
pub(super) type RequestFn = extern "C" fn(InstancePtr, *const PsRequest, PsFail) -> c_int;

// SAFETY: its pointers are those of constants and functions of a library, which is never closed.
unsafe impl Send for PsPlugin {}
// SAFETY: as above.
unsafe impl Sync for PsPlugin {}

/// The size of `ps_plugin` in the first version of `plugsocket.h`.
pub(super) const FIRST_SIZE: usize = 240;

/// Borrows an array of C for the duration of a call; `None` if it cannot be one.
///
/// # Safety
/// If `data` is not null, aligned, and `count` elements are at most `isize::MAX` bytes, these
/// elements must be there for `'a`.
pub(super) unsafe fn array<'a, T>(data: *const T, count: usize) -> Option<&'a [T]> {
    if data.is_null() {
        return (count == 0).then_some(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>())?;
    if !data.is_aligned() || isize::try_from(bytes).is_err() {
        return None;
    }
    // SAFETY: checked above, otherwise promised by the caller.
    Some(unsafe { std::slice::from_raw_parts(data, count) })
}

/// Borrows a structure of C for the duration of a call; `None` for null.
///
/// # Safety
/// If `pointer` is not null and is aligned, it must point to a `T` for `'a`.
pub(super) unsafe fn structure<'a, T>(pointer: *const T) -> Option<&'a T> {
    if !pointer.is_aligned() {
        return None;
    }
    // SAFETY: checked above, otherwise promised by the caller.
    unsafe { pointer.as_ref() }
}

impl PsStr {
    pub(super) const NONE: Self = Self { data: std::ptr::null(), size: 0 };

    /// Lends a text to C.
    pub(super) fn lend(text: &str) -> Self {
        Self { data: text.as_ptr(), size: text.len() }
    }

    /// Borrows the text for the duration of a call; `None` if it is not valid.
    pub(super) fn text<'a>(self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn borrowed<'a>(self) -> Option<RStr<'a>> {
        self.text().map(RStr::from)
    }

    /// Borrows the text, with invalid UTF-8 replaced; empty if it cannot be one.
    pub(super) fn lossy<'a>(self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes().unwrap_or_default())
    }

    fn bytes<'a>(self) -> Option<&'a [u8]> {
        // SAFETY: C lends what it passes until the function returns; callers keep no reference.
        unsafe { array(self.data, self.size) }
    }
}

impl PsBytes {
    /// Lends bytes to C.
    pub(super) fn lend(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), size: bytes.len() }
    }

    /// Borrows the bytes for the duration of a call; `None` if they are not valid.
    pub(super) fn bytes<'a>(self) -> Option<&'a [u8]> {
        // SAFETY: C lends what it passes until the function returns; callers keep no reference.
        unsafe { array(self.data, self.size) }
    }
}

impl PsIds {
    /// Borrows the numbers for the duration of a call; `None` if they are not valid.
    pub(super) fn ids<'a>(self) -> Option<&'a [u64]> {
        // SAFETY: C lends what it passes until the function returns; callers keep no reference.
        unsafe { array(self.data, self.count) }
    }
}

impl PsMessage {
    /// Lends a message to C. The kinds of the header are those of the ABI.
    pub(super) fn lend(message: RawMessage<'_>) -> Self {
        Self { kind: message.kind, bytes: PsBytes::lend(message.bytes.as_slice()) }
    }

    /// Borrows the message for the duration of a call; `None` if it is not valid.
    pub(super) fn borrowed<'a>(self) -> Option<RawMessage<'a>> {
        let bytes = self.bytes.bytes()?;
        match self.kind {
            abi::message::TEXT => drop(std::str::from_utf8(bytes).ok()?),
            abi::message::BINARY => {}
            _ => return None,
        }
        Some(RawMessage { kind: self.kind, bytes: bytes.into() })
    }
}
