//! The libraries that served before, kept across restarts, so that an operator can go back to one.
//!
//! A folder for each plugin in `state_dir/generations`, with one file for each generation, whose name says its number and hash; when it was
//! changed last is when it began to serve. There is no index that could disagree with the files. Beside them stands what was rolled
//! back from (`rolled-back`), which is not loaded again by itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::staging::{Hash, hex};
use crate::fs::{owner_only, read};

/// Where the generations of one plugin are kept.
#[derive(Debug)]
pub(crate) struct Archive {
    folder: PathBuf,
}

/// A library that served before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    /// Of the content, hexadecimal.
    pub(crate) hash: String,
    pub(crate) path: PathBuf,
    /// When it began to serve, the last time.
    pub(crate) since: SystemTime,
}

impl Archive {
    pub(crate) fn new(state_dir: &Path, plugin: &str) -> Self {
        Self { folder: state_dir.join("generations").join(plugin) }
    }

    /// What is kept, the newest first. Empty where the folder cannot be read.
    pub(crate) fn list(&self) -> Vec<Kept> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut kept: Vec<Kept> = entries.filter_map(|entry| kept(entry.path())).collect();
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.number));
        kept
    }

    /// Keeps the library at `copy` as generation `number`, and of the earlier ones the last `earlier`.
    ///
    /// # Errors
    /// It cannot be written; then nothing has changed.
    pub(crate) fn keep(
        &self,
        copy: &Path,
        number: u64,
        hash: &Hash,
        earlier: usize,
    ) -> io::Result<()> {
        owner_only::folder(&self.folder)?;
        let hash = hex(hash);
        let path = self.folder.join(format!("{number}.{hash}.so"));
        match self.list().into_iter().find(|kept| kept.hash == hash) {
            Some(same) => fs::rename(same.path, &path)?,
            None => self.add(copy, &path)?,
        }
        let file = File::options().append(true).open(&path)?;
        owner_only::close_to_others(&file)?;
        file.set_modified(SystemTime::now())?;
        for old in self.list().into_iter().skip(earlier + 1) {
            fs::remove_file(old.path)?;
        }
        Ok(())
    }

    /// Whole or not at all.
    fn add(&self, copy: &Path, path: &Path) -> io::Result<()> {
        self.put(path, |next| io::copy(&mut File::open(copy)?, next).map(drop))
    }

    /// Has something written beside its place first. A failure leaves nothing behind: half a copy would only keep the disk full.
    fn put(&self, path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
        let next = self.folder.join("next");
        let written = owner_only::file(&next).and_then(|mut file| {
            write(&mut file)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&next, path)).inspect_err(|_| {
            // The write's error is the one to tell.
            drop(fs::remove_file(&next));
        })
    }

    /// The content that was rolled back from.
    pub(crate) fn rolled_back(&self) -> Option<String> {
        // A hash.
        let bytes = read::read(&self.folder.join(ROLLED_BACK), 1024).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Notes what was rolled back from; None: nothing any more.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn set_rolled_back(&self, hash: Option<&str>) -> io::Result<()> {
        let file = self.folder.join(ROLLED_BACK);
        match hash {
            Some(hash) => {
                owner_only::folder(&self.folder)?;
                self.put(&file, |next| next.write_all(hash.as_bytes()))
            }
            None => match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}

const ROLLED_BACK: &str = "rolled-back";

/// None if the name is not one that [`Archive::keep`] gives.
fn kept(path: PathBuf) -> Option<Kept> {
    let (number, hash) = path.file_name()?.to_str()?.strip_suffix(".so")?.split_once('.')?;
    let (number, hash) = (number.parse().ok()?, hash.to_owned());
    let since = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
    Some(Kept { number, hash, path, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_kept_and_one_that_serves_again_is_the_newest() {
        let folder =
            std::env::temp_dir().join(format!("plugsocket-archive-{}", std::process::id()));
        let (archive, copy) = (Archive::new(&folder, "x"), folder.join("copy"));
        fs::create_dir_all(&folder).unwrap();
        let keep = |number: u64, content: u8| {
            fs::write(&copy, [content]).unwrap();
            archive.keep(&copy, number, &[content; 32], 2).unwrap();
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
        assert_eq!(archive.rolled_back(), None);
        archive.set_rolled_back(Some("x")).unwrap();
        assert_eq!(archive.rolled_back().as_deref(), Some("x"));
        archive.set_rolled_back(None).unwrap();
        archive.set_rolled_back(None).unwrap();
        assert_eq!(archive.rolled_back(), None);
        // What fails changes nothing and leaves nothing.
        fs::create_dir(archive.folder.join("12.aa.so")).unwrap();
        let (before, to) = (archive.list(), archive.folder.join("12.aa.so"));
        let full =
            |next: &mut File| next.write_all(b"half").and(Err(io::Error::other("disk full")));
        assert_eq!(archive.put(&to, full).unwrap_err().to_string(), "disk full");
        assert!(archive.add(&copy, &to).is_err());
        assert!(archive.list() == before && !archive.folder.join("next").exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
