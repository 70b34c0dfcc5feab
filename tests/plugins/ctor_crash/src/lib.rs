//! Crashes while it is opened.
//!
//! Only the host's preflight child may open it: the constructor runs before the host could look at anything. Otherwise it
//! is a valid plugin, which sends everything back.
#![expect(unsafe_code, reason = "a constructor is an entry in a section of the library")]

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError, export_plugin};

struct Echo(Host);

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

export_plugin!(Echo);

// SAFETY: the section is a list of pointers to functions of this type, which the dynamic linker calls one by one.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    // SAFETY: there is none: the address is no memory of this process, so this ends it with SIGSEGV. That is the purpose.
    unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
}
