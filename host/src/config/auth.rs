//! The table `auth` of a resource: who is let in before the application is asked.
//!
//! Owns its keys and the rules between them. Knows neither key files nor sockets: what lies behind a path or a URL is seen by
//! `crate::auth`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::raw::{Keys, Mistakes, Section};
use super::value::{self, Count, Seconds, Wrong, quoted, quoted_url, wrong, wrong_kind};
use super::{Place, address, convert};

/// How a resource knows its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Whether backends must show something too. Key `backends`, default `"exempt"`.
    pub backends: Backends,
    /// What is asked for.
    pub proof: Proof,
}

/// What holds for peers of kind `backend` and `tcp`, and for HTTP POST: they come from `allowed_ips` already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backends {
    /// `"exempt"`: their address is enough.
    Exempt,
    /// `"required"`: as everybody.
    Required,
}

/// What a peer is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A signed token (RFC 7519); the key `keys` is there.
    Token(TokenRules),
    /// Whatever an HTTP endpoint decides; the key `url` is there.
    Callback(Callback),
}

/// How a signed token is looked for and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// Never empty. Key `keys`.
    pub keys: Vec<KeyFile>,
    /// Where the token is looked for, in this order. Key `from`, default `["header"]`.
    pub from: Vec<Source>,
    /// By how much clocks may differ. Key `leeway`, default 30 s.
    pub leeway: Duration,
    /// Whether a token must have an `exp`. Key `require_exp`, default true.
    pub require_exp: bool,
    /// What `iss` must be. Key `issuer`, default: anything.
    pub issuer: Option<String>,
    /// One of which `aud` must name; without any, a token with an `aud` is for somebody else. Key `audience`, default none.
    pub audience: Vec<String>,
    /// The claim that names the user. Key `user_claim`, default `"sub"`.
    pub user_claim: String,
    /// Whether the connection ends when the token does. Key `close_on_expiry`, default false.
    pub close_on_expiry: bool,
}

/// A file with one key, or with a set of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Key `file` or `jwks`.
    pub place: Place,
    /// How it is read.
    pub form: KeyForm,
}

/// What a key file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyForm {
    /// One key.
    Single {
        /// Key `algorithm`.
        algorithm: Algorithm,
        /// Whether a secret is written in base64url. Key `encoding`, default `"raw"`.
        is_base64url: bool,
        /// Only tokens that name this key are tried with it. Key `kid`, default: all.
        kid: Option<String>,
    },
    /// A JSON Web Key Set (RFC 7517).
    Set,
}

/// How a token is signed (RFC 7518 section 3.1, RFC 8037). There is no `none`.
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

impl KeyForm {
    /// The key of `plugins.toml` that names the file.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Single { .. } => "file",
            Self::Set => "jwks",
        }
    }
}

impl Algorithm {
    /// All of them, by the name that a token's `alg` has.
    pub const ALL: [(&'static str, Self); 4] = [
        ("HS256", Self::Hs256),
        ("RS256", Self::Rs256),
        ("ES256", Self::Es256),
        ("EdDSA", Self::EdDsa),
    ];

    /// As `alg` has it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, found)| *found == self).map_or("", |(name, _)| name)
    }
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `"header"`: `Authorization: Bearer TOKEN`.
    Header,
    /// `"query:NAME"`: this parameter of the address.
    Query(String),
    /// `"cookie:NAME"`: this cookie.
    Cookie(String),
    /// `"subprotocol"`: `Sec-WebSocket-Protocol: bearer, TOKEN`.
    Subprotocol,
}

/// An HTTP endpoint that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// Key `url`.
    pub url: Endpoint,
    /// Key `method`, default `"GET"`.
    pub method: CallMethod,
    /// Headers of the peer's request that it is given. Key `forward_headers`, default `Cookie`, `Authorization`, `Origin`,
    /// `User-Agent`, `Accept-Language`.
    pub forward_headers: Vec<String>,
    /// For all of it: waiting for a place, the name, the connection, the answer. Key `timeout`, default 3 s.
    pub timeout: Duration,
    /// Bytes of an answer's body. Key `max_response`, default 64 KiB.
    pub max_response: usize,
    /// Calls at once; the others wait. Key `max_calls`, default 32.
    pub max_calls: usize,
}

/// How the endpoint is asked; never with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallMethod {
    /// `"GET"`
    Get,
    /// `"POST"`
    Post,
}

/// `http://host:port/path`, or `http://unix:/socket:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub place: EndpointPlace,
    /// For the header `Host`.
    pub authority: String,
    /// Path and query, ASCII, beginning with a slash.
    pub target: String,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointPlace {
    /// An address or a name, without brackets.
    Tcp(String, u16),
    /// The path of a socket, absolute.
    Unix(PathBuf),
}

pub(super) const AUTH: Keys = Keys {
    table: "[resources.\"/path\".auth]",
    keys: &[
        "backends",
        "keys",
        "from",
        "leeway",
        "require_exp",
        "issuer",
        "audience",
        "user_claim",
        "close_on_expiry",
        "url",
        "method",
        "forward_headers",
        "timeout",
        "max_response",
        "max_calls",
    ],
};

const OF_TOKENS: [&str; 7] =
    ["from", "leeway", "require_exp", "issuer", "audience", "user_claim", "close_on_expiry"];
const OF_CALLBACKS: [&str; 5] =
    ["method", "forward_headers", "timeout", "max_response", "max_calls"];

const KEY: Keys =
    Keys { table: "an entry of keys", keys: &["algorithm", "file", "jwks", "encoding", "kid"] };

/// Reads the table; None if something in it is wrong.
pub(super) fn auth(
    (table, at): (&DeTable<'_>, usize),
    name: &str,
    base: &Path,
    mistakes: &mut Mistakes,
) -> Option<Auth> {
    let name = format!("{name}.auth");
    let mut s = Section::new((name.clone(), at), table, &AUTH, &convert::ALL, mistakes);
    let choices = [("exempt", Backends::Exempt), ("required", Backends::Required)];
    let backends = s.value("backends", |value| value::choice(value, &choices));
    let backends = backends.unwrap_or(Backends::Exempt);
    let (others, kind) = match (s.has("keys"), s.has("url")) {
        (true, false) => {
            (&OF_CALLBACKS[..], "an HTTP endpoint, and this table has keys for tokens")
        }
        (false, true) => {
            (&OF_TOKENS[..], "signed tokens, and this table has the url of an endpoint")
        }
        (both, _) => {
            let problem = if both {
                "signed tokens (keys) and an HTTP endpoint (url) at once; keep one of them"
            } else {
                "nobody could be known; give keys = [{ algorithm = \"HS256\", file = \"secret.key\" }] for signed tokens, \
                 or url = \"http://127.0.0.1/auth.php\" for an HTTP endpoint that decides"
            };
            mistakes.add(at, name, Wrong(problem.to_owned()));
            return None;
        }
    };
    for key in others {
        s.value(key, |_| -> Result<(), _> { wrong!("this key is for {kind}; take it out") });
    }
    if s.has("url") {
        let url = s.value("url", |value| match value {
            DeValue::String(text) => endpoint(text, base),
            other => {
                Err(wrong_kind(other, "give a URL in quotes, e.g. \"http://127.0.0.1/auth.php\""))
            }
        });
        return Some(Auth { backends, proof: Proof::Callback(callback(&mut s, url?)) });
    }
    let example = "keys = [{ algorithm = \"HS256\", file = \"secret.key\" }]";
    let entries = s.tables("keys", example);
    let rules = token_rules(&mut s);
    let keys: Option<Vec<_>> =
        entries?.into_iter().map(|entry| key_file(entry, &name, base, mistakes)).collect();
    Some(Auth { backends, proof: Proof::Token(TokenRules { keys: keys?, ..rules }) })
}

fn token_rules(s: &mut Section<'_, '_>) -> TokenRules {
    const LEEWAY: Seconds = Seconds { least: Duration::ZERO, less: "" };
    s.value("from", |value| match value.as_array() {
        Some(list) if list.is_empty() => {
            wrong!("the list is empty, so no token could be found; give e.g. [\"header\"]")
        }
        _ => Ok(()),
    });
    let from = s.texts("from", "[\"header\", \"query:token\"]", source);
    TokenRules {
        keys: Vec::new(),
        from: from.unwrap_or_else(|| vec![Source::Header]),
        leeway: s.seconds("leeway", &LEEWAY, Duration::from_secs(30)),
        require_exp: s.value("require_exp", value::switch).unwrap_or(true),
        issuer: s.value("issuer", |value| text(value, "\"https://login.example.org\"")),
        audience: s.texts("audience", "[\"chat\"]", |text| Ok(text.to_owned())).unwrap_or_default(),
        user_claim: s
            .value("user_claim", |value| text(value, "\"sub\""))
            .unwrap_or_else(|| "sub".to_owned()),
        close_on_expiry: s.value("close_on_expiry", value::switch).unwrap_or(false),
    }
}

fn text(value: &DeValue<'_>, example: &str) -> Result<String, Wrong> {
    match value.as_str() {
        Some("") => wrong!("the text is empty; give e.g. {example}"),
        Some(text) => Ok(text.to_owned()),
        None => Err(wrong_kind(value, &format!("give a text in quotes, e.g. {example}"))),
    }
}

fn source(text: &str) -> Result<Source, Wrong> {
    let right = "write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\"";
    let name = |name: &str| match value::token(name) {
        Ok(name) => Ok(name),
        Err(_) => wrong!("{} lacks a name that a peer could send; {right}", quoted(text)),
    };
    match text.split_once(':') {
        None if text == "header" => Ok(Source::Header),
        None if text == "subprotocol" => Ok(Source::Subprotocol),
        Some(("query", rest)) => name(rest).map(Source::Query),
        Some(("cookie", rest)) => name(rest).map(Source::Cookie),
        _ => wrong!("{} is not known; {right}", quoted(text)),
    }
}

fn key_file(
    (table, at): (&DeTable<'_>, usize),
    name: &str,
    base: &Path,
    mistakes: &mut Mistakes,
) -> Option<KeyFile> {
    let example = "{ algorithm = \"HS256\", file = \"secret.key\" } or { jwks = \"keys.json\" }";
    let mut s = Section::new((format!("{name}.keys"), at), table, &KEY, &[], mistakes);
    let path = |value: &DeValue<'_>| match value {
        DeValue::String(text) => value::file(text, base, "\"secret.key\""),
        other => Err(wrong_kind(other, "give a path in quotes, e.g. \"secret.key\"")),
    };
    if s.has("jwks") {
        for key in ["algorithm", "file", "encoding", "kid"] {
            s.value(key, |_| -> Result<(), _> {
                wrong!("a set of keys says this itself; take it out, or write {example}")
            });
        }
        let (path, line) = (s.value("jwks", path)?, s.line("jwks"));
        return Some(KeyFile { place: Place { path, line }, form: KeyForm::Set });
    }
    let algorithm =
        s.required("algorithm", &format!("this key is missing; write {example}"), |v| {
            value::choice(v, &Algorithm::ALL)
        });
    let path = s.required("file", &format!("this key is missing; write {example}"), path);
    let line = s.line("file");
    let encodings = [("raw", false), ("base64url", true)];
    let encoding = s.value("encoding", |value| match algorithm {
        Some(Algorithm::Hs256) | None => value::choice(value, &encodings),
        Some(_) => wrong!("only a secret (HS256) has an encoding; take it out"),
    });
    let kid = s.value("kid", |value| text(value, "\"2026-01\""));
    let form =
        KeyForm::Single { algorithm: algorithm?, is_base64url: encoding.unwrap_or(false), kid };
    Some(KeyFile { place: Place { path: path?, line }, form })
}

fn callback(s: &mut Section<'_, '_>, url: Endpoint) -> Callback {
    const TIMEOUT: Seconds =
        Seconds { least: Duration::from_millis(10), less: "would refuse everybody" };
    const RESPONSE: Count = Count::new("bytes", 256..=16 << 20, "would refuse everybody");
    const CALLS: Count = Count::new("calls", 1..=10_000, "would refuse everybody");
    let methods = [("GET", CallMethod::Get), ("POST", CallMethod::Post)];
    let mut seen: Vec<String> = Vec::new();
    let once = |text: &str| {
        let name = header(text)?;
        if seen.iter().any(|seen| seen.eq_ignore_ascii_case(&name)) {
            return wrong!(
                "{} is there already, in whatever case; take one of them out",
                quoted(text)
            );
        }
        seen.push(name.clone());
        Ok(name)
    };
    Callback {
        url,
        method: s.value("method", |v| value::choice(v, &methods)).unwrap_or(CallMethod::Get),
        forward_headers: s
            .texts("forward_headers", "[\"Cookie\"]", once)
            .unwrap_or_else(|| FORWARDED.map(str::to_owned).to_vec()),
        timeout: s.seconds("timeout", &TIMEOUT, Duration::from_secs(3)),
        max_response: s.count("max_response", &RESPONSE, 64 << 10),
        max_calls: s.count("max_calls", &CALLS, 32),
    }
}

const FORWARDED: [&str; 5] = ["Cookie", "Authorization", "Origin", "User-Agent", "Accept-Language"];

/// Of one connection only, or of the host's own request (RFC 9110 section 7.6.1).
const NOT_FORWARDED: [&str; 16] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-original-method",
    "x-original-uri",
];

fn header(text: &str) -> Result<String, Wrong> {
    let Ok(name) = value::token(text) else {
        return wrong!("{} is no name of a header; give e.g. \"Cookie\"", quoted(text));
    };
    if NOT_FORWARDED.contains(&name.to_ascii_lowercase().as_str()) {
        return wrong!(
            "{} is not forwarded, the host's own request has its own; take it out",
            quoted(text)
        );
    }
    Ok(name)
}

fn endpoint(text: &str, base: &Path) -> Result<Endpoint, Wrong> {
    let said = quoted_url(text);
    let right =
        "write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\"";
    let Some(rest) = text.strip_prefix("http://") else {
        let what = if text.starts_with("https://") {
            "is not spoken here: the endpoint is one of this machine or its own network"
        } else {
            "is no URL of HTTP"
        };
        return wrong!("{said} {what}; {right}");
    };
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['#', '@']) {
        return wrong!("{said} is no address and path as a browser sends them; {right}");
    }
    if let Some(rest) = rest.strip_prefix("unix:") {
        let (socket, target) = rest.split_once(':').unwrap_or((rest, "/"));
        if !target.starts_with('/') {
            return wrong!("{said} has a path without its slash; {right}");
        }
        let path = value::file(socket, base, "\"http://unix:/run/app.sock:/auth.php\"")?;
        let place = EndpointPlace::Unix(address::socket(path)?);
        return Ok(Endpoint {
            place,
            authority: "localhost".to_owned(),
            target: target.to_owned(),
        });
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => (v6, rest.strip_prefix(':')),
        None => {
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
        }
    };
    let Ok(port) = port.unwrap_or("80").parse::<u16>() else {
        return wrong!("{said} has a port that is no number from 1 to 65535; {right}");
    };
    if port == 0 || !address::is_host(host, authority.starts_with('[')) {
        return wrong!("{said} has no address that could be connected to; {right}");
    }
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok(Endpoint {
        place: EndpointPlace::Tcp(host.to_owned(), port),
        authority: authority.to_owned(),
        target: format!("{slash}{target}"),
    })
}
