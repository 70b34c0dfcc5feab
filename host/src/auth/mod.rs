//! Who is let in, before the application is asked: the table `auth` of a resource at work.
//!
//! Called between the judged request and the application's `open`. Tokens are judged in `token` and `keys`, an endpoint's
//! answers in `answer`, all of them pure; `keyring` reads files and `callback` speaks HTTP. A failure lets nobody in. Knows
//! neither connections nor how a refusal is told.

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

/// The guards of all resources that have one, by path. Replaced as a whole.
pub(crate) type Guards = BTreeMap<String, Arc<Guard>>;

/// A resource's `auth`, ready to judge.
#[derive(Debug)]
pub(crate) struct Guard {
    settings: Auth,
    means: Means,
}

#[derive(Debug)]
enum Means {
    Keys(Keyring),
    Endpoint(AuthEndpoint),
}

/// Who wants in.
#[derive(Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) head: &'a Head,
    pub(crate) kind: Kind,
    /// The IP address in text, or `unix`.
    pub(crate) address: &'a str,
}

/// What the application is told of one who was let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: Option<Box<str>>,
    /// JSON.
    pub(crate) claims: Option<Box<str>>,
}

/// Whether an application can be told of such a user: it may log it, and compare it.
fn is_user(user: &str) -> bool {
    (1..=MAX_USER).contains(&user.len()) && !user.contains(char::is_control)
}

/// A number as the name of a user: whole, as it was written. As a double, two users could become one.
fn number(number: &Number) -> Option<String> {
    (number.is_i64() || number.is_u64()).then(|| number.to_string())
}

/// Bytes of a user's name.
const MAX_USER: usize = 1024;

/// Leave to come in.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// None where nothing was asked for.
    pub(crate) login: Option<Box<Login>>,
    /// When the connection is to end: so long after it was judged, wherever the time of day is set meanwhile.
    pub(crate) until: Option<Instant>,
    /// The subprotocol to answer with, where the resource's own are not asked for.
    pub(crate) protocol: Option<&'static str>,
}

/// No leave to come in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) refusal: Refusal,
    /// Whether and when it may be worth another try with the same.
    pub(crate) retry_after: Option<Duration>,
    /// As of [`Pass`].
    pub(crate) protocol: Option<&'static str>,
}

impl Denial {
    /// 401; `error` as RFC 6750 section 3.1 has it, None where nothing was shown.
    fn unauthorized(reason: String, error: Option<&'static str>) -> Self {
        let refusal = Refusal::unauthorized(reason, error);
        Self { refusal, retry_after: None, protocol: None }
    }

    fn forbidden(reason: String) -> Self {
        Self { refusal: Refusal::forbidden(reason), retry_after: None, protocol: None }
    }

    fn unavailable() -> Self {
        let refusal = Refusal::unavailable("nobody can be authenticated now", RETRY_AFTER);
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
        let means = match &settings.proof {
            Proof::Token(rules) => Means::Keys(Keyring::open(&rules.keys, resource)?),
            Proof::Callback(callback) => Means::Endpoint(AuthEndpoint::new(callback)),
        };
        Ok(Self { settings: settings.clone(), means })
    }

    /// Whether this peer is let in.
    ///
    /// # Errors
    /// It is not.
    pub(crate) async fn judge(&self, applicant: &Applicant<'_>) -> Result<Pass, Denial> {
        if applicant.kind.is_backend() && self.settings.backends == Backends::Exempt {
            return Ok(Pass::default());
        }
        match (&self.means, &self.settings.proof) {
            (Means::Keys(keyring), Proof::Token(rules)) => {
                let protocol = (rules.from.contains(&Source::Subprotocol)
                    && token::offers_bearer(applicant.head))
                .then_some(token::BEARER);
                let now = SystemTime::now();
                let holder = token::find(applicant.head, &rules.from)
                    .and_then(|token| token::verify(token, &keyring.keys(), rules, now));
                match holder {
                    Ok(holder) => Ok(Pass {
                        until: holder
                            .until
                            .filter(|_| rules.close_on_expiry)
                            .and_then(|until| instant(until.checked_add(rules.leeway)?, now)),
                        login: Some(Box::new(Login {
                            user: Some(holder.user.into()),
                            claims: Some(holder.claims.into()),
                        })),
                        protocol,
                    }),
                    Err(error) => Err(Denial { protocol, ..error.into() }),
                }
            }
            (Means::Endpoint(endpoint), _) => {
                let login = endpoint.ask(applicant).await?;
                Ok(Pass { login: Some(Box::new(login)), ..Pass::default() })
            }
            // `new` makes the means from the proof.
            (Means::Keys(_), Proof::Callback(_)) => Err(Denial::unavailable()),
        }
    }
}

/// A time of day on the clock that timers follow.
fn instant(time: SystemTime, now: SystemTime) -> Option<Instant> {
    Instant::now().checked_add(time.duration_since(now).unwrap_or_default())
}

/// The guards that a configuration asks for. Those of `present` whose settings are the same go on, with their keys and
/// connections. Reads files.
///
/// # Errors
/// [`ConfigError::Invalid`] with every key file that cannot be used.
pub(crate) fn guards(config: &Config, present: &Guards) -> Result<Guards, ConfigError> {
    let (mut guards, mut problems) = (Guards::new(), Vec::new());
    for (path, settings) in &config.resources {
        let Some(settings) = &settings.auth else { continue };
        let guard = match present.get(path) {
            Some(guard) if guard.settings == *settings => Ok(guard.clone()),
            _ => Guard::new(settings, path).map(Arc::new),
        };
        match guard {
            Ok(guard) => drop(guards.insert(path.clone(), guard)),
            Err(unfit) => {
                let problem = |unfit| problem(config, (path, settings), unfit);
                problems.extend(unfit.into_iter().filter_map(problem));
            }
        }
    }
    if problems.is_empty() {
        return Ok(guards);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(ConfigError::Invalid { path: config.path.clone(), problems })
}

/// A mistake as those that the file itself has.
fn problem(
    config: &Config,
    (resource, settings): (&str, &Auth),
    UnfitKey { at, problem }: UnfitKey,
) -> Option<Problem> {
    let Proof::Token(TokenRules { keys, .. }) = &settings.proof else { return None };
    let KeyFile { place, form } = keys.get(at)?;
    let key = format!("resources.{resource:?}.auth.keys[{at}].{}", form.key());
    Some(Problem { path: config.path.clone(), line: place.line, key, problem })
}

/// Reads key files that have changed; blocks for as long as the file system does.
pub(crate) fn refresh(guards: &Guards) {
    for (path, guard) in guards {
        if let Means::Keys(keyring) = &guard.means {
            keyring.refresh(path);
        }
    }
}

/// Between two looks at the key files.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Reads the files of keys again when they change.
pub(crate) async fn keep(guards: &ArcSwap<Guards>) {
    loop {
        sleep(LOOK_EVERY).await;
        let guards = guards.load_full();
        if guards.is_empty() {
            continue;
        }
        if let Err(error) = run_blocking(move || refresh(&guards)).await {
            tracing::error!(%error, "the look at the files of keys failed");
        }
    }
}

#[cfg(test)]
mod tests;
