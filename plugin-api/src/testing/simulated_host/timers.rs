//! Timers, on the clock that the test advances.

use std::time::Duration;

use abi_stable::std_types::RStr;

use super::sending::{MAX_NAME, check_length};
use super::{Instance, Phase, SimulatedHost, Works, call, count_of, status_of};
use crate::abi::{Count, HostContext, status};

/// Maximum number of timers.
const MAX_TIMERS: usize = 100_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    pub(super) due: Duration,
    delay: Duration,
    repeats: bool,
    /// Position among timers that are due at the same time.
    number: u64,
}

impl Timer {
    /// Starts a timer that was set before its instance served.
    pub(super) fn begin(&mut self, now: Duration) {
        self.due = now.saturating_add(self.delay);
    }
}

impl SimulatedHost {
    /// Returns when the first timer is due.
    pub(in crate::testing) fn next_timer(&self) -> Option<Duration> {
        self.timers.values().map(|timer| timer.due).min()
    }

    /// Returns the key of the timer that is due first, and sets it again if it repeats: after the
    /// present, because missed calls are not repeated.
    pub(in crate::testing) fn take_timer(&mut self) -> Option<String> {
        let first = self.timers.iter().min_by_key(|(_, timer)| (timer.due, timer.number));
        let (key, timer) = first.map(|(key, timer)| (key.clone(), *timer))?;
        if timer.repeats {
            let regular = timer.due.saturating_add(timer.delay);
            let delayed = self.now.saturating_add(timer.delay);
            let due = if regular > self.now { regular } else { delayed };
            self.timers.insert(key.clone(), Timer { due, ..timer });
        } else {
            self.timers.remove(&key);
        }
        Some(key)
    }

    /// Returns the keys of the timers, in the order in which they are due.
    pub(in crate::testing) fn timer_keys(&self) -> Vec<String> {
        let mut timers: Vec<_> = self.timers.iter().collect();
        timers.sort_by_key(|(_, timer)| (timer.due, timer.number));
        timers.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

pub(super) extern "C" fn set_timer(
    context: HostContext,
    key: RStr<'_>,
    millis: u64,
    repeats: bool,
) -> u32 {
    status_of(call(context, (3, Works::Starting), |host, instance| {
        check_length(&key, MAX_NAME)?;
        let delay = Duration::from_millis(millis.max(1));
        let due = host.now.saturating_add(delay);
        let number = host.changes;
        let timer = Timer { due, delay, repeats, number };
        let instance = &mut host.instances[instance];
        let is_new = !host.timers.contains_key(key.as_str());
        if is_new && host.timers.len() + instance.early_timers.len() >= MAX_TIMERS {
            return Err(status::TOO_MANY);
        }
        let key = key.to_string();
        match instance.phase {
            Phase::Candidate | Phase::Restoring => {
                instance.early_timers.retain(|(early, _)| *early != key);
                instance.early_timers.push((key, timer));
            }
            _ => drop(host.timers.insert(key, timer)),
        }
        Ok(())
    }))
}

pub(super) extern "C" fn cancel_timer(context: HostContext, key: RStr<'_>) -> Count {
    count_of(call(context, (3, Works::Starting), |host, instance| {
        let key = key.as_str();
        let SimulatedHost { timers, instances, .. } = host;
        let Instance { phase, early_timers, early_cancels, .. } = &mut instances[instance];
        if *phase == Phase::Active {
            return Ok(u64::from(timers.remove(key).is_some()));
        }
        // The predecessor keeps its timers if this instance does not take over.
        let before = early_timers.len();
        early_timers.retain(|(early, _)| early != key);
        let was_early = early_timers.len() < before;
        let was_set = timers.contains_key(key) && !early_cancels.iter().any(|early| early == key);
        if was_set {
            early_cancels.push(key.to_owned());
        }
        Ok(u64::from(was_early || was_set))
    }))
}
