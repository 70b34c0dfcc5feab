//! Detects changed files by their metadata, and decides when a changed file may be read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// Metadata that differs between two files and between two states of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds. Unlike the modification time, no program can set it.
    changed: (i64, i64),
}

impl FileStamp {
    /// Returns `None` if the path is not a file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: meta.modified().ok(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Stamps of a list of files, in its order.
pub(crate) type FileStamps = Vec<Option<FileStamp>>;

/// Debounces changes of files that are polled: changed files are settled once two consecutive
/// polls find the same, so a copy in progress is not read. Pure: the caller takes the stamps.
///
/// `plugin::watch` debounces each file by itself, as file events give it a deadline for each.
#[derive(Clone, Debug)]
pub(crate) struct SettledFiles {
    read: FileStamps,
    last: FileStamps,
}

/// State of polled files compared with the state that was last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    Unchanged,
    Changing,
    Settled,
}

impl SettledFiles {
    /// `read` must be taken before the files are read: then no later change is missed.
    pub(crate) fn new(read: FileStamps) -> Self {
        Self { last: read.clone(), read }
    }

    pub(crate) fn poll(&mut self, now: FileStamps) -> FileState {
        let is_settled = self.last == now;
        self.last = now;
        match is_settled {
            _ if self.last == self.read => FileState::Unchanged,
            true => FileState::Settled,
            false => FileState::Changing,
        }
    }

    /// Records that the files were read as the last poll found them.
    pub(crate) fn mark_read(&mut self) {
        self.read.clone_from(&self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_settled_once_two_polls_find_the_same() {
        let stamp = |size| FileStamp { device: 1, inode: 1, size, modified: None, changed: (0, 0) };
        let mut files = SettledFiles::new(vec![Some(stamp(1)), None]);
        for (now, expected) in [
            ([Some(stamp(1)), None], FileState::Unchanged),
            ([Some(stamp(2)), None], FileState::Changing),
            ([Some(stamp(3)), None], FileState::Changing),
            ([Some(stamp(3)), None], FileState::Settled),
            ([Some(stamp(3)), None], FileState::Settled),
            ([Some(stamp(1)), None], FileState::Unchanged),
            ([Some(stamp(1)), Some(stamp(1))], FileState::Changing),
            ([Some(stamp(1)), Some(stamp(1))], FileState::Settled),
        ] {
            assert_eq!(files.poll(now.to_vec()), expected);
        }
        files.mark_read();
        assert_eq!(files.poll(vec![Some(stamp(1)); 2]), FileState::Unchanged);
    }
}
