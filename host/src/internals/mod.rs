//! Access to private modules for fuzz targets (`tests/fuzz`), benchmarks (`tests/bench`) and tests
//! that span folders. Not part of a host that serves.
//!
//! Plain functions over bytes and values, behind the feature `internals`; no compatibility promise.

pub(crate) mod fixture;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod properties;
mod script;
mod wire;

pub use self::fixture::Fixture;
pub use self::wire::{
    Framing, HostMessage, ReadOutcome, SocketReader, close_code, read_all, write_all,
};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use self::script::Script;
pub use crate::auth::internals::{Verified, find_token, verify_token};
use crate::net::proxy_protocol::{self, ProxyHeader};
use crate::ops::control::protocol::ControlRequest;
use crate::plugin::Snapshot;
use crate::plugin::snapshot_file::{self, SnapshotFile};
use crate::plugin::staging::check_elf;

/// Returns the content of a snapshot file.
pub fn snapshot_file(plugin: &str, version: u32, bytes: &[u8]) -> Vec<u8> {
    let snapshot = Snapshot { version, bytes: bytes.to_vec().into() };
    let state = SnapshotFile { plugin: plugin.to_owned(), snapshot };
    [state.head().as_bytes(), bytes].concat()
}

/// Returns plugin, version and bytes of a complete snapshot file.
pub fn read_snapshot(file: &[u8]) -> Option<(String, u32, Vec<u8>)> {
    let SnapshotFile { plugin, snapshot } = snapshot_file::parse(file)?;
    Some((plugin, snapshot.version, snapshot.bytes.to_vec()))
}

/// Returns the path of a resource's snapshot file.
pub fn snapshot_path(state_dir: &Path, resource: &str) -> PathBuf {
    snapshot_file::file(state_dir, resource)
}

/// Returns what is wrong with an ELF file; `None` if it may be opened.
pub fn library_problem(bytes: &[u8]) -> Option<String> {
    check_elf(bytes).err().map(|problem| problem.to_string())
}

/// Parses a request of the control socket and serializes it again.
///
/// # Errors
/// The parse error.
pub fn control_request(line: &str) -> Result<String, String> {
    let request: ControlRequest = serde_json::from_str(line).map_err(|error| error.to_string())?;
    serde_json::to_string(&request).map_err(|error| error.to_string())
}

/// Parses the PROXY header at the start of `reads`; returns its address, if any, and its length.
///
/// # Errors
/// The reason for which the header is invalid.
pub fn proxy_header(reads: &[&[u8]]) -> (Result<Option<IpAddr>, String>, usize) {
    let mut script = Script::of_reads(reads);
    let found = match wire::finish(proxy_protocol::read(&mut script)) {
        Ok(ProxyHeader::For(ip)) => Ok(Some(ip)),
        Ok(ProxyHeader::Peer | ProxyHeader::Unspecified) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    let left: usize = script.reads.iter().map(Vec::len).sum();
    (found, reads.iter().map(|read| read.len()).sum::<usize>() - left)
}
