//! Who holds what, and until when. Knows no packets, no host and no clock: the time is handed in.
//!
//! Leases are counted on the monotonic clock, so a wall clock that is put right expires nothing; in a snapshot they are
//! what remains of them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use plugsocket_plugin::ConnectionId;
use serde::{Deserialize, Serialize};

pub(crate) struct Desk {
    rules: Rules,
    holders: HashMap<Key, Holder>,
    /// Who has an id; each entry is in that holder's `locks` too.
    owners: HashMap<String, Key>,
}

pub(crate) struct Rules {
    pub(crate) lease: Duration,
    pub(crate) grace: Duration,
    /// Of one holder.
    pub(crate) max_locks: usize,
    /// Of all.
    pub(crate) max_total: usize,
}

/// What makes a holder the same one again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Key {
    Token(String),
    /// Without a token: the connection itself.
    Connection(u64),
}

struct Holder {
    name: String,
    presence: Presence,
    /// Each with the end of its lease.
    locks: BTreeMap<String, Instant>,
}

enum Presence {
    Here(Vec<ConnectionId>),
    /// Its last connection has ended; it has until then to come back.
    Awaited(Instant),
}

/// A lock of somebody else.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Locked<'a> {
    pub(crate) id: &'a str,
    /// The holder's name.
    pub(crate) by: &'a str,
}

/// Locks that have ended by themselves.
#[derive(Debug, PartialEq)]
pub(crate) struct Ended {
    /// The connections of the holder; none if it has left.
    pub(crate) of: Vec<ConnectionId>,
    pub(crate) ids: Vec<String>,
}

/// A limit that a packet would go past. Nothing of the packet has been done.
#[derive(Debug, PartialEq)]
pub(crate) enum Full {
    Holder,
    Desk,
}

impl Desk {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, holders: HashMap::new(), owners: HashMap::new() }
    }

    /// Saying it twice is saying it once.
    pub(crate) fn connect(&mut self, key: Key, name: String, id: ConnectionId) {
        let nobody = || Holder {
            name: String::new(),
            presence: Presence::Here(Vec::new()),
            locks: BTreeMap::new(),
        };
        let holder = self.holders.entry(key).or_insert_with(nobody);
        holder.name = name;
        match &mut holder.presence {
            Presence::Here(ids) if ids.contains(&id) => {}
            Presence::Here(ids) => ids.push(id),
            Presence::Awaited(_) => holder.presence = Presence::Here(vec![id]),
        }
    }

    /// Answers what is free at once, because nobody can come back for it.
    pub(crate) fn disconnect(&mut self, key: &Key, id: ConnectionId, now: Instant) -> Vec<String> {
        let Some(holder) = self.holders.get_mut(key) else { return Vec::new() };
        if let Presence::Here(ids) = &mut holder.presence {
            ids.retain(|other| *other != id);
            if !ids.is_empty() {
                return Vec::new();
            }
        }
        let may_come_back = matches!(key, Key::Token(_)) && !self.rules.grace.is_zero();
        if may_come_back && !holder.locks.is_empty() {
            holder.presence = Presence::Awaited(now + self.rules.grace);
            return Vec::new();
        }
        self.remove(key)
    }

    /// Locks what is free and renews what the holder has already; answers what is newly locked.
    pub(crate) fn lock(
        &mut self,
        key: &Key,
        ids: Vec<String>,
        now: Instant,
    ) -> Result<Vec<String>, Full> {
        let Some(holder) = self.holders.get_mut(key) else { return Ok(Vec::new()) };
        let (own, mut free): (Vec<String>, Vec<String>) = ids
            .into_iter()
            .filter(|id| self.owners.get(id).is_none_or(|owner| owner == key))
            .partition(|id| self.owners.contains_key(id));
        free.sort_unstable();
        free.dedup();
        if holder.locks.len() + free.len() > self.rules.max_locks {
            return Err(Full::Holder);
        }
        if self.owners.len() + free.len() > self.rules.max_total {
            return Err(Full::Desk);
        }
        let until = now + self.rules.lease;
        holder.locks.extend(own.into_iter().map(|id| (id, until)));
        for id in &free {
            holder.locks.insert(id.clone(), until);
            self.owners.insert(id.clone(), key.clone());
        }
        Ok(free)
    }

    /// Answers those of the ids that the holder had.
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
            holder.locks.values_mut().for_each(|until| *until = now + self.rules.lease);
        }
    }

    /// Ends every lease and every wait that is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Ended> {
        let mut ended = Vec::new();
        let mut left = Vec::new();
        for (key, holder) in &mut self.holders {
            let of = match &holder.presence {
                Presence::Awaited(until) if *until <= now => {
                    left.push(key.clone());
                    continue;
                }
                Presence::Awaited(_) => Vec::new(),
                Presence::Here(ids) => ids.clone(),
            };
            let over = holder.locks.iter().filter(|(_, until)| **until <= now);
            let ids: Vec<String> = over.map(|(id, _)| id.clone()).collect();
            for id in &ids {
                holder.locks.remove(id);
                self.owners.remove(id);
            }
            if !ids.is_empty() {
                ended.push(Ended { of, ids });
            }
        }
        for key in left {
            ended.push(Ended { of: Vec::new(), ids: self.remove(&key) });
        }
        ended
    }

    pub(crate) fn name(&self, key: &Key) -> &str {
        self.holders.get(key).map_or("", |holder| &holder.name)
    }

    pub(crate) fn connections(&self, key: &Key) -> &[ConnectionId] {
        match self.holders.get(key).map(|holder| &holder.presence) {
            Some(Presence::Here(ids)) => ids,
            _ => &[],
        }
    }

    /// In alphabetical order.
    pub(crate) fn mine(&self, key: &Key) -> Vec<&str> {
        let holder = self.holders.get(key);
        holder.into_iter().flat_map(|holder| holder.locks.keys().map(String::as_str)).collect()
    }

    /// Which of the ids others have.
    pub(crate) fn others_among<'a>(&'a self, key: &Key, ids: &'a [String]) -> Vec<Locked<'a>> {
        let owned = ids.iter().filter_map(|id| Some((id, self.owners.get(id)?)));
        owned
            .filter(|(_, owner)| *owner != key)
            .map(|(id, owner)| Locked { id, by: self.name(owner) })
            .collect()
    }

    /// All that others have, in alphabetical order.
    pub(crate) fn others(&self, key: &Key) -> Vec<Locked<'_>> {
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
        let left = |until: &Instant| millis(until.saturating_duration_since(now));
        let holders = self.holders.iter().map(|(key, holder)| SavedHolder {
            key: key.clone(),
            name: holder.name.clone(),
            connections: self.connections(key).iter().map(|id| id.0).collect(),
            grace_left_ms: match &holder.presence {
                Presence::Here(_) => 0,
                Presence::Awaited(until) => left(until),
            },
            locks: holder.locks.iter().map(|(id, until)| (id.clone(), left(until))).collect(),
        });
        holders.collect()
    }

    /// Takes over what was saved. A holder none of whose connections is here any more is awaited from now on, if it
    /// was not already; no lease is longer than the present rules have it.
    pub(crate) fn load(
        &mut self,
        saved: Vec<SavedHolder>,
        is_here: impl Fn(ConnectionId) -> bool,
        now: Instant,
    ) {
        for SavedHolder { key, name, connections, grace_left_ms, locks } in saved {
            let were_here = !connections.is_empty();
            let here: Vec<ConnectionId> =
                connections.into_iter().map(ConnectionId).filter(|id| is_here(*id)).collect();
            let presence = match () {
                () if !here.is_empty() => Presence::Here(here),
                () if were_here => Presence::Awaited(now + self.rules.grace),
                () => Presence::Awaited(
                    now + Duration::from_millis(grace_left_ms).min(self.rules.grace),
                ),
            };
            let until = |ms| now + Duration::from_millis(ms).min(self.rules.lease);
            let locks: BTreeMap<String, Instant> =
                locks.into_iter().map(|(id, ms)| (id, until(ms))).collect();
            self.owners.extend(locks.keys().map(|id| (id.clone(), key.clone())));
            self.holders.insert(key, Holder { name, presence, locks });
        }
    }
}

/// A holder in a snapshot, version 1.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedHolder {
    key: Key,
    name: String,
    connections: Vec<u64>,
    /// If it has no connections.
    grace_left_ms: u64,
    /// Each with what remains of its lease, in milliseconds.
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

    fn desk() -> Desk {
        let rules = Rules { lease: 300 * SECOND, grace: 5 * SECOND, max_locks: 3, max_total: 5 };
        Desk::new(rules)
    }

    fn token(text: &str) -> Key {
        Key::Token(text.to_owned())
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn leases_end_unless_they_are_renewed() {
        let (mut desk, now) = (desk(), Instant::now());
        desk.connect(token("ann"), "Ann".into(), ANN);
        desk.lock(&token("ann"), ids(&["a"]), now).unwrap();
        desk.lock(&token("ann"), ids(&["b"]), now + 100 * SECOND).unwrap();
        assert_eq!(desk.expire(now + 299 * SECOND), []);
        assert_eq!(desk.expire(now + 300 * SECOND), [Ended { of: vec![ANN], ids: ids(&["a"]) }]);
        desk.renew(&token("ann"), now + 350 * SECOND);
        assert_eq!(desk.expire(now + 649 * SECOND), []);
        assert_eq!(desk.expire(now + 650 * SECOND), [Ended { of: vec![ANN], ids: ids(&["b"]) }]);
        assert!(desk.owners.is_empty());
        desk.disconnect(&token("ann"), ANN, now);
        assert!(desk.holders.is_empty());
    }

    #[test]
    fn who_comes_back_in_time_keeps_everything() {
        let (mut desk, now) = (desk(), Instant::now());
        desk.connect(token("ann"), "Ann".into(), ANN);
        desk.lock(&token("ann"), ids(&["a"]), now).unwrap();
        assert_eq!(desk.disconnect(&token("ann"), ANN, now), ids(&[]));
        desk.connect(token("ann"), "Ann".into(), BOB);
        assert_eq!(desk.expire(now + 60 * SECOND), []);
        // The new page is there before the old one has gone.
        desk.connect(token("ann"), "Ann".into(), ANN);
        assert_eq!(desk.disconnect(&token("ann"), BOB, now), ids(&[]));
        assert_eq!(desk.expire(now + 60 * SECOND), []);
        assert_eq!(desk.disconnect(&token("ann"), ANN, now), ids(&[]));
        assert_eq!(desk.expire(now + 4 * SECOND), []);
        assert_eq!(desk.expire(now + 5 * SECOND), [Ended { of: vec![], ids: ids(&["a"]) }]);
        assert!(desk.holders.is_empty() && desk.owners.is_empty());
    }

    #[test]
    fn who_cannot_come_back_is_not_awaited() {
        let (mut desk, now) = (desk(), Instant::now());
        let key = Key::Connection(1);
        desk.connect(key.clone(), "Ann".into(), ANN);
        desk.lock(&key, ids(&["b", "a"]), now).unwrap();
        assert_eq!(desk.disconnect(&key, ANN, now), ids(&["a", "b"]));
        assert!(desk.holders.is_empty() && desk.owners.is_empty());
    }

    #[test]
    fn past_a_limit_nothing_of_the_packet_is_locked() {
        let (mut desk, now) = (desk(), Instant::now());
        desk.connect(token("ann"), "Ann".into(), ANN);
        desk.connect(token("bob"), "Bob".into(), BOB);
        assert_eq!(desk.lock(&token("ann"), ids(&["a", "b", "c", "d"]), now), Err(Full::Holder));
        assert_eq!(
            desk.lock(&token("ann"), ids(&["a", "b", "c", "a"]), now),
            Ok(ids(&["a", "b", "c"]))
        );
        assert_eq!(desk.lock(&token("ann"), ids(&["a", "c"]), now), Ok(ids(&[])));
        assert_eq!(desk.lock(&token("bob"), ids(&["d", "e", "f"]), now), Err(Full::Desk));
        assert_eq!(desk.lock(&token("bob"), ids(&["a", "d", "e"]), now), Ok(ids(&["d", "e"])));
        assert_eq!(desk.unlock(&token("bob"), ids(&["a", "e", "x"])), ids(&["e"]));
        assert_eq!(desk.mine(&token("bob")), ["d"]);
    }

    #[test]
    fn what_remains_of_a_lease_is_carried_over() {
        let (mut old, now) = (desk(), Instant::now());
        old.connect(token("ann"), "Ann".into(), ANN);
        old.connect(token("bob"), "Bob".into(), BOB);
        old.lock(&token("ann"), ids(&["a"]), now).unwrap();
        old.lock(&token("bob"), ids(&["b"]), now).unwrap();
        let text = serde_json::to_string(&old.save(now + 100 * SECOND)).unwrap();
        let later = now + 1000 * SECOND;
        let mut new = desk();
        new.load(serde_json::from_str(&text).unwrap(), |id| id == ANN, later);
        assert_eq!(new.others(&token("ann")), [Locked { id: "b", by: "Bob" }]);
        assert_eq!(new.expire(later + 4 * SECOND), []);
        assert_eq!(new.expire(later + 5 * SECOND), [Ended { of: vec![], ids: ids(&["b"]) }]);
        assert_eq!(new.expire(later + 199 * SECOND), []);
        assert_eq!(new.expire(later + 200 * SECOND), [Ended { of: vec![ANN], ids: ids(&["a"]) }]);
    }
}
