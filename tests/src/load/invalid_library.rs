//! Invalid libraries that are offered as a replacement for a running one.

use crate::plugin_path;

/// An invalid library.
#[derive(Clone, Copy, Debug)]
pub(super) struct InvalidLibrary {
    pub(super) what: &'static str,
    content: Content,
    /// A part of the error that the host must report.
    pub(super) reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    Empty,
    /// The first half of a valid library.
    Half,
    /// A test plugin, by name.
    Built(&'static str),
}

/// All kinds of invalid libraries.
pub(super) const ALL: [InvalidLibrary; 10] = [
    invalid("truncated", Content::Half, "it is incomplete"),
    invalid("of another ABI", Content::Built("old_abi"), "is incompatible with this host's"),
    invalid("crashing constructor", Content::Built("ctor_crash"), "SIGSEGV"),
    invalid("hanging constructor", Content::Built("ctor_hang"), "did not end within"),
    invalid("exit in constructor", Content::Built("ctor_exit"), "exit code 3"),
    invalid("panic in start", Content::Built("start_panic"), "did not start: it panicked"),
    invalid("refused start", Content::Built("start_refuse"), "did not start: made to refuse"),
    invalid("refused state", Content::Built("restore_refuse"), "does not take over the state"),
    invalid("not a plugin", Content::Built("no_plugin"), "not a plugsocket plugin"),
    invalid("empty file", Content::Empty, "the file is empty"),
];

const fn invalid(what: &'static str, content: Content, reason: &'static str) -> InvalidLibrary {
    InvalidLibrary { what, content, reason }
}

impl InvalidLibrary {
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
