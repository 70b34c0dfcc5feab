//! Keys of one resource: reads the key files, and rereads them when they change.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tracing::{error, info, warn};

use super::keys::{self, Key, KeySet};
use crate::config::{Algorithm, FileSetting, KeyFile, KeyForm, TokenRules};
use crate::fs;
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

/// An unusable key file: the key of the table `auth` that names it, the line of that key, and the
/// reason in one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnfitKey {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) problem: String,
}

impl Keyring {
    /// Reads the key files.
    ///
    /// # Errors
    /// Every unusable file.
    pub(super) fn open(rules: &TokenRules, resource: &str) -> Result<Self, Vec<UnfitKey>> {
        let polled = SettledFiles::new(stamps(&rules.keys));
        let keys = ArcSwap::from_pointee(join(read(&rules.keys)?, rules, resource));
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
                    let keys = join(found, &self.rules, resource);
                    let count = keys.len();
                    self.keys.store(Arc::new(keys));
                    info!(resource, keys = count, "token keys reloaded");
                }
                Err(unfit) => {
                    let reasons: Vec<String> = unfit.into_iter().map(|file| file.problem).collect();
                    let reason = reasons.join("; ");
                    if polled.reported.as_ref() != Some(&reason) {
                        error!(
                            resource,
                            reason, "token keys rejected; the previous keys stay in force"
                        );
                        polled.reported = Some(reason);
                    }
                }
            },
        }
    }
}

fn stamps(files: &[KeyFile]) -> FileStamps {
    files.iter().map(|file| FileStamp::of(&file.file.path)).collect()
}

/// Reads all key files.
fn read(files: &[KeyFile]) -> Result<Vec<KeySet>, Vec<UnfitKey>> {
    let (mut sets, mut unfit) = (Vec::new(), Vec::new());
    for (at, file) in files.iter().enumerate() {
        match read_one(file) {
            Ok(set) => sets.push(set),
            Err(problem) => {
                let name = if file.form == KeyForm::Set { "jwks" } else { "file" };
                let (key, line) = (format!("keys[{at}].{name}"), file.file.line);
                unfit.push(UnfitKey { key, line, problem });
            }
        }
    }
    if unfit.is_empty() { Ok(sets) } else { Err(unfit) }
}

/// Returns the keys of all files, and logs those that were skipped.
fn join(sets: Vec<KeySet>, rules: &TokenRules, resource: &str) -> Vec<Key> {
    for (KeySet { skipped, .. }, KeyFile { file, .. }) in sets.iter().zip(&rules.keys) {
        if let Some(first) = skipped.first() {
            let (file, count) = (file.path.display(), skipped.len());
            warn!(resource, %file, skipped = count, %first, "unusable keys of a key set skipped");
        }
    }
    sets.into_iter().flat_map(|set| set.keys).collect()
}

fn read_one(KeyFile { file: FileSetting { path, .. }, form }: &KeyFile) -> Result<KeySet, String> {
    let file = path.display();
    let bytes = fs::read::read(path, MAX_FILE).map_err(|error| {
        format!(
            "the key file {file} cannot be read: {error}; use a file that the host's user may read"
        )
    })?;
    // The others are public keys.
    if matches!(form, KeyForm::Single { algorithm: Algorithm::Hs256, .. }) {
        fs::owner_only::warn_if_open(path);
    }
    keys::read(&bytes, form).map_err(|error| format!("the key file {file} cannot be used: {error}"))
}

const MAX_FILE: u64 = 1 << 20;
