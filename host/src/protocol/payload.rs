//! The payload of a message: whether it is text, and its bytes.
//!
//! Short payloads are stored inline, because allocating and reference counting would cost more than
//! copying. A long payload is one shared buffer.

use std::fmt;

use bytes::Bytes;

/// A message's payload. Cloning copies a short one and increments the reference count of a long
/// one.
#[derive(Clone)]
pub(crate) struct Payload {
    /// Whether the bytes are valid UTF-8 and are sent as text.
    pub(crate) is_text: bool,
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
    pub(crate) fn copied(is_text: bool, bytes: &[u8]) -> Self {
        let body = match bytes.len() {
            length @ 0..=Self::SHORT => {
                let mut short = [0; Self::SHORT];
                short[..length].copy_from_slice(bytes);
                Body::Short { length: length as u8, bytes: short }
            }
            _ => Body::Long(Bytes::copy_from_slice(bytes)),
        };
        Self { is_text, body }
    }

    /// Keeps `bytes` without copying them.
    pub(crate) fn shared(is_text: bool, bytes: Bytes) -> Self {
        Self { is_text, body: Body::Long(bytes) }
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
        self.is_text == other.is_text && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    /// Omits the bytes: payloads must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_text { "text" } else { "binary" };
        write!(f, "Payload({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Payload {
        pub(crate) fn text(text: impl AsRef<str>) -> Self {
            Self::copied(true, text.as_ref().as_bytes())
        }
    }

    #[test]
    fn short_and_long_payloads_behave_alike() {
        for length in [0, 1, Payload::SHORT, Payload::SHORT + 1, 1000] {
            let bytes = vec![b'x'; length];
            let copied = Payload::copied(true, &bytes);
            let shared = Payload::shared(true, Bytes::from(bytes.clone()));
            assert_eq!((copied.len(), copied.as_bytes()), (length, &bytes[..]));
            assert_eq!(copied, shared);
            assert_ne!(copied, Payload::copied(false, &bytes));
            assert_eq!(copied.into_long().is_some(), length > Payload::SHORT);
        }
        assert!(size_of::<Payload>() <= 96);
    }
}
