//! The macro `export_plugin!` and the functions that it exports: they call a [`Plugin`], catch its
//! panics, and convert values at the boundary.
//!
//! They are compiled into the plugin: only the plugin's own copy of std can catch its panics.
#![expect(unsafe_code, reason = "casts opaque instance pointers back to their type")]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr};

use crate::abi::{
    self, ABI_VERSION, Failure, HostRef, InstancePtr, LogSink, Module, ModuleRef, RawEvent,
    RawMessage, RawReason, RawRequest, RawSession, RawSnapshot,
};
use crate::host::Pending;
use crate::types::{
    CloseCode, CloseReason, ClosedBy, ConfigChange, Message, Refused, RetireReason, Snapshot,
    SnapshotReason, StartError, tick_millis,
};
use crate::{Event, Host, Plugin, Request, Session, logging};

/// Exports a type that implements [`Plugin`](crate::Plugin), which makes the crate a plugin.
///
/// Use it once per crate, with `crate-type = ["cdylib"]` in `Cargo.toml`. Operators see the
/// package's name and version, and the environment variable `PLUGSOCKET_BUILD` of the build (a git
/// hash, a date).
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty) => {
        #[allow(unsafe_code, reason = "exports the symbol that the host looks up")]
        const _: () = {
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::__private::LibHeader = {
                fn module() -> $crate::__private::ModuleRef {
                    $crate::__private::module::<$plugin>(
                        ::core::env!("CARGO_PKG_NAME"),
                        ::core::env!("CARGO_PKG_VERSION"),
                        ::core::option_env!("PLUGSOCKET_BUILD"),
                    )
                }
                extern "C" fn erased() -> $crate::__private::RootModuleResult {
                    $crate::__private::load(module)
                }
                $crate::__private::header(erased)
            };
        };
    };
}

/// Items that the macro uses. Not public API.
#[doc(hidden)]
pub mod __private {
    use abi_stable::library::CheckTypeLayout;
    pub use abi_stable::library::{__call_root_module_loader as load, LibHeader, RootModuleResult};

    pub use super::module;
    pub use crate::abi::ModuleRef;

    /// Creates the header that the host finds by its symbol.
    #[must_use]
    pub const fn header(erased: extern "C" fn() -> RootModuleResult) -> LibHeader {
        // SAFETY: `export_plugin!`, the only caller, passes a function whose result `load` creates
        // from a `ModuleRef`.
        unsafe { LibHeader::from_constructor::<ModuleRef>(erased, CheckTypeLayout::Yes) }
    }
}

/// Creates the function table of the plugin `P`. Leaked: it lives as long as the library.
#[doc(hidden)]
pub fn module<P: Plugin>(
    name: &'static str,
    version: &'static str,
    build: Option<&'static str>,
) -> ModuleRef {
    let module = Module {
        abi_version: ABI_VERSION,
        unwinds: cfg!(panic = "unwind"),
        never_blocks: P::NEVER_BLOCKS,
        name: name.into(),
        version: version.into(),
        build: build.unwrap_or_default().into(),
        attach,
        start: start::<P>,
        open: open::<P>,
        message: message::<P>,
        close: close::<P>,
        error: error::<P>,
        tick_every: tick_every::<P>,
        tick: tick::<P>,
        snapshot: snapshot::<P>,
        restore: restore::<P>,
        destroy: destroy::<P>,
        flags: flags::<P>(),
        config_schema: P::CONFIG_SCHEMA.into(),
        snapshot_for: snapshot_for::<P>,
        event: event::<P>,
        timer: timer::<P>,
        retiring: retiring::<P>,
        config_changed: config_changed::<P>,
        messages: messages::<P>,
        request: request::<P>,
        suspended: suspended::<P>,
        resumed: resumed::<P>,
    };
    module.leak_into_prefix()
}

fn flags<P: Plugin>() -> u64 {
    let batches = if P::BATCHES { abi::flag::BATCHES } else { 0 };
    let http = if P::HTTP { abi::flag::HTTP } else { 0 };
    batches | http
}

extern "C" fn attach(sink: LogSink) {
    drop(guard(|| {
        logging::attach(sink);
        Ok(())
    }));
}

/// What an instance pointer points to.
struct Exported<P> {
    plugin: P,
    host: HostRef,
    pending: Arc<Pending>,
}

extern "C" fn start<P: Plugin>(host: HostRef, config: RStr<'_>) -> RResult<InstancePtr, Failure> {
    guard(|| {
        let pending = Pending::collecting();
        let plugin = P::start(Host::collecting(host, pending.clone()), config.as_str());
        let plugin = plugin.map_err(|StartError(text)| refused(text))?;
        Ok(InstancePtr(Box::into_raw(Box::new(Exported { plugin, host, pending })).cast()))
    })
}

extern "C" fn open<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        plugin.open(session).map_err(Failure::from)
    })
}

extern "C" fn message<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
    message: RawMessage<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        plugin.message(session, borrow(message)).map_err(Failure::from)
    })
}

/// Borrows a message of the host.
fn borrow(message: RawMessage<'_>) -> Message<'_> {
    let bytes = message.bytes.as_slice();
    if message.kind == abi::message::TEXT {
        // SAFETY: the host validates the UTF-8 of every text message (RFC 6455 section 8.1).
        Message::Text(unsafe { std::str::from_utf8_unchecked(bytes) })
    } else {
        Message::Binary(bytes)
    }
}

extern "C" fn messages<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
    messages: RSlice<'_, RawMessage<'_>>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        let messages: Vec<Message<'_>> = messages.iter().copied().map(borrow).collect();
        plugin.messages(session, &messages).map_err(Failure::from)
    })
}

extern "C" fn close<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
    reason: RawReason<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        let reason = CloseReason {
            code: CloseCode(reason.code),
            by: match reason.by {
                abi::closed_by::PEER => ClosedBy::Peer,
                abi::closed_by::PLUGIN => ClosedBy::Plugin,
                _ => ClosedBy::Host,
            },
            text: reason.text.as_str(),
        };
        plugin.close(session, &reason);
        Ok(())
    })
}

extern "C" fn error<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
    reason: RStr<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        plugin.error(session, reason.as_str());
        Ok(())
    })
}

extern "C" fn tick_every<P: Plugin>(instance: InstancePtr) -> u64 {
    guard(|| Ok(tick_millis(exported::<P>(instance).plugin.tick_every()))).unwrap_or(0)
}

extern "C" fn tick<P: Plugin>(instance: InstancePtr, now: u64) -> RResult<(), Failure> {
    guard(|| {
        exported::<P>(instance).plugin.tick(SystemTime::UNIX_EPOCH + Duration::from_millis(now));
        Ok(())
    })
}

extern "C" fn snapshot<P: Plugin>(instance: InstancePtr) -> RResult<ROption<RawSnapshot>, Failure> {
    guard(|| {
        let snapshot = exported::<P>(instance).plugin.snapshot();
        Ok(snapshot.map(|s| RawSnapshot { version: s.version, bytes: s.bytes.into() }).into())
    })
}

extern "C" fn snapshot_for<P: Plugin>(
    instance: InstancePtr,
    why: u32,
) -> RResult<ROption<RawSnapshot>, Failure> {
    guard(|| {
        let reason = match why {
            abi::why_snapshot::REPLACED => SnapshotReason::Replaced,
            abi::why_snapshot::RECONFIGURED => SnapshotReason::Reconfigured,
            abi::why_snapshot::STOPPING => SnapshotReason::Stopping,
            abi::why_snapshot::CHECKED => SnapshotReason::Checked,
            _ => SnapshotReason::Stored,
        };
        let snapshot = exported::<P>(instance).plugin.snapshot_for(reason);
        Ok(snapshot.map(|s| RawSnapshot { version: s.version, bytes: s.bytes.into() }).into())
    })
}

extern "C" fn event<P: Plugin>(instance: InstancePtr, raw: RawEvent<'_>) -> RResult<(), Failure> {
    guard(|| {
        exported::<P>(instance).plugin.event(Event::new(raw));
        Ok(())
    })
}

extern "C" fn timer<P: Plugin>(instance: InstancePtr, key: RStr<'_>) -> RResult<(), Failure> {
    guard(|| {
        exported::<P>(instance).plugin.timer(key.as_str());
        Ok(())
    })
}

extern "C" fn retiring<P: Plugin>(
    instance: InstancePtr,
    why: u32,
    millis: u64,
) -> RResult<(), Failure> {
    guard(|| {
        let reason = match why {
            abi::why_retiring::RECONFIGURED => RetireReason::Reconfigured,
            abi::why_retiring::REMOVED => RetireReason::Removed,
            abi::why_retiring::DISABLED => RetireReason::Disabled,
            abi::why_retiring::STOPPING => RetireReason::Stopping,
            _ => RetireReason::Replaced,
        };
        let deadline = Instant::now() + Duration::from_millis(millis);
        let Exported { plugin, pending, .. } = exported::<P>(instance);
        plugin.retiring(reason, deadline);
        while let Some(late) = pending.next_late(deadline) {
            plugin.event(Event::of_value(late));
        }
        pending.end();
        Ok(())
    })
}

extern "C" fn config_changed<P: Plugin>(
    instance: InstancePtr,
    config: RStr<'_>,
) -> RResult<u32, Failure> {
    guard(|| {
        let changed = exported::<P>(instance).plugin.config_changed(config.as_str());
        Ok(match changed.map_err(|StartError(text)| refused(text))? {
            ConfigChange::Applied => abi::config_change::APPLIED,
            ConfigChange::Restart => abi::config_change::RESTART,
        })
    })
}

extern "C" fn request<P: Plugin>(
    instance: InstancePtr,
    raw: RawRequest<'_>,
) -> RResult<(), Failure> {
    guard(|| {
        let exported = exported::<P>(instance);
        let request = Request::new(raw, exported.host);
        let response = exported.plugin.request(&request);
        request.answer(&response);
        Ok(())
    })
}

extern "C" fn suspended<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        plugin.suspended(session);
        Ok(())
    })
}

extern "C" fn resumed<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
) -> RResult<(), Failure> {
    with_session::<P>(instance, session, |plugin, session| {
        plugin.resumed(session);
        Ok(())
    })
}

extern "C" fn restore<P: Plugin>(
    instance: InstancePtr,
    version: u32,
    bytes: RSlice<'_, u8>,
) -> RResult<(), Failure> {
    guard(|| {
        let snapshot = Snapshot { version, bytes: bytes.to_vec() };
        exported::<P>(instance).plugin.restore(snapshot).map_err(|error| refused(error.0))
    })
}

extern "C" fn destroy<P: Plugin>(instance: InstancePtr) -> RResult<(), Failure> {
    guard(|| {
        // SAFETY: `start::<P>` created the pointer from a box; the host calls `destroy` once, last.
        let exported = unsafe { Box::from_raw(instance.0.cast::<Exported<P>>()) };
        exported.pending.end();
        drop(exported);
        Ok(())
    })
}

/// Returns the target of an instance pointer, for the duration of one call.
fn exported<'a, P: Plugin>(instance: InstancePtr) -> &'a mut Exported<P> {
    // SAFETY: `start::<P>` of the same library created the pointer. The host calls one function at
    // a time with it and none after `destroy`, so the reference is unique during the caller's call.
    unsafe { &mut *instance.0.cast::<Exported<P>>() }
}

/// Makes a call about a session.
fn with_session<P: Plugin>(
    instance: InstancePtr,
    session: RawSession<'_>,
    call: impl FnOnce(&mut P, &Session<'_>) -> Result<(), Failure>,
) -> RResult<(), Failure> {
    guard(|| {
        let Exported { plugin, host, .. } = exported::<P>(instance);
        call(plugin, &Session::new(session, host.table))
    })
}

/// Runs `call` and converts a panic to a [`Failure`]. The panic hook has logged its location.
fn guard<T>(call: impl FnOnce() -> Result<T, Failure>) -> RResult<T, Failure> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.into(),
        Err(payload) => {
            let text = panic_text(payload.as_ref()).to_owned();
            discard(payload);
            RResult::RErr(Failure {
                code: Failure::PANICKED,
                close_code: CloseCode::ERROR.0,
                text: text.into(),
            })
        }
    }
}

/// Drops the payload of a panic. If that drop panics, the second payload is leaked.
#[expect(clippy::mem_forget, reason = "a third drop could panic as well")]
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

/// Returns the text of a panic whose payload is one of the two usual types.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a payload that is not a string")
}

fn refused(text: String) -> Failure {
    Failure { code: Failure::REFUSED, close_code: 0, text: text.into() }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self { code: Self::REFUSED, close_code: refused.code.0, text: refused.reason.into() }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_exported_symbol_is_the_one_abi_stable_looks_up() {
        assert_eq!(
            abi_stable::library::ROOT_MODULE_LOADER_NAME,
            "_1as_0lib_1header_0root_bmodule_bloader"
        );
    }
}
