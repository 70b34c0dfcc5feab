//! What a peer sent, on its way to the application, and how much that is.

use crate::protocol::payload::Payload;

/// One thing that a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Message(Payload),
    /// A chunk, or the beginning of a buffer: the host takes it, the application does not see it.
    Chunk,
}

/// Messages, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Load {
    /// Of what was read.
    pub(crate) fn of(inputs: &[Input]) -> Self {
        let bytes = inputs.iter().map(|input| match input {
            Input::Message(payload) => payload.len(),
            Input::Chunk => 0,
        });
        Self { messages: inputs.len(), bytes: bytes.sum() }
    }

    /// What is left without `part` of it.
    pub(crate) fn without(self, part: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(part.messages),
            bytes: self.bytes.saturating_sub(part.bytes),
        }
    }
}
