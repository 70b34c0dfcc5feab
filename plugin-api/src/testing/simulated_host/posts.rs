//! The inbox: events that an instance or its threads have posted.

use abi_stable::std_types::RSlice;

use super::{Phase, SimulatedHost, Works, call, status_of};
use crate::Event;
use crate::abi::{HostContext, RawEvent, RawValue, ValuePtr, status};

/// An event that waits.
#[derive(Debug)]
pub(in crate::testing) enum Post {
    Bytes(Vec<u8>),
    Value(Value),
}

/// A value of the application, which is freed unless it is delivered.
pub(in crate::testing) struct Value(Option<RawValue>);

impl Post {
    pub(in crate::testing) fn into_event(self) -> Event {
        match self {
            Self::Bytes(bytes) => {
                let value = ValuePtr(std::ptr::null_mut());
                Event::new(RawEvent { value, bytes: bytes.as_slice().into() })
            }
            Self::Value(mut value) => {
                let value =
                    value.0.take().map_or(ValuePtr(std::ptr::null_mut()), |raw| raw.pointer);
                Event::new(RawEvent { value, bytes: RSlice::EMPTY })
            }
        }
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(raw) = self.0.take() {
            (raw.free)(raw.pointer);
        }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value")
    }
}

impl SimulatedHost {
    fn enqueue(&mut self, instance: usize, post: impl FnOnce() -> Post) -> Result<(), u32> {
        let limit = self.limits.inbox_messages;
        let Self { inbox, instances, .. } = self;
        let instance = &mut instances[instance];
        let is_early = matches!(instance.phase, Phase::Candidate | Phase::Restoring);
        let waiting = if is_early { instance.early_posts.len() } else { inbox.len() };
        if waiting >= limit {
            return Err(status::TOO_MANY);
        }
        match is_early {
            true => instance.early_posts.push(post()),
            false => inbox.push_back(post()),
        }
        Ok(())
    }
}

pub(super) extern "C" fn post(context: HostContext, bytes: RSlice<'_, u8>) -> u32 {
    status_of(call(context, (3, Works::Starting), |host, instance| {
        if bytes.len() > host.limits.max_message {
            return Err(status::TOO_LARGE);
        }
        host.enqueue(instance, || Post::Bytes(bytes.to_vec()))
    }))
}

pub(super) extern "C" fn post_value(context: HostContext, value: RawValue) -> u32 {
    // Unless it is taken, the value remains the caller's.
    status_of(call(context, (3, Works::Starting), |host, instance| {
        host.enqueue(instance, || Post::Value(Value(Some(value))))
    }))
}
