//! Which calls of an application are timed.

use std::time::Duration;

use crate::routing::callback::CallbackKind;

/// Chooses the calls to time. Reading a clock twice costs more than a fast call of `message`; so of
/// these, after some that were fast, only each sixteenth is timed and stands for all of them. What is
/// chosen does not depend on how long it takes, so the times are not distorted.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    /// Fast calls in a row, up to `EVERY`.
    fast: u64,
    /// Calls that were not timed since the last one that was.
    skipped: u64,
}

impl Sampling {
    const EVERY: u64 = 16;
    const FAST: Duration = Duration::from_micros(100);

    /// Returns whether to time the next call; if so, for how many calls it stands.
    pub(super) fn next(&mut self, kind: CallbackKind) -> Option<u64> {
        if kind != CallbackKind::Message || self.fast < Self::EVERY {
            return Some(1);
        }
        self.skipped += 1;
        if self.skipped < Self::EVERY {
            return None;
        }
        self.skipped = 0;
        Some(Self::EVERY)
    }

    /// Takes note of the time that a call took.
    pub(super) fn took(&mut self, kind: CallbackKind, time: Duration) {
        if kind != CallbackKind::Message {
            return;
        }
        let is_fast = time <= Self::FAST;
        self.fast = if is_fast { (self.fast + 1).min(Self::EVERY) } else { 0 };
        if !is_fast {
            self.skipped = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CallbackKind::{Message, Open};

    /// Returns for how many calls the timed ones of `calls` stand.
    fn timed(sampling: &mut Sampling, calls: usize, time: Duration) -> Vec<u64> {
        let call = |_| {
            let stands_for = sampling.next(Message);
            if stands_for.is_some() {
                sampling.took(Message, time);
            }
            stands_for
        };
        (0..calls).filter_map(call).collect()
    }

    #[test]
    fn one_of_sixteen_fast_calls_is_timed_and_each_slow_one() {
        let (fast, slow) = (Duration::from_micros(9), Duration::from_millis(1));
        let mut sampling = Sampling::default();
        assert_eq!(timed(&mut sampling, 100, slow), [1; 100]);
        let mut expected = vec![1; 16];
        expected.extend([16; 5]);
        assert_eq!(timed(&mut sampling, 16 + 5 * 16 + 15, fast), expected);
        assert_eq!(sampling.next(Open), Some(1));
        assert_eq!(timed(&mut sampling, 3, slow), [16, 1, 1]);
    }
}
