//! [`Ticket`]: a message whose acknowledgement comes later.

use super::{Host, check, count};
use crate::Session;
use crate::abi::{RawCompletion, completion};
use crate::types::{ConnectionId, HostError, Refused};

impl Host {
    /// Defers the acknowledgement of the message that is being handled. ABI step 3.
    ///
    /// After `message` has returned, the host sends no `next` until the ticket is completed, from
    /// any thread. The client's `next` packets keep the order of its messages: those of later
    /// messages wait for this one. The message counts as not handled, so a client that sends
    /// without waiting is read no faster than tickets are completed (backpressure).
    ///
    /// A ticket that is dropped, or not completed within `callback_limit` (30 s by default), counts
    /// as failed: the connection is closed with 1011. A ticket may outlive its instance: it can be
    /// completed after a reload, by the old instance or, see [`Ticket::into_number`], by its
    /// successor.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Slow { host: Host }
    /// # impl Plugin for Slow {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self { host }) }
    /// fn message(&mut self, session: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
    ///     let (host, id) = (self.host.clone(), session.id());
    ///     let ticket = host.defer(session).map_err(|error| Refused::new(error.to_string()))?;
    ///     std::thread::spawn(move || {
    ///         // A database query.
    ///         let _ = host.send(id, "the answer");
    ///         let _ = ticket.complete();
    ///     });
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HostError::Invalid`] outside of [`Plugin::message`](crate::Plugin::message), or if the
    /// message is deferred already; [`HostError::Unsupported`] on an older host.
    pub fn defer(&self, session: &Session<'_>) -> Result<Ticket, HostError> {
        self.defer_nth(session.id(), session.index())
    }

    /// Defers the message at `index` of a batch, as [`defer`](Self::defer) does.
    ///
    /// # Errors
    /// Those of [`defer`](Self::defer); [`HostError::Invalid`] if the batch has no message at this index.
    pub fn defer_nth(&self, id: ConnectionId, index: usize) -> Result<Ticket, HostError> {
        let defer = self.raw.table.defer().ok_or(HostError::Unsupported)?;
        let index = u32::try_from(index).map_err(|_| HostError::Invalid)?;
        let number = count(defer(self.raw.context, id.0, index))?;
        Ok(Ticket { host: self.clone(), number: Some(number as u64) })
    }

    /// Returns the ticket with a [number](Ticket::into_number) that a predecessor has handed over.
    pub fn ticket(&self, number: u64) -> Ticket {
        Ticket { host: self.clone(), number: Some(number) }
    }
}

/// A message that was [deferred](Host::defer). Dropping it counts as a failure of the application.
#[derive(Debug)]
#[must_use = "a dropped ticket closes the connection"]
pub struct Ticket {
    host: Host,
    /// `None` once it is completed.
    number: Option<u64>,
}

impl Ticket {
    /// Acknowledges the message.
    ///
    /// # Errors
    /// [`HostError::Gone`] if the connection has ended or the ticket has expired.
    pub fn complete(mut self) -> Result<(), HostError> {
        self.finish(completion::DONE, 0, "")
    }

    /// Acknowledges the message with this `fyi` instead of that of [`Host::set_fyi`].
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`] for more than 4096 bytes, after which the ticket
    /// has failed.
    pub fn complete_with(mut self, fyi: &str) -> Result<(), HostError> {
        self.finish(completion::FYI, 0, fyi)
    }

    /// Refuses the message, as `message` does by its result: the connection is closed.
    ///
    /// # Errors
    /// [`HostError::Gone`].
    pub fn refuse(mut self, refused: &Refused) -> Result<(), HostError> {
        self.finish(completion::REFUSED, refused.code.0, &refused.reason)
    }

    /// Returns the number of the ticket, for a snapshot: the successor completes it with
    /// [`Host::ticket`]. The message stays deferred.
    #[must_use]
    pub fn into_number(mut self) -> u64 {
        self.number.take().unwrap_or_default()
    }

    fn finish(&mut self, kind: u32, code: u16, text: &str) -> Result<(), HostError> {
        let number = self.number.take().ok_or(HostError::Gone)?;
        let complete = self.host.raw.table.complete().ok_or(HostError::Unsupported)?;
        let completion = |kind, text: &str| {
            let raw = RawCompletion { kind, code, text: text.into() };
            check(complete(self.host.raw.context, number, raw))
        };
        completion(kind, text).inspect_err(|error| {
            if *error == HostError::TooLarge {
                completion(completion::FAILED, "").ok();
            }
        })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.finish(completion::FAILED, 0, "").ok();
    }
}
