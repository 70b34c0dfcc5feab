//! What a connection writes, before it is a frame or a line.

use std::sync::Arc;

use super::payload::Payload;

/// One thing that the connection's task writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// The dialog's `ready`.
    Ready,
    /// What an application sends.
    Message(Payload),
    /// The dialog's `next`: this packet, or the one with an empty `fyi`.
    Next(Option<Arc<str>>),
    /// A ping frame; nothing on plain TCP.
    Ping,
}

impl Outgoing {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) => payload.len() + Self::OVERHEAD,
            // The packet is one for all, until it is set again.
            Self::Ready | Self::Next(_) | Self::Ping => Self::OVERHEAD,
        }
    }

    /// Counted for each entry, so that a million empty messages are not free.
    pub(crate) const OVERHEAD: usize = 64;
}
