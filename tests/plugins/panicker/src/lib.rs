//! Panics in the callback that a test chooses, for tests that the host continues.
//!
//! | trigger | panics in |
//! |---|---|
//! | message `panic` | this `message` |
//! | message `abort-payload` | this `message`, with a payload whose drop panics |
//! | message `panic in close` | the `close` of this connection |
//! | query `?panic=open` | this `open` |
//! | config `panic_in_start`, `panic_in_restore`, `panic_in_drop` | that callback; `drop` is the instance's |
//!
//! All other messages are sent back.
#![expect(clippy::panic, reason = "the purpose of this plugin")]

use std::collections::HashSet;

use plugsocket_plugin::{
    CloseReason, ConnectionId, Host, Message, Plugin, Refused, RestoreError, Session, Snapshot,
    StartError, export_plugin, read_config,
};
use serde::Deserialize;

struct Panicker {
    host: Host,
    config: Config,
    in_close: HashSet<ConnectionId>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    panic_in_start: bool,
    panic_in_restore: bool,
    panic_in_drop: bool,
}

impl Plugin for Panicker {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        if config.panic_in_start {
            panic!("panic requested in start");
        }
        Ok(Self { host, config, in_close: HashSet::new() })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        if session.query_value("panic").as_deref() == Some("open") {
            panic!("panic requested in open");
        }
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        match message.to_text() {
            Some("panic") => panic!("panic requested in message"),
            Some("abort-payload") => std::panic::panic_any(Payload),
            Some("panic in close") => drop(self.in_close.insert(session.id())),
            _ => {}
        }
        let _ = self.host.send(session.id(), message);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if self.in_close.remove(&session.id()) {
            panic!("panic requested in close");
        }
    }

    /// Returns an empty state, so that `restore` is called.
    fn snapshot(&mut self) -> Option<Snapshot> {
        Some(Snapshot { version: 1, bytes: Vec::new() })
    }

    fn restore(&mut self, _: Snapshot) -> Result<(), RestoreError> {
        if self.config.panic_in_restore {
            panic!("panic requested in restore");
        }
        Ok(())
    }
}

impl Drop for Panicker {
    fn drop(&mut self) {
        if self.config.panic_in_drop {
            panic!("panic requested in drop");
        }
    }
}

export_plugin!(Panicker);

/// A panic payload that panics when it is dropped.
struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        panic!("panic requested in the drop of a panic's payload");
    }
}
