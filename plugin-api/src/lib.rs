//! What an application for the **plugsocket** WebSocket host implements and calls.
//!
//! The host owns sockets, handshake, dialog, chunks and routing. An application is a shared library that
//! decides what messages mean. It is loaded while the host runs, and replaced while its peers stay connected.
//!
//! # The smallest application
//!
//! `Cargo.toml`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! plugsocket-plugin = "1.0.0"
//! ```
//!
//! `src/lib.rs`: counts its messages, tells everybody, and keeps counting when it is replaced.
//!
//! ```
//! use plugsocket_plugin::*;
//!
//! struct Counter {
//!     host: Host,
//!     count: u64,
//! }
//!
//! impl Plugin for Counter {
//!     const NEVER_BLOCKS: bool = true;
//!
//!     fn start(host: Host, _config: &str) -> Result<Self, StartError> {
//!         Ok(Self { host, count: 0 })
//!     }
//!
//!     fn message(&mut self, session: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
//!         self.count += 1;
//!         let packet = format!(r#"{{"opcode":"count","count":{}}}"#, self.count);
//!         // Fails only when this instance has been replaced; there is nothing to do then.
//!         let _ = self.host.broadcast(Audience::resource(), &packet);
//!         tracing::debug!(from = session.address(), count = self.count, "counted");
//!         Ok(())
//!     }
//!
//!     fn snapshot(&mut self) -> Option<Snapshot> {
//!         Some(Snapshot { version: 1, bytes: self.count.to_le_bytes().to_vec() })
//!     }
//!
//!     fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
//!         self.count = u64::from_le_bytes(snapshot.bytes.as_slice().try_into()?);
//!         Ok(())
//!     }
//! }
//!
//! export_plugin!(Counter);
//!
//! // A test needs no socket and no host.
//! # fn main() {
//! let mut app = testing::Harness::<Counter>::start("{}").unwrap();
//! let ann = app.open(testing::Peer::websocket()).unwrap();
//! app.message(ann, "hello").unwrap();
//! assert_eq!(app.received(ann), [r#"{"opcode":"count","count":1}"#]);
//!
//! let mut app = app.reload::<Counter>("{}").unwrap();
//! app.message(ann, "hello").unwrap();
//! assert_eq!(app.received(ann), [r#"{"opcode":"count","count":2}"#]);
//! # }
//! ```
//!
//! Build it, put the library (`libcounter.so`) into the host's `plugin_dir`, and map it in `plugins.toml`:
//!
//! ```toml
//! [resources."/counter"]
//! plugin = "counter"
//! ```
//!
//! # The life of an instance
//!
//! 1. **start**: the configuration is checked, the instance made.
//! 2. **restore**, if there was a predecessor that left a **snapshot**.
//! 3. For each connection: **open** → **message** … → **close**. One call at a time, in order, for all
//!    connections of the resource: the instance is never called from two threads at once.
//! 4. **tick** between messages, if [`Plugin::tick_every`] asks for it.
//! 5. When a new library or another configuration is there: **snapshot**; the successor restores it and gets the next
//!    message. The old instance is dropped. Its threads must end in `Drop`; should one go on, its calls to [`Host`] answer
//!    [`HostError::Retired`].
//!
//! If anything of the successor fails, the old instance goes on as if nothing had happened.
//!
//! # Threads, time and logs
//!
//! A library has its own copy of every crate: the host's tokio runtime and `tracing` subscriber do not reach into it. Start
//! threads or a runtime of your own for slow work; [`Host`] works from any thread. What you say through `tracing` or
//! `log` is forwarded to the host's log.
//!
//! # Compatibility
//!
//! A library built against any 1.x of this crate is loaded by any host of 1.x, older or newer, whatever compiler built it. The
//! crate's version in the manifest stays 1.0.0 and functions are only appended; what an older host lacks answers
//! [`HostError::Unsupported`]. The library must be built with `panic = "unwind"`, cargo's default.

#[doc(hidden)]
pub mod abi;
mod config;
mod export;
mod host;
mod logging;
mod plugin;
pub mod testing;
mod types;

pub use config::read_config;
#[doc(hidden)]
pub use export::__private;
pub use host::Host;
pub use plugin::{Plugin, Session};
pub use types::{
    Audience, CloseCode, CloseReason, ClosedBy, ConnectionId, HostError, Kind, Level, Message,
    Refused, RestoreError, Scope, Snapshot, StartError, Target, Verdict,
};
