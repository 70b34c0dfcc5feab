//! The keys of one resource, read from their files, and read again when these change.

use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::keys::{self, Key, Skipped};
use crate::config::{KeyFile, Place};
use crate::fs::read;
use crate::fs::stamp::FileStamp;

/// The keys in force and the files that they come from.
#[derive(Debug)]
pub(super) struct Keyring {
    files: Vec<KeyFile>,
    keys: ArcSwap<Vec<Key>>,
    looks: Mutex<Looks>,
}

type Stamps = Vec<Option<FileStamp>>;

/// How the files were when they were looked at.
#[derive(Debug)]
struct Looks {
    /// When the keys in force were read.
    read: Stamps,
    last: Stamps,
    /// Why they could not be read since; said once.
    told: Option<String>,
}

/// A file without keys, by its place in the list, and why, in one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnfitKey {
    pub(super) at: usize,
    pub(super) problem: String,
}

impl Keyring {
    /// # Errors
    /// All files that cannot be used.
    pub(super) fn open(files: &[KeyFile], resource: &str) -> Result<Self, Vec<UnfitKey>> {
        let stamps = stamps(files);
        let keys = ArcSwap::from_pointee(read(files)?.tell(resource));
        let looks = Mutex::new(Looks { read: stamps.clone(), last: stamps, told: None });
        Ok(Self { files: files.to_vec(), keys, looks })
    }

    pub(super) fn keys(&self) -> Arc<Vec<Key>> {
        self.keys.load_full()
    }

    /// Reads files that have changed and were the same at the last two looks; a copy under way is left alone. If one cannot
    /// be used, the keys in force stay, and it is tried again at the next look: what keeps a file from being read may be mended
    /// where no look sees it. Blocks for as long as the file system does.
    pub(super) fn refresh(&self, resource: &str) {
        // Held while files are read: nobody else looks.
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files);
        let is_quiet = looks.last == now;
        looks.last.clone_from(&now);
        if looks.read == now {
            looks.told = None;
        } else if is_quiet {
            match read(&self.files) {
                Ok(found) => {
                    (looks.read, looks.told) = (now, None);
                    let keys = found.tell(resource);
                    let count = keys.len();
                    self.keys.store(Arc::new(keys));
                    info!(resource, keys = count, "the keys for tokens were read again");
                }
                Err(unfit) => {
                    let reasons: Vec<String> = unfit.into_iter().map(|file| file.problem).collect();
                    looks.tell(resource, reasons.join("; "));
                }
            }
        }
    }
}

impl Looks {
    fn tell(&mut self, resource: &str, reason: String) {
        if self.told.as_ref() != Some(&reason) {
            error!(resource, reason, "keys for tokens refused; the former ones stay in force");
            self.told = Some(reason);
        }
    }
}

fn stamps(files: &[KeyFile]) -> Stamps {
    files.iter().map(|file| FileStamp::of(&file.place.path)).collect()
}

/// What all files hold.
#[derive(Default)]
struct Found<'a> {
    keys: Vec<Key>,
    /// Of each file that has such.
    skipped: Vec<(&'a Path, Vec<Skipped>)>,
}

impl Found<'_> {
    /// Says what is not among the keys.
    fn tell(self, resource: &str) -> Vec<Key> {
        for (file, skipped) in self.skipped {
            let (file, count, first) = (file.display(), skipped.len(), &skipped[0]);
            warn!(resource, %file, skipped = count, %first, "keys of a set cannot be used and are skipped");
        }
        self.keys
    }
}

fn read(files: &[KeyFile]) -> Result<Found<'_>, Vec<UnfitKey>> {
    let (mut found, mut unfit) = (Found::default(), Vec::new());
    for (at, file) in files.iter().enumerate() {
        match read_one(file) {
            Ok(read) => {
                found.keys.extend(read.keys);
                if !read.skipped.is_empty() {
                    found.skipped.push((&file.place.path, read.skipped));
                }
            }
            Err(problem) => unfit.push(UnfitKey { at, problem }),
        }
    }
    if unfit.is_empty() { Ok(found) } else { Err(unfit) }
}

fn read_one(KeyFile { place: Place { path, .. }, form }: &KeyFile) -> Result<keys::Read, String> {
    let path_text = path.display();
    let unreadable = |error: io::Error| {
        format!(
            "the key file {path_text} cannot be read: {error}; give a file that the host's user may read"
        )
    };
    let unusable =
        |reason: &dyn Display| format!("the key file {path_text} cannot be used: {reason}");
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        let reason = format!("it has {size} bytes, a key file has at most {MAX_FILE}");
        return Err(unusable(&reason));
    }
    let bytes = read::read(path, MAX_FILE).map_err(unreadable)?;
    keys::read(&bytes, form).map_err(|error| unusable(&error))
}

const MAX_FILE: u64 = 1 << 20;
