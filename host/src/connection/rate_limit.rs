//! Rate limiter of a connection: token buckets for messages and bytes per second.
//!
//! A read is charged after it happened, so a bucket may go into debt by at most one read. With
//! policy `delay` the socket is not read until the debt is paid, which slows the client through TCP
//! (backpressure); with `close` the connection is closed. Pure: the caller passes the clock.

use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::time::Instant;

use crate::config::{RatePolicy, RateSettings};
use crate::protocol::close::CloseReason;
use crate::routing::input::Load;

/// Token buckets of one connection.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
    policy: RatePolicy,
}

/// The client exceeded the rate, and the policy is `close`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RateExceeded {
    pub(crate) reason: CloseReason,
    /// The part of the read that was within the rate.
    pub(crate) allowed: Load,
}

/// A token bucket that may go into debt.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    /// Negative: debt.
    tokens: f64,
    filled: Instant,
    /// Extra tokens, valid until `saved_until`, for the time in which the host did not read.
    saved: f64,
    saved_until: Instant,
}

impl RateLimiter {
    /// Returns `None` if there is no limit.
    pub(crate) fn new(rate: &RateSettings, now: Instant) -> Option<Self> {
        let bucket = |per_second: Option<std::num::NonZeroUsize>| {
            per_second.map(|per_second| Bucket::new(per_second.get() as f64, rate.burst, now))
        };
        let (messages, bytes) = (bucket(rate.messages), bucket(rate.bytes));
        let is_limited = messages.is_some() || bytes.is_some();
        is_limited.then_some(Self { messages, bytes, policy: rate.policy })
    }

    /// Charges `read` to both buckets; returns when reading may resume, or `None` for immediately.
    ///
    /// # Errors
    /// The rate is exceeded and the policy is `close`.
    pub(crate) fn spend(
        &mut self,
        read: Load,
        now: Instant,
    ) -> Result<Option<Instant>, RateExceeded> {
        let left = |bucket: &mut Option<Bucket>| {
            bucket.as_mut().map_or(usize::MAX, |bucket| bucket.fill(now))
        };
        let allowed = Load { messages: left(&mut self.messages), bytes: left(&mut self.bytes) };
        let messages = self.messages.as_mut().and_then(|bucket| bucket.spend(read.messages));
        let bytes = self.bytes.as_mut().and_then(|bucket| bucket.spend(read.bytes));
        if self.policy == RatePolicy::Close {
            let past = [(&self.messages, messages, "messages"), (&self.bytes, bytes, "bytes")];
            for (bucket, debt, what) in past {
                if let (Some(bucket), Some(_)) = (bucket, debt) {
                    let text = format!(
                        "more than {} {what} a second (rate.{what}_per_second)",
                        bucket.per_second
                    );
                    let reason = CloseReason::host(CloseCode::POLICY, text);
                    return Err(RateExceeded { reason, allowed });
                }
            }
        }
        Ok(messages.max(bytes).map(|debt| now + debt))
    }

    /// Credits the time in which the host itself did not read, so that a client that kept its rate
    /// is not closed for the backlog. With policy `delay` a backlog only waits.
    pub(crate) fn save(&mut self, unread: Duration, now: Instant) {
        if self.policy == RatePolicy::Close {
            let buckets = self.messages.iter_mut().chain(&mut self.bytes);
            buckets.for_each(|bucket| bucket.save(unread, now));
        }
    }
}

impl Bucket {
    fn new(per_second: f64, burst: Duration, now: Instant) -> Self {
        // A bucket of less than one token would never admit a message.
        let burst = (per_second * burst.as_secs_f64()).max(1.0);
        Self { per_second, burst, tokens: burst, filled: now, saved: 0.0, saved_until: now }
    }

    /// Refills the bucket; returns the tokens that are available.
    fn fill(&mut self, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + since * self.per_second).min(self.burst);
        if now >= self.saved_until {
            self.saved = 0.0;
        }
        (self.tokens + self.saved) as usize
    }

    /// Adds extra tokens for `unread`, valid for the same time.
    fn save(&mut self, unread: Duration, now: Instant) {
        self.fill(now);
        self.saved += unread.as_secs_f64() * self.per_second;
        self.saved_until = self.saved_until.max(now + unread);
    }

    /// Takes `count` tokens; returns the time until the debt is paid, if there is one.
    fn spend(&mut self, count: usize) -> Option<Duration> {
        let count = count as f64;
        let of_saved = self.saved.min(count);
        self.saved -= of_saved;
        self.tokens -= count - of_saved;
        // At most a day: the debt of one read is small, but the rate may be one byte per second.
        (self.tokens < 0.0)
            .then(|| Duration::from_secs_f64((-self.tokens / self.per_second).min(DAY)))
    }
}

const DAY: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;
    use tokio::time::{advance, sleep_until};

    fn rate_limiter(
        messages: usize,
        bytes: usize,
        burst: f64,
        policy: RatePolicy,
    ) -> Option<RateLimiter> {
        let rate = RateSettings {
            messages: NonZeroUsize::new(messages),
            bytes: NonZeroUsize::new(bytes),
            burst: Duration::from_secs_f64(burst),
            policy,
        };
        RateLimiter::new(&rate, Instant::now())
    }

    /// Returns the waits in seconds after reads of messages of 10 bytes at the given times.
    async fn waits(rate_limiter: &mut RateLimiter, reads: &[(f64, usize)]) -> Vec<f64> {
        let mut waits = Vec::new();
        let start = Instant::now();
        for (at, messages) in reads {
            sleep_until(start + Duration::from_secs_f64(*at)).await;
            let load = Load { messages: *messages, bytes: messages * 10 };
            let until = rate_limiter.spend(load, Instant::now()).unwrap();
            let wait = until.map_or(0.0, |until| (until - Instant::now()).as_secs_f64());
            waits.push((wait * 1000.0).round() / 1000.0);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_delays_the_next_one_by_its_debt() {
        for (limits, reads, expected) in [
            // Ten per second, burst of ten.
            (
                (10, 0, 1.0),
                vec![(0.0, 10), (0.0, 1), (0.1, 1), (2.0, 10)],
                vec![0.0, 0.1, 0.1, 0.0],
            ),
            // A read may go into debt; tokens never exceed the burst.
            ((10, 0, 1.0), vec![(0.0, 64), (60.0, 20)], vec![5.4, 1.0]),
            ((10, 0, 0.0), vec![(0.0, 1), (0.0, 1), (5.0, 2)], vec![0.0, 0.1, 0.1]),
            ((0, 100, 1.0), vec![(0.0, 10), (0.0, 5)], vec![0.0, 0.5]),
            // With both limits, the longer wait counts.
            ((10, 1000, 1.0), vec![(0.0, 20)], vec![1.0]),
            ((1000, 100, 1.0), vec![(0.0, 20)], vec![1.0]),
        ] {
            let (messages, bytes, burst) = limits;
            let mut rate_limiter = rate_limiter(messages, bytes, burst, RatePolicy::Delay).unwrap();
            assert_eq!(waits(&mut rate_limiter, &reads).await, expected, "{limits:?} {reads:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_long_run_the_rate_plus_one_burst_passes() {
        let mut rate_limiter = rate_limiter(50, 0, 2.0, RatePolicy::Delay).unwrap();
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < Duration::from_secs(10) {
            sent += 7;
            if let Some(until) =
                rate_limiter.spend(Load { messages: 7, bytes: 0 }, Instant::now()).unwrap()
            {
                sleep_until(until).await;
            }
        }
        assert!((600..=614).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn policy_close_closes_the_connection() {
        let mut rate_limiter = rate_limiter(5, 1000, 2.0, RatePolicy::Close).unwrap();
        let mut spend =
            |messages, bytes| rate_limiter.spend(Load { messages, bytes }, Instant::now());
        assert_eq!(spend(10, 10), Ok(None));
        advance(Duration::from_secs(1)).await;
        assert_eq!(spend(5, 10), Ok(None));
        let RateExceeded { reason, allowed } = spend(1, 1).unwrap_err();
        assert_eq!(reason.code, CloseCode::POLICY);
        assert_eq!(reason.text, "more than 5 messages a second (rate.messages_per_second)");
        assert_eq!(allowed, Load { messages: 0, bytes: 1990 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_caused_by_the_host_is_not_charged() {
        let mut rate_limiter = rate_limiter(5, 0, 1.0, RatePolicy::Close).unwrap();
        let allowed =
            |result: Result<_, RateExceeded>| result.map_err(|excess| excess.allowed.messages);
        advance(Duration::from_secs(4)).await;
        rate_limiter.save(Duration::from_secs(4), Instant::now());
        for (after, messages, expected) in
            [(0, 12, Ok(None)), (3, 13, Ok(None)), (0, 1, Err(0)), (9, 6, Err(5))]
        {
            advance(Duration::from_secs(after)).await;
            let load = Load { messages, bytes: 0 };
            assert_eq!(
                allowed(rate_limiter.spend(load, Instant::now())),
                expected,
                "{after} {messages}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_there_is_no_limiter() {
        assert!(rate_limiter(0, 0, 1.0, RatePolicy::Close).is_none());
    }
}
