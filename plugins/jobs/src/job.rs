//! One job: its last report and the reports that may follow. Pure: independent of watchers and
//! packets; the caller passes the time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub(crate) struct Job {
    phase: Phase,
    abort_requested: bool,
    text: String,
    /// 0 to 100, or unknown.
    percent: Option<f64>,
    /// Time of the last report or request to abort.
    touched: Instant,
}

enum Phase {
    /// No report yet.
    Waiting,
    Running {
        begun: Instant,
    },
    Ended {
        end: End,
        took: Duration,
    },
}

/// A report of a script.
pub(crate) struct Report {
    step: Step,
    text: String,
    percent: Option<f64>,
}

impl Report {
    pub(crate) fn new(step: Step, text: impl Into<String>, percent: Option<f64>) -> Self {
        Self { step, text: text.into(), percent }
    }

    pub(crate) fn is_last(&self) -> bool {
        self.step != Step::Progress
    }
}

/// The phase that a report sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Progress,
    Last(End),
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum End {
    Done,
    Failed,
    Aborted,
}

/// The state that watchers receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Unknown,
    Running,
    Aborting,
    Aborted,
    Done,
    Failed,
}

/// The job had already ended; the report had no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AlreadyEnded;

impl Job {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Waiting,
            abort_requested: false,
            text: String::new(),
            percent: None,
            touched: now,
        }
    }

    /// Applies a report. A last report without `percent` keeps the previous one; `done` means 100.
    pub(crate) fn report(&mut self, report: Report, now: Instant) -> Result<(), AlreadyEnded> {
        let begun = match self.phase {
            Phase::Waiting => now,
            Phase::Running { begun } => begun,
            Phase::Ended { .. } => return Err(AlreadyEnded),
        };
        let percent = report.percent.map(|percent| percent.clamp(0.0, 100.0));
        (self.phase, self.percent) = match report.step {
            Step::Progress => (Phase::Running { begun }, percent),
            Step::Last(end) => {
                let whole = (end == End::Done).then_some(100.0);
                let took = now.saturating_duration_since(begun);
                (Phase::Ended { end, took }, percent.or(whole).or(self.percent))
            }
        };
        self.text = report.text;
        self.touched = now;
        Ok(())
    }

    /// Requests an abort. Returns `false` if it was requested before or the job has ended.
    pub(crate) fn abort(&mut self, now: Instant) -> bool {
        let is_new = !self.has_ended() && !self.abort_requested;
        if is_new {
            self.abort_requested = true;
            self.touched = now;
        }
        is_new
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        self.touched = now;
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Ended { end: End::Done, .. } => State::Done,
            Phase::Ended { end: End::Failed, .. } => State::Failed,
            Phase::Ended { end: End::Aborted, .. } => State::Aborted,
            _ if self.abort_requested => State::Aborting,
            Phase::Waiting => State::Unknown,
            Phase::Running { .. } => State::Running,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn percent(&self) -> Option<f64> {
        self.percent
    }

    pub(crate) fn touched(&self) -> Instant {
        self.touched
    }

    /// Returns the time from the first report to the last one, or to now.
    pub(crate) fn elapsed(&self, now: Instant) -> Duration {
        match self.phase {
            Phase::Waiting => Duration::ZERO,
            Phase::Running { begun } => now.saturating_duration_since(begun),
            Phase::Ended { took, .. } => took,
        }
    }

    pub(crate) fn save(&self, now: Instant) -> SavedJob {
        let phase = match self.phase {
            Phase::Waiting => SavedPhase::Waiting,
            Phase::Running { begun } => SavedPhase::Running { for_ms: millis(now - begun) },
            Phase::Ended { end, took } => SavedPhase::Over { end, took_ms: millis(took) },
        };
        SavedJob {
            phase,
            abort_requested: self.abort_requested,
            text: self.text.clone(),
            percent: self.percent,
            silent_ms: millis(now - self.touched),
        }
    }

    pub(crate) fn load(saved: SavedJob, now: Instant) -> Self {
        let phase = match saved.phase {
            SavedPhase::Waiting => Phase::Waiting,
            SavedPhase::Running { for_ms } => Phase::Running { begun: ago(for_ms, now) },
            SavedPhase::Over { end, took_ms } => {
                Phase::Ended { end, took: Duration::from_millis(took_ms) }
            }
        };
        Self {
            phase,
            abort_requested: saved.abort_requested,
            text: saved.text,
            percent: saved.percent,
            touched: ago(saved.silent_ms, now),
        }
    }
}

/// A job in a snapshot, format version 1. Times are durations: the monotonic clock has no epoch.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedJob {
    phase: SavedPhase,
    #[serde(rename = "abort_wanted")]
    abort_requested: bool,
    text: String,
    percent: Option<f64>,
    silent_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedPhase {
    Waiting,
    Running { for_ms: u64 },
    Over { end: End, took_ms: u64 },
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn ago(millis: u64, now: Instant) -> Instant {
    now.checked_sub(Duration::from_millis(millis)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_abort_is_a_request_that_the_script_fulfils() {
        let now = Instant::now();
        let mut job = Job::new(now);
        assert_eq!(job.state(), State::Unknown);
        job.report(Report::new(Step::Progress, "one", Some(10.0)), now).unwrap();
        assert_eq!(job.state(), State::Running);
        assert!(job.abort(now) && !job.abort(now));
        job.report(Report::new(Step::Progress, "two", None), now).unwrap();
        assert_eq!((job.state(), job.text(), job.percent()), (State::Aborting, "two", None));
        for (end, expected) in
            [(End::Done, State::Done), (End::Failed, State::Failed), (End::Aborted, State::Aborted)]
        {
            let mut job = Job::load(job.save(now), now);
            job.report(Report::new(Step::Last(end), "", None), now).unwrap();
            assert_eq!(job.state(), expected);
            assert!(!job.abort(now));
        }
    }

    #[test]
    fn a_report_after_the_last_one_has_no_effect() {
        let now = Instant::now();
        let mut job = Job::new(now);
        job.report(Report::new(Step::Progress, "", Some(30.0)), now).unwrap();
        job.report(Report::new(Step::Last(End::Failed), "disk full", None), now + 5 * SECOND)
            .unwrap();
        let late = job.report(Report::new(Step::Progress, "late", Some(99.0)), now + 9 * SECOND);
        assert_eq!((late, job.text(), job.percent()), (Err(AlreadyEnded), "disk full", Some(30.0)));
        assert_eq!(job.elapsed(now + 100 * SECOND), 5 * SECOND);
    }

    #[test]
    fn percent_is_clamped_and_done_is_100() {
        let now = Instant::now();
        let mut job = Job::new(now);
        for (reported, expected) in [(-5.0, 0.0), (50.5, 50.5), (1e300, 100.0)] {
            job.report(Report::new(Step::Progress, "", Some(reported)), now).unwrap();
            assert_eq!(job.percent(), Some(expected));
        }
        job.report(Report::new(Step::Progress, "", Some(50.0)), now).unwrap();
        job.report(Report::new(Step::Last(End::Done), "", None), now).unwrap();
        assert_eq!(job.percent(), Some(100.0));
    }
}
