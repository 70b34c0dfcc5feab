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
//! lease      = 300    # seconds until a lock expires that is not renewed
//! grace      = 5      # seconds within which a holder with a token may reconnect; 0: none
//! max_locks  = 500    # locks of one holder
//! max_total  = 20000  # locks of all holders
//! user_names = false  # true: a browser's name is that of its authenticated user
//! ```

mod lock_table;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::{
    Audience, CloseReason, ConnectionId, Host, Json, Message, Packet, Plugin, Refused,
    RestoreError, Session, Snapshot, StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};

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
    user_names: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { lease: 300.0, grace: 5.0, max_locks: 500, max_total: 20_000, user_names: false }
    }
}

/// A packet from a client. Missing and null are the same.
struct Request<'a> {
    opcode: Option<Json<'a>>,
    ids: Option<Json<'a>>,
}

#[derive(Serialize)]
#[serde(tag = "opcode", rename_all = "lowercase")]
enum Answer<'a> {
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
        let (key, name) = self.identify(session)?;
        self.table.connect(key, name, session.id());
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let (key, name) = self.identify(session)?;
        // Unknown only after a predecessor that left no state.
        if !self.table.connections(&key).contains(&session.id()) {
            self.table.connect(key.clone(), name, session.id());
        }
        let handled = read(message).and_then(|request| self.handle(&key, session.id(), request));
        if let Err(error) = &handled {
            self.send(&[session.id()], &Answer::Error { error });
        }
        if session.kind().is_backend() {
            let _ = self.host.set_fyi(session.id(), if handled.is_ok() { "" } else { "refused" });
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if let Ok((key, _)) = self.identify(session) {
            let free = self.table.disconnect(&key, session.id(), Instant::now());
            self.notify_others(&[], &free, &Answer::Unlocked { ids: &free });
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
    fn handle(&mut self, key: &Key, id: ConnectionId, request: Request<'_>) -> Result<(), String> {
        let requested = request.ids.map(ids).transpose()?;
        match request.opcode.and_then(Json::to_text).as_deref() {
            Some("lock") => {
                let requested = requested.ok_or("`ids` is missing: an array of the ids to lock")?;
                let locked = self.table.lock(key, requested.clone(), Instant::now());
                let locked = locked.map_err(|limit| self.limit_error(limit))?;
                let by = self.table.name(key);
                self.notify_others(
                    self.table.connections(key),
                    &locked,
                    &Answer::Locked { ids: &locked, by },
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
                    &Answer::Unlocked { ids: &free },
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
                    &Answer::Locks { mine: self.table.locks_of(key), locked: Vec::new() },
                );
            }
            Some("list") => {
                let (mine, locked) = (self.table.locks_of(key), self.table.owned_by_others(key));
                self.send(&[id], &Answer::Locks { mine, locked });
            }
            _ => return Err("`opcode` must be lock, unlock, renew or list".to_owned()),
        }
        Ok(())
    }

    /// Returns the holder, as its query names it, and the name that others see.
    fn identify(&self, session: &Session<'_>) -> Result<(Key, String), Refused> {
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
        let name = match self.config.user_names && !session.kind().is_backend() {
            true => session.user().map(|user| user.chars().take(MAX_NAME).collect()),
            false => given("name", MAX_NAME)?,
        };
        let guest = || format!("guest-{}", session.uuid().chars().take(4).collect::<String>());
        Ok((key, name.unwrap_or_else(guest)))
    }

    fn expire(&mut self, now: Instant) {
        for Expired { connections, ids } in self.table.expire(now) {
            self.send(&connections, &Answer::Expired { ids: &ids });
            self.notify_others(&connections, &ids, &Answer::Unlocked { ids: &ids });
        }
    }

    fn limit_error(&self, limit: LimitReached) -> String {
        let Config { max_locks, max_total, .. } = self.config;
        let s = |limit| if limit == 1 { "" } else { "s" };
        match limit {
            LimitReached::Holder => {
                format!(
                    "this exceeds your limit of {max_locks} lock{}; unlock some first",
                    s(max_locks)
                )
            }
            LimitReached::Total => {
                format!(
                    "this exceeds the limit of {max_total} lock{} in total; try again later",
                    s(max_total)
                )
            }
        }
    }

    /// Sends `locks` to all connections of the holder: a duplicated tab has the same token.
    fn notify_holder(&self, key: &Key, locked: Vec<Locked<'_>>) {
        let packet = Answer::Locks { mine: self.table.locks_of(key), locked };
        self.send(self.table.connections(key), &packet);
    }

    // The next two ignore errors: the client is gone or this instance has been replaced.

    /// Sends `packet` to all connections except those of the holder, unless `ids` is empty.
    fn notify_others(&self, holder: &[ConnectionId], ids: &[String], packet: &Answer<'_>) {
        if !ids.is_empty() {
            let _ = self.host.broadcast(Audience::resource().except(holder), &json(packet));
        }
    }

    fn send(&self, to: &[ConnectionId], packet: &Answer<'_>) {
        let text = json(packet);
        for id in to {
            let _ = self.host.send(*id, &text);
        }
    }
}

/// Returns the ids of a packet. A number is the text that the client wrote.
fn ids(ids: Json<'_>) -> Result<Vec<String>, String> {
    let elements = || ids.elements().ok_or("`ids` must be an array");
    let count = elements()?.count();
    if count > MAX_IDS {
        return Err(format!("`ids` has {count} entries; the limit is {MAX_IDS}"));
    }
    let id = |id: Json<'_>| {
        let text = id.to_text().filter(|text| (1..=MAX_ID).contains(&text.chars().count()));
        text.map(Cow::into_owned).ok_or_else(|| {
            format!("each of `ids` must be a string or a number of 1 to {MAX_ID} characters")
        })
    };
    elements()?.map(id).collect()
}

fn seconds(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<Duration, StartError> {
    if !range.contains(&value) {
        let (least, most) = range.into_inner();
        let text = format!("`{key}` is {value}; it must be from {least} to {most} seconds");
        return Err(StartError(text));
    }
    Ok(Duration::from_secs_f64(value))
}

fn read(message: Message<'_>) -> Result<Request<'_>, String> {
    let packet = Packet::read(message).map_err(|refused| refused.reason)?;
    let [opcode, ids] = packet.fields(["opcode", "ids"]);
    Ok(Request { opcode, ids })
}

fn json(packet: &Answer<'_>) -> String {
    serde_json::to_string(packet).expect("strings always have a JSON form")
}

/// Seconds.
const DAY: f64 = 86_400.0;
/// Ids in one packet.
const MAX_IDS: usize = 500;
/// Characters of an id.
const MAX_ID: usize = 200;
/// Characters of a holder's name.
const MAX_NAME: usize = 100;
const SNAPSHOT_VERSION: u32 = 1;

#[cfg(test)]
mod tests;
