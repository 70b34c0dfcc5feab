//! Libraries that a library needs and finds relative to itself (`$ORIGIN` in its run path).
//!
//! The copy of a library lies in another folder, so these libraries are copied with it, each to the
//! same place relative to the copy. The dynamic linker identifies a needed library by its name: the
//! process keeps the first one of a name, whatever later files contain.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::elf::Dynamic;
use super::{Hash, StageError, StagingChecks, create_below, hex, read_checked, write};

/// A needed library that was copied: its name and the hash of its content.
pub(crate) type Sibling = (String, Hash);

/// The needed libraries that this process has opened.
static OPENED: Mutex<BTreeMap<String, Hash>> = Mutex::new(BTreeMap::new());

/// Records the needed libraries of an opened library.
pub(crate) fn record_opened(siblings: &[Sibling]) {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, hash) in siblings {
        opened.entry(name.clone()).or_insert(*hash);
    }
}

/// Returns how many folders a copy must lie below the folder of its generation, so that no run
/// path leaves that folder.
pub(super) fn depth(dynamic: &Dynamic) -> usize {
    let parents =
        |path: &PathBuf| path.components().filter(|it| *it == Component::ParentDir).count();
    dynamic.origin_paths.iter().map(parents).max().unwrap_or(0)
}

/// Copies the needed libraries of a library whose folder is `origin` and whose copy is in `staged`,
/// somewhere below `folder`.
///
/// # Errors
/// One of them cannot be read or copied, fails a check, or differs from that of this name which the
/// process has opened.
pub(super) fn copy(
    dynamic: &Dynamic,
    origin: &Path,
    staged: &Path,
    folder: &Path,
    checks: &StagingChecks,
) -> Result<Vec<Sibling>, StageError> {
    let mut siblings = Vec::new();
    let mut pending = vec![(dynamic.clone(), origin.to_owned(), staged.to_owned())];
    while let Some((dynamic, origin, staged)) = pending.pop() {
        for path in &dynamic.origin_paths {
            for name in &dynamic.needed {
                let (from, into) = (origin.join(path), staged.join(path));
                let (file, to) = (from.join(name), into.join(name));
                if !file.is_file() || !is_inside(&to, folder) || to.exists() {
                    continue;
                }
                let (bytes, sibling) = read(&file, name, checks, folder)?;
                let copied = create_below(folder, &into).and_then(|()| write(&to, &bytes));
                copied.map_err(|source| StageError::Copy { path: to, source })?;
                siblings.push(sibling);
                pending.push((Dynamic::of(&bytes), from, into));
            }
        }
    }
    Ok(siblings)
}

fn read(
    path: &Path,
    name: &str,
    checks: &StagingChecks,
    folder: &Path,
) -> Result<(Vec<u8>, Sibling), StageError> {
    let (bytes, hash) = read_checked(path, checks, folder).map_err(|problem| match problem {
        // It names the path itself.
        problem @ StageError::Ownership(_) => problem,
        problem => StageError::Needed { path: path.to_owned(), problem: Box::new(problem) },
    })?;
    let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    match opened.get(name) {
        Some(first) if *first != hash => {
            Err(StageError::Changed { path: path.to_owned(), first: hex(&first[..6]) })
        }
        _ => Ok((bytes, (name.to_owned(), hash))),
    }
}

/// Returns whether a path stays in a folder, by its text.
fn is_inside(path: &Path, folder: &Path) -> bool {
    let Ok(rest) = path.strip_prefix(folder) else { return false };
    let mut depth = 0_usize;
    for part in rest.components() {
        match part {
            Component::ParentDir if depth == 0 => return false,
            Component::ParentDir => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}
