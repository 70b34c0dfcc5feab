//! Test plugin that defers, posts, sets timers and retires, as JSON commands say.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use plugsocket_plugin::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Named in packets, to tell instances apart.
    label: String,
    /// What `config_changed` does: "apply", "refuse", or a new instance.
    change: String,
    /// Posted in `start`.
    early: Vec<String>,
    /// Key of a timer of 10 ms that is set in `start`.
    early_timer: Option<String>,
    /// What `retiring` does: "send", "wait" for the deadline.
    retiring: String,
}

/// What only this instance can use.
struct Posted {
    text: String,
}

struct Blocking {
    to: ConnectionId,
    text: String,
    ticket: Ticket,
}

struct Worker {
    host: Host,
    config: Config,
    state: State,
    /// Tickets that are completed in `drop`.
    in_drop: Vec<Ticket>,
    /// Connection to which `retiring` sends.
    last: Option<ConnectionId>,
    /// Threads that wait until the instance is dropped.
    waiting: Vec<mpsc::Sender<()>>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Numbers of open tickets by name.
    tickets: BTreeMap<String, u64>,
    calls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    Echo {
        text: String,
    },
    Defer {
        name: String,
    },
    DeferTwice,
    DeferInDrop,
    /// A thread completes the ticket when this instance is dropped.
    DeferOnThread,
    Complete {
        name: String,
        fyi: Option<String>,
    },
    Refuse {
        name: String,
        reason: String,
    },
    Fail {
        name: String,
    },
    Post {
        text: String,
    },
    PostValue {
        text: String,
    },
    PostFromThread {
        count: u32,
    },
    PostTooMuch,
    Blocking {
        text: String,
        #[serde(default)]
        millis: u64,
    },
    After {
        millis: u64,
        key: String,
    },
    Every {
        millis: u64,
        key: String,
    },
    Cancel {
        key: String,
    },
    Calls,
    Panic,
}

impl Worker {
    fn complete(&mut self, name: &str) -> Option<Ticket> {
        self.state.tickets.remove(name).map(|number| self.host.ticket(number))
    }

    fn tell_all(&self, packet: &Value) {
        let _ = self.host.broadcast_json(Audience::resource(), packet);
    }

    fn act(&mut self, session: &Session<'_>, command: Command) -> Result<Value, HostError> {
        let host = self.host.clone();
        match command {
            Command::Echo { text } => return Ok(json!(text)),
            Command::Defer { name } => {
                let ticket = host.defer(session)?;
                self.state.tickets.insert(name, ticket.into_number());
            }
            Command::DeferTwice => {
                let ticket = host.defer(session)?;
                let again = host.defer(session).map(drop);
                ticket.complete()?;
                return Ok(json!(format!("{again:?}")));
            }
            Command::DeferInDrop => self.in_drop.push(host.defer(session)?),
            Command::DeferOnThread => {
                let (waiting, dropped) = mpsc::channel::<()>();
                self.waiting.push(waiting);
                let (id, ticket) = (session.id(), host.defer(session)?);
                std::thread::spawn(move || {
                    dropped.recv().ok();
                    let sent = host.send(id, "from the thread");
                    let _ = ticket.complete_with(&format!("{sent:?}"));
                });
            }
            Command::Complete { name, fyi } => {
                let Some(ticket) = self.complete(&name) else { return Ok(json!("unknown")) };
                let done = match fyi {
                    Some(fyi) => ticket.complete_with(&fyi),
                    None => ticket.complete(),
                };
                return Ok(json!(format!("{done:?}")));
            }
            Command::Refuse { name, reason } => {
                let refused = Refused::with_code(CloseCode(4001), reason);
                let done = self.complete(&name).map(|ticket| ticket.refuse(&refused));
                return Ok(json!(format!("{done:?}")));
            }
            Command::Fail { name } => drop(self.complete(&name)),
            Command::Blocking { text, millis } => {
                let (to, ticket) = (session.id(), host.defer(session)?);
                host.spawn_blocking(move || {
                    std::thread::park_timeout(Duration::from_millis(millis));
                    Blocking { to, text, ticket }
                })?;
            }
            Command::Calls => return Ok(json!(self.state.calls)),
            #[expect(clippy::panic, reason = "tests how the host handles it")]
            Command::Panic => panic!("as requested"),
            command => return self.post_or_wait(command),
        }
        Ok(json!(true))
    }

    /// Posts events and sets timers.
    fn post_or_wait(&self, command: Command) -> Result<Value, HostError> {
        let host = self.host.clone();
        match command {
            Command::Post { text } => host.post(text.as_bytes())?,
            Command::PostValue { text } => host.post_value(Posted { text })?,
            Command::PostFromThread { count } => drop(std::thread::spawn(move || {
                for number in 0..count {
                    while host.post(number.to_string().as_bytes()) == Err(HostError::TooMany) {
                        std::thread::yield_now();
                    }
                }
            })),
            Command::PostTooMuch => {
                let large = host.post(&vec![0; 1024 * 1024 + 1]);
                let mut many = Ok(());
                for _ in 0..1_000_000 {
                    many = host.post(b"");
                    if many.is_err() {
                        break;
                    }
                }
                return Ok(json!([format!("{large:?}"), format!("{many:?}")]));
            }
            Command::After { millis, key } => host.after(Duration::from_millis(millis), &key)?,
            Command::Every { millis, key } => host.every(Duration::from_millis(millis), &key)?,
            Command::Cancel { key } => return Ok(json!(host.cancel(&key)?)),
            _ => return Ok(json!("unknown")),
        }
        Ok(json!(true))
    }
}

impl Plugin for Worker {
    const CONFIG_SCHEMA: &'static str =
        r#"{"type":"object","properties":{"label":{"type":"string","maxLength":20}}}"#;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        for text in &config.early {
            host.post(text.as_bytes()).map_err(|error| StartError(error.to_string()))?;
        }
        if let Some(key) = &config.early_timer {
            let set = host.after(Duration::from_millis(10), key);
            set.map_err(|error| StartError(error.to_string()))?;
        }
        let (in_drop, waiting) = (Vec::new(), Vec::new());
        Ok(Self { host, config, state: State::default(), in_drop, last: None, waiting })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let command: Command = read_message(message)?;
        self.last = Some(session.id());
        let result = self.act(session, command)?;
        self.host.send_json(session.id(), &json!({"result": result, "by": self.config.label}))?;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        if let Some(bytes) = event.bytes() {
            let text = String::from_utf8_lossy(bytes);
            return self.tell_all(&json!({"event": text, "by": self.config.label}));
        }
        match event.downcast::<Posted>() {
            Ok(Posted { text }) => {
                self.tell_all(&json!({"value": text, "by": self.config.label}));
            }
            Err(event) => {
                if let Ok(Blocking { to, text, ticket }) = event.downcast() {
                    let _ = self.host.send_json(to, &json!({"blocking": text}));
                    let _ = ticket.complete();
                }
            }
        }
    }

    fn timer(&mut self, key: &str) {
        self.tell_all(&json!({"timer": key, "by": self.config.label}));
    }

    fn snapshot_for(&mut self, reason: SnapshotReason) -> Option<Snapshot> {
        self.state.calls.push(format!("snapshot {reason:?}"));
        let bytes = serde_json::to_vec(&self.state).ok()?;
        Some(Snapshot { version: 1, bytes })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        self.state = serde_json::from_slice(&snapshot.bytes)?;
        Ok(())
    }

    fn config_changed(&mut self, config: &str) -> Result<ConfigChange, StartError> {
        let config: Config = read_config(config)?;
        self.state.calls.push(format!("config_changed to {}", config.label));
        match config.change.as_str() {
            "refuse" => Err(StartError::new("not this one")),
            "apply" => {
                self.config = config;
                Ok(ConfigChange::Applied)
            }
            _ => Ok(ConfigChange::Restart),
        }
    }

    fn retiring(&mut self, reason: RetireReason, deadline: Instant) {
        let by = &self.config.label;
        if self.config.retiring == "wait" {
            // One functions that names a connection fails once the time is over.
            while self.last.is_some_and(|id| self.host.set_fyi(id, "").is_ok()) {
                std::thread::yield_now();
            }
            let is_late = Instant::now() >= deadline;
            tracing::info!(is_late, "retired");
        }
        let Some(id) = self.last else { return };
        let all = self.host.broadcast(Audience::resource(), "not any more");
        let packet =
            json!({"retiring": format!("{reason:?}"), "by": by, "all": format!("{all:?}")});
        let _ = self.host.send_json(id, &packet);
        // Makes the end visible.
        tracing::info!(?reason, "retiring");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for ticket in self.in_drop.drain(..) {
            let sent = self.last.map(|id| self.host.send(id, "too late"));
            let _ = ticket.complete_with(&format!("{sent:?}"));
        }
    }
}

export_plugin!(Worker);
