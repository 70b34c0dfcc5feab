//! Authentication: decides by the table `auth` of a resource whether a client may connect.
//!
//! Runs between the handshake request and the application's `open`. `token`, `keys` and `answer`
//! are pure; `keyring` reads files and `callback` is an HTTP client. Any failure refuses the
//! client. Does not know connections, nor how a refusal is sent.

mod answer;
mod callback;
#[cfg(any(test, feature = "internals"))]
pub(crate) mod internals;
mod keyring;
mod keys;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use plugsocket_plugin::Kind;
use serde_json::Number;
use tokio::time::{Instant, sleep};

use self::callback::AuthEndpoint;
use self::keyring::{Keyring, UnfitKey};
use self::token::TokenError;
use crate::config::{
    Auth, Backends, Config, ConfigError, KeyFile, Problem, Proof, Source, TokenRules,
};
use crate::fs::blocking::run_blocking;
use crate::protocol::http::{Head, Refusal};

/// Guards by resource path; replaced as a whole.
pub(crate) type Guards = BTreeMap<String, Arc<Guard>>;

/// Table `auth` of one resource, with its keys or endpoint.
#[derive(Debug)]
pub(crate) struct Guard {
    settings: Auth,
    verifier: Verifier,
}

#[derive(Debug)]
enum Verifier {
    Keys(Keyring),
    Endpoint(AuthEndpoint),
}

/// Client that wants to connect.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) head: &'a Head,
    pub(crate) kind: Kind,
    /// The IP address as text, or `unix`.
    pub(crate) address: &'a str,
}

/// Identity of an authenticated client, as the application receives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<Box<str>>,
    /// JSON.
    pub(crate) claims: Option<Box<str>>,
}

/// Returns whether a user name is safe for applications to log and compare.
fn is_user(user: &str) -> bool {
    (1..=MAX_USER).contains(&user.len()) && !user.contains(char::is_control)
}

/// Returns an integer as a user name. As doubles, two users could become equal.
fn integer_text(number: &Number) -> Option<String> {
    (number.is_i64() || number.is_u64()).then(|| number.to_string())
}

/// Bytes of a user's name.
const MAX_USER: usize = 1024;

/// Permission to connect.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// `None` for a client that needed no authentication.
    pub(crate) login: Option<Box<Login>>,
    /// When the connection ends. Monotonic, so later changes of the system time have no effect.
    pub(crate) until: Option<Instant>,
    /// Subprotocol of the response, if none of the resource's own is selected.
    pub(crate) protocol: Option<&'static str>,
}

/// Refusal to connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) refusal: Refusal,
    /// When a retry with the same credentials may succeed.
    pub(crate) retry_after: Option<Duration>,
    /// As in [`Pass`].
    pub(crate) protocol: Option<&'static str>,
}

impl Denial {
    /// Status 401; `error` is a code of RFC 6750 section 3.1, or `None` without credentials.
    fn unauthorized(reason: String, error: Option<&'static str>) -> Self {
        let refusal = Refusal::unauthorized(reason, error);
        Self { refusal, retry_after: None, protocol: None }
    }

    fn forbidden(reason: String) -> Self {
        Self { refusal: Refusal::forbidden(reason), retry_after: None, protocol: None }
    }

    fn unavailable() -> Self {
        let refusal = Refusal::unavailable("authentication is unavailable", RETRY_AFTER);
        Self { refusal, retry_after: Some(RETRY_AFTER), protocol: None }
    }
}

const RETRY_AFTER: Duration = Duration::from_secs(5);

impl From<TokenError> for Denial {
    fn from(error: TokenError) -> Self {
        let code = (error != TokenError::Missing).then_some("invalid_token");
        Self::unauthorized(error.to_string(), code)
    }
}

impl Guard {
    fn new(settings: &Auth, resource: &str) -> Result<Self, Vec<UnfitKey>> {
        let verifier = match &settings.proof {
            Proof::Token(rules) => Verifier::Keys(Keyring::open(rules, resource)?),
            Proof::Callback(callback) => Verifier::Endpoint(AuthEndpoint::new(callback)),
        };
        Ok(Self { settings: settings.clone(), verifier })
    }

    /// Authenticates a client.
    ///
    /// # Errors
    /// The client is refused.
    pub(crate) async fn authorize(&self, applicant: &Applicant<'_>) -> Result<Pass, Denial> {
        if applicant.kind.is_backend() && self.settings.backends == Backends::Exempt {
            return Ok(Pass::default());
        }
        match &self.verifier {
            Verifier::Keys(keyring) => authorize_token(keyring, applicant.head),
            Verifier::Endpoint(endpoint) => {
                let login = endpoint.authenticate(applicant).await?;
                Ok(Pass { login: Some(Box::new(login)), ..Pass::default() })
            }
        }
    }
}

fn authorize_token(keyring: &Keyring, head: &Head) -> Result<Pass, Denial> {
    let (rules, now) = (&keyring.rules, SystemTime::now());
    let is_bearer = rules.from.contains(&Source::Subprotocol) && token::offers_bearer(head);
    let protocol = is_bearer.then_some(token::BEARER);
    let token = token::find(head, &rules.from)
        .and_then(|token| token::verify(token, &keyring.keys(), rules, now))
        .map_err(|error| Denial { protocol, ..error.into() })?;
    let until = token.until.filter(|_| rules.close_on_expiry);
    let until = until.and_then(|until| instant(until.checked_add(rules.leeway)?, now));
    let login = Login { user: Some(token.user.into()), claims: Some(token.claims.into()) };
    Ok(Pass { login: Some(Box::new(login)), until, protocol })
}

/// Converts system time to the monotonic clock of timers.
fn instant(time: SystemTime, now: SystemTime) -> Option<Instant> {
    Instant::now().checked_add(time.duration_since(now).unwrap_or_default())
}

/// Creates the guards of a configuration. Guards of `current` with the same settings are kept, with
/// their keys and connections. Reads files.
///
/// # Errors
/// [`ConfigError::Invalid`] with every unusable key file.
pub(crate) fn load_guards(config: &Config, current: &Guards) -> Result<Guards, ConfigError> {
    let (mut guards, mut problems) = (Guards::new(), Vec::new());
    for (path, settings) in &config.resources {
        let Some(settings) = &settings.auth else { continue };
        let guard = match current.get(path) {
            Some(guard) if guard.settings == *settings => Ok(guard.clone()),
            _ => Guard::new(settings, path).map(Arc::new),
        };
        match guard {
            Ok(guard) => drop(guards.insert(path.clone(), guard)),
            Err(unfit) => {
                let Proof::Token(rules) = &settings.proof else { continue };
                problems
                    .extend(unfit.into_iter().map(|unfit| key_problem(config, path, rules, unfit)));
            }
        }
    }
    if problems.is_empty() {
        return Ok(guards);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(ConfigError::Invalid { path: config.path.clone(), problems })
}

fn key_problem(
    config: &Config,
    resource: &str,
    rules: &TokenRules,
    UnfitKey { at, problem }: UnfitKey,
) -> Problem {
    let KeyFile { file, form } = &rules.keys[at];
    let key = format!("resources.{resource:?}.auth.keys[{at}].{}", form.key());
    Problem { path: config.path.clone(), line: file.line, key, problem }
}

fn refresh_keys(guards: &Guards) {
    for (path, guard) in guards {
        if let Verifier::Keys(keyring) = &guard.verifier {
            keyring.refresh(path);
        }
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Reloads key files when they change. Never returns.
pub(crate) async fn watch_keys(guards: &ArcSwap<Guards>) {
    loop {
        sleep(POLL_INTERVAL).await;
        let guards = guards.load_full();
        if guards.is_empty() {
            continue;
        }
        if let Err(error) = run_blocking(move || refresh_keys(&guards)).await {
            tracing::error!(%error, "token key files cannot be checked");
        }
    }
}

#[cfg(test)]
mod tests;
