//! The one door to the host's private modules, for fuzz targets (`tests/fuzz`) and micro-benchmarks (`tests/bench/benches`).
//!
//! Plain functions over bytes and values, so that nothing inside becomes public for their sake. Behind the feature `internals`,
//! which no part of the host turns on; nothing here is promised to anybody. Modules that are public already (`http`, `lines`,
//! `chunk`, `dialog`, `frame`, `identity`, `config`) are used as they are.

pub(crate) mod crowd;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod properties;
mod proxy;
mod script;
mod wire;

pub use self::crowd::Crowd;
pub use self::proxy::proxy_header;
pub use self::wire::{
    Framing, HostMessage, ReadOutcome, SocketReader, close_code, read_all, write_all,
};

use std::path::{Path, PathBuf};

pub use crate::auth::internals::{Verified, find_token, verify_token};
use crate::ops::control::protocol::ControlRequest;
use crate::plugin::Snapshot;
use crate::plugin::snapshot_file::{self, SnapshotFile};
use crate::plugin::staging::check_elf;

/// The file in which a snapshot is kept, whole.
pub fn snapshot_file(plugin: &str, version: u32, bytes: &[u8]) -> Vec<u8> {
    let snapshot = Snapshot { version, bytes: bytes.to_vec().into() };
    let state = SnapshotFile { plugin: plugin.to_owned(), snapshot };
    [state.head().as_bytes(), bytes].concat()
}

/// Plugin, version and bytes of a snapshot's file; None if it is not a whole one.
pub fn read_snapshot(file: &[u8]) -> Option<(String, u32, Vec<u8>)> {
    let SnapshotFile { plugin, snapshot } = snapshot_file::parse(file)?;
    Some((plugin, snapshot.version, snapshot.bytes.to_vec()))
}

/// Where the snapshot of a resource is kept.
pub fn snapshot_path(state_dir: &Path, resource: &str) -> PathBuf {
    snapshot_file::file(state_dir, resource)
}

/// What is wrong with a library; None if it may be given to the linker.
pub fn library_problem(bytes: &[u8]) -> Option<String> {
    check_elf(bytes).err().map(|problem| problem.to_string())
}

/// A request on the control socket, printed again as the command line prints it.
///
/// # Errors
/// It cannot be read; why.
pub fn control_request(line: &str) -> Result<String, String> {
    let request: ControlRequest = serde_json::from_str(line).map_err(|error| error.to_string())?;
    serde_json::to_string(&request).map_err(|error| error.to_string())
}
