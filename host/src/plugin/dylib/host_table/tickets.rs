//! Deferred acknowledgements and HTTP responses.

use plugsocket_plugin::HostError;
use plugsocket_plugin::abi::{self, Count, HostContext, RawResponse, status};
use tracing::warn;

use super::InstanceContext;
use crate::protocol::http::{Answer, may_send};
use crate::routing::resource::Resource;

pub(super) extern "C" fn defer(_: HostContext, _: u64, _: u32) -> Count {
    Count { status: u32::MAX, count: 0 }
}

pub(super) extern "C" fn complete(_: HostContext, _: u64, _: abi::RawCompletion<'_>) -> u32 {
    u32::MAX
}

/// Answers an HTTP request, in every state of the instance.
pub(super) extern "C" fn respond(
    context: HostContext,
    ticket: u64,
    response: RawResponse<'_>,
) -> u32 {
    let resource = &InstanceContext::from_raw(context).resource;
    let headers = response.headers.iter().map(|pair| pair.name.len() + pair.value.len());
    let bytes = response.body.len() + headers.sum::<usize>();
    match resource.requests.answer(ticket, bytes, || answer(resource, &response)) {
        Ok(()) => status::OK,
        Err(HostError::TooLarge) => status::TOO_LARGE,
        Err(_) => status::GONE,
    }
}

/// Copies a response, without the headers that an application may not send.
fn answer(resource: &Resource, response: &RawResponse<'_>) -> Answer {
    let mut answer = Answer::new(response.status);
    for pair in response.headers.iter() {
        let (name, value) = (pair.name.as_str(), pair.value.as_str());
        if may_send(name, value) {
            answer.headers.push((name.into(), value.into()));
        } else if resource.requests.should_warn() {
            let header: String = name.chars().take(40).collect();
            warn!(resource = resource.path, ?header, "header of a response dropped");
        }
    }
    answer.body = response.body.to_vec();
    answer
}
