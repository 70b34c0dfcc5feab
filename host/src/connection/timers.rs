//! Idle timeout and rate-limit delay of a connection. A connection without either has no `Timers`.

use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::time::Instant;

use super::rate_limit::{RateExceeded, RateLimiter};
use crate::config::RateSettings;
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Outgoing;
use crate::routing::input::Load;

/// Timers of one connection.
#[derive(Debug)]
pub(crate) struct Timers {
    rate_limiter: Option<RateLimiter>,
    /// The rate limiter delays reading until then.
    held_until: Option<Instant>,
    idle: Option<Duration>,
    /// Last message in either direction, or last time that the client waited for the host.
    last_active: Instant,
    /// When the host stopped reading, if it does not read.
    held_since: Option<Instant>,
}

impl Timers {
    /// Returns `None` if neither timer is configured.
    pub(crate) fn new(rate: &RateSettings, idle: Option<Duration>) -> Option<Box<Self>> {
        let now = Instant::now();
        let rate_limiter = RateLimiter::new(rate, now);
        let is_needed = rate_limiter.is_some() || idle.is_some();
        is_needed.then(|| {
            Box::new(Self {
                rate_limiter,
                held_until: None,
                idle,
                last_active: now,
                held_since: None,
            })
        })
    }

    /// Returns whether the rate limiter allows reading now.
    pub(crate) fn may_read(&self) -> bool {
        self.held_until.is_none()
    }

    /// Returns when the next timer expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.held_until.or_else(|| self.idle.map(|idle| self.last_active + idle))
    }

    /// Records that the host stops or resumes reading for reasons of its own.
    pub(crate) fn hold(&mut self, is_held: bool) {
        let now = Instant::now();
        if is_held {
            self.held_since = Some(now);
        } else if let Some(since) = self.held_since.take() {
            self.last_active = now;
            if let Some(rate_limiter) = &mut self.rate_limiter {
                rate_limiter.save(now - since, now);
            }
        }
    }

    /// Charges a read that brought `messages` messages.
    ///
    /// # Errors
    /// The rate is exceeded and the policy is `close`.
    pub(crate) fn charge(&mut self, read: Load, messages: usize) -> Result<(), RateExceeded> {
        let now = Instant::now();
        if messages > 0 {
            self.last_active = now;
        }
        if let Some(rate_limiter) = &mut self.rate_limiter {
            self.held_until = rate_limiter.spend(read, now)?;
        }
        Ok(())
    }

    /// Counts a write as activity, except for pings.
    pub(crate) fn note_write<'q>(&mut self, mut queue: impl Iterator<Item = &'q Outgoing>) {
        if self.idle.is_some() && queue.any(|item| !matches!(item, Outgoing::Ping)) {
            self.last_active = Instant::now();
        }
    }

    /// Checks the timers. `is_busy`: the client waits for the host.
    ///
    /// # Errors
    /// The idle timeout has expired.
    pub(crate) fn check(&mut self, is_busy: bool) -> Result<(), CloseReason> {
        let now = Instant::now();
        let was_held = self.held_until.is_some();
        self.held_until = self.held_until.filter(|until| now < *until);
        if was_held || is_busy {
            self.last_active = now;
        }
        if self.idle.is_some_and(|idle| now >= self.last_active + idle) {
            let text = "no message for too long (idle_timeout)";
            return Err(CloseReason::host(CloseCode::AWAY, text));
        }
        Ok(())
    }
}
