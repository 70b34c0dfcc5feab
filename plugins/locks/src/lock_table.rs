//! Holders, their locks and the leases. Pure: independent of packets and host; the caller passes
//! the time.
//!
//! Leases use the monotonic clock, so an adjusted wall clock expires nothing. A snapshot contains
//! the remaining time.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use plugsocket_plugin::ConnectionId;
use serde::{Deserialize, Serialize};

pub(crate) struct LockTable {
    limits: Limits,
    holders: HashMap<Key, Holder>,
    /// Owner of each locked id. The owner's `locks` contain it too.
    owners: HashMap<String, Key>,
}

pub(crate) struct Limits {
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    /// Locks of one holder.
    pub(crate) max_locks: usize,
    /// Locks of all holders.
    pub(crate) max_total: usize,
}

/// Identity of a holder across reconnects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Key {
    Token(String),
    /// The connection itself, if it has no token.
    Connection(u64),
}

struct Holder {
    name: String,
    presence: Presence,
    /// The end of the lease of each locked id.
    locks: BTreeMap<String, Instant>,
}

enum Presence {
    Connected(Vec<ConnectionId>),
    /// No connection is left. The locks remain until this time.
    InGrace(Instant),
}

/// A lock of another holder, as clients read it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Locked<'a> {
    pub(crate) id: &'a str,
    /// The holder's name.
    pub(crate) by: &'a str,
}

/// Expired locks of one holder.
#[derive(Debug, PartialEq)]
pub(crate) struct Expired {
    /// The connections of the holder; empty if its grace time has ended.
    pub(crate) connections: Vec<ConnectionId>,
    pub(crate) ids: Vec<String>,
}

/// The limit that a request would exceed. The request had no effect.
#[derive(Debug, PartialEq)]
pub(crate) enum LimitReached {
    Holder,
    Total,
}

impl LockTable {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, holders: HashMap::new(), owners: HashMap::new() }
    }

    /// Adds a connection to a holder and sets the holder's name. Idempotent.
    pub(crate) fn connect(&mut self, key: Key, name: String, id: ConnectionId) {
        let new = || Holder {
            name: String::new(),
            presence: Presence::Connected(Vec::new()),
            locks: BTreeMap::new(),
        };
        let holder = self.holders.entry(key).or_insert_with(new);
        holder.name = name;
        match &mut holder.presence {
            Presence::Connected(ids) if ids.contains(&id) => {}
            Presence::Connected(ids) => ids.push(id),
            Presence::InGrace(_) => holder.presence = Presence::Connected(vec![id]),
        }
    }

    /// Removes a connection. Returns the ids that this releases at once: those of a holder that
    /// cannot reconnect.
    pub(crate) fn disconnect(&mut self, key: &Key, id: ConnectionId, now: Instant) -> Vec<String> {
        let Some(holder) = self.holders.get_mut(key) else { return Vec::new() };
        if let Presence::Connected(ids) = &mut holder.presence {
            ids.retain(|other| *other != id);
            if !ids.is_empty() {
                return Vec::new();
            }
        }
        let may_reconnect = matches!(key, Key::Token(_)) && !self.limits.grace.is_zero();
        if may_reconnect && !holder.locks.is_empty() {
            holder.presence = Presence::InGrace(now + self.limits.grace);
            return Vec::new();
        }
        self.remove(key)
    }

    /// Locks the free ids and renews those that the holder owns. Returns the newly locked ids.
    pub(crate) fn lock(
        &mut self,
        key: &Key,
        ids: Vec<String>,
        now: Instant,
    ) -> Result<Vec<String>, LimitReached> {
        let Some(holder) = self.holders.get_mut(key) else { return Ok(Vec::new()) };
        let (own, mut free): (Vec<String>, Vec<String>) = ids
            .into_iter()
            .filter(|id| self.owners.get(id).is_none_or(|owner| owner == key))
            .partition(|id| self.owners.contains_key(id));
        free.sort_unstable();
        free.dedup();
        if holder.locks.len() + free.len() > self.limits.max_locks {
            return Err(LimitReached::Holder);
        }
        if self.owners.len() + free.len() > self.limits.max_total {
            return Err(LimitReached::Total);
        }
        let until = now + self.limits.lease;
        holder.locks.extend(own.into_iter().map(|id| (id, until)));
        for id in &free {
            holder.locks.insert(id.clone(), until);
            self.owners.insert(id.clone(), key.clone());
        }
        Ok(free)
    }

    /// Unlocks the ids that the holder owns, and returns them.
    pub(crate) fn unlock(&mut self, key: &Key, mut ids: Vec<String>) -> Vec<String> {
        let Some(holder) = self.holders.get_mut(key) else { return Vec::new() };
        ids.retain(|id| holder.locks.remove(id).is_some());
        ids.iter().for_each(|id| drop(self.owners.remove(id)));
        ids
    }

    pub(crate) fn unlock_all(&mut self, key: &Key) -> Vec<String> {
        let Some(holder) = self.holders.get_mut(key) else { return Vec::new() };
        let ids: Vec<String> = std::mem::take(&mut holder.locks).into_keys().collect();
        ids.iter().for_each(|id| drop(self.owners.remove(id)));
        ids
    }

    pub(crate) fn renew(&mut self, key: &Key, now: Instant) {
        if let Some(holder) = self.holders.get_mut(key) {
            holder.locks.values_mut().for_each(|until| *until = now + self.limits.lease);
        }
    }

    /// Removes the locks whose lease has ended, and the holders whose grace time has ended.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Expired> {
        let mut expired = Vec::new();
        let mut gone = Vec::new();
        for (key, holder) in &mut self.holders {
            let connections = match &holder.presence {
                Presence::InGrace(until) if *until <= now => {
                    gone.push(key.clone());
                    continue;
                }
                Presence::InGrace(_) => Vec::new(),
                Presence::Connected(ids) => ids.clone(),
            };
            let over = holder.locks.iter().filter(|(_, until)| **until <= now);
            let ids: Vec<String> = over.map(|(id, _)| id.clone()).collect();
            for id in &ids {
                holder.locks.remove(id);
                self.owners.remove(id);
            }
            if !ids.is_empty() {
                expired.push(Expired { connections, ids });
            }
        }
        for key in gone {
            expired.push(Expired { connections: Vec::new(), ids: self.remove(&key) });
        }
        expired
    }

    pub(crate) fn name(&self, key: &Key) -> &str {
        self.holders.get(key).map_or("", |holder| &holder.name)
    }

    pub(crate) fn connections(&self, key: &Key) -> &[ConnectionId] {
        match self.holders.get(key).map(|holder| &holder.presence) {
            Some(Presence::Connected(ids)) => ids,
            _ => &[],
        }
    }

    /// Returns the ids that the holder has locked, in alphabetical order.
    pub(crate) fn locks_of(&self, key: &Key) -> Vec<&str> {
        let holder = self.holders.get(key);
        holder.into_iter().flat_map(|holder| holder.locks.keys().map(String::as_str)).collect()
    }

    /// Returns the locks of other holders among `ids`.
    pub(crate) fn owned_by_others_among<'a>(
        &'a self,
        key: &Key,
        ids: &'a [String],
    ) -> Vec<Locked<'a>> {
        let owned = ids.iter().filter_map(|id| Some((id, self.owners.get(id)?)));
        owned
            .filter(|(_, owner)| *owner != key)
            .map(|(id, owner)| Locked { id, by: self.name(owner) })
            .collect()
    }

    /// Returns the locks of all other holders, in alphabetical order.
    pub(crate) fn owned_by_others(&self, key: &Key) -> Vec<Locked<'_>> {
        let others = self.owners.iter().filter(|(_, owner)| *owner != key);
        let mut locked: Vec<Locked<'_>> =
            others.map(|(id, owner)| Locked { id, by: self.name(owner) }).collect();
        locked.sort_unstable_by_key(|locked| locked.id);
        locked
    }

    fn remove(&mut self, key: &Key) -> Vec<String> {
        let ids = self.unlock_all(key);
        self.holders.remove(key);
        ids
    }

    pub(crate) fn save(&self, now: Instant) -> Vec<SavedHolder> {
        let rest = |until: &Instant| millis(until.saturating_duration_since(now));
        let holders = self.holders.iter().map(|(key, holder)| SavedHolder {
            key: key.clone(),
            name: holder.name.clone(),
            connections: self.connections(key).iter().map(|id| id.0).collect(),
            grace_left_ms: match &holder.presence {
                Presence::Connected(_) => 0,
                Presence::InGrace(until) => rest(until),
            },
            locks: holder.locks.iter().map(|(id, until)| (id.clone(), rest(until))).collect(),
        });
        holders.collect()
    }

    /// Restores a snapshot. A holder whose connections have all ended meanwhile gets its grace
    /// time; leases are shortened to the present limit.
    pub(crate) fn load(
        &mut self,
        saved: Vec<SavedHolder>,
        is_connected: impl Fn(ConnectionId) -> bool,
        now: Instant,
    ) {
        for SavedHolder { key, name, connections, grace_left_ms, locks } in saved {
            let was_connected = !connections.is_empty();
            let connected: Vec<ConnectionId> =
                connections.into_iter().map(ConnectionId).filter(|id| is_connected(*id)).collect();
            let presence = match () {
                () if !connected.is_empty() => Presence::Connected(connected),
                () if was_connected => Presence::InGrace(now + self.limits.grace),
                () => Presence::InGrace(
                    now + Duration::from_millis(grace_left_ms).min(self.limits.grace),
                ),
            };
            let until = |ms| now + Duration::from_millis(ms).min(self.limits.lease);
            let locks: BTreeMap<String, Instant> =
                locks.into_iter().map(|(id, ms)| (id, until(ms))).collect();
            self.owners.extend(locks.keys().map(|id| (id.clone(), key.clone())));
            self.holders.insert(key, Holder { name, presence, locks });
        }
    }
}

/// A holder in a snapshot, format version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedHolder {
    key: Key,
    name: String,
    connections: Vec<u64>,
    /// Remaining grace time of a holder without connections.
    grace_left_ms: u64,
    /// Each id with the rest of its lease in milliseconds.
    locks: Vec<(String, u64)>,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const ANN: ConnectionId = ConnectionId(1);
    const BOB: ConnectionId = ConnectionId(2);

    fn table() -> LockTable {
        let limits = Limits { lease: 300 * SECOND, grace: 5 * SECOND, max_locks: 3, max_total: 5 };
        LockTable::new(limits)
    }

    fn token(text: &str) -> Key {
        Key::Token(text.to_owned())
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn leases_expire_unless_renewed() {
        let (mut table, now) = (table(), Instant::now());
        table.connect(token("ann"), "Ann".into(), ANN);
        table.lock(&token("ann"), ids(&["a"]), now).unwrap();
        table.lock(&token("ann"), ids(&["b"]), now + 100 * SECOND).unwrap();
        assert_eq!(table.expire(now + 299 * SECOND), []);
        assert_eq!(
            table.expire(now + 300 * SECOND),
            [Expired { connections: vec![ANN], ids: ids(&["a"]) }]
        );
        table.renew(&token("ann"), now + 350 * SECOND);
        assert_eq!(table.expire(now + 649 * SECOND), []);
        assert_eq!(
            table.expire(now + 650 * SECOND),
            [Expired { connections: vec![ANN], ids: ids(&["b"]) }]
        );
        assert!(table.owners.is_empty());
        table.disconnect(&token("ann"), ANN, now);
        assert!(table.holders.is_empty());
    }

    #[test]
    fn a_holder_that_reconnects_within_grace_keeps_its_locks() {
        let (mut table, now) = (table(), Instant::now());
        table.connect(token("ann"), "Ann".into(), ANN);
        table.lock(&token("ann"), ids(&["a"]), now).unwrap();
        assert_eq!(table.disconnect(&token("ann"), ANN, now), ids(&[]));
        table.connect(token("ann"), "Ann".into(), BOB);
        assert_eq!(table.expire(now + 60 * SECOND), []);
        // A page reload can connect before the old connection ends.
        table.connect(token("ann"), "Ann".into(), ANN);
        assert_eq!(table.disconnect(&token("ann"), BOB, now), ids(&[]));
        assert_eq!(table.expire(now + 60 * SECOND), []);
        assert_eq!(table.disconnect(&token("ann"), ANN, now), ids(&[]));
        assert_eq!(table.expire(now + 4 * SECOND), []);
        assert_eq!(
            table.expire(now + 5 * SECOND),
            [Expired { connections: vec![], ids: ids(&["a"]) }]
        );
        assert!(table.holders.is_empty() && table.owners.is_empty());
    }

    #[test]
    fn a_holder_without_a_token_loses_its_locks_at_once() {
        let (mut table, now) = (table(), Instant::now());
        let key = Key::Connection(1);
        table.connect(key.clone(), "Ann".into(), ANN);
        table.lock(&key, ids(&["b", "a"]), now).unwrap();
        assert_eq!(table.disconnect(&key, ANN, now), ids(&["a", "b"]));
        assert!(table.holders.is_empty() && table.owners.is_empty());
    }

    #[test]
    fn a_request_beyond_a_limit_locks_nothing() {
        let (mut table, now) = (table(), Instant::now());
        table.connect(token("ann"), "Ann".into(), ANN);
        table.connect(token("bob"), "Bob".into(), BOB);
        assert_eq!(
            table.lock(&token("ann"), ids(&["a", "b", "c", "d"]), now),
            Err(LimitReached::Holder)
        );
        assert_eq!(
            table.lock(&token("ann"), ids(&["a", "b", "c", "a"]), now),
            Ok(ids(&["a", "b", "c"]))
        );
        assert_eq!(table.lock(&token("ann"), ids(&["a", "c"]), now), Ok(ids(&[])));
        assert_eq!(table.lock(&token("bob"), ids(&["d", "e", "f"]), now), Err(LimitReached::Total));
        assert_eq!(table.lock(&token("bob"), ids(&["a", "d", "e"]), now), Ok(ids(&["d", "e"])));
        assert_eq!(table.unlock(&token("bob"), ids(&["a", "e", "x"])), ids(&["e"]));
        assert_eq!(table.locks_of(&token("bob")), ["d"]);
    }

    #[test]
    fn the_rest_of_a_lease_survives_a_snapshot() {
        let (mut old, now) = (table(), Instant::now());
        old.connect(token("ann"), "Ann".into(), ANN);
        old.connect(token("bob"), "Bob".into(), BOB);
        old.lock(&token("ann"), ids(&["a"]), now).unwrap();
        old.lock(&token("bob"), ids(&["b"]), now).unwrap();
        let text = serde_json::to_string(&old.save(now + 100 * SECOND)).unwrap();
        let later = now + 1000 * SECOND;
        let mut new = table();
        new.load(serde_json::from_str(&text).unwrap(), |id| id == ANN, later);
        assert_eq!(new.owned_by_others(&token("ann")), [Locked { id: "b", by: "Bob" }]);
        assert_eq!(new.expire(later + 4 * SECOND), []);
        assert_eq!(
            new.expire(later + 5 * SECOND),
            [Expired { connections: vec![], ids: ids(&["b"]) }]
        );
        assert_eq!(new.expire(later + 199 * SECOND), []);
        assert_eq!(
            new.expire(later + 200 * SECOND),
            [Expired { connections: vec![ANN], ids: ids(&["a"]) }]
        );
    }
}
