//! The identity of a connection: `uuid.hmac`, minted and compared.
//!
//! Owns the secret of this process. An identity is an address that other peers send to, so it must not be guessed or made
//! up: the uuid is random, and nobody else can make the HMAC-SHA-256 over its text. Who is meant is found by the first half of
//! the uuid and then compared whole, HMAC and all, in constant time; so there is nothing to compute again. Opaque to peers.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// Mints identities.
pub struct IdentityIssuer {
    /// Keyed once; a copy is cheaper than hashing the secret again.
    keyed: Hmac<Sha256>,
}

impl IdentityIssuer {
    /// A mint with a secret from the operating system: identities do not outlive the process.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn new() -> Self {
        // `uuid` is what the host has for randomness: 4 * 122 random bits, condensed to 256.
        let mut entropy = Sha256::new();
        for _ in 0..4 {
            entropy.update(Uuid::new_v4().as_bytes());
        }
        Self::with_secret(entropy.finalize().into())
    }

    /// A mint with this secret.
    pub fn with_secret(secret: [u8; 32]) -> Self {
        Self { keyed: Hmac::new_from_slice(&secret).expect("HMAC takes a key of any length") }
    }

    /// A new identity.
    ///
    /// # Panics
    ///
    /// When the operating system has no randomness to give.
    pub fn issue(&self) -> Identity {
        let uuid = Uuid::new_v4();
        let mut text = [0; Identity::LEN];
        uuid.hyphenated().encode_lower(&mut text[..UUID_LEN]);
        text[UUID_LEN] = b'.';
        let seal = self.seal(&text[..UUID_LEN]);
        text[UUID_LEN + 1..].copy_from_slice(&seal);
        Identity { text }
    }

    /// The HMAC over the text of a uuid, in hex.
    fn seal(&self, uuid: &[u8]) -> [u8; SEAL_LEN] {
        let mut mac = self.keyed.clone();
        mac.update(uuid);
        let mut hex = [0; SEAL_LEN];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
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
    /// Never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityIssuer").finish_non_exhaustive()
    }
}

/// A random version-4 UUID in lower case, `.`, and 64 hex digits: 101 bytes, inline.
#[derive(Clone, Copy)]
pub struct Identity {
    text: [u8; Self::LEN],
}

impl Identity {
    /// The length of every identity in bytes.
    pub const LEN: usize = UUID_LEN + 1 + SEAL_LEN;

    /// The text that peers see.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.text).expect("minted from ASCII only")
    }

    /// The same in bytes, all of them ASCII.
    pub fn as_ascii(&self) -> &[u8] {
        &self.text
    }

    /// The first 64 bits of the uuid, to look it up by: random but for the version nibble.
    pub fn key(&self) -> u64 {
        key_of(&self.text[..UUID_LEN]).expect("minted in the strict form")
    }

    /// What [`key`](Self::key) is for the identity with this text; `None` if no identity has such a text.
    pub fn key_of(text: &str) -> Option<u64> {
        (text.len() == Self::LEN).then(|| key_of(&text.as_bytes()[..UUID_LEN]))?
    }

    /// Whether this is the text of this identity, in constant time.
    pub fn matches(&self, text: &str) -> bool {
        let (mine, theirs) = (self.text.chunks(8), text.as_bytes().chunks(8));
        let differences = mine.zip(theirs).map(|(mine, theirs)| word(mine) ^ word(theirs));
        // In words, and looked at once: a look at each byte takes a tenth of a feedback's time.
        text.len() == Self::LEN && differences.fold(0, |all, one| all | one).ct_eq(&0).into()
    }
}

impl fmt::Debug for Identity {
    /// The uuid only: a log must not hand out an address that verifies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uuid = str::from_utf8(&self.text[..UUID_LEN]).unwrap_or_default();
        write!(f, "Identity({uuid})")
    }
}

/// Up to eight bytes, with zeros behind them.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}

/// The first 64 bits of a hyphenated lower-case version-4 uuid; `None` if it is not exactly that.
fn key_of(uuid: &[u8]) -> Option<u64> {
    let mut key = 0;
    let mut digits = 0;
    if uuid.len() != UUID_LEN {
        return None;
    }
    for (at, byte) in uuid.iter().enumerate() {
        let digit = match (at, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return None,
            // RFC 9562 sections 4.1 and 4.2: version 4, variant 10x.
            (14, b'4') => 4,
            (14, _) => return None,
            (19, b'8' | b'9' | b'a' | b'b') => char::from(*byte).to_digit(16)?,
            (19, _) => return None,
            (_, b'0'..=b'9' | b'a'..=b'f') => char::from(*byte).to_digit(16)?,
            _ => return None,
        };
        if digits < 16 {
            key = key << 4 | u64::from(digit);
            digits += 1;
        }
    }
    Some(key)
}

const UUID_LEN: usize = 36;
const SEAL_LEN: usize = 64;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 00112233-4455-4677-8899-aabbccddeeff | openssl dgst -sha256 -mac HMAC -macopt hexkey:2a…2a` (32 times 2a)
    const KNOWN: &str = "00112233-4455-4677-8899-aabbccddeeff.caa4aba3c3cadfcb794ca7f8260a842af745c4ee4993791b6feb1ae8054dca44";

    fn identity_issuer() -> IdentityIssuer {
        IdentityIssuer::with_secret([42; 32])
    }

    /// Whether a text finds and matches the identity that is [`KNOWN`].
    fn check(text: &str, expected: bool) {
        let known = Identity { text: KNOWN.as_bytes().try_into().unwrap() };
        let found = Identity::key_of(text) == Some(known.key()) && known.matches(text);
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_seal_is_the_hmac_of_the_uuid() {
        assert_eq!(
            identity_issuer().seal(&KNOWN.as_bytes()[..UUID_LEN])[..],
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
    fn minted_identities_are_uuids_of_version_4_with_a_seal_of_this_mint() {
        let identity_issuer = IdentityIssuer::new();
        let (one, other) = (identity_issuer.issue(), identity_issuer.issue());
        assert_eq!(Identity::key_of(one.as_str()), Some(one.key()));
        assert_eq!(one.as_str().len(), Identity::LEN);
        assert_eq!(Uuid::parse_str(&one.as_str()[..36]).unwrap().get_version_num(), 4);
        assert_eq!(Uuid::parse_str(&one.as_str()[..36]).unwrap().as_u64_pair().0, one.key());
        let uuid = &one.as_str().as_bytes()[..UUID_LEN];
        assert_eq!(identity_issuer.seal(uuid)[..], one.as_str().as_bytes()[UUID_LEN + 1..]);
        assert_ne!(IdentityIssuer::new().seal(uuid), identity_issuer.seal(uuid));
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
