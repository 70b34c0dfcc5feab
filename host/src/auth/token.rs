//! Signed tokens (JWT): finds the token of a request and verifies it. Pure.
//!
//! JWS compact serialisation (RFC 7515 section 7.1) with the claims of RFC 7519, following RFC
//! 8725. A token is a secret: no error quotes from it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use plugsocket_plugin::{Message, Packet};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::{Map, Value};

use super::keys::Key;
use super::{integer_text, is_user};
use crate::config::{Source, TokenRules};
use crate::protocol::http::Head;

/// Reason why a token is refused, as text for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("no token")]
    Missing,
    #[error("more than one token")]
    Several,
    #[error("the token is too long")]
    TooLong,
    #[error("the token cannot be read")]
    Malformed,
    #[error("the token is signed in a way that is not accepted")]
    Algorithm,
    #[error("the token's signature is not valid")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token has no exp")]
    NoExpiry,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token names no user")]
    NoUser,
    #[error("the token's user is too long or has control characters")]
    UnfitUser,
}

/// Content of a valid token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VerifiedToken {
    pub(super) user: String,
    /// All claims as JSON, each name once.
    pub(super) claims: String,
    /// Expiry without the leeway; `None` for a token that does not expire.
    pub(super) until: Option<SystemTime>,
}

/// Returns the token of the first source that has one.
///
/// # Errors
/// No source has a token, or the first one with tokens has more than one.
pub(super) fn find<'h>(head: &'h Head, from: &[Source]) -> Result<&'h str, TokenError> {
    for source in from {
        let mut found = match source {
            Source::Header => of_header(head),
            Source::Query(name) => pairs(head.query(), '&', name),
            Source::Cookie(name) => {
                head.texts("cookie").flat_map(|line| pairs(line, ';', name)).collect()
            }
            Source::Subprotocol => of_subprotocols(head),
        };
        match (found.pop(), found.pop()) {
            (Some(token), None) => return Ok(token),
            (Some(_), Some(_)) => return Err(TokenError::Several),
            (None, _) => {}
        }
    }
    Err(TokenError::Missing)
}

/// RFC 6750 section 2.1. Other schemes, such as Basic, are ignored.
fn of_header(head: &Head) -> Vec<&str> {
    head.texts("authorization")
        .filter_map(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim_matches(' '))
        })
        .collect()
}

/// Nothing is decoded, as a token needs no encoding in a query or a cookie.
fn pairs<'t>(text: &'t str, between: char, name: &str) -> Vec<&'t str> {
    text.split(between)
        .filter_map(|pair| pair.trim_matches(' ').split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
        .collect()
}

/// Returns the member after each `bearer` in the list of subprotocols.
fn of_subprotocols(head: &Head) -> Vec<&str> {
    let members: Vec<&str> = offered(head).collect();
    let follows = members.windows(2).filter(|two| two[0] == BEARER);
    follows.map(|two| two[1]).collect()
}

/// Returns whether the response must select [`BEARER`] if it selects no other subprotocol.
pub(super) fn offers_bearer(head: &Head) -> bool {
    offered(head).any(|member| member == BEARER)
}

fn offered(head: &Head) -> impl Iterator<Item = &str> {
    head.texts("sec-websocket-protocol")
        .flat_map(|line| line.split(',').map(|member| member.trim_matches([' ', '\t'])))
        .filter(|member| !member.is_empty())
}

/// Subprotocol before a token.
pub(super) const BEARER: &str = "bearer";

/// Bytes of a token. Cookies are limited to 4 KiB.
const MAX_TOKEN: usize = 8 << 10;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11); the host understands none.
    #[serde(default, rename = "crit", deserialize_with = "is_present")]
    has_crit: bool,
}

/// Returns true for any value, including null.
fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// Verifies a token: its signature first, then its claims.
///
/// # Errors
/// The token is not valid.
pub(super) fn verify(
    token: &str,
    keys: &[Key],
    rules: &TokenRules,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = object(&text(header)?)?;
    if header.has_crit {
        return Err(TokenError::Algorithm);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    let is_candidate = |key: &&Key| {
        let may_be_named = key.kid.is_none() || header.kid.is_none() || key.kid == header.kid;
        key.algorithm.as_str() == header.alg && may_be_named
    };
    let mut candidates = keys.iter().filter(is_candidate).peekable();
    if candidates.peek().is_none() {
        return Err(TokenError::Algorithm);
    }
    if !candidates.any(|key| key.verify(signed.as_bytes(), &signature)) {
        return Err(TokenError::Signature);
    }
    verify_claims(&text(payload)?, rules, now)
}

/// Decodes a part of a token. serde skips some parts without checking that they are UTF-8 (RFC 7515
/// section 5.2, step 3).
fn text(part: &str) -> Result<String, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    String::from_utf8(bytes).map_err(|_| TokenError::Malformed)
}

/// Parses an object (RFC 7519 section 7.2). serde_json refuses more than 128 levels, and numbers
/// outside the range of a double.
fn object<T: DeserializeOwned>(text: &str) -> Result<T, TokenError> {
    // serde would also accept an array of the values in the order of the fields.
    if !text.trim_start().starts_with('{') {
        return Err(TokenError::Malformed);
    }
    serde_json::from_str(text).map_err(|_| TokenError::Malformed)
}

fn verify_claims(
    text: &str,
    rules: &TokenRules,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    let claims: Map<String, Value> = object(text)?;
    let leeway = rules.leeway.as_secs_f64();
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let expires = date(&claims, "exp")?;
    match expires {
        Some(expires) if expires + leeway <= now => return Err(TokenError::Expired),
        None if rules.require_exp => return Err(TokenError::NoExpiry),
        _ => {}
    }
    if date(&claims, "nbf")?.is_some_and(|begins| begins - leeway > now) {
        return Err(TokenError::NotYet);
    }
    if let Some(issuer) = &rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(TokenError::Issuer);
    }
    if !has_audience(claims.get("aud"), &rules.audience) {
        return Err(TokenError::Audience);
    }
    let user = match claims.get(&rules.user_claim) {
        Some(Value::String(user)) if user.is_empty() => None,
        Some(Value::String(user)) if !is_user(user) => return Err(TokenError::UnfitUser),
        Some(Value::String(user)) => Some(user.clone()),
        Some(Value::Number(user)) => integer_text(user),
        _ => None,
    };
    let user = user.ok_or(TokenError::NoUser)?;
    let until = expires.and_then(|expires| Duration::try_from_secs_f64(expires).ok());
    let until = until.and_then(|until| SystemTime::UNIX_EPOCH.checked_add(until));
    Ok(VerifiedToken { user, claims: as_written(text)?, until })
}

/// Returns an object with each name once, and the last value of each as it was written: numbers
/// keep their digits.
fn as_written(text: &str) -> Result<String, TokenError> {
    let packet = Packet::read(Message::Text(text)).map_err(|_| TokenError::Malformed)?;
    let members: BTreeMap<_, _> =
        packet.members().map(|(key, value)| (key.to_text(), (key, value))).collect();
    let members = members
        .into_values()
        .map(|(key, value)| format!("{}:{}", key.as_source(), value.as_source()));
    Ok(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

/// Returns a NumericDate (RFC 7519 section 2); one that is not a number is an error.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, TokenError> {
    claims.get(name).map(|value| value.as_f64().ok_or(TokenError::Malformed)).transpose()
}

/// RFC 7519 section 4.1.3: "If the principal processing the claim does not identify itself with a
/// value in the "aud" claim when this claim is present, then the JWT MUST be rejected."
fn has_audience(aud: Option<&Value>, mine: &[String]) -> bool {
    let is_mine = |value: &Value| value.as_str().is_some_and(|a| mine.iter().any(|m| m == a));
    match aud {
        None => mine.is_empty(),
        Some(Value::Array(list)) => list.iter().any(is_mine),
        Some(value) => is_mine(value),
    }
}
