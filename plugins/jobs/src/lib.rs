//! **jobs** shows the progress of long-running work on the server in the browser.
//!
//! The id of the job connects them: a browser receives one for `start` and gives it to the script
//! that does the work, or the script chooses one and names the browser by its uuid. Any client that
//! knows the id may watch the job and request its abort; only the operator's scripts may report.
//! The packets are listed in `docs/reference/bundled-applications.md`.
//!
//! ```toml
//! [resources."/jobs"]
//! plugin = "jobs"
//!
//! [resources."/jobs".config]
//! interval    = 0.1     # minimum seconds between two packets about one job; 0: one per report
//! keep        = 600     # seconds to keep a finished job, or a silent one without watchers
//! max_jobs    = 10000
//! demo        = false   # whether browsers may start simulated jobs
//! web_reports = false   # whether browsers may report
//! ```

mod job;
mod job_table;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    CloseReason, ConnectionId, Host, HostError, Json, Kind, Message, Packet, Plugin, Refused,
    RestoreError, Session, Snapshot, StartError, Target, Verdict, export_plugin, is_uuid,
    read_config,
};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::job::{AlreadyEnded, End, Report, State, Step, ago, millis};
use crate::job_table::{
    JobTable, LimitReached, MAX_WATCHED, MAX_WATCHERS, Requester, SavedEntry, Settings,
};

struct Jobs {
    host: Host,
    config: Config,
    table: JobTable,
    /// Simulated scripts, keyed by job.
    demos: HashMap<String, Demo>,
    interval: Duration,
    /// Time of the last search for silent jobs.
    swept: Instant,
}

struct Demo {
    begun: Instant,
    lasts: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    interval: f64,
    keep: f64,
    max_jobs: usize,
    demo: bool,
    web_reports: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: 0.1, keep: 600.0, max_jobs: 10_000, demo: false, web_reports: false }
    }
}

/// A packet from a browser or script. Missing and null are the same.
struct Request {
    opcode: Option<String>,
    job: Option<String>,
    text: Option<String>,
    uuid: Option<String>,
    percent: Option<f64>,
    seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(tag = "opcode", rename_all = "lowercase")]
enum Answer<'a> {
    Job { job: &'a str },
    Progress { job: &'a str, state: State, text: &'a str, percent: Option<Number>, elapsed: Number },
    Error { error: &'a str },
}

impl Plugin for Jobs {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        let settings = Settings {
            interval: seconds("interval", config.interval, 0.0..=60.0)?,
            keep: seconds("keep", config.keep, 1.0..=604_800.0)?,
            max_jobs: config.max_jobs,
        };
        if config.max_jobs == 0 || config.max_jobs > 1_000_000 {
            let text = format!("`max_jobs` is {}; it must be from 1 to 1000000", config.max_jobs);
            return Err(StartError(text));
        }
        let interval = settings.interval;
        let table = JobTable::new(settings);
        Ok(Self { host, config, table, demos: HashMap::new(), interval, swept: Instant::now() })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let handled = read(message).and_then(|request| self.handle(session, request));
        let fyi = handled.unwrap_or_else(|error| {
            self.send(session.id(), &json(&Answer::Error { error: &error }));
            "refused"
        });
        // Always set: a previous value, also of another configuration, must not remain.
        let fyi = if self.may_report(session) { fyi } else { "" };
        let _ = self.host.set_fyi(session.id(), fyi);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.table.remove_watcher(session.uuid());
    }

    fn tick_every(&self) -> Option<Duration> {
        if self.table.has_pending() || !self.demos.is_empty() {
            return Some(self.interval.clamp(Duration::from_millis(10), Duration::from_secs(1)));
        }
        (!self.table.is_empty()).then_some(IDLE)
    }

    fn tick(&mut self, _: SystemTime) {
        self.advance(Instant::now());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let now = Instant::now();
        let demos = self.demos.iter().map(|(job, demo)| {
            (job.clone(), millis(now.saturating_duration_since(demo.begun)), millis(demo.lasts))
        });
        let saved = Saved { entries: self.table.save(now), demos: demos.collect() };
        let bytes = serde_json::to_vec(&saved).ok()?;
        Some(Snapshot { version: Saved::VERSION, bytes })
    }

    /// Watchers that have gone meanwhile are detected when a packet is sent to them.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != Saved::VERSION {
            let (expected, version) = (Saved::VERSION, snapshot.version);
            return Err(RestoreError(format!(
                "jobs reads snapshots of version {expected}, not {version}"
            )));
        }
        let saved: Saved = serde_json::from_slice(&snapshot.bytes)?;
        let now = Instant::now();
        self.table.load(saved.entries, now);
        self.demos.extend(saved.demos.into_iter().map(|(job, for_ms, lasts_ms)| {
            (job, Demo { begun: ago(for_ms, now), lasts: Duration::from_millis(lasts_ms) })
        }));
        Ok(())
    }
}

export_plugin!(Jobs);

/// Requests of browsers and scripts. Each returns the `fyi` or an error for the sender.
impl Jobs {
    fn handle(&mut self, session: &Session<'_>, request: Request) -> Result<&'static str, String> {
        let now = Instant::now();
        match request.opcode.as_deref() {
            Some("start") => self.start_job(session, now).map(|_| ""),
            Some("demo") => self.start_demo(session, request.seconds, now).map(|()| ""),
            Some("watch") => self.watch(session, &job_of(request.job)?, now).map(|()| ""),
            Some("abort") => self.abort(session, &job_of(request.job)?, now).map(|()| ""),
            Some("progress") => self.report(session, Step::Progress, request, now),
            Some("done") => self.report(session, Step::Last(End::Done), request, now),
            Some("failed") => self.report(session, Step::Last(End::Failed), request, now),
            Some("aborted") => self.report(session, Step::Last(End::Aborted), request, now),
            _ => {
                Err("`opcode` must be start, watch, abort, demo, progress, done, failed or aborted"
                    .to_owned())
            }
        }
    }

    fn start_job(&mut self, session: &Session<'_>, now: Instant) -> Result<String, String> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.table.ensure(&id, Requester::Browser, now).map_err(|limit| self.limit_error(limit))?;
        if session.kind() == Kind::WebSocket {
            self.table.watch(&id, session.uuid()).map_err(|limit| self.limit_error(limit))?;
        }
        self.send(session.id(), &json(&Answer::Job { job: &id }));
        Ok(id)
    }

    fn start_demo(
        &mut self,
        session: &Session<'_>,
        seconds: Option<f64>,
        now: Instant,
    ) -> Result<(), String> {
        if !self.config.demo {
            return Err("demos are disabled; `demo = true` enables them".to_owned());
        }
        if self.demos.len() >= MAX_DEMOS {
            return Err(format!(
                "{MAX_DEMOS} demos are running, which is the limit; try again later"
            ));
        }
        let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
        let lasts = seconds.ok_or("`seconds` must be a number from 0.1 to 3600")?;
        let id = self.start_job(session, now)?;
        self.demos.insert(id, Demo { begun: now, lasts: Duration::from_secs_f64(lasts) });
        self.run_demos(now);
        Ok(())
    }

    fn watch(&mut self, session: &Session<'_>, id: &str, now: Instant) -> Result<(), String> {
        if session.kind() != Kind::WebSocket {
            return Err("only clients of kind websocket can watch a job".to_owned());
        }
        self.table.ensure(id, Requester::Browser, now).map_err(|limit| self.limit_error(limit))?;
        self.table.watch(id, session.uuid()).map_err(|limit| self.limit_error(limit))?;
        self.show(session.id(), id, now);
        Ok(())
    }

    fn abort(&mut self, session: &Session<'_>, id: &str, now: Instant) -> Result<(), String> {
        let job = self.table.job_mut(id).ok_or("no job has this id")?;
        let watchers = if job.abort(now) { self.notify_watchers(id, now) } else { Vec::new() };
        if !watchers.iter().any(|uuid| uuid == session.uuid()) {
            self.show(session.id(), id, now);
        }
        Ok(())
    }

    fn report(
        &mut self,
        session: &Session<'_>,
        step: Step,
        request: Request,
        now: Instant,
    ) -> Result<&'static str, String> {
        if !self.may_report(session) {
            return Err(
                "only scripts may report; `web_reports = true` allows browsers too".to_owned()
            );
        }
        let id = job_of(request.job)?;
        let uuid = request.uuid.filter(|uuid| !uuid.is_empty());
        if uuid.as_deref().is_some_and(|uuid| !is_uuid(uuid)) {
            return Err("`uuid` must be the uuid that a browser received in `ready`".to_owned());
        }
        self.table.ensure(&id, Requester::Script, now).map_err(|limit| self.limit_error(limit))?;
        let new_watcher = match uuid {
            Some(uuid) => {
                let is_new =
                    self.table.watch(&id, &uuid).map_err(|limit| self.limit_error(limit))?;
                Some(uuid).filter(|_| is_new)
            }
            None => None,
        };
        let mut text = request.text.unwrap_or_default();
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
        }
        let notified = self
            .apply_report(&id, Report::new(step, text, request.percent), now)
            .map_err(|AlreadyEnded| "this job has ended; a new run needs a new id".to_owned())?;
        let is_watched = match notified {
            Some(watchers) => !watchers.is_empty(),
            None => {
                // The others wait for the interval; the new watcher has received nothing yet.
                if let Some(uuid) = new_watcher {
                    self.notify(&uuid, &id, now);
                }
                self.table.is_watched(&id)
            }
        };
        Ok(match self.table.job(&id).map(job::Job::state) {
            Some(State::Aborting) => "abort",
            _ if is_watched => "watched",
            _ => "unwatched",
        })
    }

    fn may_report(&self, session: &Session<'_>) -> bool {
        session.kind().is_backend() || self.config.web_reports
    }

    fn limit_error(&self, limit: LimitReached) -> String {
        match limit {
            LimitReached::Jobs => {
                let max_jobs = self.config.max_jobs;
                let s = if max_jobs == 1 { "" } else { "s" };
                format!("the limit of {max_jobs} job{s} is reached; try again later")
            }
            LimitReached::Watchers => {
                format!("this job has {MAX_WATCHERS} watchers, which is the limit")
            }
            LimitReached::Watched => {
                format!("this browser watches {MAX_WATCHED} unfinished jobs, which is the limit")
            }
        }
    }
}

/// Periodic work, and sending states to watchers.
impl Jobs {
    fn advance(&mut self, now: Instant) {
        self.run_demos(now);
        for id in self.table.due(now) {
            self.notify_watchers(&id, now);
        }
        if now.saturating_duration_since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            for id in self.table.expire(now) {
                self.notify_watchers(&id, now);
            }
        }
    }

    /// Reports for every demo, in place of a script.
    fn run_demos(&mut self, now: Instant) {
        let mut demos = std::mem::take(&mut self.demos);
        demos.retain(|id, Demo { begun, lasts }| {
            let part = now.saturating_duration_since(*begun).as_secs_f64() / lasts.as_secs_f64();
            let is_aborting = self.table.job(id).map(job::Job::state) == Some(State::Aborting);
            let (step, text) = match part {
                _ if is_aborting => (Step::Last(End::Aborted), "stopped on request".to_owned()),
                1.0.. => (Step::Last(End::Done), "the demo is over".to_owned()),
                _ => (Step::Progress, format!("step {:.0} of 10", (part * 10.0).floor() + 1.0)),
            };
            let percent = (step == Step::Progress).then_some(part * 100.0);
            // Fails if a script has ended the job.
            let report = Report::new(step, text, percent);
            self.apply_report(id, report, now).is_ok() && step == Step::Progress
        });
        self.demos = demos;
    }

    /// Applies a report and sends it, unless it must wait for the interval. A last report never
    /// waits. Returns the watchers that it was sent to, `None` if it waits.
    fn apply_report(
        &mut self,
        id: &str,
        report: Report,
        now: Instant,
    ) -> Result<Option<Vec<String>>, AlreadyEnded> {
        let job = self.table.job_mut(id).ok_or(AlreadyEnded)?;
        let is_last = report.is_last();
        job.report(report, now)?;
        let is_due = self.table.changed(id, now) || is_last;
        Ok(is_due.then(|| self.notify_watchers(id, now)))
    }

    /// Sends the newest state to every watcher; returns those that are connected.
    fn notify_watchers(&mut self, id: &str, now: Instant) -> Vec<String> {
        let mut watchers = self.table.watchers(id);
        watchers.retain(|uuid| self.notify(uuid, id, now));
        self.table.sent(id, now);
        watchers
    }

    /// Sends the newest state to a browser on any resource. Removes the watcher if it is gone.
    fn notify(&mut self, uuid: &str, id: &str, now: Instant) -> bool {
        let Some(packet) = self.packet(id, now) else { return false };
        let is_gone = self.host.feedback(Target::Uuid(uuid), &packet) == Ok(Verdict::Gone);
        if is_gone {
            self.table.remove_watcher(uuid);
        }
        !is_gone
    }

    fn show(&self, to: ConnectionId, id: &str, now: Instant) {
        if let Some(packet) = self.packet(id, now) {
            self.send(to, &packet);
        }
    }

    fn packet(&self, id: &str, now: Instant) -> Option<String> {
        let job = self.table.job(id)?;
        Some(json(&Answer::Progress {
            job: id,
            state: job.state(),
            text: job.text(),
            percent: job.percent().map(tenths),
            elapsed: tenths(job.elapsed(now).as_secs_f64()),
        }))
    }

    fn send(&self, to: ConnectionId, packet: &str) {
        match self.host.send(to, packet) {
            // The client is gone, or this instance has been replaced.
            Ok(()) | Err(HostError::Gone | HostError::Retired) => {}
            Err(error) => self.host.log(plugsocket_plugin::Level::Warn, &error.to_string()),
        }
    }
}

fn job_of(id: Option<String>) -> Result<String, String> {
    id.filter(|id| (1..=MAX_ID).contains(&id.chars().count()))
        .ok_or_else(|| format!("`job` must be a string of 1 to {MAX_ID} characters"))
}

fn seconds(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<Duration, StartError> {
    if !range.contains(&value) {
        let (least, most) = range.into_inner();
        let text = format!("`{key}` is {value}; it must be from {least} to {most} seconds");
        return Err(StartError(text));
    }
    Ok(Duration::from_secs_f64(value))
}

/// Rounds to one decimal; a whole number has none.
fn tenths(value: f64) -> Number {
    let rounded = (value * 10.0).round() / 10.0;
    match rounded.fract() == 0.0 {
        true => Number::from_i128(rounded as i128),
        false => Number::from_f64(rounded),
    }
    .unwrap_or_else(|| Number::from(0))
}

fn read(message: Message<'_>) -> Result<Request, String> {
    let packet = Packet::read(message).map_err(|refused| refused.reason)?;
    let text = |value: Option<Json<'_>>, key: &str| {
        let text = value.map(|value| value.to_text().map(Cow::into_owned));
        text.map(|text| text.ok_or_else(|| format!("`{key}` must be a string"))).transpose()
    };
    let number = |value: Option<Json<'_>>, key: &str| {
        let number = value.map(Json::to_number);
        number.map(|number| number.ok_or_else(|| format!("`{key}` must be a number"))).transpose()
    };
    let [opcode, job, words, uuid, percent, seconds] =
        packet.fields(["opcode", "job", "text", "uuid", "percent", "seconds"]);
    Ok(Request {
        opcode: text(opcode, "opcode")?,
        job: text(job, "job")?,
        text: text(words, "text")?,
        uuid: text(uuid, "uuid")?,
        percent: number(percent, "percent")?,
        seconds: number(seconds, "seconds")?,
    })
}

fn json(packet: &Answer<'_>) -> String {
    serde_json::to_string(packet).expect("strings and numbers always have a JSON form")
}

/// The snapshot.
#[derive(Serialize, Deserialize)]
struct Saved {
    entries: Vec<SavedEntry>,
    /// Job, milliseconds since its start, milliseconds that it lasts.
    demos: Vec<(String, u64, u64)>,
}

impl Saved {
    const VERSION: u32 = 1;
}

/// Interval between ticks while no state waits to be sent.
const IDLE: Duration = Duration::from_secs(1);
const MAX_DEMOS: usize = 100;
/// Characters of a job's id.
const MAX_ID: usize = 100;
/// Characters of a report's text; the rest is discarded.
const MAX_TEXT: usize = 1000;

#[cfg(test)]
mod tests;
