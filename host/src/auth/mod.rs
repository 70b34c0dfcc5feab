//! Authentication: decides by the table `auth` of a resource whether a client may connect.
//!
//! Runs between the handshake request and the application's `open`. `token`, `keys` and `answer`
//! are pure; `keyring` reads files and `callback` is an HTTP client. Any failure refuses the
//! client. Does not know connections, nor how a refusal is sent.

mod answer;
mod callback;
mod denials;
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
use tokio::time::{Instant, sleep};

use self::denials::DenialLog;
use self::keyring::{Keyring, UnfitKey};
use self::{callback::AuthEndpoint, token::TokenError};
use crate::config::{Auth, Backends, Config, ConfigError, Problem, Proof, Source};
use crate::fs::blocking::run_blocking;
use crate::protocol::http::{Head, Refusal};

/// Guards by the key of their resource; replaced as a whole.
pub(crate) type Guards = BTreeMap<String, Arc<Guard>>;

/// Table `auth` of one resource, with its keys or endpoint.
#[derive(Debug)]
pub(crate) struct Guard {
    settings: Auth,
    verifier: Verifier,
    denials: DenialLog,
}

#[derive(Debug)]
enum Verifier {
    Keys(Keyring),
    Endpoint(AuthEndpoint),
}

/// Client that wants to connect.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    /// The key of the resource.
    pub(crate) resource: &'a str,
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
fn integer_text(number: &serde_json::Number) -> Option<String> {
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

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, retry_after: None, protocol: None }
    }
}

impl From<TokenError> for Denial {
    fn from(error: TokenError) -> Self {
        // A code of RFC 6750 section 3.1; none without credentials.
        let code = (error != TokenError::Missing).then_some("invalid_token");
        Refusal::unauthorized(error.to_string(), code).into()
    }
}

impl Guard {
    fn new(settings: &Auth, resource: &str) -> Result<Self, Vec<UnfitKey>> {
        let verifier = match &settings.proof {
            Proof::Token(rules) => Verifier::Keys(Keyring::open(rules, resource)?),
            Proof::Callback(callback) => Verifier::Endpoint(AuthEndpoint::new(callback)),
        };
        Ok(Self { settings: settings.clone(), verifier, denials: DenialLog::default() })
    }

    /// Authenticates a client.
    ///
    /// # Errors
    /// The client is refused.
    pub(crate) async fn authorize(&self, applicant: &Applicant<'_>) -> Result<Pass, Denial> {
        let decided = self.decide(applicant).await;
        // A failing endpoint has a log line of its own.
        if let Err(Denial { refusal, retry_after: None, .. }) = &decided {
            self.denials.add(applicant, refusal);
        }
        decided
    }

    async fn decide(&self, applicant: &Applicant<'_>) -> Result<Pass, Denial> {
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
    let until = token.until.filter(|_| rules.close_on_expiry).and_then(|until| {
        let left = until.checked_add(rules.leeway)?.duration_since(now).unwrap_or_default();
        Instant::now().checked_add(left)
    });
    let login = Login { user: Some(token.user.into()), claims: Some(token.claims.into()) };
    Ok(Pass { login: Some(Box::new(login)), until, protocol })
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
                problems.extend(unfit.into_iter().map(|UnfitKey { key, line, problem }| {
                    let key = format!("resources.{path:?}.auth.{key}");
                    Problem { path: config.path.clone(), line, key, problem }
                }));
            }
        }
    }
    if problems.is_empty() {
        return Ok(guards);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(ConfigError::Invalid { path: config.path.clone(), problems })
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
        let refresh = move || {
            for (path, guard) in &*guards {
                guard.denials.report_rest(path);
                if let Verifier::Keys(keyring) = &guard.verifier {
                    keyring.refresh(path);
                }
            }
        };
        if let Err(error) = run_blocking(refresh).await {
            tracing::error!(%error, "token key files cannot be checked");
        }
    }
}

#[cfg(test)]
mod tests;
