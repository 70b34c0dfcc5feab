//! Private, complete copies of libraries, from which generations are opened.
//!
//! The dynamic linker identifies a library by path and inode: opening a path again returns the old
//! library, and overwriting a mapped file kills the process. Each generation is therefore opened
//! from a copy at a new path in the host's own folder. The copy is checked for completeness,
//! because the linker would end the process with SIGBUS at a missing part. This module must not
//! load anything.

mod elf;
mod ownership;
mod siblings;

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest;
use tracing::debug;
use uuid::Uuid;

use self::elf::Dynamic;
pub(crate) use self::elf::{ElfProblem, check_elf};
use self::ownership::OwnershipError;
pub(crate) use self::siblings::{Sibling, record_opened};
use crate::fs::{owner_only, read};
use crate::plugin::dylib::PLUGIN_SYMBOLS;

/// SHA-256 of a library's content.
pub(crate) type Hash = [u8; 32];

/// A copy in the staging folder.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) hash: Hash,
    /// Libraries that it needs and that were copied with it.
    pub(crate) siblings: Vec<Sibling>,
    /// Contains nothing else.
    folder: PathBuf,
}

impl Staged {
    /// Removes a copy that is not loaded.
    pub(crate) fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            debug!(folder = %self.folder.display(), %error, "cannot remove a refused copy");
        }
    }
}

/// Why a library cannot be staged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("cannot copy it to {}", path.display())]
    Copy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Elf(#[from] ElfProblem),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(
        "its SHA-256 is {}, and [plugins.{plugin}] allows only {}; is it the intended library?",
        hex(found), .pinned.iter().map(|hash| hex(hash)).collect::<Vec<_>>().join(", ")
    )]
    OtherContent { plugin: String, found: Hash, pinned: Vec<Hash> },
    #[error("it needs {}", path.display())]
    Needed {
        path: PathBuf,
        #[source]
        problem: Box<Self>,
    },
    #[error(
        "it needs {path}, which differs from the library of this name that the host has loaded \
         (SHA-256 {first}…); the dynamic linker keeps the first one: give the new one another name \
         (SONAME), or restart the host", path = path.display()
    )]
    Changed { path: PathBuf, first: String },
    #[error(
        "it is not the library that was kept: its SHA-256 is {} instead of {}; its file was \
         changed, remove it", hex(found), .archived
    )]
    OtherThanArchived { found: Hash, archived: String },
}

/// Optional checks of a library.
#[derive(Clone, Debug)]
pub(crate) struct StagingChecks {
    /// Only root or the host's user could have written it (`reload.check_owner`).
    pub(crate) check_owner: bool,
    /// Allowed contents; empty allows any (`[plugins.NAME]`).
    pub(crate) sha256: Vec<Hash>,
}

/// The staging folder of this process, locked until the process ends. A process ID would not do:
/// hosts in other PID namespaces may share the parent folder.
struct Own {
    path: PathBuf,
    _lock: File,
}

static OWN: Mutex<Option<Own>> = Mutex::new(None);

fn own() -> MutexGuard<'static, Option<Own>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates this process's own folder for copies in `folder`, and removes those of hosts that have
/// ended, which no process locks. Each process has its own, because several may share one configuration.
///
/// # Errors
/// The folder cannot be created or locked.
pub(crate) fn prepare(folder: &Path) -> io::Result<()> {
    owner_only::folder(folder)?;
    let path = folder.join(format!("{PREFIX}{}", Uuid::new_v4().simple()));
    let mut own = own();
    // No other host creates or removes folders meanwhile.
    let sweeping = File::open(folder)?;
    sweeping.lock()?;
    for entry in fs::read_dir(folder)?.flatten() {
        let is_staging = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_staging && File::open(entry.path()).is_ok_and(|left| left.try_lock().is_ok()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    *own = Some(create(&path)?);
    Ok(())
}

/// Creates the folder so that only the host's user can write to it; copies are opened by path.
fn create(path: &Path) -> io::Result<Own> {
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = File::open(path)?;
    lock.try_lock()?;
    Ok(Own { path: path.to_owned(), _lock: lock })
}

/// Returns this process's own folder, and creates it again if an operator or a cleanup job has
/// removed it.
fn folder() -> Result<PathBuf, StageError> {
    let mut own = own();
    let Some(Own { path, .. }) = own.as_ref() else {
        let source = io::Error::other("the host is stopping");
        return Err(StageError::Copy { path: PathBuf::from("the staging folder"), source });
    };
    let path = path.clone();
    if !path.is_dir() {
        let created = recreate(&path);
        *own = Some(created.map_err(|source| StageError::Copy { path: path.clone(), source })?);
    }
    Ok(path)
}

fn recreate(path: &Path) -> io::Result<Own> {
    let parent = path.parent().unwrap_or(path);
    owner_only::folder(parent)?;
    // No other host removes it before it is locked.
    let sweeping = File::open(parent)?;
    sweeping.lock()?;
    create(path)
}

/// Removes this process's own folder at the end of the host; it is not created again.
pub(crate) fn clear() {
    if let Some(Own { path, _lock }) = own().take() {
        // Under another name first, so that a copy in progress can create nothing more in it.
        let ended = path.with_extension("ended");
        // If this fails, the next host removes it.
        drop(fs::rename(&path, &ended).and_then(|()| fs::remove_dir_all(ended)));
    }
}

/// Names of staging folders begin with this.
const PREFIX: &str = "host-";

/// Copies `library` into a new folder of this process, with the libraries that it needs from `origin`,
/// the folder in which it was installed. Checks the copies.
///
/// # Errors
/// A library cannot be read or copied, is not complete, or fails a check. No copy remains.
pub(crate) fn stage(
    library: &Path,
    origin: &Path,
    name: &str,
    checks: &StagingChecks,
) -> Result<Staged, StageError> {
    /// Makes each path one that was never used before.
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let own = &folder()?;
    let (bytes, hash) = read_checked(library, checks, own)?;
    if !checks.sha256.is_empty() && !checks.sha256.contains(&hash) {
        let (plugin, pinned) = (name.to_owned(), checks.sha256.clone());
        return Err(StageError::OtherContent { plugin, found: hash, pinned });
    }
    let dynamic = Dynamic::of(&bytes);
    let folder = own.join(format!("{name}.{}", COPIES.fetch_add(1, Ordering::Relaxed) + 1));
    let mut place = folder.clone();
    place.extend(std::iter::repeat_n("in", siblings::depth(&dynamic)));
    let path = place.join(format!("lib{name}.so"));
    let mut staged = Staged { path, hash, siblings: Vec::new(), folder };
    let written = create_below(own, &place).and_then(|()| write(&staged.path, &bytes));
    let copied = match written {
        Ok(()) => siblings::copy(&dynamic, origin, &place, &staged.folder, checks),
        Err(source) => Err(StageError::Copy { path: staged.path.clone(), source }),
    };
    match copied {
        Ok(siblings) => staged.siblings = siblings,
        Err(error) => {
            staged.remove();
            return Err(error);
        }
    }
    Ok(staged)
}

/// Creates `place` and its missing parents below `folder`, which is never created: it is gone when
/// the host stops.
fn create_below(folder: &Path, place: &Path) -> io::Result<()> {
    let mut path = folder.to_owned();
    for part in place.strip_prefix(folder).unwrap_or(place) {
        path.push(part);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Reads a whole library; returns its content and the hash of it.
fn read_checked(
    library: &Path,
    checks: &StagingChecks,
    folder: &Path,
) -> Result<(Vec<u8>, Hash), StageError> {
    let mut file = read::open(library).map_err(StageError::Read)?;
    if checks.check_owner {
        ownership::check(library, &file, folder)?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StageError::Read)?;
    check_elf(&bytes)?;
    let hash = to_hash(&digest::digest(&digest::SHA256, &bytes));
    Ok((bytes, hash))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = owner_only::new_file(path)?;
    file.write_all(bytes)?;
    // Clean pages can be reclaimed when the generation is retired.
    file.sync_all()
}

/// Returns whether a library may be a plugin: not if it can be read and has no symbol of a plugin,
/// as the libraries that plugins need.
pub(crate) fn may_be_plugin(library: &Path) -> bool {
    let file = read::open(library).ok();
    file.and_then(|file| elf::names_symbol(&file, &PLUGIN_SYMBOLS)).unwrap_or(true)
}

/// Computes the hash of a library without reading it into memory as a whole.
///
/// # Errors
/// The library cannot be read or is not a regular file.
pub(crate) fn hash_of(library: &Path) -> io::Result<Hash> {
    let file = read::open(library)?.take(MAX_BYTES);
    let (mut file, mut sum) =
        (BufReader::with_capacity(1 << 16, file), digest::Context::new(&digest::SHA256));
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(to_hash(&sum.finish()));
        }
        sum.update(bytes);
        let count = bytes.len();
        file.consume(count);
    }
}

/// Far more than the size of any library.
const MAX_BYTES: u64 = 4 << 30;

fn to_hash(sum: &digest::Digest) -> Hash {
    sum.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Formats bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
