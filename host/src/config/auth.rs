//! The table `[resources."/path".auth]`: how a resource authenticates its clients.
//!
//! Knows neither key files nor sockets: `crate::auth` opens what a path or a URL names.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::keys::{Group, Settings, names, settings};
use super::rules::{Rule, choice, count, distinct_strings, seconds, strings, switch, tables, text};
use super::value::{self, At, Wrong, is_token, quoted, wrong};
use super::{endpoint::Endpoint, raw::Node, schema, tls::FileSetting};

/// Authentication of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether backends must authenticate, too.
    pub backends: Backends,
    /// What a client must present.
    pub proof: Proof,
}

/// Authentication of backends: of kind `backend` and `tcp`, and of HTTP POST. Their address is in
/// `allowed_ips` already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backends {
    /// `"exempt"`: their address is enough.
    Exempt,
    /// `"required"`: they authenticate as clients do.
    Required,
}

/// What a client must present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A signed token (RFC 7519); the table has the key `keys`.
    Token(TokenRules),
    /// What an HTTP endpoint accepts; the table has the key `url`.
    Callback(CallbackRules),
}

settings! {
    /// Authentication of backends.
    pub(super) struct OfBackends in "auth." {
        /// Backends, whose address is in `allowed_ips`: exempt, or authenticated as clients are.
        "backends" => backends: Backends =
            choice(&[("exempt", Backends::Exempt), ("required", Backends::Required)]);
    }
}

settings! {
    /// Authentication by signed token (JWT).
    pub struct TokenRules: Default in "auth.", checked by some_source {
        /// Keys that verify tokens; at least one.
        "keys" => keys: Vec<KeyFile> =
            tables(KeyEntry::groups, key_file, KEY).schema(schema_of_keys())
            .required("keys = [{ … }]");
        /// Where the host looks for the token, in this order: `"header"`, `"query:NAME"`,
        /// `"cookie:NAME"`, `"subprotocol"`.
        "from" => from: Vec<Source> = strings(source, &["header"], &["header", "query:token"]);
        /// Tolerated difference between clocks.
        "leeway" => leeway: Duration = seconds(30.0, 0.0, "");
        /// Refuse tokens without `exp`.
        "require_exp" => require_exp: bool = switch(true);
        /// Required `iss`. Without the key: any.
        "issuer" => issuer: Option<String> =
            text(value::text, "a string", "https://login.example.org").optional();
        /// Values of which `aud` must name one. Empty: the host refuses tokens with an `aud`.
        "audience" => audience: Vec<String> =
            strings(|text, _| Ok(text.to_owned()), &[], &["chat"]);
        /// Claim that names the user.
        "user_claim" => user_claim: String = text(value::text, "a string", "sub");
        /// Close the connection (1008) when its token expires.
        "close_on_expiry" => close_on_expiry: bool = switch(false);
    }
}

settings! {
    /// Authentication by an HTTP endpoint.
    pub struct CallbackRules in "auth." {
        /// URL of the endpoint: `http://host:port/path` or `http://unix:/socket:/path`.
        "url" => url: Endpoint =
            text(Endpoint::read, "a URL", "http://127.0.0.1/auth.php").required("url = \"…\"");
        /// Method of the request, which never has a body.
        "method" => method: CallMethod =
            choice(&[("GET", CallMethod::Get), ("POST", CallMethod::Post)]);
        /// Headers that the host copies from the client's request.
        "forward_headers" => forward_headers: Vec<String> =
            distinct_strings(header, &FORWARDED, &["Cookie"], |one, two| one.eq_ignore_ascii_case(two));
        /// Time for a whole call: the wait for a free call, name lookup, connection and response.
        "timeout" => timeout: Duration = seconds(3.0, 0.01, "would refuse every client");
        /// Size of a response body.
        "max_response" => max_response: usize =
            count("bytes", 256..=16 << 20, 64 << 10, "would refuse every client");
        /// Concurrent calls; the others wait.
        "max_calls" => max_calls: usize =
            count("calls", 1..=10_000, 32, "would refuse every client");
    }
}

settings! {
    /// A key file of `keys`: one key in `file`, or a set of keys in `jwks`.
    pub(super) struct KeyEntry in "auth.keys." {
        /// Algorithm of the tokens that the key in `file` verifies.
        "algorithm" => algorithm: Option<Algorithm> = choice(&Algorithm::ALL).optional();
        /// File with a secret of at least 32 bytes (HS256), or with a public key in PEM.
        "file" => file: Option<FileSetting> =
            text(FileSetting::read, "a path", "secret.key").optional();
        /// File with a JSON Web Key Set, instead of `algorithm` and `file`.
        "jwks" => jwks: Option<FileSetting> =
            text(FileSetting::read, "a path", "keys.json").optional();
        /// Encoding of a secret.
        "encoding" => is_base64url: bool = choice(&[("raw", false), ("base64url", true)]);
        /// Key ID: only tokens that name it use the key in `file`. Without it: all tokens.
        "kid" => kid: Option<String> = text(value::text, "a string", "2026-01").optional();
    }
}

/// One right entry of `keys`.
const KEY: &str = r#"{ algorithm = "HS256", file = "secret.key" }"#;

/// A file with one key or a set of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The file.
    pub file: FileSetting,
    /// What it holds.
    pub form: KeyForm,
}

/// What a key file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyForm {
    /// One key.
    Single {
        /// Algorithm of the tokens that it verifies.
        algorithm: Algorithm,
        /// Whether a secret is in base64url.
        is_base64url: bool,
        /// Only tokens with this key ID use the key; `None`: all.
        kid: Option<String>,
    },
    /// A JSON Web Key Set (RFC 7517).
    Set,
}

/// Algorithm of a token (RFC 7518 section 3.1, RFC 8037). There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256 under a shared secret.
    Hs256,
    /// RSA PKCS#1 with SHA-256.
    Rs256,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All algorithms, by their name in `alg`.
    pub const ALL: [(&'static str, Self); 4] = [
        ("HS256", Self::Hs256),
        ("RS256", Self::Rs256),
        ("ES256", Self::Es256),
        ("EdDSA", Self::EdDsa),
    ];

    /// Returns the name in `alg`.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, found)| *found == self).map_or("", |(name, _)| name)
    }
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `"header"`: `Authorization: Bearer TOKEN`.
    Header,
    /// `"query:NAME"`: this parameter of the URL.
    Query(String),
    /// `"cookie:NAME"`: this cookie.
    Cookie(String),
    /// `"subprotocol"`: `Sec-WebSocket-Protocol: bearer, TOKEN`.
    Subprotocol,
}

/// Method of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallMethod {
    /// `"GET"`
    Get,
    /// `"POST"`
    Post,
}

pub(super) fn groups() -> Vec<Group> {
    [OfBackends::groups(), TokenRules::groups(), CallbackRules::groups()].concat()
}

/// The table `auth`, which has the keys of one kind of authentication.
pub(super) fn auth() -> Rule<Option<Auth>> {
    Rule::new("table", "", None, |node, _| {
        let right = format!("write a table, [{}]", node.name);
        node.table(&groups(), &right)?;
        let OfBackends { backends } = OfBackends::read_alone(node);
        let proof = match (node.has("keys"), node.has("url")) {
            (true, false) => {
                let problem = "this key is for an HTTP endpoint, but this table has keys for tokens; remove it";
                refuse(names(&CallbackRules::groups()), problem, node);
                Proof::Token(TokenRules::read_alone(node))
            }
            (false, true) => {
                let problem = "this key is for signed tokens, but this table has the url of an endpoint; remove it";
                refuse(names(&TokenRules::groups()), problem, node);
                Proof::Callback(CallbackRules::read_alone(node))
            }
            (true, true) => {
                return wrong!(
                    "signed tokens (keys) and an HTTP endpoint (url) at once; keep one of them"
                );
            }
            (false, false) => {
                return wrong!(
                    "no client could authenticate; give keys = [{KEY}] for signed tokens, or url = \"http://127.0.0.1/auth.php\" for an HTTP endpoint"
                );
            }
        };
        Ok(Some(Auth { backends, proof }))
    })
    .schema(json!({ "oneOf": [
        schema::table(&[OfBackends::groups(), TokenRules::groups()].concat()),
        schema::table(&[OfBackends::groups(), CallbackRules::groups()].concat()),
    ] }))
}

fn schema_of_keys() -> Json {
    let mut entry = schema::table(&KeyEntry::groups());
    entry["oneOf"] = json!([{ "required": ["jwks"] }, { "required": ["algorithm", "file"] }]);
    json!({ "type": "array", "minItems": 1, "items": entry })
}

/// Notes a mistake for each of these keys that the table has.
fn refuse<'k>(keys: impl Iterator<Item = &'k str>, problem: &str, table: &mut Node<'_, '_>) {
    for key in keys {
        if table.has(key) {
            table.wrong(key, problem);
        }
    }
}

fn some_source(settings: TokenRules, section: &mut Node<'_, '_>) -> TokenRules {
    if settings.from.is_empty() && section.has_right("from") {
        let problem = "the array is empty, so the host would find no token; give e.g. [\"header\"]";
        section.wrong("from", problem);
    }
    settings
}

fn key_file(section: &mut Node<'_, '_>) -> Option<KeyFile> {
    let entry = KeyEntry::read_alone(section);
    let example = format!("write {KEY} or {{ jwks = \"keys.json\" }}");
    if section.has("jwks") {
        let problem = format!("a key set has this itself; remove it, or {example}");
        refuse(["algorithm", "file", "encoding", "kid"].into_iter(), &problem, section);
        return entry.jwks.map(|file| KeyFile { file, form: KeyForm::Set });
    }
    for key in ["algorithm", "file"] {
        if !section.has(key) {
            section.wrong(key, format!("this key is missing; {example}"));
        }
    }
    let KeyEntry { algorithm, file, is_base64url, kid, .. } = entry;
    if section.has("encoding") && algorithm.is_some_and(|found| found != Algorithm::Hs256) {
        section.wrong("encoding", "only a secret (HS256) has an encoding; remove it");
    }
    let form = KeyForm::Single { algorithm: algorithm?, is_base64url, kid };
    Some(KeyFile { file: file?, form })
}

fn source(text: &str, _: &At<'_>) -> Result<Source, Wrong> {
    let right = "write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\"";
    let name = |name: &str| match is_token(name) {
        true => Ok(name.to_owned()),
        false => wrong!("{} lacks a name that a client can send; {right}", quoted(text)),
    };
    match text.split_once(':') {
        None if text == "header" => Ok(Source::Header),
        None if text == "subprotocol" => Ok(Source::Subprotocol),
        Some(("query", rest)) => name(rest).map(Source::Query),
        Some(("cookie", rest)) => name(rest).map(Source::Cookie),
        _ => wrong!("{} is not known; {right}", quoted(text)),
    }
}

fn header(text: &str, _: &At<'_>) -> Result<String, Wrong> {
    if !is_token(text) {
        return wrong!("{} is not the name of a header; give e.g. \"Cookie\"", quoted(text));
    }
    if NOT_FORWARDED.split(' ').any(|name| name.eq_ignore_ascii_case(text)) {
        return wrong!("{} is a header of the host's own request; remove it", quoted(text));
    }
    Ok(text.to_owned())
}

const FORWARDED: [&str; 5] = ["Cookie", "Authorization", "Origin", "User-Agent", "Accept-Language"];

/// Headers of one connection only, or of the host's own request (RFC 9110 section 7.6.1).
const NOT_FORWARDED: &str = "connection content-length content-type expect host keep-alive \
    proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade \
    x-forwarded-for x-original-method x-original-uri";
