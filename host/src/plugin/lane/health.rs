//! What a lane shows of itself while it runs, and the way to give it up.
//!
//! The lane stamps each callback with two stores; it reads no clock. Whoever wants to know how long a callback has been
//! running looks at the stamp now and then ([`StallDetector`]). A callback that never returns cannot be ended: its lane is
//! *given up*, which mutes the instance, makes the lane's inbox refuse, and leaves the thread to itself. Giving up and returning
//! from the callback meet in one atomic word, so exactly one of them comes first.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::Watchdog;

/// What a lane can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Callback {
    Open = 1,
    Message,
    Close,
    Error,
    Tick,
    Snapshot,
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Message => "message",
            Self::Close => "close",
            Self::Error => "error",
            Self::Tick => "tick",
            Self::Snapshot => "snapshot",
        })
    }
}

impl Callback {
    const ALL: [Self; 6] =
        [Self::Open, Self::Message, Self::Close, Self::Error, Self::Tick, Self::Snapshot];

    fn of(word: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|callback| *callback as u64 == word & LaneHealth::CALLBACK)
    }
}

/// Takes the voice of an instance from outside its lane.
pub(crate) type Revocation = &'static AtomicU8;

/// Shared by a lane, its inbox and whoever watches it.
#[derive(Debug, Default)]
pub(crate) struct LaneHealth {
    stamp: Stamp,
    generation: AtomicU64,
    /// State of the instance's voice and the value that mutes it.
    revocation: Mutex<Option<(Revocation, u8)>>,
    is_given_up: AtomicBool,
    given_up: CancellationToken,
}

/// On a cache line of its own: the lane writes it with each callback, and many read what lies beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stamp(AtomicU64);

impl LaneHealth {
    const CALLBACK: u64 = 0xf;
    const CALL: u64 = 0x10;
    const GIVEN_UP: u64 = 1 << 63;

    /// The lane enters a callback. Only the lane calls this.
    pub(crate) fn begin(&self, callback: Callback) {
        let call = self.stamp.0.load(Ordering::Relaxed) & !Self::CALLBACK;
        self.stamp.0.store(call.wrapping_add(Self::CALL) | callback as u64, Ordering::Release);
    }

    /// The lane has left it; false if the lane was given up meanwhile. Only the lane calls this.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        let before = self.stamp.0.fetch_and(!Self::CALLBACK, Ordering::AcqRel);
        before & Self::GIVEN_UP == 0
    }

    /// The lane has another instance now.
    pub(crate) fn serves(&self, generation: u64, revocation: Option<(Revocation, u8)>) {
        self.generation.store(generation, Ordering::Relaxed);
        *self.revocation.lock().unwrap_or_else(PoisonError::into_inner) = revocation;
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Names the call that is running, if one is.
    pub(crate) fn call(&self) -> Option<(u64, Callback)> {
        let word = self.stamp.0.load(Ordering::Acquire);
        Callback::of(word).map(|callback| (word, callback))
    }

    /// Gives the lane up if it is still in this call.
    pub(crate) fn give_up(&self, call: u64) -> bool {
        let stamp = &self.stamp.0;
        let marked = call | Self::GIVEN_UP;
        if stamp.compare_exchange(call, marked, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        if let Some((state, revoked)) =
            *self.revocation.lock().unwrap_or_else(PoisonError::into_inner)
        {
            state.store(revoked, Ordering::Release);
        }
        self.is_given_up.store(true, Ordering::Release);
        self.given_up.cancel();
        true
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Ends when the lane is given up.
    pub(crate) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// Ends when the lane has been in one and the same callback for `limit`; names the call.
    pub(crate) async fn stuck_for(&self, limit: Duration) -> u64 {
        let pause = limit / 8;
        let mut watch: Option<(u64, Instant)> = None;
        let mut looked = Instant::now();
        loop {
            let now = Instant::now();
            let late = overslept(now - looked, pause);
            looked = now;
            watch = match (self.call(), watch) {
                (Some((call, _)), Some((same, since))) if call == same => {
                    if now - (since + late) >= limit {
                        return call;
                    }
                    Some((call, since + late))
                }
                (call, _) => call.map(|(call, _)| (call, now)),
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// How much later than after its `pause` somebody looks who was to look after it. Where that is long, the whole process stood still (it
/// was stopped, or its machine was), and no callback is to blame for that time.
pub(crate) fn overslept(elapsed: Duration, pause: Duration) -> Duration {
    let late = elapsed.saturating_sub(pause);
    if late > pause.max(SHORT) { late } else { Duration::ZERO }
}

/// So late is anybody on a busy machine.
const SHORT: Duration = Duration::from_millis(500);

/// What is to be said of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StallFinding {
    /// A callback has been running for longer than it should, and still runs.
    Slow(Callback, Duration),
    /// It has come back after all.
    Ended(Callback, Duration),
    /// It has been running past the limit: this call, named so that it can be given up.
    Stuck(u64, Callback, Duration),
}

/// Looks at one lane again and again. Durations are as exact as the looks are frequent.
#[derive(Debug)]
pub(crate) struct StallDetector {
    call: u64,
    callback: Option<Callback>,
    since: Instant,
    was_slow: bool,
    is_known_stuck: bool,
}

impl StallDetector {
    pub(crate) fn new(now: Instant) -> Self {
        Self { call: 0, callback: None, since: now, was_slow: false, is_known_stuck: false }
    }

    /// Somebody knows that it is stuck, and will act.
    pub(crate) fn stuck_is_known(&mut self) {
        self.is_known_stuck = true;
    }

    /// The process stood still for so long.
    pub(crate) fn excuse(&mut self, time: Duration) {
        self.since += time;
    }

    /// What there is to say at this moment; `Slow` and `Ended` once for each callback, `Stuck` until it is known.
    pub(crate) fn look(
        &mut self,
        health: &LaneHealth,
        now: Instant,
        limits: &Watchdog,
    ) -> Option<StallFinding> {
        let (call, callback) = health.call().unzip();
        let lasted = now.saturating_duration_since(self.since);
        if callback.is_some() && call == Some(self.call) {
            let callback = callback?;
            if lasted >= limits.callback_limit && !self.is_known_stuck {
                return Some(StallFinding::Stuck(self.call, callback, lasted));
            }
            if lasted >= limits.callback_warn && !self.was_slow {
                self.was_slow = true;
                return Some(StallFinding::Slow(callback, lasted));
            }
            return None;
        }
        let ended = self.callback.filter(|_| self.was_slow);
        *self = Self {
            call: call.unwrap_or(0),
            callback,
            since: now,
            was_slow: false,
            is_known_stuck: false,
        };
        ended.map(|callback| StallFinding::Ended(callback, lasted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Watchdog = Watchdog {
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
        let mut watch = StallDetector::new(start);
        assert_eq!(watch.look(&health, at(0), &LIMITS), None);
        health.begin(Callback::Message);
        assert_eq!(watch.look(&health, at(10), &LIMITS), None);
        let slow = StallFinding::Slow(Callback::Message, for_(2));
        assert_eq!(watch.look(&health, at(12), &LIMITS), Some(slow));
        assert_eq!(watch.look(&health, at(13), &LIMITS), None);
        assert!(health.end());
        let ended = StallFinding::Ended(Callback::Message, for_(4));
        assert_eq!(watch.look(&health, at(14), &LIMITS), Some(ended));
        assert_eq!(watch.look(&health, at(15), &LIMITS), None);
        // Another call at each look is no slow call, however often the lane is found at work.
        for second in 20..30 {
            health.begin(Callback::Message);
            assert_eq!(watch.look(&health, at(second), &LIMITS), None);
            assert!(health.end());
        }
    }

    #[test]
    fn a_process_that_stood_still_blames_no_callback_for_it() {
        let millis = Duration::from_millis;
        for (elapsed, pause, expected) in
            [(125, 125, 0), (600, 125, 0), (700, 125, 575), (6000, 125, 5875), (3000, 2000, 0)]
        {
            assert_eq!(overslept(millis(elapsed), millis(pause)), millis(expected), "{elapsed}");
        }
        let (health, start) = (LaneHealth::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = StallDetector::new(start);
        health.begin(Callback::Message);
        assert_eq!(watch.look(&health, at(1), &LIMITS), None);
        watch.excuse(Duration::from_secs(60));
        assert_eq!(watch.look(&health, at(61), &LIMITS), None);
        let stuck = watch.look(&health, at(67), &LIMITS);
        assert!(matches!(stuck, Some(StallFinding::Stuck(_, _, lasted)) if lasted.as_secs() == 6));
    }

    #[test]
    fn a_lane_is_given_up_in_the_call_that_was_meant_or_not_at_all() {
        static VOICE: AtomicU8 = AtomicU8::new(1);
        let (health, start) = (LaneHealth::default(), Instant::now());
        health.serves(1, Some((&VOICE, 2)));
        let mut watch = StallDetector::new(start);
        health.begin(Callback::Tick);
        watch.look(&health, start, &LIMITS);
        let found = watch.look(&health, start + Duration::from_secs(9), &LIMITS);
        let Some(StallFinding::Stuck(call, Callback::Tick, _)) = found else { panic!("{found:?}") };
        assert!(health.end());
        assert!(!health.give_up(call) && !health.is_given_up());
        health.begin(Callback::Tick);
        assert!(!health.give_up(call));
        let (call, _) = health.call().unwrap();
        assert!(health.give_up(call) && health.is_given_up());
        assert_eq!(VOICE.load(Ordering::Relaxed), 2);
        assert!(!health.end());
    }
}
