//! Calls the host's functions on command, so that tests on the wire can check each of them.
//!
//! A command is a JSON object with `do`. The answer is `{"do":…,"result":…}`; the result of a
//! failed call is `{"error":…}`. `to` is a uuid on this resource, by default the sender's; `except`
//! is a list of such uuids.
//!
//! | `do` | other keys | result |
//! |---|---|---|
//! | `send` | `to`, `message` or `binary` (list of bytes) | `true` |
//! | `broadcast`, `all` | `message`, `except`, `websockets` (bool) | number of receivers, on this or on all resources |
//! | `feedback_uuid`, `feedback_ident` | `target`, `message` | `"delivered"` or `"gone"` |
//! | `join`, `leave` | `to`, `room` | `true` |
//! | `publish` | `room`, `message`, `except` | number of receivers |
//! | `latest`, `broadcast-latest`, `publish-latest` | those of `send`, `broadcast`, `publish`, and `key` | the same |
//! | `values` | `count`, `key`, `message` | `true`, after `count` messages `{"value":n,"message":…}` to the sender, n from 1; by `send_latest` if `key` is given |
//! | `close` | `to`, `code` (default 1000), `reason` | `true` |
//! | `fyi` | `to`, `fyi` | `true` |
//! | `sessions` | | list of the `whoami` of all sessions, sorted by uuid |
//! | `whoami` | `header` | `{"uuid","kind","ident","address","resource","query","header","user","claims"}` |
//! | `log` | `level` (`error` … `trace`, default `info`), `message` | `true` |
//! | `trace` | `message` | `true`; logs through `tracing` |
//! | `thread` | `count`, `every_ms` (0), `message` | `true`; then a thread sends `{"thread":n,"message":…}`, n from 1 |
//! | `id` | | the number by which any resource's instance can name the connection as `id`, instead of `to` |
//! | `members` | `room` | list of `{"uuid","data"}`, sorted by uuid |
//! | `empty-room` | `room` | number of members, each of which has left while it was visited |
//! | `room-count`, `room-names` | `room` | number of members; sorted list |
//! | `rooms` | `to` | list in the order of joining |
//! | `set-room-data`, `set-data` | `room` or `to`; `message`, or `count` for so many bytes | `true` |
//! | `room-data`, `data`, `session-data` | `room` or `to` | text or null; of more than 1,000 bytes, their number |
//! | `metric` | `kind` (`counter`, `gauge`, `gauge-add`, `histogram`), `name`, `value`, `labels` (object), `buckets`, `message` (help) | `true`, after registering and changing the series |
//! | `log-of-calls` | | list of `{"call":"open","uuid":…}`, `message`, `close` (with `code`, `by`, `reason`), `error` (with `reason`) |
//! | `refuse` | `code` (default 1008), `reason` | none; the message is refused |
//!
//! A thread does not end with the instance, as in a careless application. At the first error it
//! logs `thread ended: ERROR` and `later calls: LIST OF ERRORS`, and counts in the metric
//! `threads_ended`.
//!
//! `close` logs `closed with data: TEXT` if the connection has data.
//!
//! Query: `?refuse=REASON` is refused in `open`; `?greet=1` receives `{"greeting":UUID}` from
//! `open`; `?data=TEXT` stores TEXT with the connection in `open`. Configuration: `tick_ms` is the
//! interval at which `{"tick":n}` is broadcast; `count_starts` counts in the metric `starts`.

mod stored;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use plugsocket_plugin::{
    Audience, CloseCode, CloseReason, ClosedBy, ConnectionId, Host, HostError, Level, Message,
    Plugin, Refused, Session, StartError, Target, export_plugin, read_config,
};
use serde::Deserialize;
use serde_json::{Value, json};

struct Speaker {
    host: Host,
    tick: Option<Duration>,
    ticks: u64,
    /// The newest [`MAX_CALLS`] calls.
    calls: VecDeque<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    tick_ms: Option<u64>,
    count_starts: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Command {
    r#do: String,
    to: Option<String>,
    target: String,
    message: String,
    binary: Option<Vec<u8>>,
    room: String,
    except: Vec<String>,
    websockets: bool,
    code: Option<u16>,
    reason: String,
    fyi: String,
    header: String,
    level: String,
    count: u64,
    every_ms: u64,
    key: String,
    id: Option<u64>,
    kind: String,
    name: String,
    value: f64,
    labels: BTreeMap<String, String>,
    buckets: Vec<f64>,
}

impl Plugin for Speaker {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { tick_ms, count_starts } = read_config(config)?;
        if count_starts {
            stored::count(&host, "starts");
        }
        let tick = tick_ms.map(Duration::from_millis);
        Ok(Self { host, tick, ticks: 0, calls: VecDeque::new() })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        self.note(json!({"call": "open", "uuid": session.uuid()}));
        if let Some(reason) = session.query_value("refuse") {
            return Err(Refused::new(reason));
        }
        if let Some(data) = session.query_value("data") {
            self.host.set_data(session.id(), data.as_bytes())?;
        }
        if session.query_value("greet").is_some() {
            let _ = self.host.send(session.id(), &json!({"greeting": session.uuid()}).to_string());
        }
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        self.note(json!({"call": "message", "uuid": session.uuid()}));
        let text = message.to_text().unwrap_or_default();
        let command: Command = serde_json::from_str(text)
            .map_err(|error| Refused::with_code(CloseCode::INVALID, error.to_string()))?;
        if command.r#do == "refuse" {
            let code = command.code.map_or(CloseCode::POLICY, CloseCode);
            return Err(Refused::with_code(code, command.reason));
        }
        let result =
            self.perform(session, &command).unwrap_or_else(|e| json!({"error": e.to_string()}));
        let answer = json!({"do": command.r#do, "result": result}).to_string();
        let _ = self.host.send(session.id(), &answer);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, reason: &CloseReason<'_>) {
        if let Some(data) = session.data() {
            let data = String::from_utf8_lossy(&data);
            self.host.log(Level::Info, &format!("closed with data: {data}"));
        }
        let by = match reason.by {
            ClosedBy::Peer => "peer",
            ClosedBy::Plugin => "plugin",
            _ => "host",
        };
        let (code, text) = (reason.code.0, reason.text);
        self.note(json!({
            "call": "close", "uuid": session.uuid(), "code": code, "by": by, "reason": text
        }));
    }

    fn error(&mut self, session: &Session<'_>, reason: &str) {
        self.note(json!({"call": "error", "uuid": session.uuid(), "reason": reason}));
    }

    fn tick_every(&self) -> Option<Duration> {
        self.tick
    }

    fn tick(&mut self, _: SystemTime) {
        self.ticks += 1;
        let text = json!({"tick": self.ticks}).to_string();
        let _ = self.host.broadcast(Audience::resource(), &text);
    }
}

export_plugin!(Speaker);

impl Speaker {
    fn perform(&self, session: &Session<'_>, command: &Command) -> Result<Value, HostError> {
        let Command { message, room, target, .. } = command;
        let host = &self.host;
        Ok(match command.r#do.as_str() {
            "send" => host.send(self.id(session, command)?, payload(command)).map(done)?,
            "latest" => {
                let to = self.id(session, command)?;
                host.send_latest(to, &command.key, payload(command)).map(done)?
            }
            "broadcast-latest" => {
                let except = self.excepted(command)?;
                let to = Audience::resource().except(&except);
                json!(host.broadcast_latest(to, &command.key, payload(command))?)
            }
            "publish-latest" => {
                let (except, key) = (self.excepted(command)?, &command.key);
                json!(host.publish_latest(room, &except, key, payload(command))?)
            }
            "values" => self.values(session.id(), command).map(done)?,
            "broadcast" | "all" => json!(self.broadcast(command)?),
            "feedback_uuid" => json!(host.feedback(Target::Uuid(target), message)?.as_str()),
            "feedback_ident" => json!(host.feedback(Target::Ident(target), message)?.as_str()),
            "join" => host.join(self.id(session, command)?, room).map(done)?,
            "leave" => host.leave(self.id(session, command)?, room).map(done)?,
            "publish" => json!(host.publish(room, &self.excepted(command)?, payload(command))?),
            "close" => {
                let code = CloseCode(command.code.unwrap_or(CloseCode::NORMAL.0));
                host.close(self.id(session, command)?, code, &command.reason).map(done)?
            }
            "fyi" => host.set_fyi(self.id(session, command)?, &command.fyi).map(done)?,
            "sessions" => self.sessions(&command.header)?,
            "whoami" => describe(session, &command.header),
            "log" => {
                host.log(level(&command.level), message);
                done(())
            }
            "trace" => {
                tracing::info!(from = session.address(), "{message}");
                done(())
            }
            "thread" => {
                send_from_thread(host.clone(), session.id(), command);
                done(())
            }
            "log-of-calls" => json!(self.calls),
            _ => self.perform_stored(session, command)?,
        })
    }

    fn broadcast(&self, command: &Command) -> Result<usize, HostError> {
        let except = self.excepted(command)?;
        let scope = match command.r#do.as_str() {
            "all" => Audience::all(),
            _ => Audience::resource(),
        };
        let audience = if command.websockets { scope.websockets() } else { scope };
        self.host.broadcast(audience.except(&except), payload(command))
    }

    fn values(&self, to: ConnectionId, command: &Command) -> Result<(), HostError> {
        for n in 1..=command.count {
            let text = json!({"value": n, "message": command.message}).to_string();
            match command.key.as_str() {
                "" => self.host.send(to, &text)?,
                key => self.host.send_latest(to, key, &text)?,
            }
        }
        Ok(())
    }

    fn sessions(&self, header: &str) -> Result<Value, HostError> {
        let mut found = Vec::new();
        self.host.sessions(|session| found.push(describe(session, header)))?;
        found.sort_by_key(|session| session["uuid"].to_string());
        Ok(Value::Array(found))
    }

    /// Returns the connection that `id` or `to` names.
    fn id(&self, session: &Session<'_>, command: &Command) -> Result<ConnectionId, HostError> {
        match &command.to {
            Some(uuid) => self.by_uuid(uuid)?.ok_or(HostError::Gone),
            None => Ok(command.id.map_or(session.id(), ConnectionId)),
        }
    }

    fn excepted(&self, command: &Command) -> Result<Vec<ConnectionId>, HostError> {
        let ids = command.except.iter().map(|uuid| self.by_uuid(uuid));
        Ok(ids.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    fn by_uuid(&self, uuid: &str) -> Result<Option<ConnectionId>, HostError> {
        let mut found = None;
        self.host.sessions(|session| {
            if session.uuid() == uuid {
                found = Some(session.id());
            }
        })?;
        Ok(found)
    }

    fn note(&mut self, call: Value) {
        if self.calls.len() == MAX_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }
}

fn payload(command: &Command) -> Message<'_> {
    match &command.binary {
        Some(bytes) => Message::Binary(bytes),
        None => Message::Text(&command.message),
    }
}

fn describe(session: &Session<'_>, header: &str) -> Value {
    json!({
        "uuid": session.uuid(),
        "kind": session.kind().as_str(),
        "ident": session.ident(),
        "address": session.address(),
        "resource": session.resource(),
        "query": session.query(),
        "header": session.header(header),
        "user": session.user(),
        "claims": session.claims(),
    })
}

/// Sends from a thread, which continues after the instance has been replaced until a call fails.
fn send_from_thread(host: Host, to: ConnectionId, command: &Command) {
    let (count, every, message) = (command.count, command.every_ms, command.message.clone());
    std::thread::spawn(move || {
        for n in 1..=count {
            let text = json!({"thread": n, "message": message}).to_string();
            if let Err(error) = host.send(to, &text) {
                let later = stored::calls_of_active(&host, to);
                host.log(Level::Info, &format!("later calls: {}", later.join("; ")));
                stored::count(&host, "threads_ended");
                host.log(Level::Info, &format!("thread ended: {error}"));
                return;
            }
            pause(every);
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "runs on a thread of its own")]
fn pause(millis: u64) {
    if millis > 0 {
        std::thread::sleep(Duration::from_millis(millis));
    }
}

fn level(name: &str) -> Level {
    match name {
        "error" => Level::Error,
        "warn" => Level::Warn,
        "debug" => Level::Debug,
        "trace" => Level::Trace,
        _ => Level::Info,
    }
}

/// Returns the result of a call that returns nothing.
fn done((): ()) -> Value {
    Value::Bool(true)
}

const MAX_CALLS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};

    /// Sends a command and returns its result.
    fn ask(app: &mut Harness<Speaker>, id: ConnectionId, command: &Value) -> Value {
        app.message(id, &command.to_string()).unwrap();
        let answer: Value = serde_json::from_str(app.received(id).last().unwrap()).unwrap();
        assert_eq!(answer["do"], command["do"]);
        answer["result"].clone()
    }

    #[test]
    fn each_command_calls_its_function() {
        let mut app = Harness::<Speaker>::start("{}").unwrap();
        let ann = app.open(Peer::websocket().header("User-Agent", "x").query("greet=1")).unwrap();
        let bob = app.open(Peer::backend().ident("bob")).unwrap();
        assert_eq!(app.received(ann), [json!({"greeting": app.uuid(ann)}).to_string()]);
        let who = json!({"do": "whoami"});
        let me = ask(&mut app, ann, &who);
        assert_eq!((&me["user"], &me["claims"]), (&Value::Null, &Value::Null));
        let cat = app.open(Peer::websocket().user("cat").claims("{}")).unwrap();
        let me = ask(&mut app, cat, &who);
        assert_eq!((&me["user"], &me["claims"]), (&json!("cat"), &json!("{}")));
        app.close(cat);
        let (to, but) = (app.uuid(bob), app.uuid(ann));
        for (command, expected, reached) in [
            (json!({"do": "send", "to": to, "message": "m"}), json!(true), 1),
            (json!({"do": "send", "to": to, "binary": [255]}), json!(true), 1),
            (json!({"do": "send", "to": "x"}), json!({"error": "the connection is gone"}), 0),
            (json!({"do": "broadcast", "message": "m", "except": [but]}), json!(1), 1),
            (json!({"do": "all", "message": "m", "websockets": true}), json!(1), 0),
            (json!({"do": "feedback_ident", "target": "bob"}), json!("delivered"), 1),
            (json!({"do": "feedback_uuid", "target": to}), json!("gone"), 0),
            (json!({"do": "join", "room": "r", "to": to}), json!(true), 0),
            (json!({"do": "publish", "room": "r", "message": "m"}), json!(1), 1),
            (json!({"do": "latest", "to": to, "key": "k", "message": "m"}), json!(true), 1),
            (json!({"do": "broadcast-latest", "key": "k", "except": [but]}), json!(1), 1),
            (json!({"do": "publish-latest", "room": "r", "key": "k"}), json!(1), 1),
            (json!({"do": "leave", "room": "r", "to": to}), json!(true), 0),
            (json!({"do": "publish", "room": "r"}), json!(0), 0),
            (json!({"do": "fyi", "fyi": "f"}), json!(true), 0),
            (json!({"do": "log", "message": "m"}), json!(true), 0),
            (json!({"do": "nothing"}), json!({"error": "unknown command"}), 0),
        ] {
            assert_eq!(ask(&mut app, ann, &command), expected, "{command}");
            assert_eq!(app.received(bob).len(), reached, "{command}");
        }
        assert_eq!(app.fyi(ann), "f");
        let me = ask(&mut app, ann, &json!({"do": "whoami", "header": "user-agent"}));
        assert_eq!((&me["header"], &me["kind"]), (&json!("x"), &json!("websocket")));
        let all = ask(&mut app, ann, &json!({"do": "sessions"}));
        assert_eq!(all.as_array().map(Vec::len), Some(2));
        ask(&mut app, ann, &json!({"do": "close", "to": to, "code": 4000, "reason": "r"}));
        assert_eq!(app.closed(bob), Some((CloseCode(4000), "r".to_owned())));
        let calls = ask(&mut app, ann, &json!({"do": "log-of-calls"}));
        let closed =
            json!({"call": "close", "uuid": to, "code": 4000, "by": "plugin", "reason": "r"});
        assert!(calls.as_array().unwrap().contains(&closed), "{calls}");
        assert_eq!(app.message(ann, r#"{"do":"refuse","code":4001}"#).unwrap_err().code.0, 4001);
        assert!(app.open(Peer::websocket().query("refuse=no+room")).is_err());
    }

    #[test]
    fn a_thread_sends_outside_of_callbacks_and_ticks_are_requested() {
        let mut app = Harness::<Speaker>::start(r#"{"tick_ms":5}"#).unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        // Not by `ask`: the thread may send before the answer is read.
        app.message(ann, r#"{"do":"thread","count":3,"message":"m"}"#).unwrap();
        assert_eq!(app.plugin().tick_every(), Some(Duration::from_millis(5)));
        app.tick(SystemTime::now());
        let mut received = Vec::new();
        while received.len() < 3 {
            received
                .extend(app.received(ann).into_iter().filter(|text| text.contains(r#""thread":"#)));
            std::thread::yield_now();
        }
        assert_eq!(received[2], r#"{"message":"m","thread":3}"#);
    }
}
