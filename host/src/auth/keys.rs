//! Keys for signed tokens: from the bytes of a file to something that checks a signature. Pure, but for the chance by which a point is
//! tried.
//!
//! Each key knows its one algorithm; what a token says of itself only chooses among the keys, so a public key can never be
//! taken for a secret, and `none` is the name of no key. The mathematics are `ring`'s.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, agree_ephemeral};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use ring::{agreement, hmac};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::{Map, Value};

use crate::config::{Algorithm, KeyForm};

/// A key and what may be signed with it.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    /// Its name; None is tried with every token of its algorithm.
    pub(super) kid: Option<String>,
    material: Material,
}

enum Material {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// The uncompressed point.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for Key {
    /// Never the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum KeyError {
    #[error(
        "the secret has {0} bytes, HS256 needs at least 32 (RFC 7518 section 3.2); make one with `openssl rand -hex 32`"
    )]
    Short(usize),
    #[error("a PEM file is no secret: {0}")]
    PemAsSecret(&'static str),
    #[error("it is not base64url")]
    NotBase64,
    #[error(
        "it holds no public key in PEM (-----BEGIN PUBLIC KEY-----); make it with `openssl pkey -in private.pem -pubout`"
    )]
    NotPem,
    #[error("its key is not one for {}, but {found}", .wanted.as_str())]
    OtherKind { wanted: Algorithm, found: &'static str },
    #[error("its RSA key has {0} bits; 2048 to 8192 are safe and supported")]
    RsaSize(usize),
    /// Where, and nothing of what is there: it may be a secret.
    #[error(
        "it is no JSON Web Key Set: its JSON has an error ({kind:?}) in line {line}, column {column}"
    )]
    NotJson { kind: Category, line: usize, column: usize },
    #[error("it is no JSON Web Key Set; give an object with a list of objects, {{\"keys\":[…]}}")]
    NotSet,
    #[error("a member of it is missing, or of the wrong type (RFC 7517 section 4)")]
    Member,
    #[error("none of its keys can be used: HS256, RS256, ES256 and EdDSA (Ed25519) are known")]
    EmptySet,
    #[error("one of its keys is damaged: {0}")]
    Damaged(&'static str),
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Read {
    /// At least one.
    pub(super) keys: Vec<Key>,
    /// Keys of a set that were meant for tokens and cannot be used.
    pub(super) skipped: Vec<Skipped>,
}

/// A key of a set that cannot be used: which one it is, from 1, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {at}: {why}")]
pub(super) struct Skipped {
    at: usize,
    why: KeyError,
}

/// The keys of a file.
///
/// # Errors
/// It does not hold what its form says.
pub(super) fn read(bytes: &[u8], form: &KeyForm) -> Result<Read, KeyError> {
    let (algorithm, kid, material) = match form {
        KeyForm::Set => return set(bytes),
        KeyForm::Single { algorithm: Algorithm::Hs256, is_base64url, kid } => {
            let written = written_secret(bytes, *is_base64url)?;
            (Algorithm::Hs256, kid, secret(&written)?)
        }
        KeyForm::Single { algorithm, kid, .. } => {
            let spki =
                SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| KeyError::NotPem)?;
            (*algorithm, kid, public(&spki, *algorithm)?)
        }
    };
    Ok(Read { keys: vec![Key { algorithm, kid: kid.clone(), material }], skipped: Vec::new() })
}

impl Key {
    /// Whether the signature is one of this key over the message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            // In constant time (ring).
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Rsa(key) => {
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Material::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
        }
    }
}

fn written_secret(bytes: &[u8], is_base64url: bool) -> Result<Vec<u8>, KeyError> {
    if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(KeyError::PemAsSecret("a public key is known to everybody"));
    }
    // Editors and `openssl rand -hex` end a text with a line feed that the other side's library does not sign with.
    let end = bytes.len() - bytes.iter().rev().take_while(|b| [b'\n', b'\r'].contains(b)).count();
    let text = str::from_utf8(&bytes[..end]).ok().filter(|text| !text.contains(char::is_control));
    let written = text.map_or(bytes, str::as_bytes);
    if !is_base64url {
        return Ok(written.to_vec());
    }
    let padding = written.iter().rev().take_while(|byte| **byte == b'=').count();
    let written = &written[..written.len() - padding];
    URL_SAFE_NO_PAD.decode(written).map_err(|_| KeyError::NotBase64)
}

fn secret(bytes: &[u8]) -> Result<Material, KeyError> {
    if bytes.len() < 32 {
        return Err(KeyError::Short(bytes.len()));
    }
    Ok(Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
}

/// The contents of AlgorithmIdentifier (RFC 5280 section 4.1.1.2): object identifier and parameters.
const OF_RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const OF_P256: &[u8] = &[
    0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
const OF_ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

fn public(spki: &[u8], wanted: Algorithm) -> Result<Material, KeyError> {
    const BROKEN: KeyError = KeyError::Damaged("its DER cannot be read");
    let (body, _) = der(spki, SEQUENCE).ok_or(BROKEN)?;
    let (identifier, rest) = der(body, SEQUENCE).ok_or(BROKEN)?;
    let (bits, _) = der(rest, BIT_STRING).ok_or(BROKEN)?;
    let [0, key @ ..] = bits else { return Err(BROKEN) };
    let other = |found| Err(KeyError::OtherKind { wanted, found });
    match (wanted, identifier) {
        (Algorithm::Rs256, OF_RSA) => {
            let (numbers, _) = der(key, SEQUENCE).ok_or(BROKEN)?;
            let (n, rest) = der(numbers, INTEGER).ok_or(BROKEN)?;
            let (e, _) = der(rest, INTEGER).ok_or(BROKEN)?;
            rsa(n, e)
        }
        (Algorithm::Es256, OF_P256) => p256(key),
        (Algorithm::EdDsa, OF_ED25519) => ed25519(key),
        (_, OF_RSA) => other("an RSA key (RS256)"),
        (_, OF_P256) => other("a P-256 key (ES256)"),
        (_, OF_ED25519) => other("an Ed25519 key (EdDSA)"),
        _ => other("a key of a kind that is not known here"),
    }
}

/// The content of a DER value with this tag, and what follows it (X.690 section 8.1).
fn der(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, first, rest @ ..] = bytes else { return None };
    if *found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn rsa(n: &[u8], e: &[u8]) -> Result<Material, KeyError> {
    let without_zeros = |number: &[u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    };
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !is_odd(&n) {
        return Err(KeyError::Damaged("its RSA modulus is even"));
    }
    if !is_odd(&e) || e.len() > 4 || e == [1] {
        return Err(KeyError::Damaged("its RSA exponent is no usual one"));
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n, e }))
}

fn p256(point: &[u8]) -> Result<Material, KeyError> {
    match point {
        [0x04, rest @ ..] if rest.len() == 64 && is_on_p256(point) => {
            Ok(Material::P256(point.to_vec()))
        }
        _ => Err(KeyError::Damaged("it is no uncompressed point of P-256")),
    }
}

/// Whether there could be a signature of it. `ring` looks at a point where it is used; agreeing on a secret needs none but it.
fn is_on_p256(point: &[u8]) -> bool {
    let Ok(own) = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()) else {
        // No randomness is no fault of the key.
        return true;
    };
    agree_ephemeral(own, &agreement::UnparsedPublicKey::new(&ECDH_P256, point), |_| ()).is_ok()
}

fn ed25519(key: &[u8]) -> Result<Material, KeyError> {
    match key.len() {
        32 => Ok(Material::Ed25519(key.to_vec())),
        _ => Err(KeyError::Damaged("an Ed25519 key has 32 bytes")),
    }
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    k: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

/// RFC 7517 section 5: keys of kinds that are not known, that lack what they need or are out of range are ignored. Those for other
/// purposes are, too.
fn set(bytes: &[u8]) -> Result<Read, KeyError> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| KeyError::NotJson {
        kind: error.classify(),
        line: error.line(),
        column: error.column(),
    })?;
    let members = set.as_object().and_then(|set| set.get("keys")).and_then(Value::as_array);
    let (mut keys, mut skipped) = (Vec::new(), Vec::new());
    for (n, member) in members.ok_or(KeyError::NotSet)?.iter().enumerate() {
        match member.as_object().ok_or(KeyError::Member).and_then(key) {
            Ok(key) => keys.extend(key),
            Err(why) => skipped.push(Skipped { at: n + 1, why }),
        }
    }
    match skipped.pop_if(|_| keys.is_empty()) {
        None if keys.is_empty() => Err(KeyError::EmptySet),
        None => Ok(Read { keys, skipped }),
        Some(skipped) => Err(skipped.why),
    }
}

/// None if it is not meant for tokens as they are known here.
fn key(member: &Map<String, Value>) -> Result<Option<Key>, KeyError> {
    let member = Member::deserialize(member).map_err(|_| KeyError::Member)?;
    let algorithm = match (member.kty.as_str(), member.crv.as_deref()) {
        ("oct", None) => Algorithm::Hs256,
        ("RSA", None) => Algorithm::Rs256,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        _ => return Ok(None),
    };
    let is_meant = member.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && member.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"))
        && member.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
    if !is_meant {
        return Ok(None);
    }
    let material = member.material(algorithm)?;
    Ok(Some(Key { algorithm, kid: member.kid, material }))
}

impl Member {
    fn material(&self, algorithm: Algorithm) -> Result<Material, KeyError> {
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::NotBase64);
        match algorithm {
            Algorithm::Hs256 => secret(&part(&self.k)?),
            Algorithm::Rs256 => rsa(&part(&self.n)?, &part(&self.e)?),
            Algorithm::Es256 => p256(&[&[0x04], &*part(&self.x)?, &*part(&self.y)?].concat()),
            Algorithm::EdDsa => ed25519(&part(&self.x)?),
        }
    }
}
