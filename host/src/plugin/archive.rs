//! Libraries that were active before, kept across restarts for a rollback.
//!
//! Each plugin has a folder in `state_dir/generations` with one file for each generation, named by
//! its number, hash and version; the modification time is when it became active. No index could
//! disagree with the files. The file `rolled-back` holds the hash that was rolled back from, which the host
//! does not load again by itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::staging::{Hash, hex};
use crate::fs::replace::{self, replace};
use crate::fs::{owner_only, read};

/// The archived generations of one plugin.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: PathBuf,
}

/// A library that was active before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArchivedGeneration {
    pub(crate) number: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub(crate) hash: String,
    /// Version of its package; empty if unknown.
    pub(crate) version: String,
    pub(crate) path: PathBuf,
    /// When it last became active.
    pub(crate) since: SystemTime,
}

impl Archive {
    pub(crate) fn new(state_dir: &Path, plugin: &str) -> Self {
        Self { folder: state_dir.join("generations").join(plugin) }
    }

    /// Returns the archived generations, newest first; none if the folder cannot be read.
    pub(crate) fn list(&self) -> Vec<ArchivedGeneration> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut list: Vec<_> = entries.filter_map(|entry| archived(entry.path())).collect();
        list.sort_by_key(|archived| std::cmp::Reverse(archived.number));
        list
    }

    /// Keeps the library at `copy` as generation `number`, and the last `earlier` ones before it.
    ///
    /// # Errors
    /// The library cannot be written; nothing has changed.
    pub(crate) fn keep(
        &self,
        copy: &Path,
        number: u64,
        (hash, version): (&Hash, &str),
        earlier: usize,
    ) -> io::Result<()> {
        owner_only::folder(&self.folder)?;
        let hash = hex(hash);
        let is_version = |char: char| char.is_ascii_alphanumeric() || ".-+".contains(char);
        let version = match version.len() <= MAX_VERSION && version.chars().all(is_version) {
            true => version,
            false => "",
        };
        let path = self.folder.join(format!("{number}.{hash}.{version}.so"));
        match self.list().into_iter().find(|archived| archived.hash == hash) {
            Some(same) => fs::rename(same.path, &path)?,
            None => Self::add(copy, &path)?,
        }
        let file = File::options().append(true).open(&path)?;
        owner_only::close_to_others(&file)?;
        file.set_modified(SystemTime::now())?;
        for old in self.list().into_iter().skip(earlier + 1) {
            fs::remove_file(old.path)?;
        }
        Ok(())
    }

    fn add(copy: &Path, path: &Path) -> io::Result<()> {
        replace(path, |file| io::copy(&mut File::open(copy)?, file).map(drop))
    }

    /// Returns the hash that was rolled back from.
    pub(crate) fn rolled_back(&self) -> Option<String> {
        let bytes = read::read(&self.folder.join(ROLLED_BACK), 1024).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Stores or removes the hash that was rolled back from.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub(crate) fn set_rolled_back(&self, hash: Option<&str>) -> io::Result<()> {
        let file = self.folder.join(ROLLED_BACK);
        match hash {
            Some(hash) => {
                owner_only::folder(&self.folder)?;
                replace(&file, |file| file.write_all(hash.as_bytes()))
            }
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}

const ROLLED_BACK: &str = "rolled-back";
/// A longer version is not part of the file name.
const MAX_VERSION: usize = 100;

/// Removes what a killed host left half-written in the folders of all plugins.
pub(crate) fn sweep(state_dir: &Path) {
    let folders = fs::read_dir(state_dir.join("generations")).into_iter().flatten().flatten();
    folders.for_each(|folder| replace::sweep(&folder.path()));
}

/// Reads an archived file; `None` if [`Archive::keep`] did not name it.
fn archived(path: PathBuf) -> Option<ArchivedGeneration> {
    let (number, rest) = path.file_name()?.to_str()?.strip_suffix(".so")?.split_once('.')?;
    // Earlier hosts wrote no version.
    let (hash, version) = rest.split_once('.').unwrap_or((rest, ""));
    let (number, hash) = (number.parse().ok()?, hash.to_owned());
    let version = version.to_owned();
    let since = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
    Some(ArchivedGeneration { number, hash, version, path, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generations_are_kept_and_one_that_is_active_again_is_the_newest() {
        let folder =
            std::env::temp_dir().join(format!("plugsocket-archive-{}", std::process::id()));
        let (archive, copy) = (Archive::new(&folder, "x"), folder.join("copy"));
        fs::create_dir_all(&folder).unwrap();
        let keep = |number: u64, content: u8| {
            fs::write(&copy, [content]).unwrap();
            archive.keep(&copy, number, (&[content; 32], "1.2.3-rc.1+x"), 2).unwrap();
            let kept = archive
                .list()
                .into_iter()
                .map(|kept| (kept.number, fs::read(kept.path).unwrap()[0]));
            kept.collect::<Vec<_>>()
        };
        assert_eq!(keep(1, b'a'), [(1, b'a')]);
        assert_eq!(keep(2, b'b'), [(2, b'b'), (1, b'a')]);
        assert_eq!(keep(3, b'a'), [(3, b'a'), (2, b'b')]);
        assert_eq!(keep(10, b'c'), [(10, b'c'), (3, b'a'), (2, b'b')]);
        assert_eq!(keep(11, b'd'), [(11, b'd'), (10, b'c'), (3, b'a')]);
        assert!(archive.list().iter().all(|kept| kept.version == "1.2.3-rc.1+x"));
        assert_eq!(archive.rolled_back(), None);
        archive.set_rolled_back(Some("x")).unwrap();
        assert_eq!(archive.rolled_back().as_deref(), Some("x"));
        archive.set_rolled_back(None).unwrap();
        archive.set_rolled_back(None).unwrap();
        assert_eq!(archive.rolled_back(), None);
        fs::create_dir(archive.folder.join("12.aa.so")).unwrap();
        let (before, to) = (archive.list(), archive.folder.join("12.aa.so"));
        assert!(Archive::add(&copy, &to).is_err());
        assert_eq!(archive.list(), before);
        let left = archive.folder.join("13.aa.0.next");
        fs::write(&left, "half").unwrap();
        sweep(&folder);
        assert!(!left.exists() && archive.list() == before);
        fs::remove_dir_all(&folder).unwrap();
    }
}
