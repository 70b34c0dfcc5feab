//! The keys of one resource, read from their files, and read again when these change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::keys::{self, Key, KeyError, Skipped};
use crate::config::KeyFile;
use crate::files;
use crate::plugin::stage::FileStamp;
use crate::supervisor::chain;

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

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    #[error("the key file {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the key file {} cannot be used: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl Keyring {
    /// # Errors
    /// One of the files cannot be used.
    pub(super) fn open(files: &[KeyFile], resource: &str) -> Result<Self, KeyringError> {
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
                Err(reason) => looks.tell(resource, chain(&reason)),
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
    files.iter().map(|file| FileStamp::of(&file.path)).collect()
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

fn read(files: &[KeyFile]) -> Result<Found<'_>, KeyringError> {
    let mut found = Found::default();
    for KeyFile { path, form } in files {
        let failed = |source| KeyringError::Read { path: path.clone(), source };
        let size = fs::metadata(path).map_err(failed)?.len();
        if size > MAX_FILE {
            let reason = format!("it has {size} bytes, a key file has at most {MAX_FILE}");
            return Err(KeyringError::Unusable { path: path.clone(), reason });
        }
        let bytes = files::read(path, MAX_FILE).map_err(failed)?;
        let unusable = |error: KeyError| KeyringError::Unusable {
            path: path.clone(),
            reason: error.to_string(),
        };
        let read = keys::read(&bytes, form).map_err(unusable)?;
        found.keys.extend(read.keys);
        if !read.skipped.is_empty() {
            found.skipped.push((path, read.skipped));
        }
    }
    Ok(found)
}

const MAX_FILE: u64 = 1 << 20;
