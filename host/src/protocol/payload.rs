//! What a connection writes, before it is encoded as frames or lines.
//!
//! Short payloads are stored inline, because allocating and reference counting would cost more than
//! copying. A long payload is one shared buffer.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::buffered;
use super::chunk::Form;

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
    /// Counted for each item, so that empty messages are limited too.
    pub(crate) const OVERHEAD: usize = 64;

    /// Returns the bytes of a message; packets of the host do not count.
    pub(crate) fn len(&self) -> usize {
        if let Self::Message(payload) = self { payload.len() } else { 0 }
    }

    /// Returns the size that counts against the outbox limits; all connections share packets.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) => payload.len() + Self::OVERHEAD,
            Self::Ready | Self::Next(_) | Self::Ping => Self::OVERHEAD,
        }
    }
}

/// A message's payload. Cloning copies a short one and counts a reference to a long one.
#[derive(Clone)]
pub(crate) struct Payload {
    /// [`Form::Text`] or [`Form::Binary`].
    pub(crate) form: Form,
    body: Body,
}

#[derive(Clone)]
enum Body {
    Short { length: u8, bytes: [u8; Payload::SHORT] },
    Long(Bytes),
}

impl Payload {
    /// The longest inline payload: what fits in a value of 96 bytes.
    const SHORT: usize = 86;

    /// Copies `bytes`.
    pub(crate) fn copied(form: Form, bytes: &[u8]) -> Self {
        let body = match bytes.len() {
            length @ 0..=Self::SHORT => {
                let mut short = [0; Self::SHORT];
                short[..length].copy_from_slice(bytes);
                Body::Short { length: length as u8, bytes: short }
            }
            _ => Self::long(bytes),
        };
        Self { form, body }
    }

    /// A function of its own, so that the short case stays small enough to be inlined.
    #[inline(never)]
    fn long(bytes: &[u8]) -> Body {
        Body::Long(match bytes.len() {
            buffered::LONG.. => buffered::copied(bytes),
            _ => Bytes::copy_from_slice(bytes),
        })
    }

    /// Keeps `bytes` without copying them.
    pub(crate) fn shared(form: Form, bytes: Bytes) -> Self {
        Self { form, body: Body::Long(bytes) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.body {
            Body::Short { length, bytes } => &bytes[..usize::from(*length)],
            Body::Long(bytes) => bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.body {
            Body::Short { length, .. } => usize::from(*length),
            Body::Long(bytes) => bytes.len(),
        }
    }

    /// Returns the buffer of a long payload.
    pub(crate) fn into_long(self) -> Option<Bytes> {
        match self.body {
            Body::Short { .. } => None,
            Body::Long(bytes) => Some(bytes),
        }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.form == other.form && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    /// Omits the bytes: payloads must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:?}, {} bytes)", self.form, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Payload {
        pub(crate) fn text(text: impl AsRef<str>) -> Self {
            Self::copied(Form::Text, text.as_ref().as_bytes())
        }
    }

    #[test]
    fn short_and_long_payloads_behave_alike() {
        for length in [0, 1, Payload::SHORT, Payload::SHORT + 1, 1000] {
            let bytes = vec![b'x'; length];
            let copied = Payload::copied(Form::Text, &bytes);
            let shared = Payload::shared(Form::Text, Bytes::from(bytes.clone()));
            assert_eq!((copied.len(), copied.as_bytes()), (length, &bytes[..]));
            assert_eq!(copied, shared);
            assert_ne!(copied, Payload::copied(Form::Binary, &bytes));
            assert_eq!(copied.into_long().is_some(), length > Payload::SHORT);
        }
        assert!(size_of::<Payload>() <= 96);
    }
}
