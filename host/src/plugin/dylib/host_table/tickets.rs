//! Deferred acknowledgements and HTTP responses.

use plugsocket_plugin::abi::{self, Count, HostContext, RawCompletion, completion};
use plugsocket_plugin::{CloseCode, HostError};

use super::{InstanceContext, counted, status_of, with_sender};
use crate::routing::peer::Completion;

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
        _ => Completion::Failed("the application failed"),
    };
    status_of(context.router.complete(&context.resource, ticket, completion))
}

pub(super) extern "C" fn respond(_: HostContext, _: u64, _: abi::RawResponse<'_>) -> u32 {
    u32::MAX
}
