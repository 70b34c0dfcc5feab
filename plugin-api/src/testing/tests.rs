//! The harness behaves like the host.

mod clock;
mod closing;
mod events;
mod reload;
mod requests;
mod rooms;
mod tickets;

use super::*;
use crate::types::{
    Audience, CloseCode, ConnectionId, HostError, Level, Message, Refused, RestoreError,
    RetireReason, SnapshotReason, Target, Verdict,
};
use crate::{Event, Ticket};

/// An application that notes its callbacks in the log, and does what messages say.
struct Script {
    host: Host,
    tickets: Vec<Ticket>,
    tick: Option<Duration>,
}

impl Script {
    fn note(&self, text: &str) {
        self.host.log(Level::Info, text);
    }

    fn obey(&mut self, session: &Session<'_>, command: &str) -> Result<(), Refused> {
        match command.split_once(' ').unwrap_or((command, "")) {
            ("defer", _) => self.tickets.push(self.host.defer(session)?),
            ("refuse", why) => return Err(Refused::new(why)),
            ("panic", text) => panic!("{text}"),
            ("close", id) => {
                let id = ConnectionId(id.parse().unwrap());
                self.host.close(id, CloseCode::NORMAL, "closed").ok();
            }
            ("", _) => {}
            _ => self.note(command),
        }
        Ok(())
    }
}

impl Plugin for Script {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let app = Self { host, tickets: Vec::new(), tick: None };
        match config {
            "{}" => Ok(app),
            "panic" => panic!("a bad start"),
            _ => Err(StartError::new(config)),
        }
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        self.note(&format!("open {}", session.id().0));
        self.obey(session, &session.query_value("do").unwrap_or_default())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        self.obey(session, message.to_text().unwrap_or_default())
    }

    fn event(&mut self, event: Event) {
        match event.bytes() {
            Some(bytes) => self.note(&format!("event {}", String::from_utf8_lossy(bytes))),
            None => self.note(&format!("value {}", event.downcast::<u32>().unwrap())),
        }
    }

    fn timer(&mut self, key: &str) {
        self.note(&format!("timer {key}"));
        assert_ne!(key, "panic", "a bad timer");
    }

    fn close(&mut self, session: &Session<'_>, reason: &CloseReason<'_>) {
        let data = String::from_utf8(session.data().unwrap_or_default()).unwrap();
        let (id, code) = (session.id(), reason.code.0);
        self.note(&format!("close {} {code} {} {data}", id.0, reason.text));
        // It remains connected if another application takes over.
        let is_kept = reason.text.starts_with("another application");
        assert_eq!(self.host.send(id, "late").is_ok(), is_kept);
    }

    fn error(&mut self, session: &Session<'_>, reason: &str) {
        self.note(&format!("error {} {reason}", session.id().0));
    }

    fn tick_every(&self) -> Option<Duration> {
        self.tick
    }

    fn tick(&mut self, _: SystemTime) {
        self.note("tick");
    }

    fn snapshot_for(&mut self, reason: SnapshotReason) -> Option<Snapshot> {
        self.note(&format!("snapshot {reason:?}"));
        let numbers = self.tickets.drain(..).map(Ticket::into_number);
        Some(Snapshot { version: 1, bytes: numbers.flat_map(u64::to_le_bytes).collect() })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        let numbers = snapshot.bytes.chunks(8).map(|n| u64::from_le_bytes(n.try_into().unwrap()));
        self.tickets = numbers.map(|number| self.host.ticket(number)).collect();
        Ok(())
    }

    fn retiring(&mut self, reason: RetireReason, _: std::time::Instant) {
        self.note(&format!("retiring {reason:?}"));
        let sent = self.host.send(ConnectionId(1), "farewell");
        let joined = self.host.join(ConnectionId(1), "late");
        self.note(&format!("send {sent:?}, join {joined:?}"));
    }

    fn suspended(&mut self, _: &Session<'_>) {
        self.note("suspended");
    }

    fn resumed(&mut self, _: &Session<'_>) {
        self.note("resumed");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.note("dropped");
    }
}

fn script() -> (Harness<Script>, ConnectionId) {
    let mut app = Harness::<Script>::start("{}").unwrap();
    let ann = app.open(Peer::websocket()).unwrap();
    assert_eq!(notes(&app), ["open 1"]);
    (app, ann)
}

/// Returns the notes since the last call.
fn notes<P: Plugin>(app: &Harness<P>) -> Vec<String> {
    app.logged().into_iter().map(|(_, text)| text).collect()
}

fn host(app: &mut Harness<Script>) -> Host {
    app.plugin().host.clone()
}

/// Long enough for a thread to do its work.
const SOON: Duration = Duration::from_secs(30);

struct App(Host);

impl Plugin for App {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        match config {
            "{}" => Ok(Self(host)),
            _ => Err(StartError::new("not a JSON object")),
        }
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        match session.query_value("name") {
            Some(_) => {
                self.0.join(session.id(), "all").unwrap();
                Ok(())
            }
            None => Err(Refused::new("say who you are")),
        }
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        match message.to_text() {
            Some("quit") => self.0.close(session.id(), CloseCode::NORMAL, "bye").unwrap(),
            Some("count") => {
                let mut count = 0;
                self.0.sessions(|_| count += 1).unwrap();
                self.0.send(session.id(), &count.to_string()).unwrap();
            }
            Some(uuid) if uuid.contains('.') => {
                let verdict = self.0.feedback(Target::Uuid(uuid), "for you").unwrap();
                self.0.set_fyi(session.id(), verdict.as_str()).unwrap();
            }
            Some(text) => drop(self.0.publish("all", &[session.id()], text).unwrap()),
            None => return Err(Refused::with_code(CloseCode::UNSUPPORTED, "text only")),
        }
        Ok(())
    }
}

#[test]
fn the_harness_behaves_like_the_host() {
    assert!(Harness::<App>::start("no json").is_err());
    let mut app = Harness::<App>::start("{}").unwrap();
    assert!(app.open(Peer::websocket()).is_err());
    let ann = app.open(Peer::websocket().query("name=ann")).unwrap();
    let bob = app.open(Peer::websocket().query("x&name=bob+b")).unwrap();
    app.message(ann, "hello").unwrap();
    assert_eq!((app.received(ann).len(), app.received(bob)), (0, vec!["hello".to_owned()]));
    app.message(ann, &app.uuid(bob)).unwrap();
    assert_eq!((app.fyi(ann).as_str(), app.received(bob).len()), ("delivered", 1));
    app.message(bob, &[0xff][..]).unwrap_err();
    app.message(ann, &app.uuid(bob)).unwrap();
    assert_eq!(app.fyi(ann), "gone");
    app.message(ann, "count").unwrap();
    assert_eq!(app.received(ann), ["1"]);

    let old = app.plugin().0.clone();
    let mut app = app.reload::<App>("{}").unwrap();
    assert_eq!(old.send(ann, "late"), Err(HostError::Retired));
    assert_eq!(old.broadcast(Audience::all(), "late"), Err(HostError::Retired));
    app.message(ann, "quit").unwrap();
    assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, "bye".to_owned())));
    assert_eq!(Verdict::Gone.as_str(), "gone");
}
