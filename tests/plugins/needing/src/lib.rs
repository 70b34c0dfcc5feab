//! Answers each message with the number that the C library beside it returns.
#![expect(unsafe_code, reason = "declares a function of a C library")]

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError, export_plugin};

// SAFETY: the function has this signature in `build.rs`, and no preconditions.
unsafe extern "C" {
    safe fn test_needed() -> i32;
}

struct Needing(Host);

impl Plugin for Needing {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self(host))
    }

    fn message(&mut self, session: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        let _ = self.0.send(session.id(), &test_needed().to_string());
        Ok(())
    }
}

export_plugin!(Needing);
