//! Takes the thread that opens the library for the main thread of the process, as allocators and C
//! libraries do (mimalloc), and refuses to start once that thread has ended.
#![expect(unsafe_code, reason = "a constructor is an entry in a section of the library")]

use std::sync::atomic::{AtomicBool, Ordering};

use plugsocket_plugin::{Host, Message, Plugin, Refused, Session, StartError, export_plugin};

static HAS_ENDED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static MAIN: Main = const { Main };
}

struct Main;

impl Drop for Main {
    fn drop(&mut self) {
        HAS_ENDED.store(true, Ordering::Release);
    }
}

// SAFETY: the section is an array of pointers to functions of this type, which the dynamic linker
// calls.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    MAIN.with(|_| ());
}

struct Loaded(Host);

impl Plugin for Loaded {
    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        match HAS_ENDED.load(Ordering::Acquire) {
            true => Err(StartError::new("the thread that opened the library has ended")),
            false => Ok(Self(host)),
        }
    }

    fn message(&mut self, session: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        let _ = self.0.send(session.id(), &HAS_ENDED.load(Ordering::Acquire).to_string());
        Ok(())
    }
}

export_plugin!(Loaded);
