//! Plugin API of the **plugsocket** WebSocket host.
//!
//! The host accepts connections, performs the handshake and routes messages. An application decides
//! what the messages of one URL path mean. It is a shared library that the host loads while it
//! runs, and replaces without closing a connection.
//!
//! | term | meaning |
//! |---|---|
//! | host | the server program `plugsocket`, configured by `plugins.toml` |
//! | resource | a URL path, such as `/chat`, that `plugins.toml` maps to a plugin |
//! | plugin | the shared library, `lib<name>.so` |
//! | application | what the plugin implements: a type with the trait [`Plugin`] |
//! | instance | one value of that type; each resource has its own |
//! | session | a client's connection to a resource, as the application sees it: [`Session`] |
//!
//! The guide `docs/guides/write-an-application.md` in the repository discusses design decisions;
//! this reference is complete without it.
//!
//! # A first application
//!
//! `Cargo.toml` of a package named `counter`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! plugsocket-plugin = { path = "../plugsocket/plugin-api" }   # this crate
//! tracing = "0.1"
//! ```
//!
//! `src/lib.rs`. The application counts messages, sends the count to every client of its resource,
//! and keeps the count when its library is replaced:
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
//!         // The only possible error is that this instance has been replaced.
//!         let _ = self.host.broadcast(Audience::resource(), &packet);
//!         tracing::debug!(from = session.address(), count = self.count, "message counted");
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
//! // The body of a test. It needs neither a socket nor a host.
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
//! Run `cargo build --release`, copy `target/release/libcounter.so` into the host's `plugin_dir`,
//! and map it in `plugins.toml`. The running host reads both at once; a new build takes over when
//! it is copied over the old one.
//!
//! ```toml
//! [resources."/counter"]
//! plugin = "counter"
//!
//! [resources."/counter".config]   # optional; passed to `start` as JSON
//! ```
//!
//! # Callbacks
//!
//! The host makes one call at a time to an instance, in this order:
//!
//! 1. [`start`](Plugin::start) validates the configuration and creates the instance.
//! 2. [`restore`](Plugin::restore), if there is a snapshot of a predecessor.
//! 3. For each connection [`open`](Plugin::open), any number of [`message`](Plugin::message), then
//!    [`close`](Plugin::close) once. Callbacks for different connections alternate.
//! 4. [`tick`](Plugin::tick) between messages, if [`tick_every`](Plugin::tick_every) requests it.
//!    Likewise [`event`](Plugin::event) for what its threads [post](Host::post), and
//!    [`timer`](Plugin::timer) for its [timers](Host::after).
//! 5. [`snapshot`](Plugin::snapshot) when the library or the configuration is replaced. The new
//!    instance receives the next message; the old one is dropped, on another thread. If the new
//!    instance fails to start or to restore, the old one continues.
//! 6. [`retiring`](Plugin::retiring) after a successor has taken over, on another thread; then the
//!    instance is dropped.
//!
//! # What clients see
//!
//! On a resource with a dialog (the default; `dialog = false` is a plain WebSocket) the host itself
//! sends three packets:
//!
//! | packet | when |
//! |---|---|
//! | `{"opcode":"ready","uuid":"…"}` | `open` has accepted the connection |
//! | `{"opcode":"next","fyi":"…"}` | `message` has returned; after everything that it sent to the sender. `fyi` is empty unless [`Host::set_fyi`] sets it |
//! | `{"opcode":"close","error":"…"}` | the host will close the connection, except with code 1000 |
//!
//! All other packets are the application's. A message in fragments or chunks arrives as a whole.
//! Scripts can connect over plain TCP or send one message by HTTP POST: see [`Kind`]. An instance
//! sees a POST as `open`, one `message` and `close`; the response contains what it sent.
//!
//! # Threads and blocking
//!
//! A plugin has its own copy of every crate: it cannot use the host's tokio runtime or `tracing`
//! subscriber. Run slow work with [`Host::spawn_blocking`], or start threads or a runtime of your own:
//! keep a clone of [`Host`] there (it works from any thread), [post](Host::post) results, and end
//! them in `Drop`. [`Host::defer`] lets the client wait for the result. Output of the `tracing` and `log` macros is
//! forwarded to the host's log.
//!
//! # Failures
//!
//! | event | effect |
//! |---|---|
//! | `start` or `restore` returns an error, panics, or exceeds `start_timeout` or `restore_timeout` (10 s each) | the old instance continues; the operator reads the text |
//! | `open` or `message` returns [`Refused`] | the connection is closed with its code and reason |
//! | a callback panics | its connection is closed with 1011; the instance continues. More than `max_panics` (5) within a minute replace it with a fresh one |
//! | a callback runs longer than `callback_limit` (30 s) | all connections of the resource are closed with 1013; a fresh instance starts |
//! | stack overflow, a panic while unwinding, `abort`, `exit` | the host process ends |
//!
//! Names in code font are keys of `plugins.toml`.
//!
//! # Compatibility
//!
//! Every host of API version 1 loads every plugin built against API version 1, older or newer,
//! built by any compiler version. The manifest version of this crate stays 1.0.0; functions are
//! only added, in numbered *ABI steps*. What an older host lacks either has a documented fallback
//! or returns [`HostError::Unsupported`]. A plugin must be built with `panic = "unwind"`, cargo's
//! default.

#[doc(hidden)]
pub mod abi;
mod blocking;
#[cfg(feature = "serde")]
mod config;
mod export;
mod host;
mod http;
#[cfg(feature = "serde")]
mod json;
mod logging;
#[cfg(feature = "serde")]
mod packet;
mod plugin;
mod session;
pub mod testing;
mod types;

#[cfg(feature = "serde")]
pub use config::read_config;
#[doc(hidden)]
pub use export::__private;
pub use host::{Counter, Event, Gauge, Histogram, Host, Ticket};
pub use http::{Request, Responder, Response};
#[cfg(feature = "serde")]
pub use json::{Call, CallId, SessionData, read_json, read_message};
#[cfg(feature = "serde")]
pub use packet::{Json, Packet};
pub use plugin::Plugin;
pub use session::Session;
pub use types::{
    Audience, CloseCode, CloseReason, ClosedBy, ConfigChange, ConnectionId, HostError, Kind, Level,
    Message, Refused, RestoreError, RetireReason, Scope, Snapshot, SnapshotReason, StartError,
    Target, Verdict, is_uuid,
};
