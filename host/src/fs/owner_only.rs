//! Creates the host's own files (snapshots, library copies, locks) for its user only, whatever the
//! umask.
//!
//! A snapshot holds what clients sent, and any process that can open a lock can hold it (flock(2)).
//! Folders that exist keep the mode their owner chose.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use tracing::warn;

/// Creates a folder and its missing parents.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a file.
///
/// # Errors
/// The file exists, or cannot be created.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(OWNER_ONLY).open(path)
}

/// Creates a file, or truncates an existing one.
pub(crate) fn file(path: &Path) -> io::Result<File> {
    let file =
        File::options().write(true).create(true).truncate(true).mode(OWNER_ONLY).open(path)?;
    close_to_others(&file)?;
    Ok(file)
}

/// Warns of a secret that all users of the machine can read.
pub(crate) fn warn_if_open(secret: &Path) {
    if std::fs::metadata(secret).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0) {
        warn!(file = %secret.display(), "all users can read this secret; run chmod o-rwx on it");
    }
}

/// Removes the permissions of group and others from an existing file.
///
/// # Errors
/// The mode of the file cannot be read.
pub(crate) fn close_to_others(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        // Fails for a file of another user, and on file systems without modes.
        drop(file.set_permissions(Permissions::from_mode(OWNER_ONLY)));
    }
    Ok(())
}

const OWNER_ONLY: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn created_and_truncated_files_are_readable_by_their_owner_only() {
        let root =
            std::env::temp_dir().join(format!("plugsocket-owner-only-{}", std::process::id()));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let inner = root.join("a/b");
        folder(&inner).unwrap();
        folder(&inner).unwrap();
        assert_eq!([&root, &root.join("a"), &inner].map(|path| mode(path)), [0o700; 3]);
        let (new, left) = (inner.join("new"), inner.join("left"));
        new_file(&new).unwrap();
        assert!(new_file(&new).is_err());
        std::fs::write(&left, "before").unwrap();
        std::fs::set_permissions(&left, Permissions::from_mode(0o644)).unwrap();
        file(&left).unwrap();
        assert_eq!([&new, &left].map(|path| mode(path)), [0o600; 2]);
        assert_eq!(std::fs::read(&left).unwrap(), b"");
        // The mode that an operator chose.
        std::fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        folder(&inner).unwrap();
        assert_eq!(mode(&inner), 0o755);
        std::fs::remove_dir_all(root).unwrap();
    }
}
