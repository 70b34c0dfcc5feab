//! Calls an instance through the function table of its library.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use abi_stable::std_types::{RResult, RVec};
use bytes::Bytes;
use plugsocket_plugin::abi::{
    self, HostRef, InstancePtr, ModuleRef, RawEvent, RawMessage, RawReason, ValuePtr,
};
use plugsocket_plugin::{CloseCode, ClosedBy, ConfigChange, RetireReason, SnapshotReason};

use super::Generation;
use super::host_table::{
    InstanceContext, PostedValue, host_table, raw_request, raw_session, while_handling,
};
use crate::plugin::lane::health::Revocation;
use crate::plugin::{EarlyRequests, Event, Failure, Instance, Posted, Retirement, Snapshot};
use crate::protocol::chunk::Form;
use crate::protocol::http::Answer;
use crate::protocol::payload::Payload;

/// An instance behind the ABI.
pub(crate) struct DylibInstance {
    pointer: InstancePtr,
    module: ModuleRef,
    context: &'static InstanceContext,
    takes_batches: bool,
}

impl DylibInstance {
    /// Creates an instance; blocks for as long as the plugin's `start` takes.
    ///
    /// # Errors
    /// The plugin refused to start, or panicked.
    pub(super) fn start(
        module: ModuleRef,
        context: &'static InstanceContext,
        config: &str,
    ) -> Result<Self, Failure> {
        let host = HostRef { context: context.as_raw(), table: host_table() };
        let pointer = module.start()(host, config.into()).into_result().map_err(failure)?;
        let flags = module.flags().unwrap_or(0);
        let takes_batches = flags & abi::flag::BATCHES != 0 && module.messages().is_some();
        Ok(Self { pointer, module, context, takes_batches })
    }

    /// Passes on what was posted. A value goes only to the instance that posted it.
    fn post(&self, posted: Posted) -> Result<(), Failure> {
        let Some(event) = self.module().event() else { return Ok(()) };
        let bytes = posted.bytes.as_ref().into();
        let value = match posted.value {
            None => ValuePtr(std::ptr::null_mut()),
            Some(value) => match value.downcast::<PostedValue>() {
                Ok(value) if value.is_of(self.context) => value.into_pointer(),
                _ => return Ok(()),
            },
        };
        event(self.pointer, RawEvent { value, bytes }).into_result().map_err(failure)
    }

    fn module(&self) -> ModuleRef {
        self.module
    }
}

/// Lends a message to a plugin for one call.
pub(super) fn raw_message(payload: &Payload) -> RawMessage<'_> {
    let kind = match payload.form {
        Form::Binary => abi::message::BINARY,
        _ => abi::message::TEXT,
    };
    RawMessage { kind, bytes: payload.as_bytes().into() }
}

impl Instance for DylibInstance {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let module = self.module();
        let result = match event {
            Event::Message(peer, payload) => {
                let message = raw_message(payload);
                while_handling(peer, || module.message()(self.pointer, raw_session(peer), message))
            }
            Event::Messages(peer, payloads) => {
                let Some(messages) = module.messages() else { return Ok(()) };
                let batch: Vec<RawMessage<'_>> =
                    payloads.iter().map(|payload| raw_message(payload)).collect();
                let batch = batch.as_slice().into();
                while_handling(peer, || messages(self.pointer, raw_session(peer), batch))
            }
            Event::Open(peer) => module.open()(self.pointer, raw_session(peer)),
            Event::Error(peer, text) => {
                module.error()(self.pointer, raw_session(peer), text.into())
            }
            Event::Close(peer, reason) => {
                let (code, by) = (reason.code.0, raw_closed_by(reason.by));
                let reason = RawReason { code, by, text: reason.text.as_str().into() };
                module.close()(self.pointer, raw_session(peer), reason)
            }
            Event::Tick(now) => module.tick()(self.pointer, unix_millis(now)),
            Event::Timer(key) => match module.timer() {
                Some(timer) => timer(self.pointer, key.into()),
                None => return Ok(()),
            },
            Event::Posted(posted) => return self.post(*posted),
            Event::Request(request) => match module.request().filter(|_| self.takes_requests()) {
                Some(answer) => answer(self.pointer, raw_request(request)),
                None => {
                    request.ticket.answer(Answer::UNHANDLED);
                    RResult::ROk(())
                }
            },
        };
        result.into_result().map_err(failure)
    }

    fn snapshot(&mut self, reason: SnapshotReason) -> Result<Option<Snapshot>, Failure> {
        let raw = match self.module().snapshot_for() {
            Some(snapshot_for) => snapshot_for(self.pointer, raw_snapshot_reason(reason)),
            None => self.module().snapshot()(self.pointer),
        };
        let raw = raw.into_result().map_err(failure)?;
        Ok(raw.into_option().map(|raw| {
            let generation = self.context.generation.clone();
            generation.retain();
            let memory = SnapshotMemory { bytes: raw.bytes, generation };
            Snapshot { version: raw.version, bytes: Bytes::from_owner(memory) }
        }))
    }

    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure> {
        self.context.activate();
        let Some(Snapshot { version, bytes }) = snapshot else { return Ok(()) };
        self.module().restore()(self.pointer, *version, bytes.as_ref().into())
            .into_result()
            .map_err(failure)
    }

    fn change_config(&mut self, config: &str) -> Result<ConfigChange, Failure> {
        let Some(config_changed) = self.module().config_changed() else {
            return Ok(ConfigChange::Restart);
        };
        match config_changed(self.pointer, config.into()).into_result().map_err(failure)? {
            abi::config_change::APPLIED => Ok(ConfigChange::Applied),
            _ => Ok(ConfigChange::Restart),
        }
    }

    fn takes_batches(&self) -> bool {
        self.takes_batches
    }

    fn take_early_requests(&mut self) -> EarlyRequests {
        self.context.take_early_requests()
    }

    fn begin_retiring(&mut self, limit: Duration) {
        match self.module().retiring() {
            Some(_) => self.context.begin_retiring(limit),
            None => self.context.retire(),
        }
    }

    fn finish_retiring(&mut self, retirement: Retirement) {
        let Some(retiring) = self.module().retiring() else { return };
        let rest = self.context.retires_in().unwrap_or(retirement.limit);
        let millis = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        let reason = raw_retire_reason(retirement.reason);
        if let RResult::RErr(failed) = retiring(self.pointer, reason, millis) {
            let (plugin, reason) = (self.plugin(), failed.text.as_str());
            tracing::warn!(plugin, reason, "callback `retiring` failed");
        }
        self.context.retire();
    }

    fn retire(&mut self) {
        self.context.retire();
    }

    fn revocation(&self) -> Option<Revocation> {
        Some(self.context.revocation())
    }

    fn tick_every(&mut self) -> Option<Duration> {
        let millis = self.module().tick_every()(self.pointer);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    fn takes_requests(&self) -> bool {
        self.context.generation.facts.http
    }

    fn refused_calls(&self) -> Option<&'static AtomicU64> {
        Some(self.context.refused_calls())
    }

    fn plugin(&self) -> &str {
        &self.context.generation.plugin
    }

    fn generation(&self) -> u64 {
        self.context.generation.number
    }
}

impl Drop for DylibInstance {
    fn drop(&mut self) {
        self.retire();
        // What it has requested for later; values need the library.
        drop(self.context.take_early_requests());
        if let RResult::RErr(failed) = self.module().destroy()(self.pointer) {
            let (plugin, reason) = (self.plugin(), failed.text.as_str());
            tracing::warn!(plugin, reason, "dropping an instance failed");
        }
        self.context.generation.release();
    }
}

/// The bytes of a snapshot in memory that only their library can free. Not copied, because a state
/// may have 100 MB.
struct SnapshotMemory {
    bytes: RVec<u8>,
    generation: Arc<Generation>,
}

impl AsRef<[u8]> for SnapshotMemory {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl Drop for SnapshotMemory {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.bytes));
        self.generation.release();
    }
}

fn failure(raw: abi::Failure) -> Failure {
    match raw.code {
        abi::Failure::REFUSED => Failure::Refused(CloseCode(raw.close_code), raw.text.into()),
        _ => Failure::Panicked(raw.text.into()),
    }
}

pub(super) fn raw_closed_by(by: ClosedBy) -> u32 {
    match by {
        ClosedBy::Peer => abi::closed_by::PEER,
        ClosedBy::Plugin => abi::closed_by::PLUGIN,
        _ => abi::closed_by::HOST,
    }
}

pub(super) fn raw_snapshot_reason(reason: SnapshotReason) -> u32 {
    match reason {
        SnapshotReason::Replaced => abi::why_snapshot::REPLACED,
        SnapshotReason::Reconfigured => abi::why_snapshot::RECONFIGURED,
        SnapshotReason::Stopping => abi::why_snapshot::STOPPING,
        SnapshotReason::Checked => abi::why_snapshot::CHECKED,
        _ => abi::why_snapshot::STORED,
    }
}

pub(super) fn raw_retire_reason(reason: RetireReason) -> u32 {
    match reason {
        RetireReason::Reconfigured => abi::why_retiring::RECONFIGURED,
        RetireReason::Removed => abi::why_retiring::REMOVED,
        RetireReason::Disabled => abi::why_retiring::DISABLED,
        RetireReason::Stopping => abi::why_retiring::STOPPING,
        _ => abi::why_retiring::REPLACED,
    }
}

pub(super) fn unix_millis(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
