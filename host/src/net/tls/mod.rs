//! TLS: which certificates are served, from files that change while the host runs.
//!
//! Owns what a handshake needs, as a whole that is replaced as a whole; a connection takes it once, when it comes. A file that is
//! not fit leaves its former content in service. The sockets are `door`'s.

mod authorities;
mod pair;
mod validity;

use arc_swap::ArcSwap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, ServerConfig, ServerConnection};
use tracing::{error, info, warn};

use self::authorities::Authorities;
use self::pair::{CertifiedPair, PairError};
pub(crate) use self::validity::date;
use crate::config::{self, Config, ConfigError, Place, Problem};
use crate::fs::blocking::run_blocking;
use crate::fs::stamp::FileStamp;

/// What TLS listeners serve; nothing where there are none.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    served: ArcSwapOption<Served>,
}

impl Tls {
    pub(crate) fn new(served: Option<Served>) -> Self {
        Self { served: ArcSwapOption::from_pointee(served) }
    }

    pub(crate) fn served(&self) -> Option<Arc<Served>> {
        self.served.load_full()
    }

    pub(crate) fn replace(&self, served: Option<Served>) {
        self.served.store(served.map(Arc::new));
    }
}

/// Certificates that are in service.
#[derive(Debug)]
pub(crate) struct Served {
    settings: config::Tls,
    /// In the order of the settings.
    pairs: Vec<CertifiedPair>,
    authorities: Option<Authorities>,
    /// Files whose content is not in service, but what they held before.
    problems: Vec<Problem>,
    /// The files as they were read.
    stamps: Stamps,
    config: Arc<ServerConfig>,
}

type Stamps = BTreeMap<PathBuf, Option<FileStamp>>;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It is served, by its place in the settings.
    Own(usize),
    /// It is an authority of clients; of several, the one that ends first.
    Authority,
}

/// A certificate, for the operator to see.
#[derive(Debug)]
pub(crate) struct CertificateStatus<'a> {
    role: Role,
    pub(crate) file: &'a Path,
    pub(crate) names: &'a [String],
    /// Seconds since 1970.
    pub(crate) expires: u64,
    /// Why what lies there now is not in service, or what is in service is of no use.
    pub(crate) problem: Option<Cow<'a, str>>,
}

impl Served {
    /// Reads what the configuration names. What cannot be served stays as it is in `former`, if it was there.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every file that is not fit, if one of them was not in service before.
    pub(crate) fn load(
        config: &Config,
        former: Option<&Self>,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(settings) = &config.server.tls else { return Ok(None) };
        let stamps = survey(settings);
        let provider = Arc::new(ring::default_provider());
        let mut reading = Reading { file: &config.path, problems: Vec::new(), is_whole: true };
        let mut pairs = Vec::new();
        for (n, entry) in settings.certificates.iter().enumerate() {
            let (certificate, key) = (&entry.certificate, &entry.key);
            let read = CertifiedPair::read(&certificate.path, &key.path, now(), &provider);
            let read = read.map_err(|unfit| match unfit {
                PairError::Certificate(text) => (certificate, format!("[{n}].certificate"), text),
                PairError::Key(text) => (key, format!("[{n}].key"), text),
            });
            let read = read.map_err(|(at, part, text)| (at, format!("certificates{part}"), text));
            let former = former.and_then(|former| former.pair(entry).cloned());
            pairs.extend(reading.take(read, former));
        }
        let authorities = settings.client_ca.as_ref().and_then(|place| {
            let read = Authorities::read(&place.path, &provider);
            let read = read.map_err(|text| (place, "client_ca".to_owned(), text));
            let former = former.filter(|former| former.settings.client_ca == settings.client_ca);
            reading.take(read, former.and_then(|former| former.authorities.clone()))
        });
        let Reading { problems, is_whole, .. } = reading;
        let invalid = |problems| ConfigError::Invalid { path: config.path.clone(), problems };
        if !is_whole {
            return Err(invalid(problems));
        }
        let made = server_config(&pairs, authorities.as_ref(), provider);
        let config = made.map_err(|error| invalid(vec![problem_of(config, &error)]))?;
        let (settings, config) = (settings.clone(), Arc::new(config));
        let next = Self { settings, pairs, authorities, problems, stamps, config };
        Ok(Some(match former {
            // Sessions go on where nothing has changed for them.
            Some(former) if !next.differs(former) => Self { config: former.config.clone(), ..next },
            _ => next,
        }))
    }

    fn pair(&self, entry: &config::Certificate) -> Option<&CertifiedPair> {
        let at = self.settings.certificates.iter().position(|own| own == entry)?;
        self.pairs.get(at)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }

    /// Whether who has shaken hands is still whom the authorities vouch for; who shows no certificate is not asked.
    ///
    /// # Errors
    /// A handshake that goes on with a session is of one whom a whole handshake would refuse now.
    pub(crate) fn judge_again(&self, session: &ServerConnection) -> Result<(), Error> {
        self.authorities.as_ref().map_or(Ok(()), |authorities| authorities.judge_again(session))
    }

    /// In the order of the settings; the authorities of clients last.
    pub(crate) fn standings(&self) -> impl Iterator<Item = CertificateStatus<'_>> {
        let own = self.settings.certificates.iter().zip(&self.pairs).enumerate();
        let own = own.map(|(n, (entry, pair))| {
            let file = &entry.certificate.path;
            self.standing(Role::Own(n), file, &pair.names, pair.validity.until)
        });
        let authorities = self.settings.client_ca.iter().zip(&self.authorities);
        own.chain(authorities.map(|(place, authorities)| {
            self.standing(Role::Authority, &place.path, &[], authorities.until)
        }))
    }

    fn standing<'a>(
        &'a self,
        role: Role,
        file: &'a Path,
        names: &'a [String],
        expires: u64,
    ) -> CertificateStatus<'a> {
        let key = role.key();
        // Of a certificate, there is one for each of its two files.
        let of_key = |problem: &&Problem| {
            problem
                .key
                .strip_prefix(&key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let problem = self.problems.iter().find(of_key);
        let problem = problem.map(|problem| Cow::Borrowed(&*problem.problem)).or_else(|| {
            let has_ended = now() > expires;
            has_ended.then(|| Cow::Owned(format!("expired on {}; renew it", date(expires))))
        });
        CertificateStatus { role, file, names, expires, problem }
    }
}

impl Role {
    fn key(self) -> String {
        match self {
            Self::Own(n) => format!("{KEY}.certificates[{n}]"),
            Self::Authority => format!("{KEY}.client_ca"),
        }
    }
}

impl CertificateStatus<'_> {
    /// `server.tls.certificates[0]` or `server.tls.client_ca`.
    pub(crate) fn key(&self) -> String {
        self.role.key()
    }
}

/// The table, as its mistakes name it.
const KEY: &str = "server.tls";

/// What is wrong, gathered while files are read.
struct Reading<'a> {
    file: &'a Path,
    problems: Vec<Problem>,
    /// Whether each has something that can be served.
    is_whole: bool,
}

impl Reading<'_> {
    fn take<T>(
        &mut self,
        read: Result<T, (&Place, String, String)>,
        former: Option<T>,
    ) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err((place, key, problem)) => {
                let (path, key) = (self.file.to_owned(), format!("{KEY}.{key}"));
                self.problems.push(Problem { path, line: place.line, key, problem });
                self.is_whole &= former.is_some();
                former
            }
        }
    }
}

fn server_config(
    pairs: &[CertifiedPair],
    authorities: Option<&Authorities>,
    provider: Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
) -> Result<ServerConfig, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => builder.with_client_cert_verifier(authorities.verifier.clone()),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Chooser { pairs: pairs.to_vec() }));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client keeps its session itself: the host remembers nothing of those who have gone. New keys with each change of what is
    // served, so that a session does not outlive the authority that let it in.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn problem_of(config: &Config, error: &Error) -> Problem {
    let (path, key) = (config.path.clone(), KEY.to_owned());
    let line = config.server.tls.as_ref().map_or(1, |tls| tls.certificates[0].certificate.line);
    Problem { path, line, key, problem: format!("cannot be served: {error}") }
}

/// Chooses a certificate by the name that the client asks for; the first where none has it.
#[derive(Debug)]
struct Chooser {
    pairs: Vec<CertifiedPair>,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().map(str::to_ascii_lowercase).and_then(|name| {
            let suited = self.pairs.iter().filter_map(|pair| Some((pair.suits(&name)?, &pair.key)));
            suited.min_by_key(|(suits, _)| *suits).map(|(_, key)| key)
        });
        named.or(self.pairs.first().map(|pair| &pair.key)).cloned()
    }
}

/// Looks after the files for as long as the host runs: reads them again when they change, warns of certificates that end soon.
pub(crate) async fn keep(config: &ArcSwap<Config>, tls: &Tls) {
    // When that was, and how many had ended by then.
    let mut warned: Option<(Instant, usize)> = None;
    loop {
        let config = config.load_full();
        if let Some(served) = tls.served() {
            let ended = served.standings().filter(|standing| now() > standing.expires).count();
            let is_news = |(at, before): (Instant, usize)| at.elapsed() >= DAY || before != ended;
            if warned.is_none_or(is_news) && warn_of_end(&served) {
                warned = Some((Instant::now(), ended));
            }
            let is_due = served.settings != settings_of(&config, &served)
                || !served.problems.is_empty()
                || served.stamps != look(&served).await;
            if is_due {
                read_again(tls, &config, &served).await;
            }
        }
        sleep(config.server.reload.rescan).await;
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A certificate with less time than this is warned of.
const END_IS_NEAR: Duration = Duration::from_secs(14 * 24 * 60 * 60);

fn settings_of(config: &Config, served: &Served) -> config::Tls {
    config.server.tls.clone().unwrap_or_else(|| served.settings.clone())
}

async fn look(served: &Arc<Served>) -> Stamps {
    let served = served.clone();
    // One that was not done is as one that found nothing.
    run_blocking(move || survey(&served.settings)).await.unwrap_or_default()
}

/// Once the files are quiet: a certificate and its key are rarely replaced in the same moment.
async fn read_again(tls: &Tls, config: &Arc<Config>, served: &Arc<Served>) {
    let mut found = look(served).await;
    loop {
        sleep(config.server.reload.quiet).await;
        let again = look(served).await;
        if again == found {
            break;
        }
        found = again;
    }
    let (settings, former) = (config.clone(), served.clone());
    let read = run_blocking(move || Served::load(&settings, Some(&former))).await;
    let problems = match read {
        Ok(Ok(Some(next))) => {
            let problems = next.problems.clone();
            tls.replace(Some(next));
            if let Some(next) = tls.served().filter(|next| next.differs(served)) {
                next.tell_names();
            }
            problems
        }
        Ok(Err(ConfigError::Invalid { problems, .. })) => problems,
        Err(error) => return error!(%error, "the look at the certificates failed"),
        Ok(_) => return,
    };
    tell_of(problems.iter().filter(|problem| !served.problems.contains(problem)));
}

fn tell_of<'a>(problems: impl Iterator<Item = &'a Problem>) {
    for problem in problems {
        error!(key = problem.key, "{}; the former one serves on", problem.problem);
    }
}

impl Served {
    /// Whether others are in service.
    fn differs(&self, former: &Self) -> bool {
        let chains = |served: &Self| -> Vec<_> {
            served.pairs.iter().map(|pair| pair.key.cert.clone()).collect()
        };
        let authorities_differ = match (&self.authorities, &former.authorities) {
            (Some(own), Some(former)) => own.differs(former),
            (own, former) => own.is_some() != former.is_some(),
        };
        authorities_differ || chains(self) != chains(former)
    }

    /// Says what is served, and what is not.
    pub(crate) fn tell(&self) {
        tell_of(self.problems.iter());
        self.tell_names();
    }

    fn tell_names(&self) {
        for CertificateStatus { role, file, names, expires, .. } in self.standings() {
            let (file, names, expires) = (file.display(), names.join(" "), date(expires));
            match role {
                Role::Own(_) => info!(%file, names, expires, "certificate in service"),
                Role::Authority => info!(%file, expires, "authority of clients in service"),
            }
        }
    }
}

/// Whether one was warned of.
fn warn_of_end(served: &Served) -> bool {
    let mut is_near = false;
    for CertificateStatus { role, file, expires, .. } in served.standings() {
        let left = Duration::from_secs(expires.saturating_sub(now()));
        is_near |= left < END_IS_NEAR;
        let (has_ended, days_left) = (now() > expires, left.as_secs() / DAY.as_secs());
        let (file, expires) = (file.display(), date(expires));
        if has_ended && role == Role::Authority {
            warn!(%file, expires, "an authority of clients has expired, its clients are still backends; renew it, or take it out");
        } else if has_ended {
            error!(%file, expires, "a certificate has expired, clients refuse it; renew it");
        } else if left < END_IS_NEAR {
            warn!(%file, expires, days_left, "a certificate ends soon; renew it");
        }
    }
    is_near
}

fn survey(settings: &config::Tls) -> Stamps {
    let pairs = settings.certificates.iter().flat_map(|entry| [&entry.certificate, &entry.key]);
    let places = pairs.chain(&settings.client_ca);
    places.map(|place| (place.path.clone(), FileStamp::of(&place.path))).collect()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
