//! Ends the process, with exit code 3, while it is opened.
//!
//! Only the host's preflight child may open it: the constructor runs before the host could look at anything. Otherwise it
//! is a valid plugin, which sends everything back.
#![expect(unsafe_code, reason = "a constructor is an entry in a section of the library")]

#[path = "../../ctor_crash/src/echo.rs"]
mod echo;

use plugsocket_plugin::export_plugin;

use self::echo::Echo;

export_plugin!(Echo);

// SAFETY: the section is a list of pointers to functions of this type, which the dynamic linker calls one by one.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = constructor;

#[expect(clippy::exit, reason = "ending the process is what this plugin is for")]
extern "C" fn constructor() {
    std::process::exit(3);
}
