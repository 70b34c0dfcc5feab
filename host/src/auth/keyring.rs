//! The keys of one resource, read from their files, and read again when these change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use arc_swap::ArcSwap;
use tracing::{error, info};

use super::keys::{self, Key, KeyError};
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
    /// When they were read, with or without success.
    read: Stamps,
    last: Stamps,
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
    pub(super) fn open(files: &[KeyFile]) -> Result<Self, KeyringError> {
        let stamps = stamps(files);
        let keys = ArcSwap::from_pointee(read(files)?);
        let looks = Mutex::new(Looks { read: stamps.clone(), last: stamps });
        Ok(Self { files: files.to_vec(), keys, looks })
    }

    pub(super) fn keys(&self) -> Arc<Vec<Key>> {
        self.keys.load_full()
    }

    /// Reads files that have changed and were the same at the last two looks; a copy under way is left alone. If one cannot
    /// be used, the keys in force stay. Blocks for as long as the file system does.
    pub(super) fn refresh(&self, resource: &str) {
        let now = stamps(&self.files);
        {
            let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            let is_quiet = looks.last == now;
            looks.last.clone_from(&now);
            if !is_quiet || looks.read == now {
                return;
            }
            looks.read = now;
        }
        match read(&self.files) {
            Ok(keys) => {
                let count = keys.len();
                self.keys.store(Arc::new(keys));
                info!(resource, keys = count, "the keys for tokens were read again");
            }
            Err(reason) => {
                let reason = chain(&reason);
                error!(resource, reason, "keys for tokens refused; the former ones stay in force");
            }
        }
    }
}

fn stamps(files: &[KeyFile]) -> Stamps {
    files.iter().map(|file| FileStamp::of(&file.path)).collect()
}

fn read(files: &[KeyFile]) -> Result<Vec<Key>, KeyringError> {
    let mut keys = Vec::new();
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
        keys.extend(keys::read(&bytes, form).map_err(unusable)?);
    }
    Ok(keys)
}

const MAX_FILE: u64 = 1 << 20;
