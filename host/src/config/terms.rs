//! What a resource may set for its connections beside what `[server]` says: how fast they may send, and what may wait for them.

use std::num::NonZeroUsize;
use std::time::Duration;

use toml::de::DeTable;

use super::Limits;
use super::raw::{Keys, Mistakes, Section};
use super::value::{self, Count, Seconds};

/// The table `[server.rate]`, or that of a resource: how fast each connection may send. A change holds for connections that come after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// Messages a second; chunks, control frames and fragments count. Key `messages_per_second`, default 0 in the file: no limit.
    pub messages: Option<NonZeroUsize>,
    /// Bytes a second, as they come from the socket. Key `bytes_per_second`, default 0 in the file: no limit.
    pub bytes: Option<NonZeroUsize>,
    /// So much of either may come at once, in seconds of its rate, and never less than one message. Key `burst`, default 1 s.
    pub burst: Duration,
    /// What becomes of one that sends faster. Key `policy`, default `"delay"`.
    pub policy: RatePolicy,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            messages: None,
            bytes: None,
            burst: Duration::from_secs(1),
            policy: RatePolicy::Delay,
        }
    }
}

/// What becomes of a peer that sends faster than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatePolicy {
    /// `"delay"`: it is read no faster than that.
    Delay,
    /// `"close"`: it is closed (1008).
    Close,
}

/// What may wait for one peer of a resource, and what becomes of more. A change holds for connections that come after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Messages that may wait. Key `outbox_messages`, default that of `[server]`.
    pub messages: usize,
    /// Bytes that may wait. Key `outbox_bytes`, default that of `[server]`.
    pub bytes: usize,
    /// What becomes of more. Key `outbox_policy`, default `"close"`.
    pub policy: OutboxPolicy,
}

impl Outbox {
    pub(super) fn of(limits: &Limits) -> Self {
        let Limits { outbox_messages: messages, outbox_bytes: bytes, .. } = *limits;
        Self { messages, bytes, policy: OutboxPolicy::Close }
    }
}

/// What becomes of a message for which there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxPolicy {
    /// `"close"`: its receiver is closed (1013).
    Close,
    /// `"drop_oldest"`: the oldest messages that wait make place for it.
    DropOldest,
    /// `"conflate"`: a message with a key takes the place of the one with the same key that waits. If that does not help, its receiver
    /// is closed (1013).
    Conflate,
}

pub(super) const RATE: Keys = Keys {
    table: "[server.rate]",
    keys: &["messages_per_second", "bytes_per_second", "burst", "policy"],
};

const MESSAGES: Count = Count::new("messages", 2..=1_000_000, "could not hold any answer");
// Twice what the answers to one read of a socket take (64 KiB), and as much again.
const BYTES: Count = Count::new("bytes", 256 << 10..=1 << 34, "could not hold any answer");

/// `outbox_messages` and `outbox_bytes`, of the server or of a resource.
pub(super) fn outbox_bounds(
    s: &mut Section<'_, '_>,
    (messages, bytes): (usize, usize),
) -> (usize, usize) {
    (s.count("outbox_messages", &MESSAGES, messages), s.count("outbox_bytes", &BYTES, bytes))
}

/// The keys of a resource; what it does not say is as on the server.
pub(super) fn outbox(s: &mut Section<'_, '_>, default: &Outbox) -> Outbox {
    let policies = [
        ("close", OutboxPolicy::Close),
        ("drop_oldest", OutboxPolicy::DropOldest),
        ("conflate", OutboxPolicy::Conflate),
    ];
    let (messages, bytes) = outbox_bounds(s, (default.messages, default.bytes));
    let policy = s.value("outbox_policy", |value| value::choice(value, &policies));
    Outbox { messages, bytes, policy: policy.unwrap_or(default.policy) }
}

/// The table `rate` that is called `name`; what it does not say is as in `default`.
pub(super) fn rate(
    (name, table, at): (String, &DeTable<'_>, usize),
    all: &[&Keys],
    default: &Rate,
    mistakes: &mut Mistakes,
) -> Rate {
    const MESSAGES: Count = Count::new("messages", 0..=1_000_000_000, "");
    const BYTES: Count = Count::new("bytes", 0..=1 << 40, "");
    const BURST: Seconds = Seconds { least: Duration::ZERO, less: "" };
    let mut s = Section::new((name, at), table, &RATE, all, mistakes);
    let policies = [("delay", RatePolicy::Delay), ("close", RatePolicy::Close)];
    let plain = |limit: Option<NonZeroUsize>| limit.map_or(0, NonZeroUsize::get);
    Rate {
        messages: NonZeroUsize::new(s.count(
            "messages_per_second",
            &MESSAGES,
            plain(default.messages),
        )),
        bytes: NonZeroUsize::new(s.count("bytes_per_second", &BYTES, plain(default.bytes))),
        burst: s.seconds("burst", &BURST, default.burst),
        policy: s
            .value("policy", |value| value::choice(value, &policies))
            .unwrap_or(default.policy),
    }
}
