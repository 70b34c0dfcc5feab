//! The byte budget of an outbox. Pure.
//!
//! Queued and in-flight bytes count up to [`OutboxBounds::bytes`]. Beside that **one** large
//! message may wait uncounted: a limit small enough for thousands of slow consumers would be too
//! small for one large message. So a slow consumer costs at most `bytes` and one message.

use crate::config::{Limits, OutboxPolicy, OutboxSettings};
use crate::protocol::buffered;
use crate::protocol::payload::{Outgoing, Payload};

/// Limits of an outbox, the same for all connections of a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxBounds {
    pub(crate) messages: usize,
    /// Maximum of counted bytes.
    pub(crate) bytes: usize,
    /// Maximum payload of a single message, counted or not.
    pub(crate) message_bytes: usize,
    /// What happens when the limits are exceeded.
    pub(crate) policy: OutboxPolicy,
}

impl OutboxBounds {
    /// Takes the limits from a resource, else from `[server]`. A message may exceed `max_message`
    /// by 4 MiB for what an application adds.
    pub(crate) fn new(limits: &Limits, own: Option<&OutboxSettings>) -> Self {
        const ENVELOPE: usize = 4 << 20;
        let max_message = limits.messages.max_message;
        let flow = &limits.flow;
        let server = (flow.outbox_messages, flow.outbox_bytes, OutboxPolicy::Close);
        let (messages, bytes, policy) =
            own.map_or(server, |own| (own.messages, own.bytes, own.policy));
        Self { messages, bytes, message_bytes: bytes.max(max_message + ENVELOPE), policy }
    }

    /// Returns whether a message of this size can be queued at all.
    pub(crate) fn can_hold(self, payload: &Payload) -> bool {
        payload.len() <= self.message_bytes
    }
}

/// Bytes that count at present.
#[derive(Debug, Default)]
pub(super) struct Budget {
    counted: usize,
    /// The part of `counted` that the connection has taken and not yet written.
    in_writing: usize,
    /// How many entries the connection has taken and not yet written.
    entries_in_writing: u32,
    /// Size of the one uncounted message.
    oversized_bytes: u32,
    oversized: Oversized,
}

/// State of the one uncounted message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Oversized {
    #[default]
    None,
    Waits,
    InWriting,
}

/// How an entry was admitted, which its removal has to undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Counted,
    Oversized,
}

impl Budget {
    /// Admits an entry of `bytes` bytes, if it fits.
    #[inline]
    pub(super) fn admit(&mut self, bytes: usize, limit: usize) -> Option<Fit> {
        let sum = self.counted + bytes;
        if sum <= limit && bytes <= limit / 2 {
            self.counted = sum;
            return Some(Fit::Counted);
        }
        self.admit_oversized(bytes, limit)
    }

    /// An entry above half of the limit is admitted uncounted where possible; a smaller one only if
    /// the counted bytes are full.
    #[cold]
    fn admit_oversized(&mut self, bytes: usize, limit: usize) -> Option<Fit> {
        if self.oversized == Oversized::None {
            self.oversized = Oversized::Waits;
            self.oversized_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            return Some(Fit::Oversized);
        }
        let has_place = self.counted + bytes <= limit;
        self.counted += if has_place { bytes } else { 0 };
        has_place.then_some(Fit::Counted)
    }

    /// Returns whether entries of `bytes` bytes, one of them large, would fit.
    pub(super) fn has_place(&self, bytes: usize, limit: usize) -> bool {
        self.oversized == Oversized::None && self.counted + bytes + limit / 2 <= limit
    }

    /// Records that the connection has taken the whole queue, of `entries` entries.
    pub(super) fn hand_over(&mut self, entries: usize) {
        self.in_writing = self.counted;
        self.entries_in_writing = entries as u32;
        if self.oversized == Oversized::Waits {
            self.oversized = Oversized::InWriting;
        }
    }

    #[inline]
    pub(super) fn is_writing(&self) -> bool {
        self.entries_in_writing > 0
    }

    /// Records that what was taken is written.
    #[inline]
    pub(super) fn written(&mut self) {
        self.counted -= std::mem::take(&mut self.in_writing);
        self.entries_in_writing = 0;
        if self.oversized == Oversized::InWriting {
            self.oversized = Oversized::None;
        }
    }

    /// Returns the bytes that count.
    #[inline]
    pub(super) fn counts(&self) -> usize {
        self.counted
    }

    /// Returns the bytes of all entries, long ones included.
    pub(super) fn bytes(&self) -> usize {
        match self.oversized {
            Oversized::None => self.counted,
            Oversized::Waits | Oversized::InWriting => self.counted + self.oversized_bytes as usize,
        }
    }

    /// Returns the memory of this outbox alone, with `queued` entries: of a long payload, which many
    /// outboxes can refer to, only as much as a short one has.
    #[inline]
    pub(super) fn own_bytes(&self, queued: usize) -> usize {
        let entries = queued + self.entries_in_writing as usize;
        entries * size_of::<Outgoing>() + self.counted.min(entries * buffered::LONG)
    }

    /// Counts an entry that is already queued.
    pub(super) fn count(&mut self, bytes: usize) {
        self.counted += bytes;
    }

    /// Deducts an entry that is removed from the queue.
    pub(super) fn release(&mut self, bytes: usize, place: Fit) {
        match place {
            Fit::Counted => self.counted -= bytes,
            Fit::Oversized => self.oversized = Oversized::None,
        }
    }

    /// Records that what waits is dropped.
    pub(super) fn clear(&mut self) {
        self.counted = self.in_writing;
        if self.oversized == Oversized::Waits {
            self.oversized = Oversized::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits entries of these sizes under a limit of 100; what of them found no place.
    #[track_caller]
    fn check(sizes: &[usize], refused: &[usize]) {
        let mut budget = Budget::default();
        let found: Vec<_> =
            sizes.iter().filter(|size| budget.admit(**size, 100).is_none()).copied().collect();
        assert_eq!(found, refused, "{sizes:?}");
        assert!(budget.counted <= 100);
    }

    #[test]
    fn one_large_message_waits_beside_what_counts() {
        check(&[50, 50], &[]);
        check(&[50, 50, 1], &[]);
        check(&[50, 50, 1, 1], &[1]);
        check(&[100_000, 50, 50], &[]);
        check(&[50, 50, 100_000], &[]);
        check(&[100_000, 100_000], &[100_000]);
        check(&[60, 60, 40], &[]);
        check(&[60, 60, 41, 40], &[41]);
        check(&[100_000, 10, 100_000, 90, 1], &[100_000, 1]);
    }

    #[test]
    fn what_is_being_written_counts_until_it_is_written() {
        let mut budget = Budget::default();
        assert_eq!(budget.admit(1000, 100), Some(Fit::Oversized));
        assert_eq!(budget.admit(40, 100), Some(Fit::Counted));
        budget.hand_over(2);
        assert_eq!(budget.admit(50, 100), Some(Fit::Counted));
        assert_eq!(budget.admit(1000, 100), None);
        budget.clear();
        assert_eq!(budget.counted, 40);
        budget.written();
        assert_eq!((budget.counted, budget.oversized), (0, Oversized::None));
        assert_eq!(budget.admit(1000, 100), Some(Fit::Oversized));
    }

    #[test]
    fn a_read_has_a_place_if_all_of_it_could_be_sent_back() {
        let mut budget = Budget::default();
        assert!(budget.has_place(50, 100));
        assert!(!budget.has_place(51, 100));
        budget.admit(1000, 100);
        assert!(!budget.has_place(0, 100));
        budget.hand_over(1);
        budget.written();
        assert!(budget.has_place(0, 100));
    }
}
