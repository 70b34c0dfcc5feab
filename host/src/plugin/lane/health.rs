//! What a lane publishes about its callbacks, and how it is given up.
//!
//! The lane stamps each callback with two stores and reads no clock; [`StallDetector`] compares
//! stamps over time. A callback that never returns cannot be ended. Its lane is *given up*: the
//! instance's host functions are revoked, the inbox refuses items, and the thread is left behind.
//! Giving up and returning from the callback change one atomic word, so exactly one of them is
//! first.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::WatchdogSettings;
use crate::routing::callback::CallbackKind;

/// Revokes the host functions of an instance from outside its lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Revocation {
    state: &'static AtomicU8,
    revoked: u8,
}

impl Revocation {
    /// `revoked` is the value of `state` that revokes them.
    pub(crate) fn new(state: &'static AtomicU8, revoked: u8) -> Self {
        Self { state, revoked }
    }

    pub(crate) fn revoke(&self) {
        self.state.store(self.revoked, Ordering::Release);
    }
}

/// Shared by a lane, its inbox and the watchdog.
#[derive(Debug, Default)]
pub(crate) struct LaneHealth {
    stamp: Stamp,
    generation: AtomicU64,
    revocation: Mutex<Option<Revocation>>,
    is_given_up: AtomicBool,
    given_up: CancellationToken,
}

/// Returns the callback in a stamp, if the lane is in one.
fn callback_of(word: u64) -> Option<CallbackKind> {
    CallbackKind::ALL.into_iter().find(|kind| *kind as u64 == word & LaneHealth::CALLBACK)
}

/// On its own cache line: the lane writes it with each callback, and senders read its neighbours.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stamp(AtomicU64);

impl LaneHealth {
    const CALLBACK: u64 = 0xf;
    const CALL: u64 = 0x10;
    const GIVEN_UP: u64 = 1 << 63;

    /// Marks that a callback begins. Called by the lane only.
    pub(crate) fn begin(&self, callback: CallbackKind) {
        let call = self.stamp.0.load(Ordering::Relaxed) & !Self::CALLBACK;
        self.stamp.0.store(call.wrapping_add(Self::CALL) | callback as u64, Ordering::Release);
    }

    /// Marks that it has returned; false if the lane was given up meanwhile. Called by the lane
    /// only.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        let before = self.stamp.0.fetch_and(!Self::CALLBACK, Ordering::AcqRel);
        before & Self::GIVEN_UP == 0
    }

    /// Publishes the instance that is active from now on.
    pub(crate) fn set_instance(&self, generation: u64, revocation: Option<Revocation>) {
        self.generation.store(generation, Ordering::Relaxed);
        *self.revocation.lock().unwrap_or_else(PoisonError::into_inner) = revocation;
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Returns the running call, if any.
    pub(crate) fn call(&self) -> Option<(u64, CallbackKind)> {
        let word = self.stamp.0.load(Ordering::Acquire);
        callback_of(word).map(|callback| (word, callback))
    }

    /// Gives the lane up if this call is still running.
    pub(crate) fn give_up(&self, call: u64) -> bool {
        let stamp = &self.stamp.0;
        let marked = call | Self::GIVEN_UP;
        if stamp.compare_exchange(call, marked, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let revocation = self.revocation.lock().unwrap_or_else(PoisonError::into_inner);
        revocation.iter().for_each(Revocation::revoke);
        self.is_given_up.store(true, Ordering::Release);
        self.given_up.cancel();
        true
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Completes when the lane is given up.
    pub(crate) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Completes when one call has been running for `callback_limit`, and returns that call.
    pub(crate) async fn stuck_for(&self, limits: &WatchdogSettings) -> u64 {
        let pause = limits.callback_limit / 8;
        let mut checked = Instant::now();
        let mut detector = StallDetector::new(checked);
        loop {
            let now = Instant::now();
            detector.exclude(suspended_for(now - checked, pause));
            checked = now;
            if let Some(StallFinding::Stuck(call, ..)) = detector.poll(self, now, limits) {
                return call;
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Returns how long the process or its machine was suspended, given that a check which runs every
/// `pause` ran after `elapsed`. No callback is to blame for that time.
pub(crate) fn suspended_for(elapsed: Duration, pause: Duration) -> Duration {
    /// Delays up to this are normal on a busy machine.
    const NORMAL: Duration = Duration::from_millis(500);
    let late = elapsed.saturating_sub(pause);
    if late > pause.max(NORMAL) { late } else { Duration::ZERO }
}

/// A finding about one lane, with how long the callback has been running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StallFinding {
    /// A callback exceeds `callback_warn` and still runs.
    Slow(CallbackKind, Duration),
    /// A slow callback has returned.
    Ended(CallbackKind, Duration),
    /// The call exceeds `callback_limit`; it can be given up by its number.
    Stuck(u64, CallbackKind, Duration),
}

/// Detects slow and stuck callbacks of one lane by polling. Durations are as exact as the polling
/// interval.
#[derive(Debug)]
pub(crate) struct StallDetector {
    call: Option<(u64, CallbackKind)>,
    since: Instant,
    was_slow: bool,
    /// Whether the finding `Stuck` was passed on, so that it is not repeated.
    pub(crate) is_stuck_reported: bool,
}

impl StallDetector {
    pub(crate) fn new(now: Instant) -> Self {
        Self { call: None, since: now, was_slow: false, is_stuck_reported: false }
    }

    /// Does not count `time`, in which the process was suspended.
    pub(crate) fn exclude(&mut self, time: Duration) {
        self.since += time;
    }

    /// Checks the lane. Returns `Slow` and `Ended` once for each callback, `Stuck` until that is
    /// marked as reported.
    pub(crate) fn poll(
        &mut self,
        health: &LaneHealth,
        now: Instant,
        limits: &WatchdogSettings,
    ) -> Option<StallFinding> {
        let call = health.call();
        let lasted = now.saturating_duration_since(self.since);
        if let Some((word, callback)) = call
            && call == self.call
        {
            if lasted >= limits.callback_limit && !self.is_stuck_reported {
                return Some(StallFinding::Stuck(word, callback, lasted));
            }
            let is_newly_slow = lasted >= limits.callback_warn && !self.was_slow;
            self.was_slow |= is_newly_slow;
            return is_newly_slow.then_some(StallFinding::Slow(callback, lasted));
        }
        let ended = self.call.filter(|_| self.was_slow);
        *self = Self { call, ..Self::new(now) };
        ended.map(|(_, callback)| StallFinding::Ended(callback, lasted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: WatchdogSettings = WatchdogSettings {
        callback_warn: Duration::from_secs(1),
        callback_limit: Duration::from_secs(5),
        max_panics: None,
        restart_pause: Duration::ZERO,
    };

    #[test]
    fn a_slow_callback_is_reported_once_while_it_runs_and_once_when_it_ends() {
        let (health, start) = (LaneHealth::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let for_ = Duration::from_secs;
        let mut detector = StallDetector::new(start);
        assert_eq!(detector.poll(&health, at(0), &LIMITS), None);
        health.begin(CallbackKind::Message);
        assert_eq!(detector.poll(&health, at(10), &LIMITS), None);
        let slow = StallFinding::Slow(CallbackKind::Message, for_(2));
        assert_eq!(detector.poll(&health, at(12), &LIMITS), Some(slow));
        assert_eq!(detector.poll(&health, at(13), &LIMITS), None);
        assert!(health.end());
        let ended = StallFinding::Ended(CallbackKind::Message, for_(4));
        assert_eq!(detector.poll(&health, at(14), &LIMITS), Some(ended));
        assert_eq!(detector.poll(&health, at(15), &LIMITS), None);
        // Many short calls are not one slow call.
        for second in 20..30 {
            health.begin(CallbackKind::Message);
            assert_eq!(detector.poll(&health, at(second), &LIMITS), None);
            assert!(health.end());
        }
    }

    #[test]
    fn time_in_which_the_process_was_suspended_is_not_counted() {
        let millis = Duration::from_millis;
        for (elapsed, pause, expected) in
            [(125, 125, 0), (600, 125, 0), (700, 125, 575), (6000, 125, 5875), (3000, 2000, 0)]
        {
            assert_eq!(
                suspended_for(millis(elapsed), millis(pause)),
                millis(expected),
                "{elapsed}"
            );
        }
        let (health, start) = (LaneHealth::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut detector = StallDetector::new(start);
        health.begin(CallbackKind::Message);
        assert_eq!(detector.poll(&health, at(1), &LIMITS), None);
        detector.exclude(Duration::from_secs(60));
        assert_eq!(detector.poll(&health, at(61), &LIMITS), None);
        let stuck = detector.poll(&health, at(67), &LIMITS);
        assert!(matches!(stuck, Some(StallFinding::Stuck(_, _, lasted)) if lasted.as_secs() == 6));
    }

    #[test]
    fn giving_up_affects_only_the_call_that_was_found_stuck() {
        static STATE: AtomicU8 = AtomicU8::new(1);
        let (health, start) = (LaneHealth::default(), Instant::now());
        health.set_instance(1, Some(Revocation::new(&STATE, 2)));
        let mut detector = StallDetector::new(start);
        health.begin(CallbackKind::Tick);
        detector.poll(&health, start, &LIMITS);
        let found = detector.poll(&health, start + Duration::from_secs(9), &LIMITS);
        let Some(StallFinding::Stuck(call, CallbackKind::Tick, _)) = found else {
            panic!("{found:?}")
        };
        assert!(health.end());
        assert!(!health.give_up(call) && !health.is_given_up());
        health.begin(CallbackKind::Tick);
        assert!(!health.give_up(call));
        let (call, _) = health.call().unwrap();
        assert!(health.give_up(call) && health.is_given_up());
        assert_eq!(STATE.load(Ordering::Relaxed), 2);
        assert!(!health.end());
    }
}
