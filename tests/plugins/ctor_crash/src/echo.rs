//! An application that sends every message back, shared by the plugins with a faulty constructor.

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError};

pub(crate) struct Echo(Host);

impl Plugin for Echo {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self(host))
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let _ = self.0.send(session.id(), message);
        Ok(())
    }
}
