//! Counts all messages (`total`) and those of each connection (`seq`), and keeps both across a
//! reload.
//!
//! The answer to a text is `{"opcode":"counted","by":NAME,"total":N,"seq":M,"message":TEXT}`. A
//! test sees which version handled each message, and that none was lost, duplicated or reordered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plugsocket_plugin::{
    CloseCode, CloseReason, Host, Message, Plugin, Refused, RestoreError, Session, Snapshot,
    StartError, read_config,
};
use serde::{Deserialize, Serialize};

use crate::NAME;

pub(crate) struct Counter {
    host: Host,
    config: Config,
    count: Count,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Replaces the name of the version.
    by: Option<String>,
    refuse_start: bool,
    refuse_restore: bool,
    start_delay_ms: u64,
    restore_delay_ms: u64,
    /// Bytes added to the snapshot.
    ballast: usize,
    /// Number of instances that one copy of the library starts; it refuses more.
    starts: Option<u64>,
    drop_delay_ms: u64,
}

#[derive(Default)]
struct Count {
    total: u64,
    /// Connections with their counts, sorted: a handover of thousands costs two copies.
    seqs: Vec<(u64, u64)>,
}

impl Count {
    fn seq(&mut self, id: u64) -> &mut u64 {
        let at = self.seqs.binary_search_by_key(&id, |(id, _)| *id).unwrap_or_else(|at| {
            self.seqs.insert(at, (id, 0));
            at
        });
        &mut self.seqs[at].1
    }

    /// Encodes the snapshot, format version 1, as `u64` numbers: the total, the number of
    /// connections, and id and count of each; then the ballast.
    fn to_bytes(&self, ballast: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 * (self.seqs.len() + 1) + ballast);
        let head = (self.total, self.seqs.len() as u64);
        for (first, second) in [head].iter().chain(&self.seqs) {
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&second.to_le_bytes());
        }
        bytes.resize(bytes.len() + ballast, b'x');
        bytes
    }

    /// Returns `None` if the bytes are not a snapshot of a counter.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let (pairs, _) = numbers.as_chunks::<2>();
        let mut pairs = pairs.iter().map(|pair| pair.map(u64::from_le_bytes).into());
        let (total, count) = pairs.next()?;
        let count = usize::try_from(count).ok().filter(|count| *count <= pairs.len())?;
        Some(Self { total, seqs: pairs.take(count).collect() })
    }
}

#[derive(Serialize)]
struct Counted<'a> {
    opcode: &'static str,
    by: &'a str,
    total: u64,
    seq: u64,
    message: &'a str,
}

impl Plugin for Counter {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        pause(config.start_delay_ms);
        let before = STARTS.fetch_add(1, Ordering::Relaxed);
        if config.starts.is_some_and(|starts| before >= starts) {
            return Err(StartError::new("refusal requested by `starts`"));
        }
        if config.refuse_start {
            return Err(StartError::new("refusal requested by `refuse_start`"));
        }
        Ok(Self { host, config, count: Count::default() })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let Message::Text(message) = message else {
            return Err(Refused::with_code(CloseCode::UNSUPPORTED, "text only"));
        };
        self.count.total += 1;
        let seq = self.count.seq(session.id().0);
        *seq += 1;
        let seq = *seq;
        let by = self.config.by.as_deref().unwrap_or(NAME);
        let counted = Counted { opcode: "counted", by, total: self.count.total, seq, message };
        let text = serde_json::to_string(&counted).expect("strings and numbers have a JSON form");
        let _ = self.host.send(session.id(), &text);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.count.seqs.retain(|(id, _)| *id != session.id().0);
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        Some(Snapshot { version: 1, bytes: self.count.to_bytes(self.config.ballast) })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if self.config.refuse_restore {
            return Err(RestoreError::new("refusal requested by `refuse_restore`"));
        }
        pause(self.config.restore_delay_ms);
        if snapshot.version != 1 {
            return Err(RestoreError::new("the counter reads snapshots of version 1"));
        }
        let count = Count::from_bytes(&snapshot.bytes);
        self.count =
            count.ok_or_else(|| RestoreError::new("this is not a snapshot of a counter"))?;
        Ok(())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        pause(self.config.drop_delay_ms);
    }
}

static STARTS: AtomicU64 = AtomicU64::new(0);

#[expect(clippy::disallowed_methods, reason = "slow callbacks are what is tested")]
fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};

    #[test]
    fn the_successor_continues_counting() {
        let mut app = Harness::<Counter>::start(r#"{"by":"a","ballast":10}"#).unwrap();
        let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
        app.message(bob, "add").unwrap();
        app.message(ann, r#"{"opcode":"add"}"#).unwrap();
        assert_eq!(
            app.received(ann),
            [r#"{"opcode":"counted","by":"a","total":2,"seq":1,"message":"{\"opcode\":\"add\"}"}"#]
        );
        let mut app = app.reload::<Counter>("{}").unwrap();
        app.message(ann, "x").unwrap();
        let expected =
            format!(r#"{{"opcode":"counted","by":"{NAME}","total":3,"seq":2,"message":"x"}}"#);
        assert_eq!(app.received(ann), [expected]);
        assert!(app.reload::<Counter>(r#"{"refuse_restore":true}"#).is_err());
        assert!(Harness::<Counter>::start(r#"{"refuse_start":true}"#).is_err());
    }
}
