//! HTTP requests that wait for the answer of an application.
//!
//! A connection waits for one answer at a time, so that `max_connections` bounds them. The entry of
//! a request is removed when it is answered, or when its connection stops waiting.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use plugsocket_plugin::{HostError, Kind};
use tokio::sync::oneshot;

use super::peer::Client;
use super::resource::Resource;
use crate::protocol::buffered::PostShare;
use crate::protocol::http::Answer;

/// A request, as an application receives it.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) ticket: Ticket,
    pub(crate) kind: Kind,
    pub(crate) client: Client,
    pub(crate) body: Bytes,
    /// Counts the body, also in the inbox after the client has left.
    pub(crate) _share: PostShare,
}

/// The right to answer a request. The connection stops waiting when it drops its share.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) resource: Arc<Resource>,
    pub(crate) number: u64,
}

impl Ticket {
    /// Answers in place of the application. Does nothing if that has answered.
    pub(crate) fn answer(&self, status: u16) {
        self.resource.requests.answer(self.number, 0, || Answer::new(status)).ok();
    }

    /// Returns whether the connection still waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.resource.requests.waiting().contains_key(&self.number)
    }
}

/// The requests of one resource.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// The minute in which a dropped header was last logged.
    warned: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Answer>,
    max_bytes: usize,
}

/// A connection that waits for an answer; it stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    resource: Arc<Resource>,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Wait {
    /// Begins to wait for an answer of at most `max_bytes`.
    pub(crate) fn begin(resource: &Arc<Resource>, max_bytes: usize) -> (Self, Ticket) {
        let requests = &resource.requests;
        let number = requests.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        requests.waiting().insert(number, Waiting { answer: sender, max_bytes });
        let ticket = Ticket { resource: resource.clone(), number };
        (Self { resource: resource.clone(), number, answer }, ticket)
    }

    /// Returns the answer; `None` if the application has ended without one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.resource.requests.waiting().remove(&self.number);
    }
}

impl Requests {
    /// Answers a request. `bytes` is the size of the answer, which is created only if it is needed.
    ///
    /// # Errors
    /// `Gone` if the request was answered or its connection has stopped waiting; `TooLarge`.
    pub(crate) fn answer(
        &self,
        number: u64,
        bytes: usize,
        answer: impl FnOnce() -> Answer,
    ) -> Result<(), HostError> {
        let Waiting { answer: waiting, .. } = match self.waiting().entry(number) {
            Entry::Occupied(entry) if bytes > entry.get().max_bytes => {
                return Err(HostError::TooLarge);
            }
            Entry::Occupied(entry) => entry.remove(),
            Entry::Vacant(_) => return Err(HostError::Gone),
        };
        waiting.send(answer()).map_err(|_| HostError::Gone)
    }

    /// Ends the wait for an application that has ended.
    pub(crate) fn end(&self) {
        self.waiting().clear();
    }

    /// Returns whether to log a dropped header: at most once a minute.
    pub(crate) fn should_warn(&self) -> bool {
        let minute = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() / 60;
        self.warned.swap(minute, Ordering::Relaxed) != minute
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internals::fixture;

    #[tokio::test]
    async fn a_request_has_one_answer() {
        let resource = fixture::resource("/web");
        let requests = &resource.requests;
        let answer = |number, bytes, status| requests.answer(number, bytes, || Answer::new(status));
        let (mut first, ticket) = Wait::begin(&resource, 10);
        let (mut second, _) = Wait::begin(&resource, 10);
        assert_eq!(answer(ticket.number, 11, 200), Err(HostError::TooLarge));
        assert!(ticket.is_waiting());
        assert_eq!(answer(ticket.number, 10, 201), Ok(()));
        assert_eq!(answer(ticket.number, 10, 202), Err(HostError::Gone));
        ticket.answer(500);
        assert_eq!(first.answer().await.map(|answer| answer.status), Some(201));
        requests.end();
        assert!(second.answer().await.is_none());
        let (left, ticket) = Wait::begin(&resource, 10);
        drop(left);
        assert!(!ticket.is_waiting());
        assert_eq!(answer(ticket.number, 0, 200), Err(HostError::Gone));
        assert!(requests.waiting().is_empty());
        assert_eq!([requests.should_warn(), requests.should_warn()], [true, false]);
    }
}
