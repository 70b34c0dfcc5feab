//! Calls an instance through the function table of its library.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use abi_stable::std_types::{RResult, RVec};
use bytes::Bytes;
use plugsocket_plugin::abi::{self, InstancePtr, ModuleRef, RawMessage, RawReason};
use plugsocket_plugin::{CloseCode, ClosedBy};

use super::Generation;
use super::host_table::{InstanceContext, raw_request, raw_session, while_handling};
use crate::plugin::lane::health::Revocation;
use crate::plugin::{Event, Failure, Instance, Snapshot};
use crate::protocol::chunk::Form;
use crate::protocol::http::Answer;

/// An instance behind the ABI.
pub(crate) struct DylibInstance {
    pub(super) pointer: InstancePtr,
    pub(super) context: &'static InstanceContext,
}

impl DylibInstance {
    fn module(&self) -> ModuleRef {
        self.context.generation.module
    }
}

impl Instance for DylibInstance {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let module = self.module();
        let result = match event {
            Event::Message(peer, payload) => {
                let kind = match payload.form {
                    Form::Binary => abi::message::BINARY,
                    _ => abi::message::TEXT,
                };
                let message = RawMessage { kind, bytes: payload.as_bytes().into() };
                while_handling(peer, || module.message()(self.pointer, raw_session(peer), message))
            }
            Event::Open(peer) => module.open()(self.pointer, raw_session(peer)),
            Event::Error(peer, text) => {
                module.error()(self.pointer, raw_session(peer), text.into())
            }
            Event::Close(peer, reason) => {
                let by = match reason.by {
                    ClosedBy::Peer => abi::closed_by::PEER,
                    ClosedBy::Plugin => abi::closed_by::PLUGIN,
                    _ => abi::closed_by::HOST,
                };
                let reason =
                    RawReason { code: reason.code.0, by, text: reason.text.as_str().into() };
                module.close()(self.pointer, raw_session(peer), reason)
            }
            Event::Tick(now) => module.tick()(self.pointer, unix_millis(now)),
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

    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure> {
        let raw = self.module().snapshot()(self.pointer).into_result().map_err(failure)?;
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

pub(super) fn failure(raw: abi::Failure) -> Failure {
    match raw.code {
        abi::Failure::REFUSED => Failure::Refused(CloseCode(raw.close_code), raw.text.into()),
        _ => Failure::Panicked(raw.text.into()),
    }
}

fn unix_millis(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
