//! Plain HTTP requests and their answers.

use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use abi_stable::std_types::{ROption, RStr};

use super::clients::raw_kind;
use super::{SimulatedHost, Works, call, lock, status_of};
use crate::abi::{HostContext, Opaque, RawRequest, RawResponse, Sink, field, status};
use crate::testing::peer::value_of;
use crate::testing::request::{TestRequest, TestResponse};

/// The requests of all simulated hosts, leaked. The context of a request is an index.
static REQUESTS: Mutex<Vec<&'static TestRequest>> = Mutex::new(Vec::new());

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Pending {
    slot: Arc<Slot>,
    pub(super) due: Duration,
}

/// Where a client waits for its answer.
#[derive(Debug, Default)]
pub(in crate::testing) struct Slot {
    state: Mutex<Answered>,
    changed: Condvar,
}

/// What has become of a request.
#[derive(Clone, Debug, Default)]
pub(in crate::testing) enum Answered {
    #[default]
    Not,
    Response(TestResponse),
    Unhandled,
    /// The client has left.
    Left,
}

impl Slot {
    pub(in crate::testing) fn get(&self) -> Answered {
        lock(&self.state).clone()
    }

    /// Waits for an answer.
    pub(in crate::testing) fn wait(&self, limit: Duration) -> Answered {
        let is_waiting = |state: &mut Answered| matches!(state, Answered::Not);
        let waited = self.changed.wait_timeout_while(lock(&self.state), limit, is_waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Sets the answer; returns whether the client still waited.
    pub(in crate::testing) fn set(&self, answered: Answered) -> bool {
        let mut state = lock(&self.state);
        let waits = matches!(*state, Answered::Not);
        if waits {
            *state = answered;
            self.changed.notify_all();
        }
        waits
    }
}

impl SimulatedHost {
    /// Adds a request and returns its number.
    pub(in crate::testing) fn admit_request(&mut self, slot: Arc<Slot>) -> u64 {
        let (number, due) = self.next_request();
        self.requests.insert(number, Pending { slot, due });
        number
    }

    pub(super) fn expire_requests(&mut self) {
        let now = self.now;
        self.requests.retain(|_, request| {
            let is_expired = request.due <= now;
            if is_expired {
                request.slot.set(Answered::Response(TestResponse::of_host(503)));
            }
            !is_expired
        });
    }

    /// Answers a request whose callback has panicked.
    pub(in crate::testing) fn fail_request(&mut self, number: u64) {
        if let Some(request) = self.requests.remove(&number) {
            request.slot.set(Answered::Response(TestResponse::of_host(500)));
        }
    }

    fn respond(&mut self, number: u64, raw: RawResponse<'_>) -> Result<(), u32> {
        if !self.requests.contains_key(&number) {
            return Err(status::GONE);
        }
        if raw.body.len() > self.limits.max_answer() {
            return Err(status::TOO_LARGE);
        }
        let request = self.requests.remove(&number).ok_or(status::GONE)?;
        let answered = match raw.status {
            0 => Answered::Unhandled,
            _ => Answered::Response(TestResponse::sent(&raw)),
        };
        if request.slot.set(answered) { Ok(()) } else { Err(status::GONE) }
    }
}

/// Lends a request to the application for one call.
pub(in crate::testing) fn raw_request(
    ticket: u64,
    request: &'static TestRequest,
) -> RawRequest<'static> {
    let mut requests = lock(&REQUESTS);
    let pointer = std::ptr::without_provenance(requests.len());
    requests.push(request);
    RawRequest {
        ticket,
        kind: raw_kind(request.kind),
        method: request.method.as_str().into(),
        body: request.body.as_slice().into(),
        context: Opaque { pointer, life: PhantomData },
        field,
        headers,
    }
}

fn request_of(context: Opaque<'_>) -> &'static TestRequest {
    lock(&REQUESTS)[context.pointer.addr()]
}

extern "C" fn field<'a>(context: Opaque<'a>, field: u32, name: RStr<'_>) -> ROption<RStr<'a>> {
    let request = request_of(context);
    let name = name.as_str();
    match field {
        field::ADDRESS => Some(request.address.as_str()),
        field::RESOURCE => Some(request.resource.as_str()),
        field::PATH => Some(request.path.as_str()),
        field::PARAMETER => value_of(&request.parameters, |key| key == name),
        field::QUERY => Some(request.query.as_str()),
        field::HEADER => value_of(&request.headers, |key| key.eq_ignore_ascii_case(name)),
        field::USER => request.user.as_deref(),
        field::CLAIMS => request.claims.as_deref(),
        _ => None,
    }
    .map(RStr::from)
    .into()
}

extern "C" fn headers(context: Opaque<'_>, sink: Sink<'_>) {
    for (name, value) in &request_of(context).headers {
        (sink.put)(sink.context, name.to_ascii_lowercase().as_bytes().into());
        (sink.put)(sink.context, value.as_bytes().into());
    }
}

pub(super) extern "C" fn respond(context: HostContext, ticket: u64, raw: RawResponse<'_>) -> u32 {
    status_of(call(context, (3, Works::Always), |host, _| host.respond(ticket, raw)))
}
