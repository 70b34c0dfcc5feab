//! Deferred acknowledgements and HTTP responses.

use plugsocket_plugin::abi::{Count, HostContext, RawCompletion, RawResponse, completion};
use plugsocket_plugin::{CloseCode, HostError};
use tracing::warn;

use super::{InstanceContext, counted, status_of, with_sender};
use crate::plugin::dylib::Generation;
use crate::protocol::http::{Answer, may_send};
use crate::routing::peer::Completion;
use crate::routing::resource::Resource;

pub(super) extern "C" fn defer(context: HostContext, id: u64, index: u32) -> Count {
    let context = InstanceContext::from_raw(context);
    counted(with_sender(|sender| match sender.filter(|peer| peer.id().0 == id) {
        Some(peer) => context.resource.tickets.defer(peer, index as usize),
        None => Err(HostError::Invalid),
    }))
}

pub(super) extern "C" fn complete(
    context: HostContext,
    ticket: u64,
    raw: RawCompletion<'_>,
) -> u32 {
    let context = InstanceContext::from_raw(context);
    let completion = match raw.kind {
        completion::DONE => Completion::Done,
        completion::FYI => Completion::Fyi(raw.text.as_str()),
        completion::REFUSED => Completion::Refused(CloseCode(raw.code), raw.text.as_str()),
        _ => {
            let Generation { plugin, number: generation, .. } = &*context.generation;
            let resource = context.resource.path.as_str();
            warn!(resource, plugin, generation, "deferred message failed: its ticket was dropped");
            Completion::Failed("the application failed")
        }
    };
    status_of(context.router.complete(&context.resource, ticket, completion))
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
    status_of(resource.requests.answer(ticket, bytes, || answer(resource, &response)))
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
