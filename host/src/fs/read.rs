//! Files that an operator put somewhere: read whole, without ever waiting for one that is none.
//!
//! Opening a pipe waits for its other end, and a device may have no end. So nothing is waited for, what was opened is looked at before
//! it is read, and no more is read than such a file can have. What a file means is for its reader to know.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// There is none, it cannot be read, it is something else than a file, or it is larger.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let text = format!("it has more than {most} bytes; such a file has fewer");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Opens a file for reading.
///
/// # Errors
/// There is none, it cannot be read, or it is something else than a file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = O_NONBLOCK | O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        let text = "it is no file but a folder, a pipe or a device; put a file there";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

/// open(2), the same on all of Linux but for machines that are not supported.
pub(crate) const O_NONBLOCK: i32 = 0o4000;
const O_NOCTTY: i32 = 0o400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_no_more_of_them_than_may_be_there() {
        let folder = std::env::temp_dir().join(format!("plugsocket-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, pipe) = (folder.join("file"), folder.join("pipe"));
        std::fs::write(&file, "four").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let check = |path: &Path, most, expected: &str| {
            let found = read(path, most);
            let found = found
                .map_or_else(|error| error.to_string(), |bytes| String::from_utf8(bytes).unwrap());
            assert!(found.starts_with(expected), "{}: {found}", path.display());
        };
        check(&file, 4, "four");
        check(&file, u64::MAX, "four");
        check(&file, 3, "it has more than 3 bytes");
        check(&pipe, 4, "it is no file");
        check(&folder, 4, "it is no file");
        check(Path::new("/dev/zero"), 4, "it is no file");
        check(Path::new("/nowhere"), 4, "No such file");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
