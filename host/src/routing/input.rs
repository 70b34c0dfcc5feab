//! Input of a connection on its way to the application, and its size.

use crate::protocol::payload::Payload;

/// One message or chunk from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Message(Payload),
    /// A chunk or the start of a buffer, which the application does not see.
    Chunk,
}

/// A number of messages and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Load {
    /// Returns the load of `inputs`.
    pub(crate) fn of(inputs: &[Input]) -> Self {
        let bytes = inputs.iter().map(|input| match input {
            Input::Message(payload) => payload.len(),
            Input::Chunk => 0,
        });
        Self { messages: inputs.len(), bytes: bytes.sum() }
    }

    /// Subtracts `part`.
    pub(crate) fn without(self, part: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(part.messages),
            bytes: self.bytes.saturating_sub(part.bytes),
        }
    }
}
