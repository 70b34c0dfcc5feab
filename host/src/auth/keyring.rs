//! Keys of one resource: reads the key files, and rereads them when they change.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::keys::{self, Key, KeySet, Skipped};
use crate::config::{FileSetting, KeyFile, TokenRules};
use crate::fs::read;
use crate::fs::stamp::{FileStamp, FileStamps, FileState, SettledFiles};

/// Rules for tokens, and the keys in force.
#[derive(Debug)]
pub(super) struct Keyring {
    pub(super) rules: TokenRules,
    keys: ArcSwap<Vec<Key>>,
    polled: Mutex<Polled>,
}

#[derive(Debug)]
struct Polled {
    files: SettledFiles,
    /// The last read error, which is logged once.
    reported: Option<String>,
}

/// An unusable key file: its index in the list, and the reason in one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnfitKey {
    pub(super) at: usize,
    pub(super) problem: String,
}

impl Keyring {
    /// # Errors
    /// All unusable files.
    pub(super) fn open(rules: &TokenRules, resource: &str) -> Result<Self, Vec<UnfitKey>> {
        let polled = SettledFiles::new(stamps(&rules.keys));
        let keys = ArcSwap::from_pointee(read(&rules.keys)?.log_skipped(resource));
        let polled = Mutex::new(Polled { files: polled, reported: None });
        Ok(Self { rules: rules.clone(), keys, polled })
    }

    pub(super) fn keys(&self) -> Arc<Vec<Key>> {
        self.keys.load_full()
    }

    /// Polls the files, and reads them if they changed and are settled. If a file is unusable, the
    /// keys in force stay and the next poll tries again, as the cause may not show in a stamp.
    /// Blocks on the file system.
    pub(super) fn refresh(&self, resource: &str) {
        // Held during the read, so that refreshes do not overlap.
        let mut polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        match polled.files.poll(stamps(&self.rules.keys)) {
            FileState::Unchanged => polled.reported = None,
            FileState::Changing => {}
            FileState::Settled => match read(&self.rules.keys) {
                Ok(found) => {
                    polled.files.mark_read();
                    polled.reported = None;
                    let keys = found.log_skipped(resource);
                    let count = keys.len();
                    self.keys.store(Arc::new(keys));
                    info!(resource, keys = count, "token keys reloaded");
                }
                Err(unfit) => {
                    let reasons: Vec<String> = unfit.into_iter().map(|file| file.problem).collect();
                    polled.report(resource, reasons.join("; "));
                }
            },
        }
    }
}

impl Polled {
    fn report(&mut self, resource: &str, reason: String) {
        if self.reported.as_ref() != Some(&reason) {
            error!(resource, reason, "token keys rejected; the previous keys stay in force");
            self.reported = Some(reason);
        }
    }
}

fn stamps(files: &[KeyFile]) -> FileStamps {
    files.iter().map(|file| FileStamp::of(&file.file.path)).collect()
}

/// Content of all key files.
#[derive(Default)]
struct LoadedKeys<'a> {
    keys: Vec<Key>,
    /// By file, at least one of each.
    skipped: Vec<(&'a Path, Vec<Skipped>)>,
}

impl LoadedKeys<'_> {
    fn log_skipped(self, resource: &str) -> Vec<Key> {
        for (file, skipped) in self.skipped {
            let (file, count, first) = (file.display(), skipped.len(), &skipped[0]);
            warn!(resource, %file, skipped = count, %first, "unusable keys of a key set skipped");
        }
        self.keys
    }
}

fn read(files: &[KeyFile]) -> Result<LoadedKeys<'_>, Vec<UnfitKey>> {
    let (mut found, mut unfit) = (LoadedKeys::default(), Vec::new());
    for (at, file) in files.iter().enumerate() {
        match read_one(file) {
            Ok(KeySet { keys, skipped }) => {
                found.keys.extend(keys);
                if !skipped.is_empty() {
                    found.skipped.push((&file.file.path, skipped));
                }
            }
            Err(problem) => unfit.push(UnfitKey { at, problem }),
        }
    }
    if unfit.is_empty() { Ok(found) } else { Err(unfit) }
}

fn read_one(KeyFile { file: FileSetting { path, .. }, form }: &KeyFile) -> Result<KeySet, String> {
    let file = path.display();
    let unreadable = |error: io::Error| {
        format!(
            "the key file {file} cannot be read: {error}; use a file that the host's user may read"
        )
    };
    let bytes = read::read(path, MAX_FILE).map_err(unreadable)?;
    keys::read(&bytes, form).map_err(|error| format!("the key file {file} cannot be used: {error}"))
}

const MAX_FILE: u64 = 1 << 20;
