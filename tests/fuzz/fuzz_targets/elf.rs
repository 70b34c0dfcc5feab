//! Libraries: an accepted file contains everything that the linker reads, and no prefix of it is
//! accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::library_problem;
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let choice = input.byte();
    let file = if choice & 1 == 0 { input.0.to_vec() } else { library(&mut input) };
    if let Some(problem) = library_problem(&file) {
        assert!(!problem.is_empty() && !problem.contains(char::is_control));
        return;
    }
    // System V ABI: e_phoff, e_phentsize, e_phnum; e_shoff, e_shentsize, e_shnum.
    let segments = Table::of(&file, 32, 54);
    let sections = Table::of(&file, 40, 58);
    assert!(segments.count > 0);
    let mut end = segments.end().max(sections.end());
    for segment in segments.entries(&file) {
        if number(segment, 0, 4) == 1 {
            end = end.max(number(segment, 8, 8) + number(segment, 32, 8));
        }
    }
    assert!(end <= file.len() as u128);
    let cut = usize::from(choice) * usize::try_from(end).unwrap() / 256;
    assert!(library_problem(&file[..cut]).is_some(), "{cut} of {end} bytes are accepted");
});

struct Table {
    at: u128,
    size: u128,
    count: u128,
}

impl Table {
    fn of(file: &[u8], offset: usize, size: usize) -> Self {
        let at = number(file, offset, 8);
        Self { at, size: number(file, size, 2), count: number(file, size + 2, 2) }
    }

    fn end(&self) -> u128 {
        self.at + self.size * self.count
    }

    fn entries<'a>(&self, file: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let (at, size, count) = (self.at, self.size, self.count);
        (0..count).map(move |n| &file[(at + n * size) as usize..(at + (n + 1) * size) as usize])
    }
}

/// Reads a little-endian number; `u128` holds every sum.
fn number(bytes: &[u8], at: usize, size: usize) -> u128 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Builds a nearly valid file: a header for this machine with tables from the input.
fn library(input: &mut Input<'_>) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16] = 3;
    file[18] = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let sizes = [56, 64, 40, input.byte()];
    let (segments, sections) = (input.byte() % 4, input.byte() % 4);
    file[32] = 64;
    file[54] = sizes[input.below(4)];
    file[56] = segments;
    file[40] = input.byte();
    file[41] = input.byte() & 3;
    file[58] = sizes[input.below(4)];
    file[60] = sections;
    // One byte is changed.
    let (at, value) = (input.below(64), input.byte());
    if value != 0 {
        file[at] ^= value;
    }
    file.extend_from_slice(input.0);
    file
}
