//! Posted events and timers.

use std::sync::PoisonError;
use std::time::Duration;

use abi_stable::std_types::{RSlice, RStr};
use bytes::Bytes;
use plugsocket_plugin::HostError;
use plugsocket_plugin::abi::{Count, HostContext, RawValue, ValuePtr, status};
use tokio::sync::mpsc::error::TrySendError;

use super::{InstanceContext, counted, status_of};
use crate::plugin::lane::Item;
use crate::plugin::{EarlyRequests, Posted, TimerRequest};
use crate::routing::resource::ServiceState;

/// The most bytes of one event. A larger one is posted as a value, which is not copied.
const MAX_EVENT: usize = 1024 * 1024;

/// A value that an instance has posted, and that its library owns.
pub(in crate::plugin::dylib) struct PostedValue {
    /// `None` once the library has it back.
    value: Option<RawValue>,
    context: &'static InstanceContext,
}

impl PostedValue {
    pub(in crate::plugin::dylib) fn is_of(&self, context: &'static InstanceContext) -> bool {
        std::ptr::eq(self.context, context)
    }

    /// Returns the value to its library.
    pub(in crate::plugin::dylib) fn into_pointer(mut self) -> ValuePtr {
        self.value.take().map_or(ValuePtr(std::ptr::null_mut()), |value| value.pointer)
    }
}

impl Drop for PostedValue {
    fn drop(&mut self) {
        if let Some(RawValue { pointer, free }) = self.value.take() {
            free(pointer);
        }
    }
}

impl InstanceContext {
    /// More than this many requests before the instance serves are refused.
    const MAX_EARLY: usize = 1024;

    /// Returns what was requested so far; from now on, requests take effect at once.
    pub(in crate::plugin::dylib) fn take_early_requests(&self) -> EarlyRequests {
        let taken = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_default()
    }

    /// Keeps a request for the time when the instance serves; `None` if it serves already.
    fn request_early(
        &self,
        keep: impl FnOnce(&mut EarlyRequests),
    ) -> Option<Result<(), HostError>> {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        let early = early.as_mut()?;
        if early.posted.len() + early.timers.len() >= Self::MAX_EARLY {
            return Some(Err(HostError::TooMany));
        }
        keep(early);
        Some(Ok(()))
    }

    fn post(&self, posted: Posted) -> Result<(), (HostError, Posted)> {
        let mut posted = Some(posted);
        let early = self.request_early(|early| early.posted.extend(posted.take()));
        let Some(posted) = posted else { return Ok(()) };
        match early {
            Some(Err(error)) => return Err((error, posted)),
            _ if !self.is_active() => return Err((HostError::Retired, posted)),
            _ => {}
        }
        let service = self.resource.service();
        let ServiceState::Serving(inbox) = &service.state else {
            return Err((HostError::Retired, posted));
        };
        inbox.post(Box::new(posted)).map_err(|error| {
            let (error, item) = match error {
                TrySendError::Full(item) => (HostError::TooMany, item),
                TrySendError::Closed(item) => (HostError::Retired, item),
            };
            let Item::Event(posted) = item else { unreachable!("it was sent as an event") };
            (error, *posted)
        })
    }

    fn set_timer(&self, key: &str, delay: Duration, repeats: bool) -> Result<(), HostError> {
        let early = self.request_early(|early| {
            early.timers.push(TimerRequest { key: key.to_owned(), delay, repeats });
        });
        match early {
            Some(kept) => kept,
            None if !self.is_active() => Err(HostError::Retired),
            None => self.resource.timers.set(key, delay, repeats),
        }
    }
}

pub(super) extern "C" fn post(context: HostContext, bytes: RSlice<'_, u8>) -> u32 {
    let context = InstanceContext::from_raw(context);
    if bytes.len() > MAX_EVENT {
        return status::TOO_LARGE;
    }
    let posted = Posted { bytes: Bytes::copy_from_slice(bytes.as_slice()), value: None };
    status_of(context.post(posted).map_err(|(error, _)| error))
}

pub(super) extern "C" fn post_value(context: HostContext, value: RawValue) -> u32 {
    let context = InstanceContext::from_raw(context);
    let value = Box::new(PostedValue { value: Some(value), context });
    let Err((error, posted)) = context.post(Posted { bytes: Bytes::new(), value: Some(value) })
    else {
        return status::OK;
    };
    // The library keeps it.
    if let Some(Ok(value)) = posted.value.map(|value| value.downcast::<PostedValue>()) {
        value.into_pointer();
    }
    status_of(Err(error))
}

pub(super) extern "C" fn set_timer(
    context: HostContext,
    key: RStr<'_>,
    millis: u64,
    repeats: bool,
) -> u32 {
    let delay = Duration::from_millis(millis);
    status_of(InstanceContext::from_raw(context).set_timer(key.as_str(), delay, repeats))
}

pub(super) extern "C" fn cancel_timer(context: HostContext, key: RStr<'_>) -> Count {
    let context = InstanceContext::from_raw(context);
    let key = key.as_str();
    let mut was_set = false;
    let early = context.request_early(|early| {
        let before = early.timers.len();
        early.timers.retain(|timer| timer.key != key);
        was_set = early.timers.len() < before;
    });
    counted(match early {
        Some(_) => Ok(u64::from(was_set)),
        None if !context.is_active() => Err(HostError::Retired),
        None => Ok(u64::from(context.resource.timers.cancel(key))),
    })
}
