//! Acknowledgements, immediate and deferred.

use std::time::Duration;

use super::clients::{End, Handled};
use super::outbox::Outgoing;
use super::sending::{MAX_FYI, check_length};
use super::{Handling, SimulatedHost, Works, call, count_of, status_of};
use crate::abi::{Count, HostContext, RawCompletion, completion, status};
use crate::types::CloseCode;

/// A message that waits for its ticket.
#[derive(Debug)]
pub(super) struct PendingTicket {
    pub(super) id: u64,
    due: Duration,
}

impl SimulatedHost {
    /// Records that the calling thread begins to handle `count` messages of a connection.
    pub(in crate::testing) fn begin_handling(&mut self, id: u64, count: usize) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.handled.extend((0..count).map(|_| Handled::Now));
        }
        self.handling = Some(Handling { thread: std::thread::current().id(), id, count });
    }

    /// Records that the callback has returned: acknowledges what is not deferred.
    pub(in crate::testing) fn end_handling(&mut self) {
        let Some(Handling { id, .. }) = self.handling.take() else { return };
        if let Some(client) = self.clients.get_mut(&id) {
            for handled in client.handled.iter_mut().filter(|handled| **handled == Handled::Now) {
                *handled = Handled::Done(client.fyi.clone());
            }
        }
        self.acknowledge(id);
    }

    /// Sends the `next` of each message before the first one that is not done.
    fn acknowledge(&mut self, id: u64) {
        if self.handling.as_ref().is_some_and(|handling| handling.id == id) {
            return;
        }
        while let Some(client) = self.clients.get_mut(&id)
            && let Some(Handled::Done(fyi)) = client.handled.front_mut()
        {
            let next = Outgoing::Next(std::mem::take(fyi));
            client.handled.pop_front();
            // Fails only if the connection ends.
            self.append(id, next).ok();
        }
    }

    fn next_ticket(&mut self) -> (u64, Duration) {
        self.last_ticket += 1;
        (self.last_ticket, self.now.saturating_add(self.limits.callback_limit))
    }

    /// Returns a number for a request, and when it expires.
    pub(super) fn next_request(&mut self) -> (u64, Duration) {
        self.next_ticket()
    }

    fn defer(&mut self, id: u64, index: usize) -> Result<u64, u32> {
        let thread = std::thread::current().id();
        let handling = self.handling.as_ref();
        let handling = handling.filter(|handling| handling.id == id && handling.thread == thread);
        let count = handling.filter(|h| index < h.count).ok_or(status::INVALID)?.count;
        let handled = &mut self.open_member(id)?.handled;
        let at = (handled.len() + index).checked_sub(count).ok_or(status::INVALID)?;
        if handled[at] != Handled::Now {
            return Err(status::INVALID);
        }
        let (number, due) = self.next_ticket();
        self.open_member(id)?.handled[at] = Handled::Deferred(number);
        self.tickets.insert(number, PendingTicket { id, due });
        Ok(number)
    }

    fn complete(&mut self, number: u64, how: RawCompletion<'_>) -> Result<(), u32> {
        let id = self.tickets.get(&number).ok_or(status::GONE)?.id;
        let end = match how.kind {
            completion::DONE => None,
            completion::FYI => check_length(&how.text, MAX_FYI).map(|()| None)?,
            completion::REFUSED => Some(End::by_plugin(CloseCode(how.code), &how.text)),
            completion::FAILED => Some(End::failed()),
            _ => return Err(status::INVALID),
        };
        self.tickets.remove(&number);
        if let Some(end) = end {
            return self.end(id, end);
        }
        let client = self.open_member(id)?;
        let is_fyi = how.kind == completion::FYI;
        let fyi = if is_fyi { how.text.to_string() } else { client.fyi.clone() };
        let deferred = Handled::Deferred(number);
        if let Some(handled) = client.handled.iter_mut().find(|handled| **handled == deferred) {
            *handled = Handled::Done(fyi);
        }
        self.acknowledge(id);
        Ok(())
    }

    /// Returns when the first ticket or request expires.
    pub(in crate::testing) fn next_expiry(&self) -> Option<Duration> {
        let tickets = self.tickets.values().map(|ticket| ticket.due);
        tickets.chain(self.requests.values().map(|request| request.due)).min()
    }

    /// Ends the connections and requests whose time is over.
    pub(in crate::testing) fn expire(&mut self) {
        let now = self.now;
        let expired: Vec<u64> =
            self.tickets.values().filter(|ticket| ticket.due <= now).map(|t| t.id).collect();
        for id in expired {
            // Two tickets of one connection may expire at once.
            self.end(id, End::failed()).ok();
        }
        self.expire_requests();
    }
}

pub(super) extern "C" fn defer(context: HostContext, id: u64, index: u32) -> Count {
    count_of(call(context, (3, Works::Serving), |host, _| host.defer(id, index as usize)))
}

pub(super) extern "C" fn complete(
    context: HostContext,
    ticket: u64,
    how: RawCompletion<'_>,
) -> u32 {
    status_of(call(context, (3, Works::Always), |host, _| host.complete(ticket, how)))
}
