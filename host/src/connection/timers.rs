//! When a connection may not read or has to close: its deadline of a partial message, its idle
//! timeout and its rate-limit delay, which stop while the host itself does not read; and its
//! heartbeat.

use std::collections::VecDeque;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::time::Instant;

use super::rate_limit::{RateExceeded, RateLimiter};
use crate::config::RateSettings;
use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::payload::{Outgoing, Payload};
use crate::routing::input::Load;

/// A deadline that can be paused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Deadline {
    /// No message is partial.
    #[default]
    None,
    At(Instant),
    /// Paused with this much time left.
    Paused(Duration),
}

impl Deadline {
    /// Starts the deadline, unless it runs already.
    pub(crate) fn start(&mut self, limit: Duration) {
        if matches!(self, Self::None) {
            *self = Self::At(Instant::now() + limit);
        }
    }

    pub(crate) fn pause(&mut self) {
        if let Self::At(at) = *self {
            *self = Self::Paused(at.saturating_duration_since(Instant::now()));
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Self::Paused(left) = *self {
            *self = Self::At(Instant::now() + left);
        }
    }

    /// Returns the time of expiry, unless paused.
    pub(crate) fn time(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::None | Self::Paused(_) => None,
        }
    }

    pub(crate) fn is_expired(self) -> bool {
        self.time().is_some_and(|at| Instant::now() >= at)
    }
}

/// Idle timeout, rate-limit delay and heartbeat of one connection; a connection without any has none.
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
    heartbeat: Option<Box<Heartbeat>>,
}

/// The heartbeat of a client that asked for it. Its connection writes it directly, so that it never
/// waits in an outbox.
#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    /// When to write the next one; `None` before `ready`.
    due: Option<Instant>,
}

impl Timers {
    /// Returns `None` if no timer is needed.
    pub(crate) fn new(
        rate: &RateSettings,
        idle: Option<Duration>,
        heartbeat: Option<Duration>,
    ) -> Option<Box<Self>> {
        let now = Instant::now();
        let rate_limiter = RateLimiter::new(rate, now);
        let is_needed = rate_limiter.is_some() || idle.is_some() || heartbeat.is_some();
        is_needed.then(|| {
            Box::new(Self {
                rate_limiter,
                held_until: None,
                idle,
                last_active: now,
                held_since: None,
                heartbeat: heartbeat.map(|interval| Box::new(Heartbeat { interval, due: None })),
            })
        })
    }

    /// Returns whether the rate limiter allows reading now.
    pub(crate) fn may_read(&self) -> bool {
        self.held_until.is_none()
    }

    /// Returns when the next timer expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let pace = self.held_until.or_else(|| self.idle.map(|idle| self.last_active + idle));
        let heartbeat = self.heartbeat.as_ref().and_then(|heartbeat| heartbeat.due);
        pace.into_iter().chain(heartbeat).min()
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

    /// Counts a write as activity, except for pings, and puts the first heartbeat behind `ready`.
    pub(crate) fn note_write(&mut self, queue: &mut VecDeque<Outgoing>) {
        if self.idle.is_none() && self.heartbeat.is_none() {
            return;
        }
        if queue.iter().all(|item| matches!(item, Outgoing::Ping)) {
            return;
        }
        self.last_active = Instant::now();
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.due = Some(self.last_active + heartbeat.interval);
            if let Some(Outgoing::Ready) = queue.front() {
                // In one write: a client that has `ready` knows that heartbeats follow.
                queue.insert(1, heartbeat_packet());
            }
        }
    }

    /// Returns the heartbeat that is due, if one is.
    pub(crate) fn take_heartbeat(&mut self) -> Option<Outgoing> {
        let now = Instant::now();
        let heartbeat = self.heartbeat.as_mut()?;
        let is_due = heartbeat.due.is_some_and(|due| now >= due);
        is_due.then(|| {
            heartbeat.due = Some(now + heartbeat.interval);
            heartbeat_packet()
        })
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

fn heartbeat_packet() -> Outgoing {
    Outgoing::Message(Payload::copied(Form::Text, dialog::HEARTBEAT.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn only_time_outside_of_pauses_counts() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut deadline = Deadline::None;
        deadline.pause();
        deadline.resume();
        assert!(deadline.time().is_none() && !deadline.is_expired());
        deadline.start(3 * SECOND);
        advance(2 * SECOND).await;
        deadline.pause();
        // A running deadline is not restarted.
        deadline.start(9 * SECOND);
        advance(60 * SECOND).await;
        assert!(deadline.time().is_none() && !deadline.is_expired());
        deadline.resume();
        advance(SECOND / 2).await;
        assert!(!deadline.is_expired());
        advance(SECOND / 2).await;
        assert!(deadline.is_expired());
    }
}
