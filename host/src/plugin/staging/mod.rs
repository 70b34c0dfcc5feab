//! A private, complete copy of a library.
//!
//! The dynamic linker knows a library by its path and inode: opened again under the same path it gives the old one, and a file that
//! is overwritten while it is mapped kills the process. So each generation is loaded from a copy whose path was never used
//! before, in a folder of the host's own, and never opened in place. The copy is checked for completeness, because the linker would run into
//! the missing part with SIGBUS. No unsafe here, and nothing is loaded.

mod ownership;

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use self::ownership::OwnershipError;
use crate::fs::{owner_only, read};

/// A library's content.
pub(crate) type Hash = [u8; 32];

/// A copy in the staging folder.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) hash: Hash,
}

/// Why a file cannot be staged.
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
    #[error("{0}")]
    Elf(ElfProblem),
    #[error(transparent)]
    Distrust(#[from] OwnershipError),
    #[error(
        "its SHA-256 is {}, and [plugins.{plugin}] allows only {}; is it the library that you meant?",
        hex(found), .pinned.iter().map(|hash| hex(hash)).collect::<Vec<_>>().join(", ")
    )]
    OtherContent { plugin: String, found: Hash, pinned: Vec<Hash> },
    #[error(
        "it is not what served before: its SHA-256 is {}, and {} was kept; its file was changed since, remove it",
        hex(found), .kept
    )]
    OtherThanKept { found: Hash, kept: String },
}

/// What a library must be, beside a library.
#[derive(Clone, Debug)]
pub(crate) struct StagingChecks {
    /// One that nobody else could have written (`reload.check_owner`).
    pub(crate) check_owner: bool,
    /// One of these, unless there are none (`[plugins.NAME]`).
    pub(crate) sha256: Vec<Hash>,
}

/// Makes this process's own folder for copies, in `folder`; what hosts left that do not run any more is removed.
///
/// Two hosts, or a host and a `check`, may share the configuration, and must not write over each other's copies.
///
/// # Errors
/// The folder cannot be made.
pub(crate) fn prepare(folder: &Path) -> io::Result<PathBuf> {
    owner_only::folder(folder)?;
    for entry in fs::read_dir(folder)?.flatten() {
        let left = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if left.is_some_and(|pid| {
            pid == std::process::id() || !Path::new(&format!("/proc/{pid}")).exists()
        }) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    let own = folder.join(std::process::id().to_string());
    make(&own)?;
    Ok(own)
}

/// What lies in it is opened by its path: nobody else may write there.
fn make(own: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(own)
}

/// Makes the folder of the copies anew, should somebody have tidied it away.
fn restore(own: &Path) -> io::Result<()> {
    if own.is_dir() {
        return Ok(());
    }
    own.parent().map_or(Ok(()), owner_only::folder)?;
    make(own)?;
    if IS_CLEARED.load(Ordering::SeqCst) {
        // It was this process itself, while it ends; nobody waits for the copy any more.
        drop(fs::remove_dir_all(own));
        return Err(io::Error::other("the host ends"));
    }
    Ok(())
}

/// This process needs its folder no more.
static IS_CLEARED: AtomicBool = AtomicBool::new(false);

/// Takes this process's own folder away.
pub(crate) fn clear(folder: &Path) {
    IS_CLEARED.store(true, Ordering::SeqCst);
    // The next host does it as well.
    drop(fs::remove_dir_all(folder.join(std::process::id().to_string())));
}

/// Copies `library` to `folder/name.generation.so` and checks the copy.
///
/// # Errors
/// The file cannot be read or copied, is no complete library for this machine, or not what is demanded. Nothing is left
/// behind then.
pub(crate) fn stage(
    library: &Path,
    folder: &Path,
    (name, generation): (&str, u64),
    demands: &StagingChecks,
) -> Result<Staged, StageError> {
    restore(folder).map_err(|source| StageError::Copy { path: folder.to_owned(), source })?;
    let mut file = read::open(library).map_err(StageError::Read)?;
    if demands.check_owner {
        ownership::check(library, &file, folder)?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StageError::Read)?;
    check_elf(&bytes).map_err(StageError::Elf)?;
    let found = hash(&bytes);
    if !demands.sha256.is_empty() && !demands.sha256.contains(&found) {
        let (plugin, pinned) = (name.to_owned(), demands.sha256.clone());
        return Err(StageError::OtherContent { plugin, found, pinned });
    }
    let path = folder.join(format!("{name}.{generation}.so"));
    let written = owner_only::new_file(&path).and_then(|mut file| {
        file.write_all(&bytes)?;
        // Written back now, the pages can be reclaimed once the generation is retired.
        file.sync_all()
    });
    if let Err(source) = written {
        // The write's error is the one to tell.
        drop(fs::remove_file(&path));
        return Err(StageError::Copy { path, source });
    }
    Ok(Staged { path, hash: found })
}

/// The hash of a library, which need not be in memory for that.
///
/// # Errors
/// It cannot be read, or is no file.
pub(crate) fn hash_of(library: &Path) -> io::Result<Hash> {
    let file = read::open(library)?.take(MOST_BYTES);
    let (mut file, mut sum) = (BufReader::with_capacity(1 << 16, file), Sha256::new());
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(sum.finalize().into());
        }
        sum.update(bytes);
        let count = bytes.len();
        file.consume(count);
    }
}

/// Far more than a library has.
const MOST_BYTES: u64 = 4 << 30;

/// What tells one content from another.
pub(crate) fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// Bytes as operators read them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is wrong with a file that should be a shared library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ElfProblem {
    #[error("the file is empty")]
    Empty,
    #[error("it is no shared library (ELF file)")]
    NotElf,
    #[error("it is built for another machine ({0}); build it on or for {arch}", arch = std::env::consts::ARCH)]
    OtherMachine(&'static str),
    #[error(
        "it is a program or object file, no shared library; its crate needs crate-type = [\"cdylib\"]"
    )]
    NotShared,
    #[error(
        "it is incomplete: its headers speak of {expected} bytes and it has {found}; copy it again"
    )]
    Incomplete { expected: u64, found: u64 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const EM_THIS: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// Whether everything that the linker will touch is there (System V ABI, chapter 4 and 5).
pub(crate) fn check_elf(bytes: &[u8]) -> Result<(), ElfProblem> {
    let found = bytes.len() as u64;
    if bytes.is_empty() {
        return Err(ElfProblem::Empty);
    }
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ElfProblem::NotElf);
    }
    let Some(header) = bytes.get(..64) else {
        return Err(ElfProblem::Incomplete { expected: 64, found });
    };
    if header[4] != 2 || header[5] != 1 {
        return Err(ElfProblem::OtherMachine(if header[4] == 1 { "32 bit" } else { "big-endian" }));
    }
    if u16_at(header, 18) != EM_THIS {
        return Err(ElfProblem::OtherMachine("another processor"));
    }
    if u16_at(header, 16) != ET_DYN {
        return Err(ElfProblem::NotShared);
    }
    let segments =
        Table { offset: u64_at(header, 32), size: u16_at(header, 54), count: u16_at(header, 56) };
    let sections =
        Table { offset: u64_at(header, 40), size: u16_at(header, 58), count: u16_at(header, 60) };
    for table in [&segments, &sections] {
        table.within(found)?;
    }
    if segments.count == 0 {
        return Err(ElfProblem::NotShared);
    }
    for segment in segments.entries(bytes) {
        let end = u64_at(segment, 8).saturating_add(u64_at(segment, 32));
        if u32_at(segment, 0) == PT_LOAD && end > found {
            return Err(ElfProblem::Incomplete { expected: end, found });
        }
    }
    // A file of the right size whose tail has not been written yet is zero there; the section headers come last.
    let is_blank = |entry: &[u8]| entry.iter().all(|byte| *byte == 0);
    if sections.count > 1 && sections.entries(bytes).skip(1).any(is_blank) {
        return Err(ElfProblem::Damaged("its section headers are zero; copy it again"));
    }
    Ok(())
}

struct Table {
    offset: u64,
    size: u16,
    count: u16,
}

impl Table {
    fn within(&self, found: u64) -> Result<(), ElfProblem> {
        let expected = self.offset.saturating_add(u64::from(self.size) * u64::from(self.count));
        if expected > found {
            return Err(ElfProblem::Incomplete { expected, found });
        }
        if self.count > 0 && self.size < 56 {
            return Err(ElfProblem::Damaged("its header tables have entries of the wrong size"));
        }
        Ok(())
    }

    /// Only after [`within`](Self::within).
    fn entries<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let size = usize::from(self.size).max(1);
        let table = bytes.get(start..).unwrap_or_default();
        table.chunks_exact(size).take(usize::from(self.count))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own executable: position-independent, so it is an `ET_DYN` like any library.
    fn own() -> Vec<u8> {
        fs::read("/proc/self/exe").unwrap()
    }

    fn check(name: &str, bytes: &[u8], expected: &str) {
        let text =
            check_elf(bytes).map_or_else(|problem| problem.to_string(), |()| "fine".to_owned());
        assert!(text.starts_with(expected), "{name}: {text}");
    }

    fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
        bytes[at] = value;
        bytes
    }

    #[test]
    fn a_file_that_the_linker_would_trip_over_is_told_apart() {
        check("whole", &own(), "fine");
        check("empty", b"", "the file is empty");
        check("text", b"#!/bin/sh\n", "it is no shared library");
        check("header only", &own()[..40], "it is incomplete");
        check("32 bit", &with(own(), 4, 1), "it is built for another machine (32 bit)");
        check(
            "other cpu",
            &with(own(), 18, 8),
            "it is built for another machine (another processor)",
        );
        check("object", &with(own(), 16, 1), "it is a program or object file");
        for share in [2, 3, 10] {
            let half = own().len() - own().len() / share;
            check("truncated", &own()[..half], "it is incomplete");
        }
        let mut zero_tail = own();
        let half = zero_tail.len() / 2;
        zero_tail[half..].fill(0);
        check("zero tail", &zero_tail, "it is damaged");
    }

    #[test]
    fn no_prefix_and_no_flipped_header_byte_makes_the_check_panic() {
        let own = own();
        for length in 0..200 {
            let _ = check_elf(&own[..length]);
        }
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let _ = check_elf(&with(own.clone(), at, value));
            }
        }
    }
}
