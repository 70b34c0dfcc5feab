//! **locks** shows which records other users are editing, such as the books on order in a library.
//!
//! A *holder* owns locks, usually one browser tab. It chooses a token
//! (`/locks?holder=TOKEN&name=NAME`) by which it keeps its locks across a page reload; other
//! clients never receive the token. The packets are listed in
//! `docs/reference/bundled-applications.md`.
//!
//! ```toml
//! [resources."/locks"]
//! plugin = "locks"
//!
//! [resources."/locks".config]
//! lease     = 300     # seconds until a lock expires that is not renewed
//! grace     = 5       # seconds within which a holder with a token may reconnect; 0: none
//! max_locks = 500     # locks of one holder
//! max_total = 20000   # locks of all holders
//! ```

mod lock_table;

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    Audience, CloseReason, ConnectionId, Host, Message, Plugin, Refused, RestoreError, Session,
    Snapshot, StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::lock_table::{Expired, Key, LimitReached, Limits, LockTable, Locked, SavedHolder};

struct Locks {
    host: Host,
    config: Config,
    table: LockTable,
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
struct Request {
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
        let limits = Limits {
            lease: seconds("lease", config.lease, 0.1..=DAY)?,
            grace: seconds("grace", config.grace, 0.0..=DAY)?,
            max_locks: config.max_locks,
            max_total: config.max_total,
        };
        for (key, value) in [("max_locks", config.max_locks), ("max_total", config.max_total)] {
            if value == 0 || value > 1_000_000 {
                let text = format!("`{key}` is {value}; it must be from 1 to 1000000");
                return Err(StartError(text));
            }
        }
        // A fifth of the shorter of lease and grace: precise enough, and rarely awake.
        let shorter =
            if limits.grace.is_zero() { limits.lease } else { limits.lease.min(limits.grace) };
        let tick_every = (shorter / 5).clamp(Duration::from_millis(20), Duration::from_secs(1));
        Ok(Self { host, config, table: LockTable::new(limits), tick_every })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let (key, name) = identify(session)?;
        self.table.connect(key, name, session.id());
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let (key, name) = identify(session)?;
        // Unknown only after a predecessor that left no state.
        if !self.table.connections(&key).contains(&session.id()) {
            self.table.connect(key.clone(), name, session.id());
        }
        let request = message.to_text().ok_or_else(|| "a packet must be UTF-8 JSON".to_owned());
        let request = request.and_then(read);
        if let Err(error) = request.and_then(|request| self.handle(&key, session.id(), request)) {
            let error: String = error.chars().take(MAX_ERROR).collect();
            self.send(&[session.id()], &Packet::Error { error: &error });
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if let Ok((key, _)) = identify(session) {
            let free = self.table.disconnect(&key, session.id(), Instant::now());
            self.notify_others(&[], &free, &Packet::Unlocked { ids: &free });
        }
    }

    fn tick_every(&self) -> Option<Duration> {
        Some(self.tick_every)
    }

    fn tick(&mut self, _: SystemTime) {
        self.expire(Instant::now());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let bytes = serde_json::to_vec(&self.table.save(Instant::now())).ok()?;
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
        let mut connected = HashSet::new();
        self.host.sessions(|session| {
            connected.insert(session.id());
        })?;
        self.table.load(saved, |id| connected.contains(&id), Instant::now());
        Ok(())
    }
}

export_plugin!(Locks);

impl Locks {
    fn handle(&mut self, key: &Key, id: ConnectionId, request: Request) -> Result<(), String> {
        let requested = request.ids.map(ids).transpose()?;
        match request.opcode.as_deref() {
            Some("lock") => {
                let requested = requested.ok_or("`ids` is missing: an array of the ids to lock")?;
                let locked = self.table.lock(key, requested.clone(), Instant::now());
                let locked = locked.map_err(|limit| self.limit_error(limit))?;
                let by = self.table.name(key);
                self.notify_others(
                    self.table.connections(key),
                    &locked,
                    &Packet::Locked { ids: &locked, by },
                );
                self.notify_holder(key, self.table.owned_by_others_among(key, &requested));
            }
            Some("unlock") => {
                let free = match requested.clone() {
                    Some(ids) => self.table.unlock(key, ids),
                    None => self.table.unlock_all(key),
                };
                self.notify_others(
                    self.table.connections(key),
                    &free,
                    &Packet::Unlocked { ids: &free },
                );
                self.notify_holder(
                    key,
                    self.table.owned_by_others_among(key, &requested.unwrap_or_default()),
                );
            }
            Some("renew") => {
                self.table.renew(key, Instant::now());
                self.send(
                    &[id],
                    &Packet::Locks { mine: self.table.locks_of(key), locked: Vec::new() },
                );
            }
            Some("list") => {
                let (mine, locked) = (self.table.locks_of(key), self.table.owned_by_others(key));
                self.send(&[id], &Packet::Locks { mine, locked });
            }
            _ => return Err("`opcode` must be lock, unlock, renew or list".to_owned()),
        }
        Ok(())
    }

    fn expire(&mut self, now: Instant) {
        for Expired { connections, ids } in self.table.expire(now) {
            self.send(&connections, &Packet::Expired { ids: &ids });
            self.notify_others(&connections, &ids, &Packet::Unlocked { ids: &ids });
        }
    }

    fn limit_error(&self, limit: LimitReached) -> String {
        let Config { max_locks, max_total, .. } = self.config;
        match limit {
            LimitReached::Holder => {
                format!("this exceeds your limit of {max_locks} locks; unlock some first")
            }
            LimitReached::Total => {
                format!("this exceeds the limit of {max_total} locks in total; try again later")
            }
        }
    }

    /// Sends `locks` to all connections of the holder: a duplicated tab has the same token.
    fn notify_holder(&self, key: &Key, locked: Vec<Locked<'_>>) {
        let packet = Packet::Locks { mine: self.table.locks_of(key), locked };
        self.send(self.table.connections(key), &packet);
    }

    // The next two ignore errors: the client is gone or this instance has been replaced.

    /// Sends `packet` to all connections except those of the holder, unless `ids` is empty.
    fn notify_others(&self, holder: &[ConnectionId], ids: &[String], packet: &Packet<'_>) {
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

/// Reads the holder and its name from the query.
fn identify(session: &Session<'_>) -> Result<(Key, String), Refused> {
    let given = |key: &str, most: usize| match session.query_value(key) {
        Some(value) if value.chars().count() > most => {
            Err(Refused::new(format!("`{key}` in the query has more than {most} characters")))
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

/// Converts the ids of a packet to strings.
fn ids(values: Vec<Value>) -> Result<Vec<String>, String> {
    if values.len() > MAX_IDS {
        return Err(format!("`ids` has {} entries; the limit is {MAX_IDS}", values.len()));
    }
    let id = |value| match value {
        Value::String(text) if (1..=MAX_ID).contains(&text.chars().count()) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("each of `ids` must be a string of 1 to {MAX_ID} characters or a number")),
    };
    values.into_iter().map(id).collect()
}

fn seconds(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<Duration, StartError> {
    if !range.contains(&value) {
        let (least, most) = range.into_inner();
        let text = format!("`{key}` is {value}; it must be from {least} to {most} seconds");
        return Err(StartError(text));
    }
    Ok(Duration::from_secs_f64(value))
}

/// Parses a packet. The first character is checked because serde would also accept an array.
fn read(text: &str) -> Result<Request, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a packet must be a JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn json(packet: &Packet<'_>) -> String {
    serde_json::to_string(packet).expect("strings always have a JSON form")
}

/// Seconds.
const DAY: f64 = 86_400.0;
/// Ids in one packet.
const MAX_IDS: usize = 500;
/// Characters of an id.
const MAX_ID: usize = 200;
/// Characters of an error, which may quote the packet.
const MAX_ERROR: usize = 200;
const SNAPSHOT_VERSION: u32 = 1;

#[cfg(test)]
mod tests;
