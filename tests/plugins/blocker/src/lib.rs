//! Blocks in callbacks, for tests that a blocked application delays only its own clients.
//!
//! `block N` waits N milliseconds in the callback; `block forever` waits until the file `release`
//! of the configuration exists. These and all other messages are then sent back.

use std::path::PathBuf;
use std::time::Duration;

use plugsocket_plugin::{
    Host, Message, Plugin, Refused, Session, StartError, export_plugin, read_config,
};
use serde::Deserialize;

struct Blocker {
    host: Host,
    release: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    release: Option<PathBuf>,
    /// Ignored; for a library that replaces this one.
    #[serde(rename = "starts")]
    _starts: Option<u64>,
}

impl Plugin for Blocker {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { release, .. } = read_config(config)?;
        Ok(Self { host, release })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        match message.to_text().and_then(|text| text.strip_prefix("block ")) {
            Some("forever") => {
                while !self.release.as_ref().is_some_and(|file| file.exists()) {
                    pause(10);
                }
            }
            Some(millis) => {
                let millis = millis
                    .parse()
                    .map_err(|_| Refused::new("expected block N or block forever"))?;
                pause(millis);
            }
            None => {}
        }
        let _ = self.host.send(session.id(), message);
        Ok(())
    }
}

export_plugin!(Blocker);

#[expect(clippy::disallowed_methods, reason = "blocking is what this plugin is for")]
fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}
