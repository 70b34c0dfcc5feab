//! Counts the messages of each client; makes the mistake that its configuration chooses.
//!
//! Without a mistake, `plugin validate` finds nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    Audience, CloseReason, Event, Host, Message, Plugin, Refused, RestoreError, RetireReason,
    Session, Snapshot, StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mistake {
    #[default]
    None,
    /// Writes version 0, and restores every version.
    Unversioned,
    /// Waits in `message`.
    Blocks,
    /// `restore` forgets the counts.
    LosesData,
    /// `restore` accepts the beginning of a snapshot.
    AcceptsCut,
    /// `snapshot` empties the instance.
    TakesState,
    /// `start` takes 300 ms.
    StartsSlowly,
    /// A thread never ends.
    LeavesThread,
    LeavesDescriptor,
    CrashInStart,
    CrashInMessage,
    CrashInSnapshot,
    CrashInDrop,
    HangInStart,
    HangInMessage,
    HangInDrop,
    HangInRetiring,
    /// Each session leaves 1 kB.
    LeakPerSession,
    /// Each instance leaves 256 kB.
    LeakPerReload,
    /// A message causes 2,000 broadcasts.
    BroadcastsInLoop,
    WritesToStdout,
    Exits,
    ChangesFolder,
    /// `open` refuses with an empty reason.
    RefusesWithoutReason,
    /// Computes in `message` for 15 ms.
    Computes,
    /// `messages` counts only the first one.
    LosesBatches,
    PanicInOpen,
    PanicInMessage,
    PanicInClose,
    PanicInTick,
    PanicInTimer,
    PanicInEvent,
    PanicInSnapshot,
    PanicInRestore,
    PanicInRetiring,
    PanicInDrop,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    mistake: Mistake,
}

struct Counts {
    host: Host,
    mistake: Mistake,
    /// Messages of each client.
    counts: BTreeMap<u64, u64>,
    /// Ends with `stops`.
    worker: Option<JoinHandle<()>>,
    stops: Arc<AtomicBool>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    counts: Vec<(u64, u64)>,
}

const VERSION: u32 = 1;

impl Counts {
    #[expect(clippy::panic, reason = "tests how a panic is found")]
    fn panic_if(&self, mistake: Mistake) {
        if self.mistake == mistake {
            panic!("as configured");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "one of the mistakes")]
fn wait(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[expect(clippy::exit, reason = "one of the mistakes")]
fn exit() {
    std::process::exit(3);
}

#[expect(clippy::print_stdout, reason = "one of the mistakes")]
fn print() {
    println!("a message");
}

fn hang() {
    loop {
        std::thread::park();
    }
}

impl Plugin for Counts {
    const NEVER_BLOCKS: bool = true;
    const BATCHES: bool = true;
    const CONFIG_SCHEMA: &'static str = r#"{
        "type": "object",
        "properties": {"mistake": {"type": "string", "pattern": "^[a-z]{4,}(_[a-z]+)*$"}},
        "additionalProperties": false
    }"#;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { mistake } = read_config(config)?;
        match mistake {
            Mistake::StartsSlowly => wait(300),
            Mistake::CrashInStart => std::process::abort(),
            Mistake::HangInStart => hang(),
            Mistake::LeakPerReload => drop(Box::leak(vec![1_u8; 256 * 1024].into_boxed_slice())),
            Mistake::LeavesDescriptor => drop(Box::leak(Box::new(File::open("/proc/self/stat")?))),
            Mistake::ChangesFolder => std::env::set_current_dir("/")?,
            _ => {}
        }
        let stops = Arc::new(AtomicBool::new(false));
        let (end, calls) = (stops.clone(), host.clone());
        let worker = std::thread::spawn(move || {
            while mistake == Mistake::LeavesThread || !end.load(Ordering::Acquire) {
                std::thread::park_timeout(Duration::from_millis(20));
                if mistake == Mistake::LeavesThread {
                    let _ = calls.broadcast(Audience::resource(), "tick");
                }
            }
        });
        let worker = Some(worker).filter(|_| mistake != Mistake::LeavesThread);
        Ok(Self { host, mistake, counts: BTreeMap::new(), worker, stops })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        self.panic_if(Mistake::PanicInOpen);
        if session.query_value("room").is_some_and(|room| room.len() > 100) {
            let is_silent = self.mistake == Mistake::RefusesWithoutReason;
            return Err(Refused::new(if is_silent { "" } else { "`room` is too long" }));
        }
        self.counts.insert(session.id().0, 0);
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        self.panic_if(Mistake::PanicInMessage);
        match self.mistake {
            Mistake::Blocks => wait(15),
            Mistake::Computes => {
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_millis(15) {}
            }
            Mistake::CrashInMessage => std::process::abort(),
            Mistake::HangInMessage => hang(),
            Mistake::Exits => exit(),
            Mistake::WritesToStdout => print(),
            Mistake::LeakPerSession => drop(Box::leak(vec![1_u8; 1024].into_boxed_slice())),
            Mistake::BroadcastsInLoop => {
                for _ in 0..2000 {
                    let _ = self.host.broadcast(Audience::resource(), message);
                }
            }
            _ => {}
        }
        if message.to_text() == Some("null") {
            return Err(Refused::new("null is not a message"));
        }
        let count = self.counts.entry(session.id().0).or_default();
        *count += 1;
        let _ = self.host.send(session.id(), &count.to_string());
        Ok(())
    }

    fn messages(&mut self, session: &Session<'_>, batch: &[Message<'_>]) -> Result<(), Refused> {
        match self.mistake {
            Mistake::LosesBatches => self.counts.clear(),
            _ => batch.iter().try_for_each(|message| self.message(session, *message))?,
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.panic_if(Mistake::PanicInClose);
        self.counts.remove(&session.id().0);
    }

    fn tick_every(&self) -> Option<Duration> {
        (!self.counts.is_empty()).then_some(Duration::from_secs(1))
    }

    fn tick(&mut self, _: SystemTime) {
        self.panic_if(Mistake::PanicInTick);
    }

    fn timer(&mut self, _: &str) {
        self.panic_if(Mistake::PanicInTimer);
    }

    fn event(&mut self, _: Event) {
        self.panic_if(Mistake::PanicInEvent);
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        self.panic_if(Mistake::PanicInSnapshot);
        if self.mistake == Mistake::CrashInSnapshot {
            std::process::abort();
        }
        let counts = self.counts.iter().map(|(id, count)| (*id, *count)).collect();
        if self.mistake == Mistake::TakesState {
            self.counts.clear();
        }
        let version = if self.mistake == Mistake::Unversioned { 0 } else { VERSION };
        Some(Snapshot { version, bytes: serde_json::to_vec(&State { counts }).ok()? })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        self.panic_if(Mistake::PanicInRestore);
        if snapshot.version != VERSION && self.mistake != Mistake::Unversioned {
            let version = snapshot.version;
            return Err(RestoreError::new(format!("version {version} is not {VERSION}")));
        }
        let state = match serde_json::from_slice::<State>(&snapshot.bytes) {
            Err(_) if self.mistake == Mistake::AcceptsCut => State::default(),
            state => state?,
        };
        if self.mistake != Mistake::LosesData {
            self.counts = state.counts.into_iter().collect();
        }
        Ok(())
    }

    fn retiring(&mut self, _: RetireReason, _: Instant) {
        self.panic_if(Mistake::PanicInRetiring);
        if self.mistake == Mistake::HangInRetiring {
            hang();
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        match self.mistake {
            Mistake::CrashInDrop => std::process::abort(),
            Mistake::HangInDrop => hang(),
            Mistake::PanicInDrop => self.panic_if(self.mistake),
            _ => {}
        }
        self.stops.store(true, Ordering::Release);
        if let Some(worker) = self.worker.take() {
            worker.thread().unpark();
            drop(worker.join());
        }
    }
}

export_plugin!(Counts);
