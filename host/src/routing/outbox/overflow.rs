//! Overflow policies of an outbox other than `close`.
//!
//! `drop_oldest` drops the oldest messages down to seven eighths of the limits at once, so that the
//! work per message stays constant. `conflate` keeps one message per key, found through a map that
//! exists only while a keyed message waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::budget::{Budget, Fit, OutboxBounds};
use super::{Outbox, OutboxState};
use crate::config::OutboxPolicy;
use crate::protocol::payload::Outgoing;

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// Behind the others, of which so many messages were dropped.
    Added { dropped: u32 },
    /// In place of the one with its key.
    Replaced,
}

/// Queue positions of the messages with a key.
#[derive(Debug, Default)]
pub(super) struct ConflationKeys {
    spots: HashMap<Arc<str>, Spot>,
    /// Number of entries that were prepended later.
    before: usize,
}

#[derive(Debug)]
struct Spot {
    index: usize,
    place: Fit,
}

impl Outbox {
    /// Returns the messages and bytes that wait to be written.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.len(), state.queue.iter().map(Outgoing::len).sum())
    }
}

impl OutboxState {
    /// Appends an entry or replaces the one with its key; `None` if the entry does not fit.
    pub(super) fn enter(
        &mut self,
        item: Outgoing,
        key: Option<&Arc<str>>,
        bounds: OutboxBounds,
    ) -> Option<Entered> {
        let key = key.filter(|_| bounds.policy == OutboxPolicy::Conflate);
        if let Some(key) = key
            && let Some(index) = self.keys.as_ref().and_then(|keys| keys.index(key))
        {
            return self.replace(index, key, item, bounds).map(|()| Entered::Replaced);
        }
        let (place, dropped) = self.find_place(item.bytes(), bounds)?;
        if let Some(key) = key {
            let keys = self.keys.get_or_insert_default();
            let index = self.queue.len() - keys.before;
            keys.spots.insert(key.clone(), Spot { index, place });
        }
        self.queue.push_back(item);
        Some(Entered::Added { dropped })
    }

    /// Records that an entry was prepended.
    pub(super) fn shift_keys(&mut self) {
        if let Some(keys) = &mut self.keys {
            keys.before += 1;
        }
    }

    fn replace(
        &mut self,
        index: usize,
        key: &Arc<str>,
        item: Outgoing,
        bounds: OutboxBounds,
    ) -> Option<()> {
        let spot = self.keys.as_mut()?.spots.get_mut(key)?;
        let entry = self.queue.get_mut(index)?;
        self.budget.release(entry.bytes(), spot.place);
        let place = self.budget.admit(item.bytes(), bounds.bytes).or_else(|| {
            self.budget.written();
            self.budget.admit(item.bytes(), bounds.bytes)
        });
        spot.place = place?;
        *entry = item;
        Some(())
    }

    fn find_place(&mut self, bytes: usize, bounds: OutboxBounds) -> Option<(Fit, u32)> {
        if self.queue.len() < bounds.messages
            && let Some(place) = self.budget.admit(bytes, bounds.bytes)
        {
            return Some((place, 0));
        }
        self.make_place(bytes, bounds)
    }

    #[cold]
    fn make_place(&mut self, bytes: usize, bounds: OutboxBounds) -> Option<(Fit, u32)> {
        if bounds.policy == OutboxPolicy::Close {
            return None;
        }
        // In-flight bytes do not count against the newest message: these policies are for values
        // that become outdated.
        self.budget.written();
        let mut dropped = 0;
        let eighth = bounds.messages.div_ceil(8);
        let some = (bounds.messages - eighth, bounds.bytes - bounds.bytes / 8);
        for keep in [None, Some(some), Some((0, 0))] {
            if let Some((messages, bytes)) = keep
                && bounds.policy == OutboxPolicy::DropOldest
            {
                dropped += self.keep_newest(messages, bytes);
            }
            if self.queue.len() < bounds.messages
                && let Some(place) = self.budget.admit(bytes, bounds.bytes)
            {
                return Some((place, dropped));
            }
        }
        None
    }

    /// Keeps the newest messages within the limits, and all entries of the host; returns how many
    /// were dropped.
    fn keep_newest(&mut self, messages: usize, bytes: usize) -> u32 {
        let is_message = |item: &Outgoing| matches!(item, Outgoing::Message(_));
        let others = self.queue.iter().filter(|item| !is_message(item)).count();
        let mut places = messages.saturating_sub(others);
        let mut kept = VecDeque::with_capacity(self.queue.len());
        let mut dropped = 0;
        self.budget = Budget::default();
        while let Some(item) = self.queue.pop_back() {
            if !is_message(&item) {
                self.budget.count(item.bytes());
            } else if places > 0 && self.budget.admit(item.bytes(), bytes).is_some() {
                places -= 1;
            } else {
                // Everything older is dropped as well.
                places = 0;
                dropped += 1;
                continue;
            }
            kept.push_front(item);
        }
        self.queue = kept;
        dropped
    }
}

impl ConflationKeys {
    fn index(&self, key: &Arc<str>) -> Option<usize> {
        self.spots.get(key).map(|spot| spot.index + self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::payload::Payload;
    use crate::routing::outbox::{Gone, Outbox};
    use futures_util::FutureExt;

    fn bounds(policy: OutboxPolicy) -> OutboxBounds {
        OutboxBounds { messages: 4, bytes: 10_000, message_bytes: 100_000, policy }
    }

    fn message(text: &str) -> Outgoing {
        Outgoing::Message(Payload::text(text))
    }

    /// What waits, and the close code.
    fn waiting(outbox: &Outbox) -> (String, Option<u16>) {
        let Some(taken) = outbox.take().now_or_never() else { return (String::new(), None) };
        let text = |item: Outgoing| match item {
            Outgoing::Message(payload) => {
                String::from_utf8_lossy(payload.as_bytes()).chars().take(3).collect()
            }
            other => format!("{other:?}"),
        };
        let texts: Vec<_> = taken.queue.into_iter().map(text).collect();
        (texts.join(" "), taken.close.map(|reason| reason.code.0))
    }

    fn dropped_by(pushed: Result<Entered, Gone>) -> u32 {
        match pushed {
            Ok(Entered::Added { dropped }) => dropped,
            Ok(Entered::Replaced) | Err(Gone) => 0,
        }
    }

    /// Pushes `key=text` or `text`, `.` a `next`; `!` writes all that waits and leaves it in
    /// writing.
    #[track_caller]
    fn check(policy: OutboxPolicy, pushed: &str, expected: (&str, Option<u16>), dropped: u32) {
        let outbox = Outbox::default();
        outbox.accept(None);
        let mut count = 0;
        for item in pushed.split(' ') {
            if item == "!" {
                drop(waiting(&outbox));
                continue;
            }
            let (key, text) = item.split_once('=').map_or((None, item), |(k, t)| (Some(k), t));
            let key: Option<Arc<str>> = key.map(Arc::from);
            let item = match text {
                "." => Outgoing::Next(None),
                text if text.ends_with('+') => message(&text.repeat(5500)),
                text => message(text),
            };
            count += dropped_by(outbox.push_keyed(item, key.as_ref(), bounds(policy)));
        }
        let (texts, code) = expected;
        assert_eq!(waiting(&outbox), (texts.to_owned(), code), "{pushed}");
        assert_eq!(count, dropped, "{pushed}");
    }

    #[test]
    fn the_oldest_messages_go_and_nothing_else() {
        let check = |pushed, expected, dropped| {
            check(OutboxPolicy::DropOldest, pushed, (expected, None), dropped);
        };
        check("a b c d", "a b c d", 0);
        check("a b c d e", "b c d e", 1);
        check("a b c d e f g", "d e f g", 3);
        check("a . b c d", "Next(None) b c d", 1);
        check("a . b . c . d .", "Next(None) Next(None) Next(None) Next(None)", 4);
        // By bytes: one large one beside what counts, and the newest of two.
        check("a 1+ b", "a 1+1 b", 0);
        check("a 1+ b 2+ c", "2+2 c", 3);
        // What is being written takes no place from what comes.
        check("a b 1+ ! c 2+ d e", "c 2+2 d e", 0);
        check("k=1 k=2 k=3 k=4 k=5", "2 3 4 5", 1);
    }

    #[test]
    fn the_newest_of_each_key_waits_in_the_place_of_the_first() {
        let check = |pushed, expected| check(OutboxPolicy::Conflate, pushed, (expected, None), 0);
        check("a=1 a=2 a=3", "3");
        check("a=1 b=1 x a=2 b=2 a=3", "3 2 x");
        check("a=1 ! a=2 a=3", "3");
        check("a=1 . a=1+ a=2 a=2+ a=3+ . b=1", "3+3 Next(None) Next(None) 1");
        check("a=1 b=1 c=1 d=1 a=2 b=2 c=2 d=2", "2 2 2 2");
    }

    #[test]
    fn what_cannot_be_conflated_closes() {
        let closed = ("", Some(1013));
        check(OutboxPolicy::Conflate, "a=1 b=1 c=1 d=1 e=1", closed, 0);
        check(OutboxPolicy::Conflate, "a=1 b c d e", closed, 0);
        check(OutboxPolicy::Conflate, "a=1+ b=1+", closed, 0);
        check(OutboxPolicy::Close, "k=1 k=2 k=3 k=4 k=5", closed, 0);
        check(OutboxPolicy::DropOldest, ". . . . .", closed, 0);
    }

    #[test]
    fn ready_comes_first_and_keys_keep_their_places() {
        let (outbox, key) = (Outbox::default(), Arc::from("k"));
        let push = |text| {
            outbox.push_keyed(message(text), Some(&key), bounds(OutboxPolicy::Conflate)).ok()
        };
        assert_eq!(push("1"), Some(Entered::Added { dropped: 0 }));
        outbox.accept(Some(Outgoing::Ready));
        assert_eq!(push("2"), Some(Entered::Replaced));
        assert_eq!(waiting(&outbox).0, "Ready 2");
        assert!(outbox.lock().keys.is_none(), "an idle outbox owns no memory");
    }

    #[test]
    fn dropping_costs_the_same_however_many_wait() {
        let bounds = OutboxBounds { messages: 100_000, ..bounds(OutboxPolicy::DropOldest) };
        let bounds = OutboxBounds { bytes: 1 << 30, ..bounds };
        let outbox = Outbox::default();
        outbox.accept(None);
        let dropped: u64 = (0..1_000_000)
            .map(|_| u64::from(dropped_by(outbox.push_keyed(message("x"), None, bounds))))
            .sum();
        let left = outbox.take().now_or_never().map_or(0, |taken| taken.queue.len() as u64);
        assert_eq!(dropped + left, 1_000_000);
        assert!(left > 85_000 && left <= 100_000, "{left}");
    }
}
