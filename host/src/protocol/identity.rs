//! The identity of a connection: `uuid.hmac`.
//!
//! Owns the secret of this process. An identity is an address that other peers send to, so it must
//! not be guessable: the uuid is random, and its HMAC-SHA-256 needs the secret. A connection is
//! looked up by the first half of the uuid, then the whole text is compared in constant time, so
//! that no HMAC is computed again. Opaque to peers.

use std::fmt;

use ring::hmac;
use ring::rand::{self, SystemRandom};
use subtle::ConstantTimeEq as _;
use uuid::{Uuid, Variant};

/// Issues identities.
pub struct IdentityIssuer {
    key: hmac::Key,
}

impl IdentityIssuer {
    /// Creates an issuer with a random secret: its identities are valid for this process only.
    ///
    /// # Panics
    ///
    /// The operating system has no random source.
    pub fn new() -> Self {
        let secret = rand::generate(&SystemRandom::new()).expect("a system has a random source");
        Self::with_secret(secret.expose())
    }

    /// Creates an issuer with this secret.
    pub fn with_secret(secret: [u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// Returns a new identity.
    ///
    /// # Panics
    ///
    /// The operating system has no random source.
    pub fn issue(&self) -> Identity {
        let uuid = Uuid::new_v4();
        let mut text = [0; Identity::LEN];
        uuid.hyphenated().encode_lower(&mut text[..UUID_LEN]);
        text[UUID_LEN] = b'.';
        let tag = self.tag(&text[..UUID_LEN]);
        text[UUID_LEN + 1..].copy_from_slice(&tag);
        Identity { text, key: uuid.as_u64_pair().0 }
    }

    /// Returns the HMAC of the text of a uuid, in hex.
    fn tag(&self, uuid: &[u8]) -> [u8; TAG_LEN] {
        let mut hex = [0; TAG_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(hmac::sign(&self.key, uuid).as_ref()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }
}

impl Default for IdentityIssuer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IdentityIssuer {
    /// Omits the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityIssuer").finish_non_exhaustive()
    }
}

/// A random version-4 UUID in lower case, `.`, and 64 hex digits: 101 bytes inline.
#[derive(Clone, Copy)]
pub struct Identity {
    text: [u8; Self::LEN],
    key: u64,
}

impl Identity {
    /// The length of every identity in bytes.
    pub const LEN: usize = UUID_LEN + 1 + TAG_LEN;

    /// Returns the text that peers receive.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text).expect("issued from ASCII only")
    }

    /// Returns the text as ASCII bytes.
    pub fn as_ascii(&self) -> &[u8] {
        &self.text
    }

    /// Returns the lookup key: the first 64 bits of the uuid, random except the version.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Returns the [`key`](Self::key) of the identity with this text; `None` if it is not the text
    /// of an identity.
    pub fn key_of(text: &str) -> Option<u64> {
        key_of(text.as_bytes().get(..UUID_LEN).filter(|_| text.len() == Self::LEN)?)
    }

    /// Compares the text of this identity with `text` in constant time.
    pub fn matches(&self, text: &str) -> bool {
        let (mine, theirs) = (self.text.chunks(8), text.as_bytes().chunks(8));
        let differences = mine.zip(theirs).map(|(mine, theirs)| word(mine) ^ word(theirs));
        // By words: a comparison by bytes takes a tenth of the time of a feedback.
        text.len() == Self::LEN && differences.fold(0, |all, one| all | one).ct_eq(&0).into()
    }
}

impl fmt::Debug for Identity {
    /// Prints the uuid only: a log must not contain a valid address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uuid = str::from_utf8(&self.text[..UUID_LEN]).unwrap_or_default();
        write!(f, "Identity({uuid})")
    }
}

/// Returns up to eight bytes, padded with zeros.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// Returns the first 64 bits of a hyphenated lower-case version-4 uuid; `None` for any other text.
fn key_of(uuid: &[u8]) -> Option<u64> {
    let parsed = Uuid::try_parse_ascii(uuid).ok()?;
    let is_strict = uuid.len() == UUID_LEN && !uuid.iter().any(u8::is_ascii_uppercase);
    // RFC 9562 sections 4.1 and 4.2: version 4, variant 10x.
    let is_random = parsed.get_version_num() == 4 && parsed.get_variant() == Variant::RFC4122;
    (is_strict && is_random).then_some(parsed.as_u64_pair().0)
}

const UUID_LEN: usize = 36;
const TAG_LEN: usize = 64;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    /// From `printf 00112233-4455-4677-8899-aabbccddeeff | openssl dgst -sha256 -mac HMAC -macopt
    /// hexkey:2a…2a` (32 times 2a)
    const KNOWN: &str = "00112233-4455-4677-8899-aabbccddeeff.caa4aba3c3cadfcb794ca7f8260a842af745c4ee4993791b6feb1ae8054dca44";

    fn identity_issuer() -> IdentityIssuer {
        IdentityIssuer::with_secret([42; 32])
    }

    /// Checks whether a text finds and matches the identity [`KNOWN`].
    fn check(text: &str, expected: bool) {
        let key = key_of(&KNOWN.as_bytes()[..UUID_LEN]).unwrap();
        let known = Identity { text: KNOWN.as_bytes().try_into().unwrap(), key };
        let found = Identity::key_of(text) == Some(known.key()) && known.matches(text);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_tag_is_the_hmac_of_the_uuid() {
        assert_eq!(
            identity_issuer().tag(&KNOWN.as_bytes()[..UUID_LEN])[..],
            KNOWN.as_bytes()[UUID_LEN + 1..]
        );
    }

    #[test]
    fn only_the_exact_text_of_an_identity_names_it() {
        check(KNOWN, true);
        check(&KNOWN.to_uppercase(), false);
        check(&format!("{KNOWN} "), false);
        check(&format!(" {KNOWN}"), false);
        check(&format!("{KNOWN}0"), false);
        check(&KNOWN[..36], false);
        check(&KNOWN[..37], false);
        check(&KNOWN[..100], false);
        check("", false);
        check("00112233-4455-4677-8899-aabbccddeef\u{e4}", false);
        for at in 0..KNOWN.len() {
            for other in ["0", "1", "a", "f", "A", "-", ".", "g", "\0"] {
                if &KNOWN[at..=at] != other {
                    check(&format!("{}{other}{}", &KNOWN[..at], &KNOWN[at + 1..]), false);
                }
            }
        }
    }

    #[test]
    fn uuids_are_parsed_strictly() {
        for (uuid, expected) in [
            ("00112233-4455-4677-8899-aabbccddeeff", Some(0x0011_2233_4455_4677)),
            ("ffffffff-ffff-4fff-bfff-ffffffffffff", Some(0xffff_ffff_ffff_4fff)),
            ("00000000-0000-4000-9000-000000000000", Some(0x4000)),
            ("00000000-0000-4000-a000-000000000000", Some(0x4000)),
            ("00000000-0000-4000-0000-000000000000", None),
            ("00000000-0000-4000-7000-000000000000", None),
            ("00000000-0000-4000-c000-000000000000", None),
            ("00000000-0000-1000-8000-000000000000", None),
            ("00000000-0000-4000-8000-00000000000F", None),
            ("000000000000-4000-8000-00000000000000", None),
            ("00000000-0000-4000-8000-00000000000", None),
            ("00000000-0000-4000-8000-0000000000000", None),
        ] {
            assert_eq!(key_of(uuid.as_bytes()), expected, "{uuid}");
        }
    }

    #[test]
    fn issued_identities_are_uuids_of_version_4_with_a_tag_of_this_issuer() {
        let identity_issuer = IdentityIssuer::new();
        let (one, other) = (identity_issuer.issue(), identity_issuer.issue());
        assert_eq!(Identity::key_of(one.as_str()), Some(one.key()));
        assert_eq!(one.as_str().len(), Identity::LEN);
        assert!(plugsocket_plugin::is_uuid(one.as_str()));
        assert_eq!(Uuid::parse_str(&one.as_str()[..36]).unwrap().get_version_num(), 4);
        assert_eq!(Uuid::parse_str(&one.as_str()[..36]).unwrap().as_u64_pair().0, one.key());
        let uuid = &one.as_str().as_bytes()[..UUID_LEN];
        assert_eq!(identity_issuer.tag(uuid)[..], one.as_str().as_bytes()[UUID_LEN + 1..]);
        assert_ne!(IdentityIssuer::new().tag(uuid), identity_issuer.tag(uuid));
        assert!(one.matches(one.as_str()) && !one.matches(other.as_str()) && !one.matches(""));
        assert_ne!(one.key(), other.key());
    }

    #[test]
    fn secrets_are_not_printed() {
        let identity = identity_issuer().issue();
        assert_eq!(format!("{:?}", identity_issuer()), "IdentityIssuer { .. }");
        assert_eq!(format!("{identity:?}"), format!("Identity({})", &identity.as_str()[..36]));
    }
}
