//! The callbacks of an application.

use std::fmt;

/// A kind of call to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CallbackKind {
    Open = 1,
    Message,
    Close,
    Error,
    Tick,
    Snapshot,
    Event,
    Timer,
    Request,
    Configuration,
}

impl CallbackKind {
    pub(crate) const ALL: [Self; 10] = [
        Self::Open,
        Self::Message,
        Self::Close,
        Self::Error,
        Self::Tick,
        Self::Snapshot,
        Self::Event,
        Self::Timer,
        Self::Request,
        Self::Configuration,
    ];

    /// Returns the index in [`ALL`](Self::ALL).
    pub(super) fn index(self) -> usize {
        self as usize - 1
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Message => "message",
            Self::Close => "close",
            Self::Error => "error",
            Self::Tick => "tick",
            Self::Snapshot => "snapshot",
            Self::Event => "event",
            Self::Timer => "timer",
            Self::Configuration => "config_changed",
            Self::Request => "request",
        }
    }
}

impl fmt::Display for CallbackKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
