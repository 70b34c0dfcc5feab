//! The harness: the real program as a process, and peers that speak to it over real sockets.
//!
//! [`Setup`] says what a host is given, [`TestHost`] is that host running, in a folder of its own and on a free port.
//! [`Client`] speaks WebSocket, [`LineClient`] plain TCP, [`RawClient`] whatever a test writes. All of them wait for events
//! under one deadline, and panic with a sentence when it passes: nothing here is synchronised by time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness fails loudly"
)]

mod files;
mod host;
mod log;
mod setup;

mod client;
mod line;
mod raw;
mod stream;
mod tls;

pub mod attack;
pub mod corpus;
pub mod load;
pub mod soak;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

pub use files::allow_files;

pub use client::{Client, Next, Request};
pub use host::TestHost;
pub use line::LineClient;
pub use log::Line;
pub use raw::{Frame, RawClient, Response, closing, masked, opcode};
pub use setup::{Outcome, Setup};
pub use stream::{Address, Secure, Socket, Stream};
pub use tls::{Authority, Issued};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for an event, at most until the [`DEADLINE`].
///
/// # Panics
/// When it passes; `what` is the sentence.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("waited for {DEADLINE:?}: {what}"),
    }
}

/// The library of a bundled application or test plugin, as cargo built it: beside the test that runs, or in `deps` beside a
/// program.
///
/// # Panics
/// When it is not there: it must be a dependency of this crate.
pub fn plugin_path(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    let file = format!("lib{name}.so");
    let places = [folder.join(&file), folder.join("deps").join(&file)];
    let found = places.iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} was not built: {places:?}")).clone()
}

/// A name that no other test has at the same time, in any process.
pub(crate) fn unique_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("plugsocket-test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}
