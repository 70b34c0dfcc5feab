//! Rate limit and outbox: settings of `[server]` that a resource can override for its own
//! connections.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::keys::settings;
use super::rules::{Rule, choice, count, limit, seconds};

settings! {
    /// Rate limit of each client, as a token bucket.
    pub struct RateSettings in "rate." {
        /// Messages that a client may send per second, 0: no limit. Chunks, control frames and
        /// fragments count as messages.
        "messages_per_second" => messages: Option<NonZeroUsize> =
            limit("messages", 1_000_000_000, 0);
        /// Bytes that a client may send per second, 0: no limit. The host counts them as they come
        /// from the socket.
        "bytes_per_second" => bytes: Option<NonZeroUsize> = limit("bytes", 1 << 40, 0);
        /// Size of the bucket, in seconds of the rate. At least one message always fits.
        "burst" => burst: Duration = seconds(1.0, 0.0, "");
        /// Treatment of a client that exceeds the rate: the host reads it more slowly, or closes it
        /// (1008).
        "policy" => policy: RatePolicy =
            choice(&[("delay", RatePolicy::Delay), ("close", RatePolicy::Close)]);
    }
}

/// Treatment of a client that exceeds its rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatePolicy {
    /// `"delay"`: the host reads it more slowly.
    Delay,
    /// `"close"`: the host closes it (1008).
    Close,
}

settings! {
    /// Messages that wait for a slow consumer.
    pub struct OutboxSettings in "" {
        /// Messages that may wait for one client.
        "outbox_messages" => messages: usize = outbox_messages().inherited();
        /// Bytes that may wait for one client, with one larger message beside them.
        "outbox_bytes" => bytes: usize = outbox_bytes().inherited();
        /// Treatment of a message that finds the queue full: the host closes the receiver (1013),
        /// drops the oldest waiting messages, or replaces the waiting message that has the same
        /// key.
        "outbox_policy" => policy: OutboxPolicy = choice(&[
            ("close", OutboxPolicy::Close),
            ("drop_oldest", OutboxPolicy::DropOldest),
            ("conflate", OutboxPolicy::Conflate),
        ]);
    }
}

/// Treatment of a message that finds its receiver's queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxPolicy {
    /// `"close"`: the host closes the receiver (1013).
    Close,
    /// `"drop_oldest"`: the host drops the oldest waiting messages.
    DropOldest,
    /// `"conflate"`: a message with a key replaces the waiting message with the same key. If there
    /// is none, the host closes the receiver (1013).
    Conflate,
}

pub(super) fn outbox_messages() -> Rule<usize> {
    // At least an answer and its `next`.
    count("messages", 2..=1_000_000, 1024, "could not hold an answer")
}

pub(super) fn outbox_bytes() -> Rule<usize> {
    // At least twice what the answers to one read of a socket take (64 KiB), and as much again.
    count("bytes", 256 << 10..=1 << 34, 1 << 20, "could not hold an answer")
}
