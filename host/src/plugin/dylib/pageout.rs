//! Returns the memory of a retired library to the system.
#![expect(unsafe_code, reason = "madvise takes an address range")]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mm::{Advice, madvise};

/// Pages out the mappings of the library at `path`. Code that still runs in it faults them in again
/// from the staged copy.
pub(super) fn page_out(path: &Path) {
    let Ok(maps) = std::fs::read("/proc/self/maps") else { return };
    for line in maps.split(|byte| *byte == b'\n') {
        if line.ends_with(path.as_os_str().as_bytes())
            && let Some((start, end)) = address_range(line)
        {
            let address = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: MADV_PAGEOUT changes no content, whatever the range.
            let advised = unsafe { madvise(address, end - start, Advice::LinuxPageOut) };
            // A kernel without it keeps the pages in memory.
            advised.ok();
        }
    }
}

/// Reads `START-END`, the first field of a line of `/proc/self/maps`.
fn address_range(line: &[u8]) -> Option<(usize, usize)> {
    let range = line.split(|byte| *byte == b' ').next()?;
    let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    Some((parse(start)?, parse(end)?))
}
