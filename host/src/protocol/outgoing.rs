//! What a connection writes, before it is encoded as a frame or a line.

use std::sync::Arc;

use super::payload::Payload;

/// One item of a connection's outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// The dialog's `ready`.
    Ready,
    /// A message of an application.
    Message(Payload),
    /// The dialog's `next`: this packet, or [`dialog::NEXT`](super::dialog::NEXT).
    Next(Option<Arc<str>>),
    /// A ping frame; not written on plain TCP.
    Ping,
}

impl Outgoing {
    /// Returns the size that counts against the outbox limits.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) => payload.len() + Self::OVERHEAD,
            // All connections share the packet.
            Self::Ready | Self::Next(_) | Self::Ping => Self::OVERHEAD,
        }
    }

    /// Counted for each item, so that empty messages are limited too.
    pub(crate) const OVERHEAD: usize = 64;
}
