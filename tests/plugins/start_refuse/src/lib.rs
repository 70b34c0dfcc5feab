//! Refuses to start with any configuration; the running instance continues.

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError, export_plugin};

struct Faulty;

impl Plugin for Faulty {
    const NEVER_BLOCKS: bool = true;

    fn start(_: Host, _: &str) -> Result<Self, StartError> {
        Err(StartError::new("made to refuse"))
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }
}

export_plugin!(Faulty);
