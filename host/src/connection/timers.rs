//! The two clocks that a connection may have: one that holds back a peer which sends too fast, one that ends a connection on which nothing
//! is said. A connection without either owns nothing of this.

use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::time::Instant;

use super::rate_limit::{RateExceeded, RateLimiter};
use crate::config::Rate;
use crate::protocol::close::CloseReason;
use crate::protocol::outgoing::Outgoing;
use crate::routing::input::Load;

#[derive(Debug)]
pub(crate) struct Timers {
    rate_limiter: Option<RateLimiter>,
    /// The socket is not read until then.
    held_until: Option<Instant>,
    idle: Option<Duration>,
    /// The last message in either direction, or the last time that it was the peer who waited for the host.
    received: Instant,
    /// Since when the host does not read.
    held_since: Option<Instant>,
}

impl Timers {
    /// None if there is nothing to watch.
    pub(crate) fn new(rate: &Rate, idle: Option<Duration>) -> Option<Box<Self>> {
        let received = Instant::now();
        let rate_limiter = RateLimiter::new(rate, received);
        let is_needed = rate_limiter.is_some() || idle.is_some();
        is_needed.then(|| {
            Box::new(Self { rate_limiter, held_until: None, idle, received, held_since: None })
        })
    }

    /// Whether the socket may be read.
    pub(crate) fn may_read(&self) -> bool {
        self.held_until.is_none()
    }

    /// When to come back, if nothing happens before.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.held_until.or_else(|| self.idle.map(|idle| self.received + idle))
    }

    /// Whether the host reads is another thing from here on.
    pub(crate) fn hold(&mut self, is_held: bool) {
        let now = Instant::now();
        if is_held {
            self.held_since = Some(now);
        } else if let Some(since) = self.held_since.take() {
            self.received = now;
            if let Some(rate_limiter) = &mut self.rate_limiter {
                rate_limiter.save(now - since, now);
            }
        }
    }

    /// Something was read. The host may not read on for a while.
    ///
    /// # Errors
    /// It is more than is allowed.
    pub(crate) fn read(&mut self, read: Load, messages: usize) -> Result<(), RateExceeded> {
        let now = Instant::now();
        if messages > 0 {
            self.received = now;
        }
        if let Some(rate_limiter) = &mut self.rate_limiter {
            self.held_until = rate_limiter.spend(read, now)?;
        }
        Ok(())
    }

    /// This is about to be written.
    pub(crate) fn write<'q>(&mut self, mut queue: impl Iterator<Item = &'q Outgoing>) {
        if self.idle.is_some() && queue.any(|item| !matches!(item, Outgoing::Ping)) {
            self.received = Instant::now();
        }
    }

    /// [`next`](Self::next) has come. `is_busy`: the peer waits for the host, not the host for the peer.
    ///
    /// # Errors
    /// Nothing was said for too long.
    pub(crate) fn wake(&mut self, is_busy: bool) -> Result<(), CloseReason> {
        let now = Instant::now();
        let was_held = self.held_until.is_some();
        self.held_until = self.held_until.filter(|until| now < *until);
        if was_held || is_busy {
            self.received = now;
        }
        if self.idle.is_some_and(|idle| now >= self.received + idle) {
            let text = "no message for too long (idle_timeout)";
            return Err(CloseReason::host(CloseCode::AWAY, text));
        }
        Ok(())
    }
}
