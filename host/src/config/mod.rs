//! `plugins.toml`: what the operator decides.
//!
//! Owns the names, units and defaults of all keys, the rules that a value obeys, and the comparison of two files
//! ([`Config::diff`]). A [`Config`] holds legal values only: nobody checks them again. All mistakes of a file are
//! found in one reading, and each is one line that says what would be right.
//!
//! Pure but for the one read in [`Config::load`]. Must not know sockets, the runtime, libraries, or whether a
//! directory exists: that is seen by who uses it.

mod address;
mod auth;
mod convert;
mod diff;
mod error;
mod raw;
mod terms;
mod tls;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::fs::read;

pub use auth::{
    Algorithm, Auth, Backends, CallMethod, Callback, Endpoint, EndpointPlace, KeyFile, KeyForm,
    Proof, Source, TokenRules,
};
pub use diff::Diff;
pub use error::{ConfigError, Problem};
pub use terms::{Outbox, OutboxPolicy, Rate, RatePolicy};

/// A whole `plugins.toml`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file, absolute. Relative paths in it are relative to its directory, never to the working directory.
    pub path: PathBuf,
    /// The table `[server]`.
    pub server: Server,
    /// The tables `[resources."/path"]`, by path. The path is spelled as in the file, which is how a browser sends it.
    pub resources: BTreeMap<String, Resource>,
    /// The tables `[plugins.NAME]`, by name.
    pub plugins: BTreeMap<String, Plugin>,
}

/// One table `[plugins.NAME]`: what holds for a library, whichever resources it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugin {
    /// The only contents that are loaded, as SHA-256; empty: any. Key `sha256`, a text or a list of texts in hexadecimal.
    /// A change holds for the next time that a library is read.
    pub sha256: Vec<[u8; 32]>,
}

/// The table `[server]`: the same for all resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where to listen without TLS; only empty where [`Tls`] listens. Key `listen`, default `["127.0.0.1:8095"]`. A change needs a
    /// restart.
    pub listen: Vec<Listen>,
    /// The table `[server.tls]`. To add it or to take it away needs a restart.
    pub tls: Option<Tls>,
    /// The folder where operators drop libraries, absolute. Key `plugin_dir`, default `plugins.d`. A change needs a restart.
    pub plugin_dir: PathBuf,
    /// Where the host keeps its private copies of libraries, absolute, another folder than `plugin_dir`.
    /// Key `staging_dir`, default `.plugsocket/staged`. A change needs a restart.
    pub staging_dir: PathBuf,
    /// Where the host keeps what outlives it: earlier generations of the libraries. Absolute, another folder than `plugin_dir`.
    /// Key `state_dir`, default `.plugsocket/state`. A change needs a restart.
    pub state_dir: PathBuf,
    /// The socket for operators' commands, absolute; short enough for a socket address (107 bytes).
    /// Key `control`, default `.plugsocket/control`. A change needs a restart.
    pub control: PathBuf,
    /// Whether the host serves its own page at `/plugsocket`; if so, no resource lies there. Key `page`, default true.
    pub page: bool,
    /// What a client is told whose path no resource serves. Key `unknown_resource`, default `"close"`.
    pub unknown_resource: UnknownResource,
    /// Whether connections from `trusted_proxies` to `listen` begin with a header of the PROXY protocol. Key `proxy_protocol`,
    /// default false.
    pub proxy_protocol: bool,
    /// Who may come in, and as what.
    pub access: Access,
    /// Counts and sizes.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// The table `[server.rate]`.
    pub rate: Rate,
    /// The table `[server.reload]`.
    pub reload: Reload,
    /// The table `[server.watchdog]`.
    pub watchdog: Watchdog,
}

/// One entry of `listen`. `Display` prints the form of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port` or `[v6]:port`.
    Tcp {
        /// An address or a name, without brackets.
        host: String,
        /// Port; 0 lets the system choose one.
        port: u16,
    },
    /// `unix:/path`, absolute; short enough for a socket address (107 bytes).
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The table `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Where to listen, TCP only; may be empty where the service manager opens the sockets. Key `listen`, required. A change
    /// needs a restart.
    pub listen: Vec<Listen>,
    /// What is served, never empty; the first to those who ask for no name, or for an unknown one. Key `certificates`, required.
    pub certificates: Vec<Certificate>,
    /// Authorities whose clients count as backends. Key `client_ca`, default none: no client is asked for a certificate.
    pub client_ca: Option<Place>,
    /// From accepting, or from the PROXY header, to the end of the TLS handshake. Key `tls_timeout`, default 5 s.
    pub timeout: Duration,
    /// As the key of `[server]`, for these addresses. Key `proxy_protocol`, default false.
    pub proxy_protocol: bool,
}

/// One entry of `certificates`. Whether there are such files is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PEM, the server's own certificate first, then its chain. Key `certificate`, required.
    pub certificate: Place,
    /// PEM, not encrypted. Key `key`, required.
    pub key: Place,
}

/// A file that is named in a line. Only the file counts in a comparison: to move a key changes nothing.
#[derive(Debug, Clone, Eq)]
pub struct Place {
    /// Absolute.
    pub path: PathBuf,
    /// In `plugins.toml`, from 1.
    pub line: usize,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

/// What a client is told whose path no resource serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownResource {
    /// `"close"`: the handshake completes and the dialog says why (close 1008), because browsers cannot read an HTTP error.
    Close,
    /// `"404"`: the handshake is refused.
    NotFound,
}

/// Who may come in, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who may be a backend (kinds `backend` and `tcp`, and HTTP POST). Key `allowed_ips`, default `["127.0.0.1", "::1"]`.
    pub allowed_ips: Vec<IpNet>,
    /// Which pages may connect: origins in lower case without a default port. Key `allowed_origins`, default empty: any.
    pub allowed_origins: Vec<String>,
    /// The only ones whose `X-Forwarded-For` and PROXY header are believed. Key `trusted_proxies`, default empty: nobody.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether that of a peer on a Unix socket is, too. The entry `"unix"` of the same key, default false.
    pub trusts_unix: bool,
}

impl Access {
    /// Whether this address may be a backend. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn allows_backend(&self, ip: IpAddr) -> bool {
        among(&self.allowed_ips, ip)
    }

    /// Whether the `X-Forwarded-For` of this address is believed. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn is_trusted_proxy(&self, ip: IpAddr) -> bool {
        among(&self.trusted_proxies, ip)
    }

    /// Whether a handshake with this `Origin` header may go on. With an empty list any may, also one without the
    /// header; else it must be on the list. Letter case and a spelled-out default port make no difference.
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        self.allowed_origins.is_empty()
            || origin.map(address::without_default_port).is_some_and(|origin| {
                self.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
            })
    }
}

impl Default for Access {
    fn default() -> Self {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        Self {
            allowed_ips: loopback.map(IpNet::from).to_vec(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            trusts_unix: false,
        }
    }
}

fn among(nets: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    nets.iter().any(|net| net.contains(&ip))
}

/// Counts and sizes, per connection unless said otherwise. Each change holds for connections accepted after it;
/// only `inbox_messages` needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of the whole server. Key `max_connections`, default 0 in the file: no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// WebSocket clients from one address, IPv4, or network, IPv6 /64. Key `max_per_ip`, default 0 in the file: no limit.
    pub max_per_ip: Option<NonZeroUsize>,
    /// Sockets whose request has not come yet, of the whole server; backends are let in past it. Key `max_handshakes`,
    /// default 10,000, 0 in the file: no limit.
    pub max_handshakes: Option<NonZeroUsize>,
    /// New connections in a second from one address or /64, five or as many at once; backends are not counted.
    /// Key `max_handshakes_per_ip`, default 0 in the file: no limit.
    pub max_handshakes_per_ip: Option<NonZeroUsize>,
    /// Bytes of a request's line and headers. Key `max_head`, default 16384.
    pub max_head: usize,
    /// Bytes of one message, also of one joined from chunks. Key `max_message`, default 16 MiB.
    pub max_message: usize,
    /// Chunks of one message. Key `max_chunks`, default 100.
    pub max_chunks: usize,
    /// WebSocket frames of one message, not counting control frames between them. Key `max_frames`, default 131072.
    pub max_frames: usize,
    /// Rooms that one connection may be in. Key `max_rooms`, default 100.
    pub max_rooms: usize,
    /// Messages that may wait for one peer. Key `outbox_messages`, default 1024, at least 2: an answer and its `next`.
    pub outbox_messages: usize,
    /// Bytes that may wait for one peer, and one large message beside them: whatever one client may send, another must be able to
    /// receive. Key `outbox_bytes`, default 1 MiB, at least 256 KiB.
    pub outbox_bytes: usize,
    /// Events that may wait for one resource. Key `inbox_messages`, default 256. A change needs a restart.
    pub inbox_messages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_per_ip: None,
            max_handshakes: NonZeroUsize::new(10_000),
            max_handshakes_per_ip: None,
            max_head: 16 << 10,
            max_message: 16 << 20,
            max_chunks: 100,
            max_frames: 131_072,
            max_rooms: 100,
            outbox_messages: 1024,
            outbox_bytes: 1 << 20,
            inbox_messages: 256,
        }
    }
}

/// How long things may take; in the file seconds, whole or with a fraction, at most a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From accepting to a whole request head. Key `head_timeout`, default 5 s.
    pub head: Duration,
    /// From the first byte of a message, or from `bufferON`, to its end. Key `message_timeout`, default 25 s.
    pub message: Duration,
    /// For a peer to take 64 KiB of what is written to it, or all of it. Key `write_timeout`, default 10 s.
    pub write: Duration,
    /// For a peer to answer a close frame; zero does not wait. Key `close_timeout`, default 3 s.
    pub close: Duration,
    /// Between two pings; who has not answered by the next is closed. Key `ping_interval`, default 30 s, 0 in the file: none.
    pub ping_interval: Option<Duration>,
    /// Without a message in either direction, after which a connection is closed. Key `idle_timeout`, default 0 in the file: none.
    pub idle: Option<Duration>,
    /// Between the 101 answer and `ready` for clients with `Client-Type: php` or `backend`, some of which lose what
    /// arrives together with the 101. Key `ready_delay`, default 10 ms.
    pub ready_delay: Duration,
    /// For connections to finish at shutdown; they are closed over its first half. Zero does not wait. Key `drain`, default 10 s.
    pub drain: Duration,
    /// Over which clients come back after a shutdown: each is told a time of its own, in whole seconds. Zero tells none.
    /// Key `retry_spread`, default 10 s.
    pub retry_spread: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(5),
            message: Duration::from_secs(25),
            write: Duration::from_secs(10),
            close: Duration::from_secs(3),
            ping_interval: Some(Duration::from_secs(30)),
            idle: None,
            ready_delay: Duration::from_millis(10),
            drain: Duration::from_secs(10),
            retry_spread: Duration::from_secs(10),
        }
    }
}

/// The table `[server.reload]`: how libraries are replaced; in the file seconds, whole or with a fraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// How long a file must not have changed before it is read. Key `quiet`, default 0.15 s.
    pub quiet: Duration,
    /// Between two looks at the folder that do not rely on notifications, never zero. Key `rescan`, default 3 s.
    pub rescan: Duration,
    /// For the throw-away process that opens a candidate first. Key `preflight_timeout`, default 5 s.
    pub preflight: Duration,
    /// For an instance to start. Key `start_timeout`, default 10 s.
    pub start: Duration,
    /// For an instance to take over the state. Key `restore_timeout`, default 10 s.
    pub restore: Duration,
    /// Bytes of state that are handed over. Key `snapshot_limit`, default 256 MiB.
    pub snapshot_limit: usize,
    /// How long a new generation is watched, and undone if it does badly. Key `probation_time`, default 30 s, 0: not at all.
    pub probation: Duration,
    /// Messages after which it has passed all the same. Key `probation_messages`, default 1000.
    pub probation_messages: usize,
    /// Percent of messages that may be refused, or calls that may be slow. Key `probation_share`, default 20.
    pub probation_share: usize,
    /// Earlier generations of each plugin that are kept for a rollback, beside the one that serves.
    /// Key `keep_generations`, default 3, 0: none.
    pub keep_generations: usize,
    /// Whether a library that others could have written is refused. Key `check_owner`, default true.
    pub check_owner: bool,
}

impl Default for Reload {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(150),
            rescan: Duration::from_secs(3),
            preflight: Duration::from_secs(5),
            start: Duration::from_secs(10),
            restore: Duration::from_secs(10),
            snapshot_limit: 256 << 20,
            probation: Duration::from_secs(30),
            probation_messages: 1000,
            probation_share: 20,
            keep_generations: 3,
            check_owner: true,
        }
    }
}

/// The table `[server.watchdog]`: what is done about applications that hang or panic; in the file seconds, whole or
/// with a fraction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// A callback that has been running for so long is reported, and counted as slow. Key `callback_warn`, default 1 s.
    pub callback_warn: Duration,
    /// One that has been running for so long is given up: its resource is closed and started again. Key `callback_limit`, default 30 s.
    pub callback_limit: Duration,
    /// Panics of one resource's application within a minute; past that it is started again. Key `max_panics`,
    /// default 5, 0 in the file: no limit.
    pub max_panics: Option<NonZeroUsize>,
    /// How long a resource stays closed before its application is started again; doubles each time, up to ten minutes.
    /// Key `restart_pause`, default 5 s.
    pub restart_pause: Duration,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self {
            callback_warn: Duration::from_secs(1),
            callback_limit: Duration::from_secs(30),
            max_panics: NonZeroUsize::new(5),
            restart_pause: Duration::from_secs(5),
        }
    }
}

/// One table `[resources."/path"]`: which application serves the path, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The library is `lib<plugin>.so` in `plugin_dir`; letters, digits, `_` and `-`. Key `plugin`, required.
    pub plugin: String,
    /// Whether the host speaks its dialog (`ready`, `next`, `close`), or plain WebSocket. Key `dialog`, default true.
    pub dialog: bool,
    /// Where callbacks run; `None` is what the plugin declares. Key `lane`.
    pub lane: Option<LaneKind>,
    /// Subprotocols that the resource speaks (RFC 7230 tokens). Key `subprotocols`, default none.
    pub subprotocols: Vec<String>,
    /// How often the state is written to disk, to be restored after a crash or restart. Key `snapshot_every`, default 0 in
    /// the file: never.
    pub snapshot_every: Option<Duration>,
    /// What may wait for its peers.
    pub outbox: Outbox,
    /// The table `rate`; what it does not say is as in `[server.rate]`.
    pub rate: Rate,
    /// Who is let in before the application is asked; `None` is everybody. The table `auth`. A change holds for connections
    /// that come after it.
    pub auth: Option<Auth>,
    /// The table `config` as the text of a JSON object, keys sorted, dates as text; `{}` where there is none.
    /// The plugin checks it.
    pub config: String,
}

/// Where the callbacks of a resource run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKind {
    /// `"thread"`: a thread of its own, so that a blocking plugin delays nobody else.
    Thread,
    /// `"shared"`: a task among others; faster, for plugins that never block.
    Shared,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Unreadable`], or [`ConfigError::Invalid`] with every mistake found.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = absolute(path.as_ref())?;
        match read::read(&path, MOST_BYTES) {
            Ok(bytes) => convert::config(&raw::utf8(bytes, &path)?, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ConfigError::Missing { path })
            }
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// Checks a text. `path` names it in errors and is what relative paths are relative to; it is not opened.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every mistake found; [`ConfigError::Unreadable`] if `path` is relative and there
    /// is no working directory.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        convert::config(text, absolute(path.as_ref())?)
    }

    /// The resources that are mapped to this plugin, by path.
    pub fn mapped_to(&self, plugin: &str) -> impl Iterator<Item = (&String, &Resource)> {
        self.resources.iter().filter(move |(_, settings)| settings.plugin == plugin)
    }

    /// Whether any resource is mapped to this plugin.
    pub fn maps(&self, plugin: &str) -> bool {
        self.mapped_to(plugin).next().is_some()
    }

    /// Whether a running host may take `new` in the place of `self`. One that maps no resource at all while there are some would close
    /// every connection; it is rather what a full disk leaves of a file.
    ///
    /// # Errors
    /// It may not; one sentence.
    pub fn must_not_end(&self, new: &Self) -> Result<(), String> {
        if new.resources.is_empty() && !self.resources.is_empty() {
            return Err(format!(
                "{}: it maps no resource any more, which would close all {} that are served; if that is meant, stop the host: plugsocket drain",
                new.path.display(),
                self.resources.len()
            ));
        }
        Ok(())
    }

    /// What changes for a running host if `new` takes the place of `self`.
    pub fn diff(&self, new: &Self) -> Diff {
        diff::diff(self, new)
    }
}

/// A file with ten thousand resources has two million.
const MOST_BYTES: u64 = 16 << 20;

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|source| ConfigError::Unreadable { path: path.into(), source })
}

#[cfg(test)]
mod tests;
