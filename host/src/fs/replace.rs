//! Replaces files as a whole: after a crash there is the old or the new content.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::owner_only;

/// Writes an owner-only file beside `path`, syncs it to disk and renames it to `path`.
///
/// # Errors
/// The file cannot be written; `path` is unchanged, and no temporary file remains.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary(path);
    let written = owner_only::file(&temporary).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // The first error is the one to report.
        drop(fs::remove_file(&temporary));
    })?;
    // Makes the rename durable.
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Removes temporary files that a killed host left in a folder. Called before other writers start.
pub(crate) fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
            // A file that remains only occupies disk space.
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Returns a new name beside `path`, so that two writers never share a temporary file.
fn temporary(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    path.with_extension(format!("{}.{EXTENSION}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

const EXTENSION: &str = "next";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_failed_replacement_changes_nothing_and_leaves_no_file() {
        let folder =
            std::env::temp_dir().join(format!("plugsocket-replace-{}", std::process::id()));
        fs::create_dir_all(folder.join("folder")).unwrap();
        let path = folder.join("file");
        replace(&path, |file| file.write_all(b"old")).unwrap();
        let full =
            |file: &mut File| file.write_all(b"half").and(Err(io::Error::other("disk full")));
        assert_eq!(replace(&path, full).unwrap_err().to_string(), "disk full");
        assert!(replace(&folder.join("folder"), |file| file.write_all(b"new")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        replace(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn temporary_files_have_distinct_names_and_are_swept() {
        let folder = std::env::temp_dir().join(format!("plugsocket-sweep-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        fs::write(&path, "kept").unwrap();
        let left = temporary(&path);
        assert_ne!(left, temporary(&path));
        fs::write(&left, "half").unwrap();
        sweep(&folder);
        assert!(!left.exists() && path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
