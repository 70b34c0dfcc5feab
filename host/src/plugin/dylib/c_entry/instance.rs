//! Calls an instance through the table of its library.
#![expect(unsafe_code, reason = "turns the pointers that C passes back into references")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::abi::{self, InstancePtr, RawRequest, ValuePtr};
use plugsocket_plugin::{CloseCode, ConfigChange, SnapshotReason};

use super::super::host_table::{
    InstanceContext, PostedValue, raw_request, raw_session, while_handling,
};
use super::super::instance::{
    raw_closed_by, raw_message, raw_retire_reason, raw_snapshot_reason, unix_millis,
};
use super::open::CModule;
use super::table::{HOST, lend_request, lend_session};
use super::types::{PsBytes, PsCloseReason, PsEvent, PsFail, PsMessage, PsSession, PsSink, PsStr};
use crate::plugin::lane::health::Revocation;
use crate::plugin::{EarlyRequests, Event, Failure, Instance, Posted, Retirement, Snapshot};
use crate::protocol::http::Answer;
use crate::protocol::payload::Payload;
use crate::routing::peer::Peer;

/// An instance behind `plugsocket.h`.
pub(in crate::plugin::dylib) struct CInstance {
    pointer: InstancePtr,
    module: &'static CModule,
    context: &'static InstanceContext,
}

impl CInstance {
    /// Creates an instance; blocks for as long as `start` takes.
    ///
    /// # Errors
    /// The application refused to start.
    pub(in crate::plugin::dylib) fn start(
        module: &'static CModule,
        context: &'static InstanceContext,
        config: &str,
    ) -> Result<Self, Failure> {
        let mut reason = None;
        let fail = failing(&mut reason);
        let pointer = (module.start)(&raw const HOST, context.as_raw(), PsStr::lend(config), fail);
        if pointer.0.is_null() {
            let (code, text) = reason.unwrap_or_else(|| {
                (CloseCode::ERROR, "`start` returned null without an error".to_owned())
            });
            return Err(Failure::Refused(code, text));
        }
        Ok(Self { pointer, module, context })
    }

    /// Calls back about a message of `peer`.
    fn message(
        &self,
        peer: &Peer,
        call: impl FnOnce(&PsSession, PsFail) -> c_int,
    ) -> Result<(), Failure> {
        let raw = raw_session(peer);
        let session = lend_session(&raw);
        while_handling(peer, || self.call("message", |fail| call(&session, fail)))
    }

    fn messages(&self, peer: &Peer, payloads: &[&Payload]) -> Result<(), Failure> {
        let Some(messages) = self.module.messages else {
            return payloads.iter().try_for_each(|payload| self.one_message(peer, payload));
        };
        let lent = |payload: &&Payload| PsMessage::lend(raw_message(payload));
        let batch: Vec<PsMessage> = payloads.iter().map(lent).collect();
        self.message(peer, |session, fail| {
            messages(self.pointer, session, batch.as_ptr(), batch.len(), fail)
        })
    }

    fn one_message(&self, peer: &Peer, payload: &Payload) -> Result<(), Failure> {
        let message = PsMessage::lend(raw_message(payload));
        self.message(peer, |session, fail| {
            (self.module.message)(self.pointer, session, message, fail)
        })
    }

    /// Passes a plain HTTP request on; `None` if the application answers none.
    fn request(&self, raw: &RawRequest<'_>) -> Option<Result<(), Failure>> {
        let request = self.module.request?;
        let lent = lend_request(raw);
        Some(self.call("request", |fail| request(self.pointer, &raw const lent, fail)))
    }

    /// Passes on what was posted. A value goes only to the instance that posted it.
    fn post(&self, posted: Posted) {
        let Some(event) = self.module.table.event else { return };
        let value = match posted.value {
            None => ValuePtr(std::ptr::null_mut()),
            Some(value) => match value.downcast::<PostedValue>() {
                Ok(value) if value.is_of(self.context) => value.into_pointer(),
                _ => return,
            },
        };
        event(self.pointer, &PsEvent { value, bytes: PsBytes::lend(&posted.bytes) });
    }

    /// Makes a call that can fail.
    fn call(&self, callback: &str, call: impl FnOnce(PsFail) -> c_int) -> Result<(), Failure> {
        let mut reason = None;
        let status = call(failing(&mut reason));
        match reason {
            _ if status == 0 => Ok(()),
            Some((code, text)) => Err(Failure::Refused(code, text)),
            None => {
                let plugin = self.plugin();
                tracing::error!(plugin, callback, status, "callback failed without a reason");
                let text = format!("`{callback}` returned {status} without a reason");
                Err(Failure::Panicked(text))
            }
        }
    }
}

/// Returns a failure that concerns no client as a refusal: the operator reads its text.
fn for_operator(failure: Failure) -> Failure {
    match failure {
        Failure::Panicked(text) => Failure::Refused(CloseCode::ERROR, text),
        refused @ Failure::Refused(..) => refused,
    }
}

/// The reason of a failure, as C gives it.
type Reason = Option<(CloseCode, String)>;

/// Lends the place of a reason to C for one call.
fn failing(reason: &mut Reason) -> PsFail {
    PsFail { context: std::ptr::from_mut(reason).cast(), put: give_reason }
}

extern "C" fn give_reason(context: *mut c_void, code: u16, text: PsStr) {
    // SAFETY: `failing` made it from a reference that lives until the callback returns, and that
    // nothing else uses meanwhile.
    if let Some(reason) = unsafe { context.cast::<Reason>().as_mut() } {
        *reason = Some((CloseCode(code), text.lossy().into_owned()));
    }
}

/// The state that C puts.
#[derive(Default)]
struct State {
    bytes: Option<Vec<u8>>,
    /// A part was invalid or could not be allocated.
    is_refused: bool,
}

extern "C" fn put_state(context: *mut c_void, part: PsBytes) {
    // SAFETY: `CInstance::snapshot` made it from a reference that lives until the callback returns,
    // and that nothing else uses meanwhile.
    let Some(state) = (unsafe { context.cast::<State>().as_mut() }) else { return };
    let bytes = state.bytes.get_or_insert_default();
    match part.bytes().filter(|part| bytes.try_reserve(part.len()).is_ok()) {
        Some(part) => bytes.extend_from_slice(part),
        None => state.is_refused = true,
    }
}

impl Instance for CInstance {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let table = &self.module.table;
        let with_session = |peer: &Peer, call: &dyn Fn(&PsSession)| {
            let raw = raw_session(peer);
            call(&lend_session(&raw));
        };
        match event {
            Event::Message(peer, payload) if self.takes_batches() => {
                return self.messages(peer, &[payload]);
            }
            Event::Message(peer, payload) => return self.one_message(peer, payload),
            Event::Messages(peer, payloads) => return self.messages(peer, payloads),
            Event::Open(peer) => {
                let Some(open) = table.open else { return Ok(()) };
                let raw = raw_session(peer);
                let session = lend_session(&raw);
                return self.call("open", |fail| open(self.pointer, &raw const session, fail));
            }
            Event::Error(peer, text) => {
                if let Some(error) = table.error {
                    with_session(peer, &|session| error(self.pointer, session, PsStr::lend(text)));
                }
            }
            Event::Close(peer, reason) => {
                if let Some(close) = table.close {
                    let (code, by) = (reason.code.0, raw_closed_by(reason.by));
                    let reason = PsCloseReason { code, by, text: PsStr::lend(&reason.text) };
                    with_session(peer, &|session| {
                        close(self.pointer, session, &raw const reason);
                    });
                }
            }
            Event::Tick(now) => {
                if let Some(tick) = table.tick {
                    tick(self.pointer, unix_millis(now));
                }
            }
            Event::Timer(key) => {
                if let Some(timer) = table.timer {
                    timer(self.pointer, PsStr::lend(key));
                }
            }
            Event::Posted(posted) => self.post(*posted),
            Event::Request(request) => match self.request(&raw_request(request)) {
                Some(answered) => return answered,
                None => request.ticket.answer(Answer::UNHANDLED),
            },
        }
        Ok(())
    }

    fn snapshot(&mut self, reason: SnapshotReason) -> Result<Option<Snapshot>, Failure> {
        let Some(snapshot) = self.module.table.snapshot else { return Ok(None) };
        let (mut state, mut version) = (State::default(), 0);
        let sink = PsSink { context: (&raw mut state).cast(), put: Some(put_state) };
        let reason = raw_snapshot_reason(reason);
        self.call("snapshot", |fail| snapshot(self.pointer, reason, sink, &raw mut version, fail))
            .map_err(for_operator)?;
        if state.is_refused {
            let text = "`snapshot` put bytes that are not valid, or too many for the memory";
            return Err(Failure::Refused(CloseCode::ERROR, text.to_owned()));
        }
        Ok(state.bytes.map(|bytes| Snapshot { version, bytes: Bytes::from(bytes) }))
    }

    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure> {
        self.context.activate();
        let Some(Snapshot { version, bytes }) = snapshot else { return Ok(()) };
        let Some(restore) = self.module.table.restore else {
            let text = format!(
                "this application does not restore state (offered: {} bytes of version {version})",
                bytes.len()
            );
            return Err(Failure::Refused(CloseCode::ERROR, text));
        };
        let state = PsBytes::lend(bytes);
        self.call("restore", |fail| restore(self.pointer, *version, state, fail))
            .map_err(for_operator)
    }

    fn change_config(&mut self, config: &str) -> Result<ConfigChange, Failure> {
        let Some(config_changed) = self.module.table.config_changed else {
            return Ok(ConfigChange::Restart);
        };
        let mut change = abi::config_change::RESTART;
        self.call("config_changed", |fail| {
            config_changed(self.pointer, PsStr::lend(config), &raw mut change, fail)
        })
        .map_err(for_operator)?;
        Ok(match change {
            abi::config_change::APPLIED => ConfigChange::Applied,
            _ => ConfigChange::Restart,
        })
    }

    fn takes_batches(&self) -> bool {
        self.module.messages.is_some()
    }

    fn take_early_requests(&mut self) -> EarlyRequests {
        self.context.take_early_requests()
    }

    fn begin_retiring(&mut self, limit: Duration) {
        match self.module.table.retiring {
            Some(_) => self.context.begin_retiring(limit),
            None => self.context.retire(),
        }
    }

    fn finish_retiring(&mut self, retirement: Retirement) {
        let Some(retiring) = self.module.table.retiring else { return };
        let rest = self.context.retires_in().unwrap_or(retirement.limit);
        let millis = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX);
        retiring(self.pointer, raw_retire_reason(retirement.reason), millis);
        self.context.retire();
    }

    fn retire(&mut self) {
        self.context.retire();
    }

    fn takes_requests(&self) -> bool {
        self.module.request.is_some()
    }

    fn revocation(&self) -> Option<Revocation> {
        Some(self.context.revocation())
    }

    fn tick_every(&mut self) -> Option<Duration> {
        let millis = self.module.table.tick_every?(self.pointer);
        (millis > 0).then(|| Duration::from_millis(millis))
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

impl Drop for CInstance {
    fn drop(&mut self) {
        self.retire();
        // What it has requested for later; values need the library.
        drop(self.context.take_early_requests());
        (self.module.destroy)(self.pointer);
        self.context.generation.release();
    }
}
