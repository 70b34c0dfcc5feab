//! What the host writes for itself: states, copies of libraries, locks. Nobody else is to read it, whatever the umask says.
//!
//! A state holds what peers said, and a lock that others may open is one that they may hold (flock(2)). Folders that are there already
//! are somebody's decision, and stay as they are.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// It cannot be made.
pub(crate) fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a file that is not there yet.
///
/// # Errors
/// It is there, or cannot be made.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(OWN).open(path)
}

/// Makes a file, or empties the one that is there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWN).open(path)?;
    close_to_others(&file)?;
    Ok(file)
}

/// Takes away what others may do with a file that was made otherwise.
///
/// # Errors
/// It cannot be found out what they may.
pub(crate) fn close_to_others(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        // Where it is another's it is theirs to open; some file systems know no modes.
        drop(file.set_permissions(Permissions::from_mode(OWN)));
    }
    Ok(())
}

const OWN: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reads_what_is_made_or_was_left() {
        let root = std::env::temp_dir().join(format!("plugsocket-private-{}", std::process::id()));
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
        // Somebody decided that.
        std::fs::set_permissions(&inner, Permissions::from_mode(0o755)).unwrap();
        folder(&inner).unwrap();
        assert_eq!(mode(&inner), 0o755);
        std::fs::remove_dir_all(root).unwrap();
    }
}
