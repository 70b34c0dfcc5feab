//! All jobs and who watches them, within bounds. Watchers are uuids: a browser watches by what it was told in its `ready`,
//! on whichever resource it is. Knows no packets and no host.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::job::{Job, SavedJob, State};

pub(crate) struct Board {
    rules: Rules,
    entries: HashMap<String, Entry>,
    /// By watcher, the jobs of its entries.
    watching: HashMap<String, BTreeSet<String>>,
    /// Jobs with news that their watchers have not been told yet.
    late: BTreeSet<String>,
}

pub(crate) struct Rules {
    pub(crate) interval: Duration,
    pub(crate) keep: Duration,
    pub(crate) max_jobs: usize,
}

struct Entry {
    job: Job,
    watchers: BTreeSet<String>,
    told: Option<Instant>,
}

/// Who wants a place on the board.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Browser,
    /// May take the place of a job that is only waited for.
    Script,
}

/// A limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Board,
    /// This job has all the watchers that it may have.
    Job,
    /// This watcher watches all the jobs that it may watch.
    Watcher,
}

impl Board {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, entries: HashMap::new(), watching: HashMap::new(), late: BTreeSet::new() }
    }

    pub(crate) fn job(&self, id: &str) -> Option<&Job> {
        self.entries.get(id).map(|entry| &entry.job)
    }

    pub(crate) fn job_mut(&mut self, id: &str) -> Option<&mut Job> {
        self.entries.get_mut(id).map(|entry| &mut entry.job)
    }

    /// From here on there is a job with this id.
    pub(crate) fn ensure(&mut self, id: &str, asker: Asker, now: Instant) -> Result<(), Full> {
        if !self.entries.contains_key(id) && self.entries.len() >= self.rules.max_jobs {
            let least = self
                .entries
                .iter()
                .filter_map(|(id, entry)| Some((entry.worth(asker)?, entry.job.touched(), id)));
            let (_, _, least) = least.min().ok_or(Full::Board)?;
            let least = least.clone();
            self.remove(&least);
        }
        let new = || Entry { job: Job::new(now), watchers: BTreeSet::new(), told: None };
        self.entries.entry(id.to_owned()).or_insert_with(new);
        Ok(())
    }

    /// Answers whether it watches only from now on. A job that is over or not there has no watchers.
    pub(crate) fn watch(&mut self, id: &str, uuid: &str) -> Result<bool, Full> {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| !entry.job.is_over()) else {
            return Ok(false);
        };
        if entry.watchers.contains(uuid) {
            return Ok(false);
        }
        if entry.watchers.len() >= MAX_WATCHERS {
            return Err(Full::Job);
        }
        if self.watching.get(uuid).is_some_and(|jobs| jobs.len() >= MAX_WATCHED) {
            if entry.is_nothing() {
                self.remove(id);
            }
            return Err(Full::Watcher);
        }
        entry.watchers.insert(uuid.to_owned());
        self.watching.entry(uuid.to_owned()).or_default().insert(id.to_owned());
        Ok(true)
    }

    /// The watcher has gone. A job that nobody has reported on, wants aborted or waits for is nothing.
    pub(crate) fn leave(&mut self, uuid: &str) {
        for id in self.watching.remove(uuid).unwrap_or_default() {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.watchers.remove(uuid);
            if entry.is_nothing() {
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

    /// There is news. Answers whether the watchers may be told now; else it comes with [`Board::due`].
    pub(crate) fn news(&mut self, id: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get(id) else { return false };
        let is_due = entry.is_due(self.rules.interval, now);
        if !is_due && !entry.watchers.is_empty() {
            self.late.insert(id.to_owned());
        }
        is_due
    }

    /// The watchers have been told what there is; of a job that is over they will hear nothing more.
    pub(crate) fn told(&mut self, id: &str, now: Instant) {
        self.late.remove(id);
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !entry.watchers.is_empty() {
            entry.told = Some(now);
        }
        if entry.job.is_over() {
            self.dismiss(id);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.late.is_empty()
    }

    /// Late news whose time has come.
    pub(crate) fn due(&self, now: Instant) -> Vec<String> {
        let is_due = |id: &&String| {
            self.entries.get(*id).is_none_or(|entry| entry.is_due(self.rules.interval, now))
        };
        self.late.iter().filter(is_due).cloned().collect()
    }

    /// Forgets what was silent for too long. Answers the silent jobs that are still watched: telling their watchers once
    /// more shows which of these have gone.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<String> {
        let keep = self.rules.keep;
        let silent = self
            .entries
            .iter()
            .filter(|(_, entry)| now.saturating_duration_since(entry.job.touched()) >= keep);
        let silent: Vec<String> = silent.map(|(id, _)| id.clone()).collect();
        let (watched, forgotten): (Vec<_>, Vec<_>) =
            silent.into_iter().partition(|id| self.is_watched(id));
        forgotten.iter().for_each(|id| self.remove(id));
        for id in &watched {
            if let Some(job) = self.job_mut(id) {
                job.touch(now);
            }
        }
        watched
    }

    fn remove(&mut self, id: &str) {
        self.dismiss(id);
        self.late.remove(id);
        self.entries.remove(id);
    }

    fn dismiss(&mut self, id: &str) {
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
            late: self.late.contains(id),
        });
        entries.collect()
    }

    pub(crate) fn load(&mut self, saved: Vec<SavedEntry>, now: Instant) {
        for SavedEntry { id, job, watchers, late } in saved {
            for uuid in &watchers {
                self.watching.entry(uuid.clone()).or_default().insert(id.clone());
            }
            if late {
                self.late.insert(id.clone());
            }
            self.entries.insert(id, Entry { job: Job::load(job, now), watchers, told: None });
        }
    }
}

impl Entry {
    fn is_due(&self, interval: Duration, now: Instant) -> bool {
        self.told.is_none_or(|told| now.saturating_duration_since(told) >= interval)
    }

    fn is_nothing(&self) -> bool {
        self.job.state() == State::Unknown && self.watchers.is_empty()
    }

    /// The lower, the sooner it gives way to another job; None: it does not.
    fn worth(&self, asker: Asker) -> Option<u8> {
        match (self.job.is_waiting(), self.job.is_over()) {
            (true, _) if self.watchers.is_empty() => Some(0),
            (_, true) => Some(1),
            (true, _) if asker == Asker::Script => Some(2),
            _ => None,
        }
    }
}

/// A job with its watchers in a snapshot, version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedEntry {
    id: String,
    job: SavedJob,
    watchers: BTreeSet<String>,
    late: bool,
}

/// Of one job.
pub(crate) const MAX_WATCHERS: usize = 1000;
/// Unfinished jobs that one browser watches.
pub(crate) const MAX_WATCHED: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{End, Report, Step};

    const SECOND: Duration = Duration::from_secs(1);

    fn board(max_jobs: usize) -> Board {
        Board::new(Rules { interval: SECOND, keep: 60 * SECOND, max_jobs })
    }

    fn report(board: &mut Board, id: &str, step: Step, now: Instant) {
        board.ensure(id, Asker::Script, now).unwrap();
        board.job_mut(id).unwrap().report(Report::new(step, "", None), now).unwrap();
    }

    #[test]
    fn a_full_board_gives_way_only_where_little_is_lost() {
        let (mut board, now) = (board(3), Instant::now());
        report(&mut board, "over", Step::Last(End::Done), now);
        report(&mut board, "runs", Step::Progress, now);
        board.ensure("waits", Asker::Browser, now).unwrap();
        board.watch("waits", "ann").unwrap();
        board.ensure("new", Asker::Browser, now).unwrap();
        assert!(board.job("over").is_none());
        board.watch("new", "ann").unwrap();
        assert_eq!(board.ensure("one more", Asker::Browser, now).err(), Some(Full::Board));
        report(&mut board, "script's", Step::Progress, now);
        report(&mut board, "another", Step::Progress, now);
        assert_eq!(board.ensure("last", Asker::Script, now).err(), Some(Full::Board));
        assert!(board.watching.is_empty());
    }

    #[test]
    fn watchers_are_bounded_and_leave_nothing_behind() {
        let (mut board, now) = (board(5000), Instant::now());
        for n in 0..MAX_WATCHED {
            let id = n.to_string();
            board.ensure(&id, Asker::Browser, now).unwrap();
            assert_eq!(board.watch(&id, "ann"), Ok(true));
            assert_eq!(board.watch(&id, "ann"), Ok(false));
        }
        board.ensure("more", Asker::Browser, now).unwrap();
        assert_eq!(board.watch("more", "ann"), Err(Full::Watcher));
        assert!(board.job("more").is_none(), "a job that is nothing takes no place");
        board.ensure("more", Asker::Browser, now).unwrap();
        for n in 0..MAX_WATCHERS {
            board.watch("more", &n.to_string()).unwrap();
        }
        assert_eq!(board.watch("more", "bob"), Err(Full::Job));
        board.leave("ann");
        assert_eq!(board.entries.len(), 1, "the jobs that only ann waited for are gone");
        (0..MAX_WATCHERS).for_each(|n| board.leave(&n.to_string()));
        assert!(board.entries.is_empty() && board.watching.is_empty());
    }

    #[test]
    fn news_within_an_interval_waits_for_its_end() {
        let (mut board, now) = (board(9), Instant::now());
        report(&mut board, "a", Step::Progress, now);
        board.watch("a", "ann").unwrap();
        assert!(board.news("a", now));
        board.told("a", now);
        assert!(!board.news("a", now + SECOND / 2) && board.has_news());
        assert_eq!(board.due(now + SECOND / 2), [""; 0]);
        assert_eq!(board.due(now + SECOND), ["a"]);
        board.told("a", now + SECOND);
        assert!(!board.has_news());
    }

    #[test]
    fn silent_jobs_are_forgotten_unless_somebody_watches() {
        let (mut board, now) = (board(9), Instant::now());
        for id in ["watched", "alone", "over"] {
            report(&mut board, id, Step::Progress, now);
            board.watch(id, "ann").unwrap();
        }
        board.leave("ann");
        board.watch("watched", "bob").unwrap();
        board.watch("over", "bob").unwrap();
        report(&mut board, "over", Step::Last(End::Done), now);
        board.told("over", now);
        assert_eq!(board.expire(now + 59 * SECOND), [""; 0]);
        assert_eq!(board.expire(now + 60 * SECOND), ["watched"]);
        assert_eq!(board.entries.len(), 1);
        board.leave("bob");
        assert_eq!(board.expire(now + 119 * SECOND), [""; 0]);
        board.expire(now + 120 * SECOND);
        assert!(board.entries.is_empty());
    }

    #[test]
    fn a_wish_to_abort_outlives_the_one_who_had_it() {
        let (mut board, now) = (board(9), Instant::now());
        board.ensure("a", Asker::Browser, now).unwrap();
        board.job_mut("a").unwrap().abort(now);
        board.watch("a", "ann").unwrap();
        board.leave("ann");
        assert_eq!(board.job("a").unwrap().state(), State::Aborting);
    }
}
