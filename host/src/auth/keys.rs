//! Keys for signed tokens: from the bytes of a file to something that checks a signature. Pure.
//!
//! Each key knows its one algorithm; what a token says of itself only chooses among the keys, so a public key can never be
//! taken for a secret, and `none` is the name of no key. The mathematics are `ring`'s.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

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
    #[error("it is no JSON Web Key Set: {0}")]
    NotSet(String),
    #[error("none of its keys can be used: HS256, RS256, ES256 and EdDSA (Ed25519) are known")]
    EmptySet,
    #[error("one of its keys is damaged: {0}")]
    Damaged(&'static str),
}

/// The keys of a file.
///
/// # Errors
/// It does not hold what its form says.
pub(super) fn read(bytes: &[u8], form: &KeyForm) -> Result<Vec<Key>, KeyError> {
    match form {
        KeyForm::Single { algorithm: Algorithm::Hs256, is_base64url, kid } => {
            let material = secret(written_secret(bytes, *is_base64url)?.as_slice())?;
            Ok(vec![Key { algorithm: Algorithm::Hs256, kid: kid.clone(), material }])
        }
        KeyForm::Single { algorithm, kid, .. } => {
            let spki =
                SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| KeyError::NotPem)?;
            let material = public(&spki, *algorithm)?;
            Ok(vec![Key { algorithm: *algorithm, kid: kid.clone(), material }])
        }
        KeyForm::Set => set(bytes),
    }
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
    let is_text = bytes[..end].iter().all(|byte| (b' '..=b'~').contains(byte));
    let written = if is_text { &bytes[..end] } else { bytes };
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
    if e.is_empty() || e.len() > 4 {
        return Err(KeyError::Damaged("its RSA exponent is no usual one"));
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n, e }))
}

fn p256(point: &[u8]) -> Result<Material, KeyError> {
    match point {
        [0x04, rest @ ..] if rest.len() == 64 => Ok(Material::P256(point.to_vec())),
        _ => Err(KeyError::Damaged("it is no uncompressed point of P-256")),
    }
}

fn ed25519(key: &[u8]) -> Result<Material, KeyError> {
    match key.len() {
        32 => Ok(Material::Ed25519(key.to_vec())),
        _ => Err(KeyError::Damaged("an Ed25519 key has 32 bytes")),
    }
}

/// RFC 7517 section 5; keys for other purposes are skipped, as it says.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    kty: String,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
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

fn set(bytes: &[u8]) -> Result<Vec<Key>, KeyError> {
    let set: Set =
        serde_json::from_slice(bytes).map_err(|error| KeyError::NotSet(error.to_string()))?;
    let mut keys = Vec::new();
    for member in set.keys {
        let algorithm = match (member.kty.as_str(), member.crv.as_deref()) {
            ("oct", None) => Algorithm::Hs256,
            ("RSA", None) => Algorithm::Rs256,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            _ => continue,
        };
        let is_meant = member.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && member.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
        if is_meant {
            let material = member.material(algorithm)?;
            keys.push(Key { algorithm, kid: member.kid, material });
        }
    }
    if keys.is_empty() { Err(KeyError::EmptySet) } else { Ok(keys) }
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
