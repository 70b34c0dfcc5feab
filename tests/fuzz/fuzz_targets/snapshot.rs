//! Snapshot files: a written file is read back, a damaged one is refused, and each resource has its
//! own file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::{read_snapshot, snapshot_file, snapshot_path};
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    // Arbitrary bytes.
    if let Some((plugin, version, state)) = read_snapshot(bytes) {
        assert_eq!(snapshot_file(&plugin, version, &state), bytes, "two encodings of one state");
    }
    let plugin: String =
        input.text().chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
    let version = u32::from(input.word()) << (input.byte() % 17);
    let (at, flip, cut) = (input.word(), input.byte(), input.word());
    let (one, other) = (input.text(), input.text());
    check_paths(&one, &other);
    let state = input.0;
    let file = snapshot_file(&plugin, version, state);
    assert_eq!(read_snapshot(&file), Some((plugin, version, state.to_vec())));
    let at = usize::from(at) % file.len();
    if flip != 0 {
        let mut damaged = file.clone();
        damaged[at] ^= flip;
        assert_eq!(read_snapshot(&damaged), None, "byte {at} of {}", file.escape_ascii());
    }
    assert_eq!(read_snapshot(&file[..usize::from(cut) % file.len()]), None);
    assert_eq!(read_snapshot(&[&file[..], &[flip]].concat()), None);
    let mut missing = file.clone();
    missing.remove(at);
    assert_eq!(read_snapshot(&missing), None, "without byte {at} of {}", file.escape_ascii());
});

fn check_paths(one: &str, other: &str) {
    let folder = Path::new("/state");
    let (file, another) = (snapshot_path(folder, one), snapshot_path(folder, other));
    assert_eq!(file.parent(), Some(Path::new("/state/snapshots")), "{one:?}");
    assert_eq!(file == another, one == other, "{one:?} and {other:?}");
}
