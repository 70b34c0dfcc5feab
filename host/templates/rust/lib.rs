//! Counts votes, and sends the tally to all clients.
//!
//! A client sends `{"opcode":"vote","choice":"tea"}` and receives
//! `{"opcode":"tally","votes":{"coffee":0,"tea":1}}`.

use std::collections::BTreeMap;

use plugsocket_plugin::*;
use serde::{Deserialize, Serialize};

/// `[resources."/path".config]` in `plugins.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    choices: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            choices: vec!["coffee".into(), "tea".into()],
        }
    }
}

/// What a client sends.
#[derive(Deserialize)]
#[serde(tag = "opcode", rename_all = "lowercase", deny_unknown_fields)]
enum Incoming {
    Vote { choice: String },
}

/// What clients receive.
#[derive(Serialize)]
#[serde(tag = "opcode", rename_all = "lowercase")]
enum Outgoing<'a> {
    Tally { votes: &'a BTreeMap<String, u64> },
}

struct Application {
    host: Host,
    /// Of each choice.
    votes: BTreeMap<String, u64>,
}

/// The version of the state that `snapshot` writes. Increase it when the format changes, and let
/// `restore` read the older ones.
const STATE: u32 = 1;

impl Plugin for Application {
    // No callback waits for a file, a network or a lock.
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { choices } = read_config(config)?;
        if choices.is_empty() {
            return Err(StartError::new("`choices` is empty; give at least one"));
        }
        let votes = choices.into_iter().map(|choice| (choice, 0)).collect();
        Ok(Self { host, votes })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        // Fails only if the client has left.
        let _ = self
            .host
            .send_json(session.id(), &Outgoing::Tally { votes: &self.votes });
        Ok(())
    }

    fn message(&mut self, _: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let Incoming::Vote { choice } = read_message(message)?;
        let Some(count) = self.votes.get_mut(&choice) else {
            return Err(Refused::new(format!("there is no choice {choice:?}")));
        };
        *count += 1;
        let _ = self
            .host
            .broadcast_json(Audience::resource(), &Outgoing::Tally { votes: &self.votes });
        Ok(())
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let bytes = serde_json::to_vec(&self.votes).ok()?;
        Some(Snapshot {
            version: STATE,
            bytes,
        })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != STATE {
            let version = snapshot.version;
            return Err(RestoreError::new(format!(
                "state version {version}, expected {STATE}"
            )));
        }
        let votes: BTreeMap<String, u64> = serde_json::from_slice(&snapshot.bytes)?;
        // Only choices of the present configuration count.
        for (choice, count) in votes {
            self.votes
                .entry(choice)
                .and_modify(|present| *present = count);
        }
        Ok(())
    }
}

export_plugin!(Application);

#[cfg(test)]
mod tests {
    use super::*;
    use testing::{Harness, Peer};

    const TEA: &str = r#"{"opcode":"vote","choice":"tea"}"#;

    #[test]
    fn votes_survive_a_reload() {
        let mut app = Harness::<Application>::start("{}").unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        app.message(ann, TEA).unwrap();
        let mut app = app.reload::<Application>("{}").unwrap();
        app.message(ann, TEA).unwrap();
        let last = app.received(ann).pop().unwrap();
        assert_eq!(last, r#"{"opcode":"tally","votes":{"coffee":0,"tea":2}}"#);
    }

    #[test]
    fn a_vote_for_something_else_is_refused() {
        let mut app = Harness::<Application>::start(r#"{"choices":["tea"]}"#).unwrap();
        let ann = app.open(Peer::websocket()).unwrap();
        let refused = app
            .message(ann, r#"{"opcode":"vote","choice":"milk"}"#)
            .unwrap_err();
        assert_eq!(refused.reason, r#"there is no choice "milk""#);
    }
}
