//! plugsocket: a WebSocket application host.
//!
//! Sockets, handshake, dialog, chunks and routing are the host's; what a message means is decided by applications in
//! shared libraries, which are replaced while their peers stay connected. ARCHITECTURE.md draws the whole; the modules below are in
//! reading order. The program is [`main`]; the pure modules are public for fuzzing and
//! benchmarks, which reach the others through `internals` (a feature of that name, off).

// What an operator says.
mod aside;
mod cli;
pub mod config;
mod control;
mod drain;
mod files;
mod life;
mod private;
mod systemd;
mod telemetry;
// How a connection comes in.
mod auth;
mod census;
mod descriptors;
mod door;
mod farewell;
mod handshake;
pub mod http;
pub mod lines;
mod listener;
mod page;
mod proxy_protocol;
mod server;
mod tls;
mod turnstile;
// What it does.
pub mod chunk;
mod connection;
mod deadline;
pub mod dialog;
pub mod frame;
pub mod identity;
mod input;
mod pace;
mod post;
mod share;
mod throttle;
pub mod utf8;
mod wire;
// How a message finds its receivers.
mod outbox;
mod payload;
mod plugin;
mod registry;
mod resource;
mod router;
mod sync;
// Who decides what runs.
mod supervisor;
mod watchdog;
// For tools that need more of the above than the program.
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod internals;
#[cfg(test)]
mod model;

pub use cli::main;
