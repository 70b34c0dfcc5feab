//! Panics in `start` with any configuration; the running instance continues.
#![expect(clippy::panic, reason = "the purpose of this plugin")]

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError, export_plugin};

struct Faulty;

impl Plugin for Faulty {
    const NEVER_BLOCKS: bool = true;

    fn start(_: Host, _: &str) -> Result<Self, StartError> {
        panic!("made to panic in start");
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }
}

export_plugin!(Faulty);
