//! Signed tokens: where a peer has put one, and whether it holds. Pure.
//!
//! JWS compact serialisation (RFC 7515 section 7.1) with the claims of RFC 7519, under the advice of RFC 8725. A token is a
//! secret: no error here quotes any of it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, IgnoredAny};
use serde_json::{Map, Value};

use super::keys::Key;
use super::{is_user, number};
use crate::config::{Source, TokenRules};
use crate::protocol::http::Head;

/// Why a token does not hold, as the peer may know it.
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

/// What a token that holds says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) user: String,
    /// All claims, as they were judged: each name once.
    pub(super) claims: String,
    /// Until when, without the leeway; None if for ever.
    pub(super) until: Option<SystemTime>,
}

/// The one token of the first source that has any.
///
/// # Errors
/// There is none, or that source has more than one: then nobody can say which was meant.
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

/// RFC 6750 section 2.1. Another scheme, such as Basic, is no token.
fn of_header(head: &Head) -> Vec<&str> {
    head.texts("authorization")
        .filter_map(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim_matches(' '))
        })
        .collect()
}

/// A token's letters are its own in a query and in a cookie: nothing is decoded.
fn pairs<'t>(text: &'t str, between: char, name: &str) -> Vec<&'t str> {
    text.split(between)
        .filter_map(|pair| pair.trim_matches(' ').split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
        .collect()
}

/// What follows each `bearer` in the list of subprotocols.
fn of_subprotocols(head: &Head) -> Vec<&str> {
    let members: Vec<&str> = offered(head).collect();
    let follows = members.windows(2).filter(|two| two[0] == BEARER);
    follows.map(|two| two[1]).collect()
}

/// Whether the answer has to choose [`BEARER`], where it chooses nothing else.
pub(super) fn offers_bearer(head: &Head) -> bool {
    offered(head).any(|member| member == BEARER)
}

fn offered(head: &Head) -> impl Iterator<Item = &str> {
    head.texts("sec-websocket-protocol")
        .flat_map(|line| line.split(',').map(|member| member.trim_matches([' ', '\t'])))
        .filter(|member| !member.is_empty())
}

/// The subprotocol that announces a token.
pub(super) const BEARER: &str = "bearer";

/// Bytes of a token. Cookies end at 4 KiB, and so does what is usual.
const MAX_TOKEN: usize = 8 << 10;

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Whether there are extensions that must be understood (RFC 7515 section 4.1.11); none is.
    #[serde(default, rename = "crit", deserialize_with = "is_there")]
    has_crit: bool,
}

/// Whatever the value is, null too.
fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// Judges a token. The signature comes before all that it says.
///
/// # Errors
/// It does not hold.
pub(super) fn verify(
    token: &str,
    keys: &[Key],
    rules: &TokenRules,
    now: SystemTime,
) -> Result<Holder, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    let header: Header = json(header)?;
    if header.has_crit {
        return Err(TokenError::Algorithm);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
    let mut candidates = keys
        .iter()
        .filter(|key| key.algorithm.as_str() == header.alg)
        .filter(|key| match (&key.kid, &header.kid) {
            (Some(key), Some(named)) => key == named,
            _ => true,
        })
        .peekable();
    if candidates.peek().is_none() {
        return Err(TokenError::Algorithm);
    }
    if !candidates.any(|key| key.has_signed(signed.as_bytes(), &signature)) {
        return Err(TokenError::Signature);
    }
    judge(json(payload)?, rules, now)
}

/// An object (RFC 7519 section 7.2). serde_json ends at 128 levels and at numbers that no double holds, with an error.
fn json<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    // What is skipped is not looked at, and must be UTF-8 too (RFC 7515 section 5.2, step 3).
    let text = str::from_utf8(&bytes).map_err(|_| TokenError::Malformed)?;
    // For serde, a list of the values in the order of the fields would do, too.
    if !text.trim_start().starts_with('{') {
        return Err(TokenError::Malformed);
    }
    serde_json::from_str(text).map_err(|_| TokenError::Malformed)
}

fn judge(
    claims: Map<String, Value>,
    rules: &TokenRules,
    now: SystemTime,
) -> Result<Holder, TokenError> {
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
    if !is_for(claims.get("aud"), &rules.audience) {
        return Err(TokenError::Audience);
    }
    let user = match claims.get(&rules.user_claim) {
        Some(Value::String(user)) if user.is_empty() => None,
        Some(Value::String(user)) if !is_user(user) => return Err(TokenError::UnfitUser),
        Some(Value::String(user)) => Some(user.clone()),
        Some(Value::Number(user)) => number(user),
        _ => None,
    };
    let user = user.ok_or(TokenError::NoUser)?;
    let until = expires.and_then(|expires| Duration::try_from_secs_f64(expires).ok());
    let until = until.and_then(|until| SystemTime::UNIX_EPOCH.checked_add(until));
    Ok(Holder { user, claims: Value::Object(claims).to_string(), until })
}

/// RFC 7519 section 2, NumericDate. One that is no number is no reason to go without.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(TokenError::Malformed),
    }
}

/// RFC 7519 section 4.1.3: "If the principal processing the claim does not identify itself with a value in the "aud" claim
/// when this claim is present, then the JWT MUST be rejected."
fn is_for(aud: Option<&Value>, mine: &[String]) -> bool {
    let is_mine = |value: &Value| value.as_str().is_some_and(|a| mine.iter().any(|m| m == a));
    match aud {
        None => mine.is_empty(),
        Some(Value::Array(list)) => list.iter().any(is_mine),
        Some(value) => is_mine(value),
    }
}
