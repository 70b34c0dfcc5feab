//! Work of an instance's own threads: [`Event`]s that they post to the lane.

use std::any::Any;

use super::pending::Envelope;
use super::{Host, check};
use crate::abi::{RawEvent, RawValue, drop_value, from_value, into_value};
use crate::blocking;
use crate::types::HostError;

/// What was [posted](Host::post), for [`Plugin::event`](crate::Plugin::event).
pub struct Event {
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    Value(Box<dyn Any + Send>),
}

impl Event {
    pub(crate) fn new(raw: RawEvent<'_>) -> Self {
        let content = match from_value(raw.value).and_then(opened) {
            Some(value) => Content::Value(value),
            None => Content::Bytes(raw.bytes.to_vec()),
        };
        Self { content }
    }

    pub(crate) fn of_value(value: Box<dyn Any + Send>) -> Self {
        Self { content: Content::Value(value) }
    }

    /// Returns the bytes of [`Host::post`], or `None` for a value.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Value(_) => None,
        }
    }

    /// Returns the value of [`Host::post_value`].
    ///
    /// # Errors
    /// The event itself, if it is bytes or a value of another type.
    pub fn downcast<T: Any>(self) -> Result<T, Self> {
        match self.content {
            Content::Value(value) => match value.downcast::<T>() {
                Ok(value) => Ok(*value),
                Err(value) => Err(Self { content: Content::Value(value) }),
            },
            content @ Content::Bytes(_) => Err(Self { content }),
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.content {
            Content::Bytes(bytes) => f.debug_tuple("Event").field(bytes).finish(),
            Content::Value(_) => f.write_str("Event(a value)"),
        }
    }
}

impl Host {
    /// Posts bytes to this instance: [`Plugin::event`](crate::Plugin::event) receives them, in the
    /// order of the posts and between messages. ABI step 3.
    ///
    /// For an instance's own threads, which must not touch its state. Bytes that are still waiting
    /// when the instance is replaced go to its successor. In [`start`](crate::Plugin::start) a post
    /// is kept until the instance serves.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Clock { host: Host, ticks: u64 }
    /// # impl Plugin for Clock {
    /// fn start(host: Host, _: &str) -> Result<Self, StartError> {
    ///     let clock = host.clone();
    ///     // Ends when the instance has been replaced.
    ///     std::thread::spawn(move || while clock.post(b"tick").is_ok() {});
    ///     Ok(Self { host, ticks: 0 })
    /// }
    ///
    /// fn event(&mut self, _: Event) {
    ///     self.ticks += 1;
    ///     let _ = self.host.broadcast(Audience::resource(), &self.ticks.to_string());
    /// }
    /// # fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HostError::TooMany`] if the inbox of the resource is full (`inbox_messages`);
    /// [`HostError::TooLarge`] above 1 MiB; [`HostError::Retired`] after the instance has
    /// been replaced; [`HostError::Unsupported`] on an older host.
    pub fn post(&self, bytes: &[u8]) -> Result<(), HostError> {
        let post = self.raw.table.post().ok_or(HostError::Unsupported)?;
        check(post(self.raw.context, bytes.into()))
    }

    /// Keeps a value for the time in which this instance retires.
    pub(crate) fn collect(&self, value: Box<dyn Any + Send>) {
        self.pending.collect(value);
    }

    /// Posts a value to this instance, as [`post`](Self::post) posts bytes;
    /// [`Event::downcast`] returns it.
    ///
    /// A value belongs to its library: one that is still waiting when the instance is replaced goes to
    /// this instance, after [`retiring`](crate::Plugin::retiring) has returned. ABI step 3.
    ///
    /// # Errors
    /// Those of [`post`](Self::post); the value is dropped.
    pub fn post_value<T: Any + Send>(&self, value: T) -> Result<(), HostError> {
        self.try_post(Box::new(value)).map_err(|(error, _)| error)
    }

    pub(crate) fn try_post(
        &self,
        value: Box<dyn Any + Send>,
    ) -> Result<(), (HostError, Box<dyn Any + Send>)> {
        let Some(post_value) = self.raw.table.post_value() else {
            return Err((HostError::Unsupported, value));
        };
        let pointer = into_value(Box::new(Envelope::new(value, &self.pending)));
        let raw = RawValue { pointer, free: drop_value };
        match check(post_value(self.raw.context, raw)) {
            Ok(()) => Ok(()),
            // The host has not taken it.
            Err(error) => match from_value(pointer).and_then(opened) {
                Some(value) => Err((error, value)),
                None => Ok(()),
            },
        }
    }

    /// Runs `work` on another thread and posts its result as a value, so that
    /// [`Plugin::event`](crate::Plugin::event) receives it. ABI step 3.
    ///
    /// For work that blocks: a query, a file, an HTTP request. The library has up to 16 such threads,
    /// which end when they have nothing to do. A panic of `work` is logged, and nothing is posted.
    /// An instance that is replaced meanwhile still receives its results: after
    /// [`retiring`](crate::Plugin::retiring) has returned, until the deadline.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// struct Answer {
    ///     to: ConnectionId,
    ///     text: String,
    ///     ticket: Ticket,
    /// }
    ///
    /// # struct Files { host: Host }
    /// # impl Plugin for Files {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self { host }) }
    /// fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
    ///     let path = message.to_text().unwrap_or_default().to_owned();
    ///     let (to, ticket) = (session.id(), self.host.defer(session)?);
    ///     self.host.spawn_blocking(move || {
    ///         let text = std::fs::read_to_string(path).unwrap_or_default();
    ///         Answer { to, text, ticket }
    ///     })?;
    ///     Ok(())
    /// }
    ///
    /// fn event(&mut self, event: Event) {
    ///     if let Ok(answer) = event.downcast::<Answer>() {
    ///         let _ = self.host.send(answer.to, &answer.text);
    ///         let _ = answer.ticket.complete();
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HostError::TooMany`] if 10,000 pieces of work wait or no thread can be started;
    /// [`HostError::Unsupported`] on an older host.
    pub fn spawn_blocking<T: Any + Send>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(), HostError> {
        if self.abi_step() < 3 {
            return Err(HostError::Unsupported);
        }
        let (host, outstanding) = (self.clone(), self.pending.count());
        blocking::spawn(Box::new(move || {
            blocking::deliver(&host, Box::new(work()));
            drop(outstanding);
        }))
    }
}

/// Takes a value out of the envelope in which it was posted.
fn opened(envelope: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
    envelope.downcast::<Envelope>().ok()?.open()
}
