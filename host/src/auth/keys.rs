//! Keys of signed tokens: parses key files, and verifies signatures with `ring`. Pure, except for
//! the randomness that [`is_on_p256`] uses.
//!
//! Each key has one algorithm. The header of a token only selects among the keys, so a public key
//! is never used as a secret, and no key has the algorithm `none`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, agree_ephemeral};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use ring::{agreement, hmac, rand::SystemRandom};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Map, Value, error::Category};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::{prelude::FromDer, public_key::PublicKey, x509::SubjectPublicKeyInfo};

use crate::config::{Algorithm, KeyForm};
use crate::fs::read::without_byte_order_mark;

/// Verification key and its algorithm.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    /// A key without a name is tried with every token of its algorithm.
    pub(super) kid: Option<String>,
    material: Material,
}

/// The key itself. ring's `Debug` of a secret omits its bytes.
#[derive(Debug)]
enum Material {
    Secret(hmac::Key),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Public(UnparsedPublicKey<Vec<u8>>),
}

/// Problem of a key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum KeyError {
    #[error(
        "the secret has {0} bytes; HS256 requires at least 32 (RFC 7518 section 3.2), as from `openssl rand -hex 32`"
    )]
    Short(usize),
    #[error("a PEM file is not a secret: a public key is not confidential")]
    PemAsSecret,
    #[error("not base64url")]
    NotBase64,
    #[error(
        "not a public key in PEM (-----BEGIN PUBLIC KEY-----), as from `openssl pkey -in private.pem -pubout`"
    )]
    NotPem,
    #[error("expected a key for {}, found {found}", .wanted.as_str())]
    OtherKind { wanted: Algorithm, found: &'static str },
    #[error("the RSA key has {0} bits; 2048 to 8192 are supported")]
    RsaSize(usize),
    /// Gives the position only, as the text may be a secret.
    #[error("not a JSON Web Key Set: JSON error ({kind:?}) in line {line}, column {column}")]
    NotJson { kind: Category, line: usize, column: usize },
    #[error(
        "not a JSON Web Key Set; expected an object with an array of objects, {{\"keys\":[…]}}"
    )]
    NotSet,
    #[error("a member is missing or has the wrong type (RFC 7517 section 4)")]
    Member,
    #[error("no usable key; HS256, RS256, ES256 and EdDSA (Ed25519) are supported")]
    EmptySet,
    #[error("damaged key: {0}")]
    Damaged(&'static str),
}

/// Keys of one file.
#[derive(Debug)]
pub(super) struct KeySet {
    /// At least one.
    pub(super) keys: Vec<Key>,
    /// Keys for tokens that cannot be used.
    pub(super) skipped: Vec<Skipped>,
}

/// An unusable key of a set: its number, from 1, and the reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {at}: {why}")]
pub(super) struct Skipped {
    at: usize,
    why: KeyError,
}

/// Parses a key file.
///
/// # Errors
/// The file does not have the form that the configuration gives.
pub(super) fn read(bytes: &[u8], form: &KeyForm) -> Result<KeySet, KeyError> {
    let (algorithm, kid, material) = match form {
        KeyForm::Set => return set(without_byte_order_mark(bytes)),
        KeyForm::Single { algorithm: Algorithm::Hs256, is_base64url, kid } => {
            let written = written_secret(bytes, *is_base64url)?;
            (Algorithm::Hs256, kid, secret(&written)?)
        }
        KeyForm::Single { algorithm, kid, .. } => {
            let spki = SubjectPublicKeyInfoDer::from_pem_slice(without_byte_order_mark(bytes))
                .map_err(|_| KeyError::NotPem)?;
            (*algorithm, kid, public(&spki, *algorithm)?)
        }
    };
    Ok(KeySet { keys: vec![Key { algorithm, kid: kid.clone(), material }], skipped: Vec::new() })
}

impl Key {
    /// Returns whether the signature of the message is valid.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.material {
            // In constant time (ring).
            Material::Secret(key) => hmac::verify(key, message, signature),
            Material::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            Material::Public(key) => key.verify(message, signature),
        };
        verified.is_ok()
    }
}

fn written_secret(bytes: &[u8], is_base64url: bool) -> Result<Vec<u8>, KeyError> {
    if bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(KeyError::PemAsSecret);
    }
    // Editors and `openssl rand -hex` append a line feed, which the issuer does not sign with.
    let text = str::from_utf8(bytes).ok().map(|text| text.trim_end_matches(['\n', '\r']));
    let text = text.filter(|text| !text.contains(char::is_control));
    let written = text.map_or(bytes, |text| without_byte_order_mark(text.as_bytes()));
    if !is_base64url {
        return Ok(written.to_vec());
    }
    let end = written.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    URL_SAFE_NO_PAD.decode(&written[..end]).map_err(|_| KeyError::NotBase64)
}

fn secret(bytes: &[u8]) -> Result<Material, KeyError> {
    if bytes.len() < 32 {
        return Err(KeyError::Short(bytes.len()));
    }
    Ok(Material::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
}

/// Reads the key of a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
fn public(spki: &[u8], wanted: Algorithm) -> Result<Material, KeyError> {
    const MALFORMED: KeyError = KeyError::Damaged("its DER is malformed");
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| MALFORMED)?;
    let bits = &spki.subject_public_key;
    if bits.unused_bits != 0 {
        return Err(MALFORMED);
    }
    let (oid, parameter) = (&spki.algorithm.algorithm, &spki.algorithm.parameters);
    let curve = || parameter.as_ref().and_then(|parameter| parameter.as_oid().ok());
    let (algorithm, found) = if *oid == OID_PKCS1_RSAENCRYPTION {
        (Some(Algorithm::Rs256), "an RSA key (RS256)")
    } else if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY && curve() == Some(OID_EC_P256) {
        (Some(Algorithm::Es256), "a P-256 key (ES256)")
    } else if *oid == OID_SIG_ED25519 {
        (Some(Algorithm::EdDsa), "an Ed25519 key (EdDSA)")
    } else {
        (None, "a key of an unsupported type")
    };
    if algorithm != Some(wanted) {
        return Err(KeyError::OtherKind { wanted, found });
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) => rsa(key.modulus, key.exponent),
        Ok(PublicKey::EC(point)) => p256(point.data()),
        Ok(PublicKey::Unknown(key)) => ed25519(key),
        _ => Err(MALFORMED),
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<Material, KeyError> {
    let without_zeros =
        |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !is_odd(&n) {
        return Err(KeyError::Damaged("the RSA modulus is even"));
    }
    if !is_odd(&e) || e.len() > 4 || e == [1] {
        return Err(KeyError::Damaged("unusual RSA exponent"));
    }
    Ok(Material::Rsa(RsaPublicKeyComponents { n, e }))
}

fn p256(point: &[u8]) -> Result<Material, KeyError> {
    match point {
        [0x04, rest @ ..] if rest.len() == 64 && is_on_p256(point) => {
            Ok(Material::Public(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point.to_vec())))
        }
        _ => Err(KeyError::Damaged("not an uncompressed point of P-256")),
    }
}

/// Returns whether the point is on the curve. `ring` checks a point when it is used, and a key
/// agreement is the use that needs no signature.
fn is_on_p256(point: &[u8]) -> bool {
    let Ok(own) = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()) else {
        // A lack of randomness says nothing about the key.
        return true;
    };
    agree_ephemeral(own, &agreement::UnparsedPublicKey::new(&ECDH_P256, point), |_| ()).is_ok()
}

fn ed25519(key: &[u8]) -> Result<Material, KeyError> {
    match key.len() {
        32 => Ok(Material::Public(UnparsedPublicKey::new(&ED25519, key.to_vec()))),
        _ => Err(KeyError::Damaged("an Ed25519 key has 32 bytes")),
    }
}

/// Key of a set (RFC 7517 section 4, RFC 7518 section 6, RFC 8037).
#[derive(Deserialize)]
struct Member {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    #[serde(flatten)]
    parts: KeyParts,
}

/// Parts of the key itself, in base64url; empty for those that its type does not have.
#[derive(Default, Deserialize)]
#[serde(default)]
struct KeyParts {
    k: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// Parses a JSON Web Key Set. Ignores keys of unknown types and for other purposes, and skips
/// incomplete ones (RFC 7517 section 5).
fn set(bytes: &[u8]) -> Result<KeySet, KeyError> {
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
        None => Ok(KeySet { keys, skipped }),
        Some(skipped) => Err(skipped.why),
    }
}

/// Returns `None` for a key of another type or purpose.
fn key(member: &Map<String, Value>) -> Result<Option<Key>, KeyError> {
    let member = Member::deserialize(member).map_err(|_| KeyError::Member)?;
    let algorithm = match (member.kty.as_str(), member.crv.as_deref()) {
        ("oct", None) => Algorithm::Hs256,
        ("RSA", None) => Algorithm::Rs256,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        _ => return Ok(None),
    };
    let is_for_tokens = member.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && member.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"))
        && member.alg.as_deref().is_none_or(|alg| alg == algorithm.as_str());
    if !is_for_tokens {
        return Ok(None);
    }
    let material = member.parts.material(algorithm)?;
    Ok(Some(Key { algorithm, kid: member.kid, material }))
}

impl KeyParts {
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
