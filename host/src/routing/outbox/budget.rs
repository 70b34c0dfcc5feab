//! How much may wait for one peer, and how much does. Pure.
//!
//! What waits and what is being written counts, up to [`OutboxBounds::bytes`]; beside that **one** large message may wait uncounted, or a limit
//! that is small enough for thousands of slow peers would be too small for one large message. So a peer that does not read costs at
//! most `bytes` and one message.

use crate::config::{self, Limits, OutboxPolicy};
use crate::protocol::payload::Payload;

/// How much may wait. The same for all connections of a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxBounds {
    pub(crate) messages: usize,
    /// Of all that counts.
    pub(crate) bytes: usize,
    /// Of a single message's payload, counted or not.
    pub(crate) message_bytes: usize,
    /// What becomes of more.
    pub(crate) policy: OutboxPolicy,
}

impl OutboxBounds {
    /// As configured, of a resource or of the server. A message may be as long as any client's, and 4 MiB more for what an application
    /// puts around it.
    pub(crate) fn new(limits: &Limits, own: Option<&config::Outbox>) -> Self {
        const AROUND: usize = 4 << 20;
        let Limits { outbox_messages, outbox_bytes, max_message, .. } = *limits;
        let server = (outbox_messages, outbox_bytes, OutboxPolicy::Close);
        let (messages, bytes, policy) =
            own.map_or(server, |own| (own.messages, own.bytes, own.policy));
        Self { messages, bytes, message_bytes: bytes.max(max_message + AROUND), policy }
    }

    /// Whether a message of this size can wait at all.
    pub(crate) fn can_hold(self, payload: &Payload) -> bool {
        payload.len() <= self.message_bytes
    }
}

/// What counts at the moment.
#[derive(Debug, Default)]
pub(super) struct Budget {
    guard: usize,
    /// Of `guard`, what the connection has taken out and not yet written.
    in_writing: usize,
    oversized: Oversized,
}

/// Where the one uncounted message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Oversized {
    #[default]
    None,
    Waits,
    InWriting,
}

/// How an entry was admitted: what must be given back if it is taken out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Counted,
    Outsize,
}

impl Budget {
    /// Takes an entry of so many bytes in, if there is a place for it.
    #[inline]
    pub(super) fn admit(&mut self, bytes: usize, limit: usize) -> Option<Fit> {
        let sum = self.guard + bytes;
        if sum <= limit && bytes <= limit / 2 {
            self.guard = sum;
            return Some(Fit::Counted);
        }
        self.admit_outsize(bytes, limit)
    }

    /// One that is larger than half of the limit leaves the counted place to others where it can; any other takes this way only when
    /// that is full.
    #[cold]
    fn admit_outsize(&mut self, bytes: usize, limit: usize) -> Option<Fit> {
        if self.oversized == Oversized::None {
            self.oversized = Oversized::Waits;
            return Some(Fit::Outsize);
        }
        let sum = self.guard + bytes;
        (sum <= limit).then(|| {
            self.guard = sum;
            Fit::Counted
        })
    }

    /// Whether there is a place for entries of so many bytes, and a large one among them.
    pub(super) fn has_place(&self, bytes: usize, limit: usize) -> bool {
        self.oversized == Oversized::None && self.guard + bytes + limit / 2 <= limit
    }

    /// The connection has taken out all that waits.
    pub(super) fn hand_over(&mut self) {
        self.in_writing = self.guard;
        if self.oversized == Oversized::Waits {
            self.oversized = Oversized::InWriting;
        }
    }

    /// What it took out is written.
    #[inline]
    pub(super) fn written(&mut self) {
        self.guard -= std::mem::take(&mut self.in_writing);
        if self.oversized == Oversized::InWriting {
            self.oversized = Oversized::None;
        }
    }

    /// Counts an entry that is in already.
    pub(super) fn count(&mut self, bytes: usize) {
        self.guard += bytes;
    }

    /// An entry that waits is taken out by itself.
    pub(super) fn release(&mut self, bytes: usize, place: Fit) {
        match place {
            Fit::Counted => self.guard -= bytes,
            Fit::Outsize => self.oversized = Oversized::None,
        }
    }

    /// What waits is dropped.
    pub(super) fn clear(&mut self) {
        self.guard = self.in_writing;
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
        assert!(budget.guard <= 100);
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
        assert_eq!(budget.admit(1000, 100), Some(Fit::Outsize));
        assert_eq!(budget.admit(40, 100), Some(Fit::Counted));
        budget.hand_over();
        assert_eq!(budget.admit(50, 100), Some(Fit::Counted));
        assert_eq!(budget.admit(1000, 100), None);
        budget.clear();
        assert_eq!(budget.guard, 40);
        budget.written();
        assert_eq!((budget.guard, budget.oversized), (0, Oversized::None));
        assert_eq!(budget.admit(1000, 100), Some(Fit::Outsize));
    }

    #[test]
    fn a_read_has_a_place_if_all_of_it_could_be_sent_back() {
        let mut budget = Budget::default();
        assert!(budget.has_place(50, 100));
        assert!(!budget.has_place(51, 100));
        budget.admit(1000, 100);
        assert!(!budget.has_place(0, 100));
        budget.hand_over();
        budget.written();
        assert!(budget.has_place(0, 100));
    }
}
