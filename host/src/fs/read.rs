//! Reads files that an operator provides, without ever waiting for one that is not a regular file.
//!
//! Opening a pipe waits for its other end, and a device may have no end. So the open never blocks,
//! anything but a regular file is refused before the first read, and a read has a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// The file cannot be opened or read, is not a regular file, or is larger than `max`.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        let text = format!("the file is larger than the limit of {max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Drops the mark that editors write before a text.
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// U+FEFF in UTF-8. JSON does not allow it (RFC 8259 section 8.1).
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Opens a regular file for reading.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        let text = "not a regular file but a folder, a pipe or a device";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = std::env::temp_dir().join(format!("plugsocket-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, pipe) = (folder.join("file"), folder.join("pipe"));
        std::fs::write(&file, "four").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let check = |path: &Path, max, expected: &str| {
            let found = read(path, max);
            let found = found
                .map_or_else(|error| error.to_string(), |bytes| String::from_utf8(bytes).unwrap());
            assert!(found.starts_with(expected), "{}: {found}", path.display());
        };
        check(&file, 4, "four");
        check(&file, u64::MAX, "four");
        check(&file, 3, "the file is larger than the limit of 3 bytes");
        check(&pipe, 4, "not a regular file");
        check(&folder, 4, "not a regular file");
        check(Path::new("/dev/zero"), 4, "not a regular file");
        check(Path::new("/nowhere"), 4, "No such file");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
