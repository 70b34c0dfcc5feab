//! Libraries that are no good, put in the place of one that serves.

use crate::plugin_path;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad {
    pub(super) what: &'static str,
    content: Content,
    /// What the host must say of it.
    pub(super) reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Empty,
    /// The first half of a good one.
    Half,
    /// A test plugin.
    Built(&'static str),
}

/// All kinds.
pub(super) const ALL: [Bad; 10] = [
    bad("cut off", Content::Half, "it is incomplete"),
    bad("of another ABI", Content::Built("old_abi"), "does not fit this host's"),
    bad("crashing constructor", Content::Built("ctor_crash"), "SIGSEGV"),
    bad("hanging constructor", Content::Built("ctor_hang"), "did not end within"),
    bad("exit in constructor", Content::Built("ctor_exit"), "exit code 3"),
    bad("panic in start", Content::Built("start_panic"), "did not start: it panicked"),
    bad("refused start", Content::Built("start_refuse"), "did not start: made to refuse"),
    bad("refused state", Content::Built("restore_refuse"), "does not take over the state"),
    bad("no plugin", Content::Built("no_plugin"), "no plugsocket plugin"),
    bad("empty file", Content::Empty, "the file is empty"),
];

const fn bad(what: &'static str, content: Content, reason: &'static str) -> Bad {
    Bad { what, content, reason }
}

impl Bad {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let built = |library| std::fs::read(plugin_path(library)).unwrap();
        match self.content {
            Content::Empty => Vec::new(),
            Content::Half => {
                let mut bytes = built("counter_v2");
                bytes.truncate(bytes.len() / 2);
                bytes
            }
            Content::Built(library) => built(library),
        }
    }
}
