//! The state of an application in a file, which is accepted only as it was written.
//!
//! A head of text lines, an empty line, and the bytes of the snapshot:
//!
//! ```text
//! plugsocket snapshot 2
//! plugin chat
//! version 3
//! sha256 9f86d081884c7d65…
//! ```
//!
//! The checksum covers the lines above it, including line feeds, and the bytes, so that the state
//! of one application is not accepted as that of another.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest;

use super::Snapshot;
use super::staging::hex;
use crate::fs::replace::{self, replace};
use crate::fs::{owner_only, read};

/// A snapshot and the name of its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    pub(crate) plugin: String,
    pub(crate) snapshot: Snapshot,
}

/// Why a snapshot file is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotFileError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a complete plugsocket snapshot", .0.display())]
    Damaged(PathBuf),
}

/// Returns the path of the snapshot of a resource.
pub(crate) fn file(state_dir: &Path, resource: &str) -> PathBuf {
    let name = resource.replace('%', "%25").replace('/', "%2F");
    state_dir.join("snapshots").join(format!("{name}.snapshot"))
}

impl SnapshotFile {
    /// Replaces the file at `path`.
    ///
    /// # Errors
    /// The file cannot be written; `path` is unchanged.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), owner_only::folder)?;
        replace(path, |file| {
            file.write_all(self.head().as_bytes())?;
            file.write_all(&self.snapshot.bytes)
        })
    }

    /// Reads the file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, SnapshotFileError> {
        match read::read(path, u64::MAX) {
            Ok(bytes) => {
                let parsed = parse(&bytes).map(Some);
                parsed.ok_or_else(|| SnapshotFileError::Damaged(path.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SnapshotFileError::Read { path: path.to_owned(), source }),
        }
    }

    /// Returns the text before the bytes of the snapshot, including the empty line.
    pub(crate) fn head(&self) -> String {
        let Self { plugin, snapshot: Snapshot { version, bytes } } = self;
        let lines = format!("{HEAD}\nplugin {plugin}\nversion {version}\n");
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(lines.as_bytes());
        sum.update(bytes);
        format!("{lines}sha256 {}\n\n", hex(sum.finish().as_ref()))
    }
}

/// Removes what a killed host left half-written.
pub(crate) fn sweep(state_dir: &Path) {
    replace::sweep(&state_dir.join("snapshots"));
}

const HEAD: &str = "plugsocket snapshot 2";

/// Parses the bytes of a whole file.
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
    // Compares the checksum and refuses any other spelling of the head.
    (state.head().as_bytes() == &file[..end + 2]).then_some(state)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_file_as_it_was_written_is_read() {
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
        let left = path.with_extension("0.next");
        fs::write(&left, "half").unwrap();
        sweep(&folder);
        assert!(!left.exists() && path.exists());
        fs::write(&path, "x").unwrap();
        assert!(matches!(SnapshotFile::read(&path), Err(SnapshotFileError::Damaged(_))));
        fs::remove_dir_all(&folder).unwrap();
    }
}
