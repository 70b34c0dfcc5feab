//! The state of an application in a file: written whole or not at all, and read back only if it is whole.
//!
//! A head of a few lines of text, an empty line, and the bytes of the snapshot:
//!
//! ```text
//! plugsocket snapshot 2
//! plugin chat
//! version 3
//! sha256 9f86d081884c7d65…
//! ```
//!
//! The sum is over the lines above it, line feeds included, and the bytes: the state of one application is not taken for that of another.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::Snapshot;
use super::staging::hex;
use crate::fs::{owner_only, read};

/// A snapshot and the application that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    pub(crate) plugin: String,
    pub(crate) snapshot: Snapshot,
}

/// Why a file is not taken for a state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotFileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no snapshot of plugsocket, or not a whole one", .0.display())]
    Damaged(PathBuf),
}

/// Where the state of a resource is kept.
pub(crate) fn file(state_dir: &Path, resource: &str) -> PathBuf {
    let name = resource.replace('%', "%25").replace('/', "%2F");
    state_dir.join("snapshots").join(format!("{name}.snapshot"))
}

impl SnapshotFile {
    /// Writes it in place of what is at `path`.
    ///
    /// # Errors
    /// It cannot be written; what was there is still there.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        owner_only::folder(folder)?;
        let next = next(path);
        self.write_whole(&next).and_then(|()| fs::rename(&next, path)).inspect_err(|_| {
            // Half a copy would only keep the disk full.
            drop(fs::remove_file(&next));
        })?;
        // The name is as safe as the content.
        File::open(folder)?.sync_all()
    }

    fn write_whole(&self, path: &Path) -> io::Result<()> {
        let mut file = owner_only::new_file(path)?;
        file.write_all(self.head().as_bytes())?;
        file.write_all(&self.snapshot.bytes)?;
        file.sync_all()
    }

    /// Reads it back; None if there is no file.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, SnapshotFileError> {
        match read::read(path, u64::MAX) {
            Ok(bytes) => match parse(&bytes) {
                Some(state) => Ok(Some(state)),
                None => Err(SnapshotFileError::Damaged(path.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SnapshotFileError::Read { path: path.to_owned(), source }),
        }
    }
}

/// A name beside `path` that no other writing has, or ever had in this process: two that wrote one file would make a third state of
/// theirs.
fn next(path: &Path) -> PathBuf {
    static LAST: AtomicU64 = AtomicU64::new(0);
    path.with_extension(format!("{}.next", LAST.fetch_add(1, Ordering::Relaxed)))
}

/// Removes what a host that was killed while it wrote has left. Nobody else may be writing there.
pub(crate) fn sweep(state_dir: &Path) {
    let entries = fs::read_dir(state_dir.join("snapshots")).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "next")) {
        // It costs its place on the disk and no more.
        drop(fs::remove_file(entry.path()));
    }
}

impl SnapshotFile {
    /// All that stands before the bytes of the snapshot, empty line included.
    pub(crate) fn head(&self) -> String {
        let Self { plugin, snapshot: Snapshot { version, bytes } } = self;
        let lines = format!("{HEAD}\nplugin {plugin}\nversion {version}\n");
        let sum = Sha256::new().chain_update(&lines).chain_update(bytes).finalize();
        format!("{lines}sha256 {}\n\n", hex(&sum))
    }
}

const HEAD: &str = "plugsocket snapshot 2";

/// What was written, from all the bytes of a file.
pub(crate) fn parse(file: &[u8]) -> Option<SnapshotFile> {
    let end = memchr::memmem::find(file, b"\n\n")?;
    let mut lines = std::str::from_utf8(&file[..end]).ok()?.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let plugin = lines.next()?.strip_prefix("plugin ")?.to_owned();
    let version = lines.next()?.strip_prefix("version ")?.parse().ok()?;
    let snapshot = Snapshot { version, bytes: Bytes::copy_from_slice(&file[end + 2..]) };
    let state = SnapshotFile { plugin, snapshot };
    // The sum, and that nothing is spelled otherwise than it is written.
    (state.head().as_bytes() == &file[..end + 2]).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("plugsocket-state-{}", std::process::id()));
        let path = file(&folder, "/a/100%");
        assert!(path.ends_with("snapshots/%2Fa%2F100%25.snapshot"));
        assert!(SnapshotFile::read(&path).unwrap().is_none());
        for bytes in [&b""[..], b"\n\n", &[0, 255, 10, 10, 7]] {
            let snapshot = Snapshot { version: 3, bytes: bytes.into() };
            let state = SnapshotFile { plugin: "x".to_owned(), snapshot };
            state.write(&path).unwrap();
            assert_eq!(SnapshotFile::read(&path).unwrap(), Some(state));
        }
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none(), "{length}");
            let mut damaged = whole.clone();
            damaged[length] ^= 1;
            assert!(parse(&damaged).is_none(), "{length}");
        }
        let left = next(&path);
        assert_ne!(left, next(&path));
        fs::write(&left, "half").unwrap();
        sweep(&folder);
        assert!(!left.exists() && path.exists());
        fs::write(&path, "x").unwrap();
        assert!(matches!(SnapshotFile::read(&path), Err(SnapshotFileError::Damaged(_))));
        fs::remove_dir_all(&folder).unwrap();
    }
}
