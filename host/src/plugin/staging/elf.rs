//! Checks that a file is a complete ELF shared library for this machine.

use std::env::consts::ARCH;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Why a file is not a usable shared library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ElfProblem {
    #[error("the file is empty")]
    Empty,
    #[error("it is not a shared library (ELF file)")]
    NotElf,
    #[error("it is built for another machine ({0}); build it on or for {ARCH}")]
    OtherMachine(&'static str),
    #[error("it is a program or object file; its crate needs crate-type = [\"cdylib\"]")]
    NotShared,
    #[error(
        "it is incomplete: its headers need {expected} bytes and it has {found}; copy it again"
    )]
    Incomplete { expected: u64, found: u64 },
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// The needed libraries of a library, and where it looks for them relative to itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dynamic {
    /// Names of needed libraries (`DT_NEEDED`).
    pub(crate) needed: Vec<String>,
    /// What follows `$ORIGIN` in its run path (`DT_RUNPATH`, `DT_RPATH`).
    pub(crate) origin_paths: Vec<PathBuf>,
}

impl Dynamic {
    /// Reads the dynamic section (System V ABI, chapter 5); empty if there is none.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::read(bytes).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..64)?;
        let segments = segments(header);
        let segments = || segments.entries(bytes).filter(|entry| entry.len() >= 56);
        let at = |address| offset_of(segments(), address);
        let dynamic = segments().find(|segment| u32_at(segment, 0) == PT_DYNAMIC)?;
        let start = usize::try_from(u64_at(dynamic, 8)).ok()?;
        let end = start.checked_add(usize::try_from(u64_at(dynamic, 32)).ok()?)?;
        let entries = bytes.get(start..end)?.chunks_exact(16);
        let entries: Vec<(u64, u64)> =
            entries.map(|entry| (u64_at(entry, 0), u64_at(entry, 8))).collect();
        let values = |tag| entries.iter().filter(move |entry| entry.0 == tag).map(|entry| entry.1);
        let strings = bytes.get(usize::try_from(at(values(DT_STRTAB).next()?)?).ok()?..)?;
        let text = |at: u64| {
            let text = strings.get(usize::try_from(at).ok()?..)?.split(|byte| *byte == 0).next()?;
            Some(std::str::from_utf8(text).ok()?.to_owned())
        };
        let needed = values(DT_NEEDED).filter_map(text).filter(|name| !name.contains('/'));
        let paths = values(DT_RUNPATH).chain(values(DT_RPATH)).filter_map(text);
        let paths: Vec<String> = paths.collect();
        let relative = paths.iter().flat_map(|list| list.split(':')).filter_map(|path| {
            let rest = path.strip_prefix("$ORIGIN").or_else(|| path.strip_prefix("${ORIGIN}"))?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').into())
        });
        Some(Self { needed: needed.collect(), origin_paths: relative.collect() })
    }
}

/// Returns whether a library names one of these dynamic symbols, as it does where it exports one;
/// `None` if the file cannot be read or is not a library. Reads only the parts that say so. Each
/// symbol ends with a NUL.
pub(crate) fn names_symbol(file: &File, symbols: &[&str]) -> Option<bool> {
    let part = |offset, length: u64| {
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_PART)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
    };
    let header = part(0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let Table { offset, size, count } = segments(&header);
    let table = part(offset, u64::from(size) * u64::from(count))?;
    let segments = || table.chunks_exact(usize::from(size).max(56));
    let dynamic = segments().find(|segment| u32_at(segment, 0) == PT_DYNAMIC)?;
    let dynamic = part(u64_at(dynamic, 8), u64_at(dynamic, 32))?;
    let value = |tag| {
        let mut entries = dynamic.chunks_exact(16);
        entries.find(|entry| u64_at(entry, 0) == tag).map(|entry| u64_at(entry, 8))
    };
    let strings = part(offset_of(segments(), value(DT_STRTAB)?)?, value(DT_STRSZ)?)?;
    let is_named = |symbol: &&str| memchr::memmem::find(&strings, symbol.as_bytes()).is_some();
    Some(symbols.iter().any(is_named))
}

/// Returns where in the file an address is.
fn offset_of<'s>(mut segments: impl Iterator<Item = &'s [u8]>, address: u64) -> Option<u64> {
    segments.find_map(|segment| {
        let offset = address.checked_sub(u64_at(segment, 16))?;
        let is_inside = u32_at(segment, 0) == PT_LOAD && offset < u64_at(segment, 32);
        is_inside.then(|| u64_at(segment, 8).checked_add(offset))?
    })
}

/// The most bytes of a part of a library that is read by itself.
const MAX_PART: usize = 64 << 20;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const EM_THIS: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// Checks that everything the dynamic linker reads is there (System V ABI, chapters 4 and 5).
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
    let segments = segments(header);
    let sections =
        Table { offset: u64_at(header, 40), size: u16_at(header, 58), count: u16_at(header, 60) };
    for table in [&segments, &sections] {
        table.check_bounds(found)?;
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
    // The section headers come last: they are zero while the tail is not written yet.
    let is_blank = |entry: &[u8]| entry.iter().all(|byte| *byte == 0);
    if sections.count > 1 && sections.entries(bytes).skip(1).any(is_blank) {
        return Err(ElfProblem::Damaged("its section headers are zero; copy it again"));
    }
    Ok(())
}

/// Returns the table of segments; `header` has 64 bytes.
fn segments(header: &[u8]) -> Table {
    Table { offset: u64_at(header, 32), size: u16_at(header, 54), count: u16_at(header, 56) }
}

struct Table {
    offset: u64,
    size: u16,
    count: u16,
}

impl Table {
    fn check_bounds(&self, found: u64) -> Result<(), ElfProblem> {
        let expected = self.offset.saturating_add(u64::from(self.size) * u64::from(self.count));
        if expected > found {
            return Err(ElfProblem::Incomplete { expected, found });
        }
        if self.count > 0 && self.size < 56 {
            return Err(ElfProblem::Damaged("its header tables have entries of the wrong size"));
        }
        Ok(())
    }

    /// Requires that [`check_bounds`](Self::check_bounds) succeeded.
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

    /// The executable of this test, which is position-independent: an `ET_DYN` like any library.
    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
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
    fn a_file_that_the_linker_cannot_load_is_refused_with_its_reason() {
        check("whole", &own(), "fine");
        check("empty", b"", "the file is empty");
        check("text", b"#!/bin/sh\n", "it is not a shared library");
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
    fn needed_libraries_are_read_and_no_damage_makes_it_panic() {
        let mut own = own();
        let dynamic = Dynamic::of(&own);
        assert!(dynamic.needed.iter().any(|name| name.starts_with("libc.so")), "{dynamic:?}");
        assert_eq!(Dynamic::of(b"\x7fELF"), Dynamic::default());
        for at in (0..64).chain(64..64 + 56 * 12) {
            let before = own[at];
            for value in [0, 0x7f, 0xff] {
                own[at] = value;
                drop(Dynamic::of(&own));
            }
            own[at] = before;
        }
    }

    #[test]
    fn a_dynamic_symbol_is_found_and_no_damage_makes_it_panic() {
        let path = std::env::temp_dir().join(format!("plugsocket-symbol-{}", std::process::id()));
        let program = own();
        std::fs::write(&path, &program).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(names_symbol(&file, &["dlsym\0"]), Some(true));
        assert_eq!(names_symbol(&file, &["no_such_symbol\0"]), Some(false));
        for at in (0..64).chain(64..64 + 56 * 12) {
            for value in [0, 0x7f, 0xff, program[at]] {
                file.write_all_at(&[value], at as u64).unwrap();
                let _ = names_symbol(&file, &["dlsym\0"]);
            }
        }
        assert_eq!(names_symbol(&file, &["dlsym\0"]), Some(true));
        for length in [1000, 64, 6, 0] {
            file.set_len(length).unwrap();
            assert_eq!(names_symbol(&file, &["dlsym\0"]), None);
        }
        std::fs::write(&path, "no library").unwrap();
        assert_eq!(names_symbol(&file, &["dlsym\0"]), None);
        std::fs::remove_file(path).unwrap();
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
