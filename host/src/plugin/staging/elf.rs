//! Checks that a file is a complete ELF shared library for this machine.

use std::env::consts::ARCH;

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

const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
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
    let segments =
        Table { offset: u64_at(header, 32), size: u16_at(header, 54), count: u16_at(header, 56) };
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
