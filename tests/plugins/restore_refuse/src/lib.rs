//! Starts, but refuses every snapshot; the running instance continues.

use plugsocket_plugin::{
    Host, Message, Plugin, Refused, RestoreError, Session, Snapshot, StartError, export_plugin,
};

struct Faulty;

impl Plugin for Faulty {
    const NEVER_BLOCKS: bool = true;

    fn start(_: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self)
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn restore(&mut self, _: Snapshot) -> Result<(), RestoreError> {
        Err(RestoreError::new("made to refuse"))
    }
}

export_plugin!(Faulty);
