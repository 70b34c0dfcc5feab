//! Logs refused logins, at most a few per minute and resource: an attacker must not fill the log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::info;

use super::Applicant;
use crate::protocol::http::Refusal;

/// Log of the refused logins of one resource.
#[derive(Debug, Default)]
pub(super) struct DenialLog(Mutex<DenialCount>);

#[derive(Debug, Default)]
struct DenialCount {
    /// When the present minute began.
    since: Option<Instant>,
    logged: u64,
    /// Refusals of this minute that are not logged.
    rest: u64,
}

impl DenialCount {
    /// Counts a refusal; returns whether to log it.
    fn add(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        let is_logged = self.logged < PER_MINUTE;
        *(if is_logged { &mut self.logged } else { &mut self.rest }) += 1;
        is_logged
    }

    /// Ends the minute if it is over; returns the number of refusals that were not logged.
    fn end(&mut self, now: Instant) -> u64 {
        match self.since {
            Some(since) if now.duration_since(since) >= MINUTE => std::mem::take(self).rest,
            _ => 0,
        }
    }
}

impl DenialLog {
    /// Logs a refusal, unless there were many in this minute.
    pub(super) fn add(&self, applicant: &Applicant<'_>, refusal: &Refusal) {
        let is_logged = self.count(|count| count.add(Instant::now()));
        if is_logged {
            let (resource, address) = (applicant.resource, applicant.address);
            // An endpoint may send a text of any length.
            let reason: String = refusal.reason().chars().take(80).collect();
            info!(resource, address, status = refusal.status(), reason, "login refused");
        }
    }

    /// Logs how many refusals of the last minute were not logged.
    pub(super) fn report_rest(&self, resource: &str) {
        let count = self.count(|count| count.end(Instant::now()));
        if count > 0 {
            info!(resource, count, "more logins refused within a minute");
        }
    }

    fn count<T>(&self, act: impl FnOnce(&mut DenialCount) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Refusals that are logged in full, per minute and resource.
const PER_MINUTE: u64 = 10;
const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_reported_after_a_minute() {
        let (mut count, start) = (DenialCount::default(), Instant::now());
        let logged = (0..25).filter(|_| count.add(start)).count();
        assert_eq!((logged, count.end(start + MINUTE / 2)), (10, 0));
        assert_eq!(count.end(start + MINUTE), 15);
        assert_eq!(count.end(start + MINUTE * 2), 0);
        assert!(count.add(start + MINUTE * 2));
    }
}
