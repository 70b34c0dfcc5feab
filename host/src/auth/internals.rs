//! Token verification in memory, for `crate::internals`.

use std::time::SystemTime;

use super::keys;
use super::token::{self, VerifiedToken};
use crate::config::{Algorithm, KeyForm, Source, TokenRules};
use crate::protocol::http::Head;

/// Content of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its `sub`.
    pub user: String,
    /// All claims as JSON.
    pub claims: String,
    /// When it expires.
    pub until: Option<SystemTime>,
}

/// Verifies a token with a secret for HS256 and the default rules.
///
/// # Errors
/// The token is not valid; the reason.
pub fn verify_token(token: &str, secret: &[u8], now: SystemTime) -> Result<Verified, String> {
    let form = KeyForm::Single { algorithm: Algorithm::Hs256, is_base64url: false, kid: None };
    let keys = keys::read(secret, &form).map_err(|error| error.to_string())?;
    let found = token::verify(token, &keys.keys, &TokenRules::default(), now);
    let VerifiedToken { user, claims, until } = found.map_err(|error| error.to_string())?;
    Ok(Verified { user, claims, until })
}

/// Returns the token of a request for `target` with these header lines, from one place: `header`,
/// `query:NAME`, `cookie:NAME` or `subprotocol`. `None` if the request is malformed.
pub fn find_token(target: &str, fields: &str, place: &str) -> Option<Result<String, String>> {
    let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let (head, _) = Head::parse(head.as_bytes(), 8192).ok()??;
    let source = match place.split_once(':') {
        Some(("query", name)) => Source::Query(name.to_owned()),
        Some((_, name)) => Source::Cookie(name.to_owned()),
        None if place == "header" => Source::Header,
        None => Source::Subprotocol,
    };
    let found = token::find(&head, &[source]);
    Some(found.map(str::to_owned).map_err(|error| error.to_string()))
}
