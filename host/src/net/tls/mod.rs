//! TLS: loads certificates and client authorities, and selects the certificate of a handshake.
//!
//! Everything a handshake needs is one value, which is replaced as a whole; a connection takes it
//! once. A file that cannot be used leaves its previous content in service. Does not know sockets.

mod authorities;
mod pair;
mod validity;
mod watch;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, ServerConfig, ServerConnection};

use self::authorities::Authorities;
use self::pair::{CertifiedPair, FileProblem};
pub(crate) use self::validity::date;
pub(crate) use self::watch::watch_certificates;
use crate::config::{Certificate, Config, ConfigError, Problem, TlsSettings};
use crate::fs::stamp::{FileStamp, FileStamps, SettledFiles};

/// The certificates in service; `None` without TLS listeners.
pub(crate) type CurrentTls = ArcSwapOption<ServedCertificates>;

/// Certificates and client authorities in service.
#[derive(Debug)]
pub(crate) struct ServedCertificates {
    settings: TlsSettings,
    /// In the order of the settings.
    pairs: Vec<CertifiedPair>,
    authorities: Option<Authorities>,
    /// Files whose previous content is in service.
    problems: Vec<Problem>,
    files: SettledFiles,
    config: Arc<ServerConfig>,
}

/// What a certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Served, at this index of the settings.
    Server(usize),
    /// Client authorities; of several, the one that expires first.
    ClientAuthority,
}

/// State of a certificate, as logs and `plugsocket status` show it.
#[derive(Debug)]
pub(crate) struct CertificateStatus<'a> {
    role: Role,
    pub(crate) file: &'a Path,
    pub(crate) names: &'a [String],
    /// Seconds since 1970.
    pub(crate) expires: u64,
    /// Why the file is not in service, or that the certificate in service has expired.
    pub(crate) problem: Option<Cow<'a, str>>,
}

impl ServedCertificates {
    /// Reads the files of the configuration. A file that cannot be used keeps its content in
    /// `previous`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every unusable file, if one of them has no previous content.
    pub(crate) fn load(
        config: &Config,
        previous: Option<&Self>,
    ) -> Result<Option<Self>, ConfigError> {
        let Some(settings) = &config.server.tls else { return Ok(None) };
        let files = SettledFiles::new(file_stamps(settings));
        let provider = Arc::new(ring::default_provider());
        let mut problems = Vec::new();
        let mut pairs = Vec::new();
        for (n, entry) in settings.certificates.iter().enumerate() {
            let read = CertifiedPair::read(entry, now(), &provider);
            let read = read.map_err(|problem| problem.of_role(Role::Server(n), &config.path));
            let previous = previous.and_then(|previous| previous.pair(entry).cloned());
            pairs.extend(keep_previous(read, previous, &mut problems));
        }
        let authorities = settings.client_ca.as_ref().and_then(|file| {
            let read = Authorities::read(&file.path, &provider);
            let problem = |text| FileProblem { file, member: "", text };
            let read =
                read.map_err(|text| problem(text).of_role(Role::ClientAuthority, &config.path));
            let previous = previous.filter(|old| old.settings.client_ca == settings.client_ca);
            let previous = previous.and_then(|old| old.authorities.clone());
            keep_previous(read, previous, &mut problems)
        });
        let invalid = |problems| ConfigError::Invalid { path: config.path.clone(), problems };
        let has_authorities = authorities.is_some() == settings.client_ca.is_some();
        if pairs.len() < settings.certificates.len() || !has_authorities {
            return Err(invalid(problems));
        }
        let built = server_config(&pairs, authorities.as_ref(), provider).map(Arc::new);
        let config = built.map_err(|error| invalid(vec![server_problem(config, &error)]))?;
        let settings = settings.clone();
        let next = Self { settings, pairs, authorities, problems, files, config };
        Ok(Some(match previous {
            // Sessions can be resumed while their certificates are the same.
            Some(previous) if !next.differs_from(previous) => {
                Self { config: previous.config.clone(), ..next }
            }
            _ => next,
        }))
    }

    fn pair(&self, entry: &Certificate) -> Option<&CertifiedPair> {
        let at = self.settings.certificates.iter().position(|own| own == entry)?;
        self.pairs.get(at)
    }

    fn differs_from(&self, previous: &Self) -> bool {
        let chains = |served: &Self| -> Vec<_> {
            served.pairs.iter().map(|pair| pair.key.cert.clone()).collect()
        };
        let authorities_differ = match (&self.authorities, &previous.authorities) {
            (Some(own), Some(previous)) => own.differs_from(previous),
            (own, previous) => own.is_some() != previous.is_some(),
        };
        authorities_differ || chains(self) != chains(previous)
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.config.clone().into()
    }

    /// Verifies the client certificate of a resumed session again, if it has one.
    ///
    /// # Errors
    /// A full handshake would refuse the certificate now.
    pub(crate) fn verify_resumed(&self, session: &ServerConnection) -> Result<(), Error> {
        self.authorities.as_ref().map_or(Ok(()), |authorities| authorities.verify_resumed(session))
    }

    /// Returns the certificates in the order of the settings, then the client authorities.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = CertificateStatus<'_>> {
        let own = self.settings.certificates.iter().zip(&self.pairs).enumerate();
        let own = own.map(|(n, (entry, pair))| {
            let file = &entry.certificate.path;
            self.status(Role::Server(n), file, &pair.names, pair.validity.until)
        });
        let authorities = self.settings.client_ca.iter().zip(&self.authorities);
        own.chain(authorities.map(|(place, authorities)| {
            self.status(Role::ClientAuthority, &place.path, &[], authorities.until)
        }))
    }

    fn status<'a>(
        &'a self,
        role: Role,
        file: &'a Path,
        names: &'a [String],
        expires: u64,
    ) -> CertificateStatus<'a> {
        let key = role.key();
        // A certificate has a key for each of its two files.
        let is_of_role = |problem: &&Problem| {
            let rest = problem.key.strip_prefix(&key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let problem = self.problems.iter().find(is_of_role);
        let problem = problem.map(|problem| Cow::Borrowed(&*problem.problem)).or_else(|| {
            let is_expired = now() > expires;
            is_expired.then(|| Cow::Owned(format!("expired on {}; renew it", date(expires))))
        });
        CertificateStatus { role, file, names, expires, problem }
    }
}

impl Role {
    fn key(self) -> String {
        match self {
            Self::Server(n) => format!("{KEY}.certificates[{n}]"),
            Self::ClientAuthority => format!("{KEY}.client_ca"),
        }
    }
}

impl CertificateStatus<'_> {
    /// Returns `server.tls.certificates[0]` or `server.tls.client_ca`.
    pub(crate) fn key(&self) -> String {
        self.role.key()
    }

    /// Returns the last day of validity, as `2027-01-31`.
    pub(crate) fn expiry_date(&self) -> String {
        date(self.expires)
    }

    pub(crate) fn days_left(&self) -> u64 {
        self.expires.saturating_sub(now()) / 86_400
    }

    fn is_expired(&self) -> bool {
        now() > self.expires
    }
}

/// The table of the configuration.
const KEY: &str = "server.tls";

impl FileProblem<'_> {
    fn of_role(self, role: Role, config: &Path) -> Problem {
        let key = format!("{}{}", role.key(), self.member);
        Problem { path: config.to_owned(), line: self.file.line, key, problem: self.text }
    }
}

/// Returns what was read, or else records the problem and returns the previous content.
fn keep_previous<T>(
    read: Result<T, Problem>,
    previous: Option<T>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    read.map_err(|problem| problems.push(problem)).ok().or(previous)
}

fn server_config(
    pairs: &[CertifiedPair],
    authorities: Option<&Authorities>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, Error> {
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => builder.with_client_cert_verifier(authorities.verifier.clone()),
    };
    let mut config = builder.with_cert_resolver(Arc::new(NameResolver(pairs.to_vec())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Clients keep their sessions in tickets; the host stores none. Each change of certificates has
    // new ticket keys, so that no session outlives the authority that verified its client.
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn server_problem(config: &Config, error: &Error) -> Problem {
    let (path, key) = (config.path.clone(), KEY.to_owned());
    let line = config.server.tls.as_ref().map_or(1, |tls| tls.certificates[0].certificate.line);
    Problem { path, line, key, problem: format!("cannot be served: {error}") }
}

/// Selects a certificate by the server name (SNI), else the first one.
#[derive(Debug)]
struct NameResolver(Vec<CertifiedPair>);

impl ResolvesServerCert for NameResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let find = |name: &String| self.0.iter().find(|pair| pair.names.contains(name));
        let named = hello.server_name().map(str::to_ascii_lowercase).and_then(|name| {
            let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            find(&name).or_else(|| find(&wildcard?))
        });
        named.or(self.0.first()).map(|pair| pair.key.clone())
    }
}

fn file_stamps(settings: &TlsSettings) -> FileStamps {
    let pairs = settings.certificates.iter().flat_map(|entry| [&entry.certificate, &entry.key]);
    pairs.chain(&settings.client_ca).map(|place| FileStamp::of(&place.path)).collect()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
