//! **jobs** shows in the browser how far long work on the server is.
//!
//! The job's id connects the two: a browser gets one by `start` and hands it to the script that does the work, or the
//! script makes one up and names the browser by its uuid. Whoever knows the id may watch and ask for an abort; only the
//! operator's scripts may report. `docs/applications.md` has the table of packets.
//!
//! ```toml
//! [resources."/jobs"]
//! plugin = "jobs"
//!
//! [resources."/jobs".config]
//! interval    = 0.1     # seconds between two packets about one job, at least; 0: every report is a packet
//! keep        = 600     # seconds that a finished, or a silent and unwatched job is remembered
//! max_jobs    = 10000
//! demo        = false   # whether a browser may ask for a pretended job
//! web_reports = false   # whether browsers may report too
//! ```
//!
//! To read on: `job` is what a job goes through, `board` all jobs and who watches them.

mod board;
mod job;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    CloseReason, ConnectionId, Host, HostError, Kind, Message, Plugin, Refused, RestoreError,
    Session, Snapshot, StartError, Target, Verdict, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::board::{Asker, Board, Full, MAX_WATCHED, MAX_WATCHERS, Rules, SavedEntry};
use crate::job::{End, IsOver, Report, State, Step, ago, millis};

struct Jobs {
    host: Host,
    config: Config,
    board: Board,
    /// By job.
    demos: HashMap<String, Demo>,
    interval: Duration,
    /// When silent jobs were looked for last.
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

/// What a browser or a script says. Absent and null are the same.
#[derive(Deserialize)]
struct Wish {
    opcode: Option<String>,
    job: Option<String>,
    text: Option<String>,
    percent: Option<f64>,
    uuid: Option<String>,
    seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(tag = "opcode", rename_all = "lowercase")]
enum Packet<'a> {
    Job { job: &'a str },
    Progress { job: &'a str, state: State, text: &'a str, percent: Option<Number>, elapsed: Number },
    Error { error: &'a str },
}

impl Plugin for Jobs {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        let rules = Rules {
            interval: seconds("interval", config.interval, 0.0..=60.0)?,
            keep: seconds("keep", config.keep, 1.0..=604_800.0)?,
            max_jobs: config.max_jobs,
        };
        if config.max_jobs == 0 || config.max_jobs > 1_000_000 {
            let text = format!("`max_jobs` is {}, it must be from 1 to 1000000", config.max_jobs);
            return Err(StartError(text));
        }
        let interval = rules.interval;
        let board = Board::new(rules);
        Ok(Self { host, config, board, demos: HashMap::new(), interval, swept: Instant::now() })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let wish = message.to_text().ok_or_else(|| "a packet is JSON in UTF-8".to_owned());
        let wish = wish.and_then(read);
        let fyi = wish.and_then(|wish| self.grant(session, wish)).unwrap_or_else(|why| {
            let shown: String = why.chars().take(MAX_ERROR).collect();
            self.send(session.id(), &json(&Packet::Error { error: &shown }));
            "refused"
        });
        // Each time anew: what it said before, also under another configuration, is of no more use.
        let fyi = if self.may_report(session) { fyi } else { "" };
        let _ = self.host.set_fyi(session.id(), fyi);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.board.leave(session.uuid());
    }

    fn tick_every(&self) -> Option<Duration> {
        if self.board.has_news() || !self.demos.is_empty() {
            return Some(self.interval.clamp(Duration::from_millis(10), Duration::from_secs(1)));
        }
        (!self.board.is_empty()).then_some(IDLE)
    }

    fn tick(&mut self, _: SystemTime) {
        self.advance(Instant::now());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let now = Instant::now();
        let demos = self.demos.iter().map(|(job, demo)| {
            (job.clone(), millis(now.saturating_duration_since(demo.begun)), millis(demo.lasts))
        });
        let saved = Saved { entries: self.board.save(now), demos: demos.collect() };
        let bytes = serde_json::to_vec(&saved).ok()?;
        Some(Snapshot { version: Saved::VERSION, bytes })
    }

    /// Watchers that have gone meanwhile show themselves when they are told something.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != Saved::VERSION {
            let (expected, version) = (Saved::VERSION, snapshot.version);
            return Err(RestoreError(format!(
                "jobs reads snapshots of version {expected}, not {version}"
            )));
        }
        let saved: Saved = serde_json::from_slice(&snapshot.bytes)?;
        let now = Instant::now();
        self.board.load(saved.entries, now);
        self.demos.extend(saved.demos.into_iter().map(|(job, for_ms, lasts_ms)| {
            (job, Demo { begun: ago(for_ms, now), lasts: Duration::from_millis(lasts_ms) })
        }));
        Ok(())
    }
}

export_plugin!(Jobs);

/// Answers to the wishes of browsers and scripts: the `fyi`, or why not.
impl Jobs {
    fn grant(&mut self, session: &Session<'_>, wish: Wish) -> Result<&'static str, String> {
        let now = Instant::now();
        match wish.opcode.as_deref() {
            Some("start") => self.start_job(session, now).map(|_| ""),
            Some("demo") => self.start_demo(session, wish.seconds, now).map(|()| ""),
            Some("watch") => self.watch(session, &job_of(wish.job)?, now).map(|()| ""),
            Some("abort") => self.abort(session, &job_of(wish.job)?, now).map(|()| ""),
            Some("progress") => self.report(session, Step::Progress, wish, now),
            Some("done") => self.report(session, Step::Last(End::Done), wish, now),
            Some("failed") => self.report(session, Step::Last(End::Failed), wish, now),
            Some("aborted") => self.report(session, Step::Last(End::Aborted), wish, now),
            _ => {
                Err("`opcode` must be start, watch, abort, demo, progress, done, failed or aborted"
                    .to_owned())
            }
        }
    }

    fn start_job(&mut self, session: &Session<'_>, now: Instant) -> Result<String, String> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        self.board.ensure(&id, Asker::Browser, now).map_err(|full| self.why(full))?;
        if session.kind() == Kind::WebSocket {
            self.board.watch(&id, session.uuid()).map_err(|full| self.why(full))?;
        }
        self.send(session.id(), &json(&Packet::Job { job: &id }));
        Ok(id)
    }

    fn start_demo(
        &mut self,
        session: &Session<'_>,
        seconds: Option<f64>,
        now: Instant,
    ) -> Result<(), String> {
        if !self.config.demo {
            return Err("there are no demos here; `demo = true` would allow them".to_owned());
        }
        if self.demos.len() >= MAX_DEMOS {
            return Err(format!("{MAX_DEMOS} demos are running; try again later"));
        }
        let seconds = seconds.filter(|seconds| (0.1..=3600.0).contains(seconds));
        let lasts = seconds.ok_or("`seconds` must be a number from 0.1 to 3600")?;
        let id = self.start_job(session, now)?;
        self.demos.insert(id, Demo { begun: now, lasts: Duration::from_secs_f64(lasts) });
        self.play_demos(now);
        Ok(())
    }

    fn watch(&mut self, session: &Session<'_>, id: &str, now: Instant) -> Result<(), String> {
        if session.kind() != Kind::WebSocket {
            return Err("only clients of kind websocket can watch".to_owned());
        }
        self.board.ensure(id, Asker::Browser, now).map_err(|full| self.why(full))?;
        self.board.watch(id, session.uuid()).map_err(|full| self.why(full))?;
        self.show(session.id(), id, now);
        Ok(())
    }

    fn abort(&mut self, session: &Session<'_>, id: &str, now: Instant) -> Result<(), String> {
        let job = self.board.job_mut(id).ok_or("there is no job with this id")?;
        let watchers = if job.abort(now) { self.tell_watchers(id, now) } else { Vec::new() };
        if !watchers.iter().any(|uuid| uuid == session.uuid()) {
            self.show(session.id(), id, now);
        }
        Ok(())
    }

    fn report(
        &mut self,
        session: &Session<'_>,
        step: Step,
        wish: Wish,
        now: Instant,
    ) -> Result<&'static str, String> {
        if !self.may_report(session) {
            return Err("only scripts may report; `web_reports = true` would allow it".to_owned());
        }
        let id = job_of(wish.job)?;
        let uuid = wish.uuid.filter(|uuid| !uuid.is_empty());
        if uuid.as_ref().is_some_and(|uuid| uuid.len() > MAX_UUID) {
            return Err("`uuid` must be that of a browser, from its `ready`".to_owned());
        }
        self.board.ensure(&id, Asker::Script, now).map_err(|full| self.why(full))?;
        let newcomer = match uuid {
            Some(uuid) => {
                let is_new = self.board.watch(&id, &uuid).map_err(|full| self.why(full))?;
                Some(uuid).filter(|_| is_new)
            }
            None => None,
        };
        let mut text = wish.text.unwrap_or_default();
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
        }
        let told = self
            .take_report(&id, Report::new(step, text, wish.percent), now)
            .map_err(|IsOver| "this job is over; another run needs another id".to_owned())?;
        let is_watched = match told {
            Some(watchers) => !watchers.is_empty(),
            None => {
                // The others have to wait, it has heard nothing yet.
                if let Some(uuid) = newcomer {
                    self.tell(&uuid, &id, now);
                }
                self.board.is_watched(&id)
            }
        };
        Ok(match self.board.job(&id).map(job::Job::state) {
            Some(State::Aborting) => "abort",
            _ if is_watched => "watched",
            _ => "unwatched",
        })
    }

    fn may_report(&self, session: &Session<'_>) -> bool {
        session.kind().is_backend() || self.config.web_reports
    }

    fn why(&self, full: Full) -> String {
        match full {
            Full::Board => {
                format!("all {} places for jobs are taken; try again later", self.config.max_jobs)
            }
            Full::Job => format!("this job has {MAX_WATCHERS} watchers already"),
            Full::Watcher => format!("this browser watches {MAX_WATCHED} unfinished jobs already"),
        }
    }
}

/// What happens by itself, and telling it.
impl Jobs {
    fn advance(&mut self, now: Instant) {
        self.play_demos(now);
        for id in self.board.due(now) {
            self.tell_watchers(&id, now);
        }
        if now.saturating_duration_since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            for id in self.board.expire(now) {
                self.tell_watchers(&id, now);
            }
        }
    }

    /// Plays the script for every demo.
    fn play_demos(&mut self, now: Instant) {
        let mut demos = std::mem::take(&mut self.demos);
        demos.retain(|id, Demo { begun, lasts }| {
            let part = now.saturating_duration_since(*begun).as_secs_f64() / lasts.as_secs_f64();
            let is_unwanted = self.board.job(id).map(job::Job::state) == Some(State::Aborting);
            let (step, text) = match part {
                _ if is_unwanted => (Step::Last(End::Aborted), "stopped on request".to_owned()),
                1.0.. => (Step::Last(End::Done), "the demo is over".to_owned()),
                _ => (Step::Progress, format!("step {:.0} of 10", (part * 10.0).floor() + 1.0)),
            };
            let percent = (step == Step::Progress).then_some(part * 100.0);
            // Over, should somebody else have ended it.
            let report = Report::new(step, text, percent);
            self.take_report(id, report, now).is_ok() && step == Step::Progress
        });
        self.demos = demos;
    }

    /// Answers who was told; None if they have to wait. A last report waits for nothing.
    fn take_report(
        &mut self,
        id: &str,
        report: Report,
        now: Instant,
    ) -> Result<Option<Vec<String>>, IsOver> {
        let job = self.board.job_mut(id).ok_or(IsOver)?;
        let is_last = report.is_last();
        job.report(report, now)?;
        let is_due = self.board.news(id, now) || is_last;
        Ok(is_due.then(|| self.tell_watchers(id, now)))
    }

    /// Tells every watcher the newest state; answers those whom it has reached.
    fn tell_watchers(&mut self, id: &str, now: Instant) -> Vec<String> {
        let mut watchers = self.board.watchers(id);
        watchers.retain(|uuid| self.tell(uuid, id, now));
        self.board.told(id, now);
        watchers
    }

    /// By uuid, so that it reaches a browser on any resource. One that is gone is forgotten.
    fn tell(&mut self, uuid: &str, id: &str, now: Instant) -> bool {
        let Some(packet) = self.packet(id, now) else { return false };
        let is_gone = self.host.feedback(Target::Uuid(uuid), &packet) == Ok(Verdict::Gone);
        if is_gone {
            self.board.leave(uuid);
        }
        !is_gone
    }

    fn show(&self, to: ConnectionId, id: &str, now: Instant) {
        if let Some(packet) = self.packet(id, now) {
            self.send(to, &packet);
        }
    }

    fn packet(&self, id: &str, now: Instant) -> Option<String> {
        let job = self.board.job(id)?;
        Some(json(&Packet::Progress {
            job: id,
            state: job.state(),
            text: job.text(),
            percent: job.percent().map(tenths),
            elapsed: tenths(job.elapsed(now).as_secs_f64()),
        }))
    }

    fn send(&self, to: ConnectionId, packet: &str) {
        match self.host.send(to, packet) {
            // Nothing is left to do for one that is gone, or by an instance that has been replaced.
            Ok(()) | Err(HostError::Gone | HostError::Retired) => {}
            Err(error) => self.host.log(plugsocket_plugin::Level::Warn, &error.to_string()),
        }
    }
}

fn job_of(id: Option<String>) -> Result<String, String> {
    id.filter(|id| (1..=MAX_ID).contains(&id.chars().count()))
        .ok_or_else(|| format!("`job` must be a text of 1 to {MAX_ID} characters"))
}

fn seconds(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<Duration, StartError> {
    if !range.contains(&value) {
        let (least, most) = range.into_inner();
        let text = format!("`{key}` is {value}, it must be from {least} to {most} seconds");
        return Err(StartError(text));
    }
    Ok(Duration::from_secs_f64(value))
}

/// With one decimal, and without one where it is 0.
fn tenths(value: f64) -> Number {
    let rounded = (value * 10.0).round() / 10.0;
    match rounded.fract() == 0.0 {
        true => Number::from_i128(rounded as i128),
        false => Number::from_f64(rounded),
    }
    .unwrap_or_else(|| Number::from(0))
}

/// What a packet says. For serde, a list of the values in the order of the fields would be one, too.
fn read(text: &str) -> Result<Wish, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a packet is one JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn json(packet: &Packet<'_>) -> String {
    serde_json::to_string(packet).expect("texts and numbers always have a JSON form")
}

/// What a successor is handed.
#[derive(Serialize, Deserialize)]
struct Saved {
    entries: Vec<SavedEntry>,
    /// Job, and in milliseconds: for how long it has been running, and how long it lasts.
    demos: Vec<(String, u64, u64)>,
}

impl Saved {
    const VERSION: u32 = 1;
}

/// Between ticks when nothing is to be told but jobs may fall silent.
const IDLE: Duration = Duration::from_secs(1);
const MAX_DEMOS: usize = 100;
/// Characters of a job's id.
const MAX_ID: usize = 100;
/// Characters of a report's text; the rest is cut off.
const MAX_TEXT: usize = 1000;
/// Bytes. The host's are shorter.
const MAX_UUID: usize = 200;
/// Characters of an error, which may quote the packet.
const MAX_ERROR: usize = 200;

#[cfg(test)]
mod tests;
