//! plugsocket: a WebSocket application host.
//!
//! The host owns sockets, handshake, dialog, chunking and routing. Applications in shared libraries
//! decide what a message means and are replaced while their clients stay connected. ARCHITECTURE.md
//! describes the whole; the modules below are in reading order, and each may use only those that
//! follow it. The program calls [`main`]. The pure modules are public for fuzz targets and
//! benchmarks, which reach the others through `internals` (a feature that is off by default).

// Starts, runs and stops the host.
mod app;
// What an operator uses.
mod ops;
// Decides which plugin and which configuration are in effect.
mod supervisor;
// One connection from its first byte to its last.
mod connection;
// The state that all parts of a running host share.
mod hub;
// Applications behind the ABI.
mod plugin;
// Who receives a message.
mod routing;
// Accepting connections.
mod net;
// Who may enter.
mod auth;
// Bytes and JSON.
pub mod protocol;
// plugins.toml.
pub mod config;
// Files.
mod fs;
// Printing errors.
mod error;
// Access for tests, fuzz targets and benchmarks.
#[cfg(any(test, feature = "internals"))]
#[doc(hidden)]
pub mod internals;

pub use app::main;
