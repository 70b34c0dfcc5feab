//! The test harness: runs the host as a process and connects clients over real sockets.
//!
//! [`Setup`] configures a host, [`TestHost`] is the running host, in a temporary folder and on a
//! free port. [`Client`] is a WebSocket client, [`LineClient`] a plain TCP client, [`RawClient`]
//! writes arbitrary bytes. All waits share one deadline and panic with a message when it passes; no
//! test synchronizes by sleeping.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness fails loudly"
)]

mod files;
mod follower;
mod host;
mod log;
mod setup;
mod skip;

mod client;
mod line;
mod raw;
mod stream;
mod tls;

pub mod attack;
pub mod corpus;
pub mod load;
pub mod markdown;
pub mod soak;
pub mod tutorial;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

pub use files::{ensure_file_limit, processes};

pub use client::{Client, Next, Request};
pub use follower::Follower;
pub use host::TestHost;
pub use line::LineClient;
pub use log::Line;
pub use raw::{Frame, RawClient, Response, close_frame, masked, opcode};
pub use setup::{CommandOutput, Setup};
pub use skip::skip;
pub use stream::{Address, Socket, Stream, TlsClient};
pub use tls::{Authority, Issued};

/// The time after which a wait fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits a future, at most until the [`DEADLINE`].
///
/// # Panics
/// If the deadline passes; `what` is part of the message.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {DEADLINE:?}: {what}"),
    }
}

/// Returns the path of a bundled or test plugin that cargo has built: in the folder of the running
/// test, or in `deps` beside a program.
///
/// # Panics
/// If it does not exist; it must be a dependency of this crate.
pub fn plugin_path(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    let file = format!("lib{name}.so");
    let candidates = [folder.join(&file), folder.join("deps").join(&file)];
    let found = candidates.iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} was not built: {candidates:?}")).clone()
}

/// Returns a name that is unique among all running test processes.
pub(crate) fn unique_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("plugsocket-test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}
