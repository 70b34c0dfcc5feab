//! Runs a shell with the command in the environment variable `PLUGSOCKET_TEST_CONSTRUCTOR` in a
//! constructor, and then crashes.
//!
//! Only the preflight child may open it: a constructor runs before the host can check anything.
//! Otherwise it is a valid plugin, which sends every message back.
#![expect(unsafe_code, reason = "a constructor is an entry in a section of the library")]

#[path = "../../ctor_crash/src/echo.rs"]
mod echo;
mod shell;

use plugsocket_plugin::export_plugin;

use self::echo::Echo;

export_plugin!(Echo);

// SAFETY: the section is an array of pointers to functions of this type, which the dynamic linker
// calls.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    if let Ok(command) = std::env::var("PLUGSOCKET_TEST_CONSTRUCTOR") {
        shell::run(&command);
        std::process::abort();
    }
}
