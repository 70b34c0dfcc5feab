//! All jobs and their watchers, with limits. A watcher is the uuid of a browser on any resource.
//! Independent of packets and host.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::job::{Job, SavedJob, State};

pub(crate) struct JobTable {
    settings: Settings,
    entries: HashMap<String, Entry>,
    /// Jobs of each watcher.
    watching: HashMap<String, BTreeSet<String>>,
    /// Jobs whose newest state waits for the end of the interval.
    pending: BTreeSet<String>,
}

pub(crate) struct Settings {
    pub(crate) interval: Duration,
    pub(crate) keep: Duration,
    pub(crate) max_jobs: usize,
}

struct Entry {
    job: Job,
    watchers: BTreeSet<String>,
    /// When the watchers last received the state.
    sent: Option<Instant>,
}

/// Who adds a job.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requester {
    Browser,
    /// May replace a job that browsers watch but no script has reported.
    Script,
}

/// The limit that a request would exceed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// `max_jobs`.
    Jobs,
    /// [`MAX_WATCHERS`] of this job.
    Watchers,
    /// [`MAX_WATCHED`] of this watcher.
    Watched,
}

impl JobTable {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            entries: HashMap::new(),
            watching: HashMap::new(),
            pending: BTreeSet::new(),
        }
    }

    pub(crate) fn job(&self, id: &str) -> Option<&Job> {
        self.entries.get(id).map(|entry| &entry.job)
    }

    pub(crate) fn job_mut(&mut self, id: &str) -> Option<&mut Job> {
        self.entries.get_mut(id).map(|entry| &mut entry.job)
    }

    /// Adds a job, unless it exists. At the limit it replaces the least valuable one.
    pub(crate) fn ensure(
        &mut self,
        id: &str,
        requester: Requester,
        now: Instant,
    ) -> Result<(), LimitReached> {
        if !self.entries.contains_key(id) && self.entries.len() >= self.settings.max_jobs {
            let least = self
                .entries
                .iter()
                .filter_map(|(id, entry)| Some((entry.value(requester)?, entry.job.touched(), id)));
            let (_, _, least) = least.min().ok_or(LimitReached::Jobs)?;
            let least = least.clone();
            self.remove(&least);
        }
        let new = || Entry { job: Job::new(now), watchers: BTreeSet::new(), sent: None };
        self.entries.entry(id.to_owned()).or_insert_with(new);
        Ok(())
    }

    /// Adds a watcher; returns whether it is new. A job that has ended or is unknown gets none.
    pub(crate) fn watch(&mut self, id: &str, uuid: &str) -> Result<bool, LimitReached> {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| !entry.job.has_ended()) else {
            return Ok(false);
        };
        if entry.watchers.contains(uuid) {
            return Ok(false);
        }
        if entry.watchers.len() >= MAX_WATCHERS {
            return Err(LimitReached::Watchers);
        }
        if self.watching.get(uuid).is_some_and(|jobs| jobs.len() >= MAX_WATCHED) {
            if entry.is_unused() {
                self.remove(id);
            }
            return Err(LimitReached::Watched);
        }
        entry.watchers.insert(uuid.to_owned());
        self.watching.entry(uuid.to_owned()).or_default().insert(id.to_owned());
        Ok(true)
    }

    /// Removes a watcher, and its jobs that are then unused.
    pub(crate) fn remove_watcher(&mut self, uuid: &str) {
        for id in self.watching.remove(uuid).unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.watchers.remove(uuid);
            if entry.is_unused() {
                self.remove(&id);
            }
        }
    }

    pub(crate) fn watchers(&self, id: &str) -> Vec<String> {
        self.entries.get(id).map(|e| e.watchers.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn is_watched(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| !entry.watchers.is_empty())
    }

    /// Records a new state. Returns whether it may be sent now; else [`JobTable::due`] returns it
    /// later.
    pub(crate) fn changed(&mut self, id: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let is_due = entry.is_due(self.settings.interval, now);
        if !is_due && !entry.watchers.is_empty() {
            self.pending.insert(id.to_owned());
        }
        is_due
    }

    /// Records that the watchers have received the state. A job that has ended loses its watchers.
    pub(crate) fn sent(&mut self, id: &str, now: Instant) {
        self.pending.remove(id);
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !entry.watchers.is_empty() {
            entry.sent = Some(now);
        }
        if entry.job.has_ended() {
            self.remove_watchers(id);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns the pending jobs whose interval has ended.
    pub(crate) fn due(&self, now: Instant) -> Vec<String> {
        let is_due = |id: &&String| {
            self.entries.get(*id).is_none_or(|entry| entry.is_due(self.settings.interval, now))
        };
        self.pending.iter().filter(is_due).cloned().collect()
    }

    /// Removes jobs without a report for `keep`. Returns those that still have watchers: sending
    /// them the state again detects watchers that have gone.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let keep = self.settings.keep;
        let silent = self
            .entries
            .iter()
            .filter(|(_, entry)| now.saturating_duration_since(entry.job.touched()) >= keep);
        let silent: Vec<String> = silent.map(|(id, _)| id.clone()).collect();
        let (watched, unwatched): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|id| self.is_watched(id));
        unwatched.iter().for_each(|id| self.remove(id));
        for id in &watched {
            if let Some(job) = self.job_mut(id) {
                job.touch(now);
            }
        }
        watched
    }

    fn remove(&mut self, id: &str) {
        self.remove_watchers(id);
        self.pending.remove(id);
        self.entries.remove(id);
    }

    fn remove_watchers(&mut self, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        for uuid in std::mem::take(&mut entry.watchers) {
            if let Some(jobs) = self.watching.get_mut(&uuid) {
                jobs.remove(id);
                if jobs.is_empty() {
                    self.watching.remove(&uuid);
                }
            }
        }
    }

    pub(crate) fn save(&self, now: Instant) -> Vec<SavedEntry> {
        let entries = self.entries.iter().map(|(id, entry)| SavedEntry {
            id: id.clone(),
            job: entry.job.save(now),
            watchers: entry.watchers.clone(),
            pending: self.pending.contains(id),
        });
        entries.collect()
    }

    pub(crate) fn load(&mut self, saved: Vec<SavedEntry>, now: Instant) {
        for SavedEntry { id, job, watchers, pending } in saved {
            for uuid in &watchers {
                self.watching.entry(uuid.clone()).or_default().insert(id.clone());
            }
            if pending {
                self.pending.insert(id.clone());
            }
            self.entries.insert(id, Entry { job: Job::load(job, now), watchers, sent: None });
        }
    }
}

impl Entry {
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        self.sent.is_none_or(|sent| now.saturating_duration_since(sent) >= interval)
    }

    /// Whether there is neither a report, a watcher nor a request to abort.
    fn is_unused(&self) -> bool {
        self.job.state() == State::Unknown && self.watchers.is_empty()
    }

    /// Returns the rank for replacement, lowest first; `None` if the job must be kept.
    fn value(&self, requester: Requester) -> Option<u8> {
        match (self.job.is_waiting(), self.job.has_ended()) {
            (true, _) if self.watchers.is_empty() => Some(0),
            (_, true) => Some(1),
            (true, _) if requester == Requester::Script => Some(2),
            _ => None,
        }
    }
}

/// A job with its watchers in a snapshot, format version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedEntry {
    id: String,
    job: SavedJob,
    watchers: BTreeSet<String>,
    #[serde(rename = "late")]
    pending: bool,
}

/// Watchers of a job.
pub(crate) const MAX_WATCHERS: usize = 1000;
/// Unfinished jobs that a browser watches.
pub(crate) const MAX_WATCHED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{End, Report, Step};

    const SECOND: Duration = Duration::from_secs(1);

    fn table(max_jobs: usize) -> JobTable {
        JobTable::new(Settings { interval: SECOND, keep: 60 * SECOND, max_jobs })
    }

    fn report(table: &mut JobTable, id: &str, step: Step, now: Instant) {
        table.ensure(id, Requester::Script, now).unwrap();
        table.job_mut(id).unwrap().report(Report::new(step, "", None), now).unwrap();
    }

    #[test]
    fn at_the_limit_only_expendable_jobs_are_replaced() {
        let (mut table, now) = (table(3), Instant::now());
        report(&mut table, "over", Step::Last(End::Done), now);
        report(&mut table, "runs", Step::Progress, now);
        table.ensure("waits", Requester::Browser, now).unwrap();
        table.watch("waits", "ann").unwrap();
        table.ensure("new", Requester::Browser, now).unwrap();
        assert!(table.job("over").is_none());
        table.watch("new", "ann").unwrap();
        assert_eq!(
            table.ensure("one more", Requester::Browser, now).err(),
            Some(LimitReached::Jobs)
        );
        report(&mut table, "script's", Step::Progress, now);
        report(&mut table, "another", Step::Progress, now);
        assert_eq!(table.ensure("last", Requester::Script, now).err(), Some(LimitReached::Jobs));
        assert!(table.watching.is_empty());
    }

    #[test]
    fn watchers_are_limited_and_leave_no_state() {
        let (mut table, now) = (table(5000), Instant::now());
        for n in 0..MAX_WATCHED {
            let id = n.to_string();
            table.ensure(&id, Requester::Browser, now).unwrap();
            assert_eq!(table.watch(&id, "ann"), Ok(true));
            assert_eq!(table.watch(&id, "ann"), Ok(false));
        }
        table.ensure("more", Requester::Browser, now).unwrap();
        assert_eq!(table.watch("more", "ann"), Err(LimitReached::Watched));
        assert!(table.job("more").is_none(), "an unused job is removed");
        table.ensure("more", Requester::Browser, now).unwrap();
        for n in 0..MAX_WATCHERS {
            table.watch("more", &n.to_string()).unwrap();
        }
        assert_eq!(table.watch("more", "bob"), Err(LimitReached::Watchers));
        table.remove_watcher("ann");
        assert_eq!(table.entries.len(), 1, "the jobs that only ann watched are removed");
        (0..MAX_WATCHERS).for_each(|n| table.remove_watcher(&n.to_string()));
        assert!(table.entries.is_empty() && table.watching.is_empty());
    }

    #[test]
    fn a_change_within_an_interval_waits_for_its_end() {
        let (mut table, now) = (table(9), Instant::now());
        report(&mut table, "a", Step::Progress, now);
        table.watch("a", "ann").unwrap();
        assert!(table.changed("a", now));
        table.sent("a", now);
        assert!(!table.changed("a", now + SECOND / 2) && table.has_pending());
        assert_eq!(table.due(now + SECOND / 2), [""; 0]);
        assert_eq!(table.due(now + SECOND), ["a"]);
        table.sent("a", now + SECOND);
        assert!(!table.has_pending());
    }

    #[test]
    fn silent_jobs_are_removed_unless_they_are_watched() {
        let (mut table, now) = (table(9), Instant::now());
        for id in ["watched", "alone", "over"] {
            report(&mut table, id, Step::Progress, now);
            table.watch(id, "ann").unwrap();
        }
        table.remove_watcher("ann");
        table.watch("watched", "bob").unwrap();
        table.watch("over", "bob").unwrap();
        report(&mut table, "over", Step::Last(End::Done), now);
        table.sent("over", now);
        assert_eq!(table.expire(now + 59 * SECOND), [""; 0]);
        assert_eq!(table.expire(now + 60 * SECOND), ["watched"]);
        assert_eq!(table.entries.len(), 1);
        table.remove_watcher("bob");
        assert_eq!(table.expire(now + 119 * SECOND), [""; 0]);
        table.expire(now + 120 * SECOND);
        assert!(table.entries.is_empty());
    }

    #[test]
    fn a_request_to_abort_survives_its_sender() {
        let (mut table, now) = (table(9), Instant::now());
        table.ensure("a", Requester::Browser, now).unwrap();
        table.job_mut("a").unwrap().abort(now);
        table.watch("a", "ann").unwrap();
        table.remove_watcher("ann");
        assert_eq!(table.job("a").unwrap().state(), State::Aborting);
    }
}
