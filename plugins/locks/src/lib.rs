//! **locks** shows everybody which records somebody is working on: the books at a library's acquisition desk.
//!
//! A *holder* is a browser tab. It names itself by a token of its own making (`/locks?holder=TOKEN&name=NAME`), by
//! which it has its locks again after a page reload; nobody else ever sees the token. `docs/applications.md` has the
//! table of packets.
//!
//! ```toml
//! [resources."/locks"]
//! plugin = "locks"
//!
//! [resources."/locks".config]
//! lease     = 300     # seconds until a lock that is not renewed ends
//! grace     = 5       # seconds that a holder has to come back, 0: none
//! max_locks = 500     # of one holder
//! max_total = 20000   # of all holders
//! ```

mod desk;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    Audience, CloseReason, ConnectionId, Host, Message, Plugin, Refused, RestoreError, Session,
    Snapshot, StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::desk::{Desk, Ended, Full, Key, Locked, Rules, SavedHolder};

struct Locks {
    host: Host,
    config: Config,
    desk: Desk,
    tick_every: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    lease: f64,
    grace: f64,
    max_locks: usize,
    max_total: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { lease: 300.0, grace: 5.0, max_locks: 500, max_total: 20_000 }
    }
}

#[derive(Deserialize)]
struct Wish {
    opcode: Option<String>,
    ids: Option<Vec<Value>>,
}

#[derive(Serialize)]
#[serde(tag = "opcode", rename_all = "lowercase")]
enum Packet<'a> {
    Locks { mine: Vec<&'a str>, locked: Vec<Locked<'a>> },
    Locked { ids: &'a [String], by: &'a str },
    Unlocked { ids: &'a [String] },
    Expired { ids: &'a [String] },
    Error { error: &'a str },
}

impl Plugin for Locks {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        let rules = Rules {
            lease: seconds("lease", config.lease, 0.1..=DAY)?,
            grace: seconds("grace", config.grace, 0.0..=DAY)?,
            max_locks: config.max_locks,
            max_total: config.max_total,
        };
        for (key, value) in [("max_locks", config.max_locks), ("max_total", config.max_total)] {
            if value == 0 || value > 1_000_000 {
                let text = format!("`{key}` is {value}, it must be from 1 to 1000000");
                return Err(StartError(text));
            }
        }
        // Fine enough for the shorter of the two, and idle enough.
        let shorter =
            if rules.grace.is_zero() { rules.lease } else { rules.lease.min(rules.grace) };
        let tick_every = (shorter / 5).clamp(Duration::from_millis(20), Duration::from_secs(1));
        Ok(Self { host, config, desk: Desk::new(rules), tick_every })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let (key, name) = who(session)?;
        self.desk.connect(key, name, session.id());
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let (key, name) = who(session)?;
        // Known since `open`, but for a predecessor that left no state.
        if !self.desk.connections(&key).contains(&session.id()) {
            self.desk.connect(key.clone(), name, session.id());
        }
        let wish = message.to_text().ok_or_else(|| "a packet is JSON in UTF-8".to_owned());
        let wish = wish.and_then(read);
        if let Err(why) = wish.and_then(|wish| self.grant(&key, session.id(), wish)) {
            let shown: String = why.chars().take(MAX_ERROR).collect();
            self.send(&[session.id()], &Packet::Error { error: &shown });
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if let Ok((key, _)) = who(session) {
            let free = self.desk.disconnect(&key, session.id(), Instant::now());
            self.tell_others(&[], &free, &Packet::Unlocked { ids: &free });
        }
    }

    fn tick_every(&self) -> Option<Duration> {
        Some(self.tick_every)
    }

    fn tick(&mut self, _: SystemTime) {
        self.expire(Instant::now());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let bytes = serde_json::to_vec(&self.desk.save(Instant::now())).ok()?;
        Some(Snapshot { version: SNAPSHOT_VERSION, bytes })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != SNAPSHOT_VERSION {
            let version = snapshot.version;
            return Err(RestoreError(format!(
                "locks reads snapshots of version {SNAPSHOT_VERSION}, not {version}"
            )));
        }
        let saved: Vec<SavedHolder> = serde_json::from_slice(&snapshot.bytes)?;
        let mut here = HashSet::new();
        self.host.sessions(|session| {
            here.insert(session.id());
        })?;
        self.desk.load(saved, |id| here.contains(&id), Instant::now());
        Ok(())
    }
}

export_plugin!(Locks);

impl Locks {
    fn grant(&mut self, key: &Key, id: ConnectionId, wish: Wish) -> Result<(), String> {
        let asked = wish.ids.map(ids).transpose()?;
        match wish.opcode.as_deref() {
            Some("lock") => {
                let asked = asked.ok_or("`ids` is missing: a list of what to lock")?;
                let locked = self.desk.lock(key, asked.clone(), Instant::now());
                let locked = locked.map_err(|full| self.why(full))?;
                let by = self.desk.name(key);
                self.tell_others(
                    self.desk.connections(key),
                    &locked,
                    &Packet::Locked { ids: &locked, by },
                );
                self.tell_holder(key, self.desk.others_among(key, &asked));
            }
            Some("unlock") => {
                let free = match asked.clone() {
                    Some(ids) => self.desk.unlock(key, ids),
                    None => self.desk.unlock_all(key),
                };
                self.tell_others(
                    self.desk.connections(key),
                    &free,
                    &Packet::Unlocked { ids: &free },
                );
                self.tell_holder(key, self.desk.others_among(key, &asked.unwrap_or_default()));
            }
            Some("renew") => {
                self.desk.renew(key, Instant::now());
                self.send(&[id], &Packet::Locks { mine: self.desk.mine(key), locked: Vec::new() });
            }
            Some("list") => {
                let (mine, locked) = (self.desk.mine(key), self.desk.others(key));
                self.send(&[id], &Packet::Locks { mine, locked });
            }
            _ => return Err("`opcode` must be lock, unlock, renew or list".to_owned()),
        }
        Ok(())
    }

    fn expire(&mut self, now: Instant) {
        for Ended { of, ids } in self.desk.expire(now) {
            self.send(&of, &Packet::Expired { ids: &ids });
            self.tell_others(&of, &ids, &Packet::Unlocked { ids: &ids });
        }
    }

    fn why(&self, full: Full) -> String {
        let Config { max_locks, max_total, .. } = self.config;
        match full {
            Full::Holder => {
                format!("you would have more than {max_locks} locks; unlock something first")
            }
            Full::Desk => format!("all {max_total} locks are taken; try again later"),
        }
    }

    /// All connections of the holder: a tab that was duplicated has the token of the first.
    fn tell_holder(&self, key: &Key, locked: Vec<Locked<'_>>) {
        let packet = Packet::Locks { mine: self.desk.mine(key), locked };
        self.send(self.desk.connections(key), &packet);
    }

    // These two fail when somebody is gone or this instance replaced: nothing is left to do then.

    /// Everybody but `holder`, if `ids` are any.
    fn tell_others(&self, holder: &[ConnectionId], ids: &[String], packet: &Packet<'_>) {
        if !ids.is_empty() {
            let _ = self.host.broadcast(Audience::resource().except(holder), &json(packet));
        }
    }

    fn send(&self, to: &[ConnectionId], packet: &Packet<'_>) {
        let text = json(packet);
        for id in to {
            let _ = self.host.send(*id, &text);
        }
    }
}

/// Which holder a connection belongs to, and its name.
fn who(session: &Session<'_>) -> Result<(Key, String), Refused> {
    let given = |key: &str, most: usize| match session.query_value(key) {
        Some(value) if value.chars().count() > most => {
            Err(Refused::new(format!("`{key}` in the address has over {most} characters")))
        }
        value => Ok(value.filter(|value| !value.is_empty())),
    };
    let key = match given("holder", 200)? {
        Some(token) => Key::Token(token),
        None => Key::Connection(session.id().0),
    };
    let guest = || format!("guest-{}", session.uuid().chars().take(4).collect::<String>());
    Ok((key, given("name", 100)?.unwrap_or_else(guest)))
}

/// The ids of a packet; a number is taken as its text.
fn ids(values: Vec<Value>) -> Result<Vec<String>, String> {
    if values.len() > MAX_IDS {
        return Err(format!("`ids` has {} entries; it may have {MAX_IDS}", values.len()));
    }
    let id = |value| match value {
        Value::String(text) if (1..=MAX_ID).contains(&text.chars().count()) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("each of `ids` must be a text of 1 to {MAX_ID} characters or a number")),
    };
    values.into_iter().map(id).collect()
}

fn seconds(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<Duration, StartError> {
    if !range.contains(&value) {
        let (least, most) = range.into_inner();
        let text = format!("`{key}` is {value}, it must be from {least} to {most} seconds");
        return Err(StartError(text));
    }
    Ok(Duration::from_secs_f64(value))
}

/// What a packet says. For serde, a list of the values in the order of the fields would be one, too.
fn read(text: &str) -> Result<Wish, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a packet is one JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn json(packet: &Packet<'_>) -> String {
    serde_json::to_string(packet).expect("texts always have a JSON form")
}

/// In seconds.
const DAY: f64 = 86_400.0;
/// Entries of one packet.
const MAX_IDS: usize = 500;
/// Characters of one id.
const MAX_ID: usize = 200;
/// Characters of an error, which may quote the packet.
const MAX_ERROR: usize = 200;
const SNAPSHOT_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};

    type App = Harness<Locks>;

    fn app(config: &str) -> App {
        Harness::start(config).unwrap()
    }

    fn enter(app: &mut App, query: &str) -> ConnectionId {
        app.open(Peer::websocket().query(query)).unwrap()
    }

    fn ask(app: &mut App, id: ConnectionId, packet: &str) -> Vec<String> {
        app.message(id, packet).unwrap();
        app.received(id)
    }

    fn after(app: &mut App, seconds: u64) {
        app.plugin().expire(Instant::now() + Duration::from_secs(seconds));
    }

    const ANN: &str = "holder=a-secret&name=Ann";
    const BOB: &str = "holder=another&name=Bob";

    #[test]
    fn a_lock_is_told_to_the_holder_and_to_the_others() {
        let mut app = app("{}");
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        assert_eq!(
            ask(&mut app, ann, r#"{"opcode":"lock","ids":["b-2",1,"b-2"]}"#),
            [r#"{"opcode":"locks","mine":["1","b-2"],"locked":[]}"#]
        );
        assert_eq!(app.received(bob), [r#"{"opcode":"locked","ids":["1","b-2"],"by":"Ann"}"#]);
        assert_eq!(
            ask(&mut app, bob, r#"{"opcode":"lock","ids":["b-2","b-3"]}"#),
            [r#"{"opcode":"locks","mine":["b-3"],"locked":[{"id":"b-2","by":"Ann"}]}"#]
        );
        assert_eq!(app.received(ann), [r#"{"opcode":"locked","ids":["b-3"],"by":"Bob"}"#]);
        assert_eq!(
            ask(&mut app, ann, r#"{"opcode":"list"}"#),
            [r#"{"opcode":"locks","mine":["1","b-2"],"locked":[{"id":"b-3","by":"Bob"}]}"#]
        );
        assert_eq!(
            ask(&mut app, ann, r#"{"opcode":"unlock","ids":["1","b-3"]}"#),
            [r#"{"opcode":"locks","mine":["b-2"],"locked":[{"id":"b-3","by":"Bob"}]}"#]
        );
        assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["1"]}"#]);
        assert_eq!(
            ask(&mut app, ann, r#"{"opcode":"unlock"}"#),
            [r#"{"opcode":"locks","mine":[],"locked":[]}"#]
        );
        assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["b-2"]}"#]);
    }

    #[test]
    fn what_changes_nothing_is_told_to_nobody_else() {
        let mut app = app("{}");
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        assert_eq!(app.received(bob).len(), 1);
        for packet in [
            r#"{"opcode":"lock","ids":["x"]}"#,
            r#"{"opcode":"lock","ids":[]}"#,
            r#"{"opcode":"unlock","ids":["y"]}"#,
            r#"{"opcode":"renew"}"#,
            r#"{"opcode":"list"}"#,
        ] {
            let answer = ask(&mut app, ann, packet);
            assert_eq!(answer, [r#"{"opcode":"locks","mine":["x"],"locked":[]}"#], "{packet}");
            assert_eq!(app.received(bob).len(), 0, "{packet}");
        }
    }

    #[test]
    fn a_page_reload_keeps_the_locks_and_a_closed_tab_gives_them_back() {
        let mut app = app("{}");
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        app.close(ann);
        let ann = enter(&mut app, ANN);
        after(&mut app, 60);
        assert_eq!(app.received(bob).len(), 1, "only `locked`");
        assert!(ask(&mut app, ann, r#"{"opcode":"list"}"#)[0].contains(r#""mine":["x"]"#));
        app.close(ann);
        after(&mut app, 4);
        assert_eq!(app.received(bob).len(), 0);
        after(&mut app, 6);
        assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
    }

    #[test]
    fn without_a_token_the_connection_is_the_holder() {
        let mut app = app("{}");
        let [ann, bob] = ["name=Ann", ""].map(|query| enter(&mut app, query));
        ask(&mut app, bob, r#"{"opcode":"lock","ids":["x"]}"#);
        assert_eq!(app.received(ann), [r#"{"opcode":"locked","ids":["x"],"by":"guest-0000"}"#]);
        app.close(bob);
        assert_eq!(app.received(ann), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
    }

    #[test]
    fn the_end_of_a_lease_is_told_to_holder_and_others() {
        let mut app = app(r#"{"lease":60}"#);
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        drop(app.received(bob));
        app.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
        assert_eq!(app.received(ann).len(), 0, "a wall clock that jumps ends nothing");
        after(&mut app, 61);
        assert_eq!(app.received(ann), [r#"{"opcode":"expired","ids":["x"]}"#]);
        assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
    }

    #[test]
    fn two_tabs_with_one_token_are_one_holder() {
        let mut app = app("{}");
        let [ann, too] = [ANN, ANN].map(|query| enter(&mut app, query));
        let answer = ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        assert_eq!(app.received(too), answer);
        app.close(ann);
        after(&mut app, 60);
        assert!(ask(&mut app, too, r#"{"opcode":"list"}"#)[0].contains(r#""mine":["x"]"#));
    }

    #[test]
    fn nobody_sees_the_token_of_another() {
        let mut app = app("{}");
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        ask(&mut app, bob, r#"{"opcode":"lock","ids":["x"]}"#);
        app.message(bob, r#"{"opcode":"list"}"#).unwrap();
        after(&mut app, 400);
        assert!(app.received(bob).iter().all(|packet| !packet.contains("a-secret")));
    }

    #[test]
    fn what_cannot_be_used_is_explained_to_the_sender() {
        let mut app = app(r#"{"max_locks":2,"max_total":3}"#);
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        ask(&mut app, bob, r#"{"opcode":"lock","ids":["1","2"]}"#);
        drop(app.received(ann));
        let opcode = "`opcode` must be lock, unlock, renew or list";
        let id = "each of `ids` must be a text of 1 to 200 characters or a number";
        for (packet, expected) in [
            ("{}", opcode),
            (r#"["lock",["1"]]"#, "a packet is one JSON object"),
            (r#"{"opcode":"steal"}"#, opcode),
            (r#"{"opcode":"lock"}"#, "`ids` is missing: a list of what to lock"),
            (r#"{"opcode":"lock","ids":[""]}"#, id),
            (r#"{"opcode":"lock","ids":[true]}"#, id),
            (&format!(r#"{{"opcode":"lock","ids":["{}"]}}"#, "x".repeat(201)), id),
            (
                &format!(r#"{{"opcode":"lock","ids":[{}1]}}"#, "1,".repeat(500)),
                "`ids` has 501 entries; it may have 500",
            ),
            (
                r#"{"opcode":"lock","ids":["3","4","5"]}"#,
                "you would have more than 2 locks; unlock something first",
            ),
            (r#"{"opcode":"lock","ids":["3","4"]}"#, "all 3 locks are taken; try again later"),
        ] {
            let expected = format!(r#"{{"opcode":"error","error":"{expected}"}}"#);
            assert_eq!(ask(&mut app, ann, packet), [expected], "{packet}");
        }
        for packet in ["", "null", r#"{"opcode":"lock","ids":"x"}"#, &"[".repeat(100_000)] {
            assert!(ask(&mut app, ann, packet)[0].starts_with(r#"{"opcode":"error""#), "{packet}");
        }
        assert_eq!(app.received(bob).len(), 0);
        let long = format!("holder={}", "x".repeat(201));
        assert!(app.open(Peer::websocket().query(&long)).is_err());
    }

    #[test]
    fn locks_outlive_a_reload() {
        let mut app = app("{}");
        let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
        let guest = enter(&mut app, "");
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
        ask(&mut app, bob, r#"{"opcode":"lock","ids":["y"]}"#);
        ask(&mut app, guest, r#"{"opcode":"lock","ids":["z"]}"#);
        app.close(bob);
        let mut app = app.reload::<Locks>("{}").unwrap();
        drop((app.received(ann), app.received(guest)));
        let bob = enter(&mut app, BOB);
        for (id, mine) in [(ann, "x"), (bob, "y"), (guest, "z")] {
            let answer = ask(&mut app, id, r#"{"opcode":"list"}"#);
            assert!(answer[0].contains(&format!(r#""mine":["{mine}"]"#)), "{answer:?}");
        }
        app.close(guest);
        assert_eq!(app.received(ann), [r#"{"opcode":"unlocked","ids":["z"]}"#]);
        after(&mut app, 301);
        assert!(app.received(ann).contains(&r#"{"opcode":"expired","ids":["x"]}"#.to_owned()));
    }

    #[test]
    fn a_mistake_in_the_configuration_is_named() {
        for (config, expected) in [
            (
                r#"{"leese":1}"#,
                "unknown field `leese`, expected one of `lease`, `grace`, `max_locks`, `max_total`",
            ),
            (r#"{"lease":0}"#, "`lease` is 0, it must be from 0.1 to 86400 seconds"),
            (r#"{"grace":-1}"#, "`grace` is -1, it must be from 0 to 86400 seconds"),
            (r#"{"grace":"5s"}"#, r#"`grace`: invalid type: string "5s", expected f64"#),
            (r#"{"max_locks":0}"#, "`max_locks` is 0, it must be from 1 to 1000000"),
        ] {
            assert_eq!(Harness::<Locks>::start(config).err().unwrap().0, expected);
        }
    }
}
