//! The table `[server]`: settings of the whole host.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::address::{self, Listen};
use super::limits::{Limits, Timeouts};
use super::metrics::{self, MetricsSettings};
use super::reload::{ReloadSettings, WatchdogSettings};
use super::rules::{choice, distinct_strings, strings, switch, table, text};
use super::value::{self, At, Wrong, quoted, wrong};
use super::{keys::settings, raw::Node, tls::TlsSettings};

settings! {
    /// What the host serves by itself.
    pub struct ServerSettings in "", checked by some_address {
        /// Addresses to listen on without TLS: `host:port`, `[v6]:port` or `unix:/path`. May be
        /// empty if TLS listens. Sockets from systemd replace them.
        "listen" [restart] => listen: Vec<Listen> =
            distinct_strings(address::listen, &ADDRESS, &ADDRESS, Listen::is_duplicate);
        /// Listening with TLS. To add or remove this table needs a restart.
        "tls" [restart] => tls: Option<TlsSettings> = table::<TlsSettings>().optional();
        /// Serve the host's own page at `/plugsocket`. No resource can have that path then. The
        /// JavaScript client is served in any case.
        "page" => page: bool = switch(true);
        /// Path of the health checks: a GET of this path and `/live` or `/ready` answers 200 or 503,
        /// to any client. Without the key there are none. No resource can have these paths then.
        "health" => health: Option<String> =
            text(metrics::health_path, "a path", "/health").optional();
        /// Metrics for Prometheus. To add or remove this table needs a restart.
        "metrics" [restart] => metrics: Option<MetricsSettings> =
            table::<MetricsSettings>().optional();
        /// Response to a client whose path is not a resource: the handshake completes, a `close`
        /// packet says why, and the host closes (1008); or the handshake fails with 404.
        "unknown_resource" => unknown_resource: UnknownResource =
            choice(&[("close", UnknownResource::Close), ("404", UnknownResource::NotFound)]);
        /// Replacement of plugins.
        "reload" => reload: ReloadSettings = table::<ReloadSettings>();
        /// Handling of applications that hang or panic.
        "watchdog" => watchdog: WatchdogSettings = table::<WatchdogSettings>();
    }
    and {
        /// Files of the host.
        folders: Folders;
        /// Who may connect.
        access: Access;
        /// Limits of the whole host and of each connection.
        limits: Limits;
        /// Time limits.
        timeouts: Timeouts;
    }
}

const ADDRESS: [&str; 1] = ["127.0.0.1:8095"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];

fn some_address(settings: ServerSettings, section: &mut Node<'_, '_>) -> ServerSettings {
    let tls_listens = settings.tls.as_ref().is_some_and(|tls| !tls.listen.is_empty());
    if settings.listen.is_empty() && section.has_right("listen") && !tls_listens {
        let problem =
            "the array is empty, so no client could connect; give e.g. [\"127.0.0.1:8095\"]";
        section.wrong("listen", problem);
    }
    settings
}

/// Response to a client whose path is not a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownResource {
    /// `"close"`: the handshake completes and the dialog says why (close 1008); browsers cannot
    /// read an HTTP error.
    Close,
    /// `"404"`: the handshake fails.
    NotFound,
}

settings! {
    /// Files of the host. Each running host needs its own.
    pub struct Folders in "", checked by two_folders {
        /// Folder of the plugins, `lib<plugin>.so`. A new file there replaces the running plugin.
        "plugin_dir" [restart] => plugin_dir: PathBuf = text(value::file, "a path", "plugins.d");
        /// Folder of the copies that the host loads.
        "staging_dir" [restart] => staging_dir: PathBuf =
            text(value::file, "a path", ".plugsocket/staged");
        /// Folder of what outlives the host: earlier generations and snapshots.
        "state_dir" [restart] => state_dir: PathBuf =
            text(value::file, "a path", ".plugsocket/state");
        /// Unix socket for commands such as `plugsocket status`. At most 107 bytes.
        "control" [restart] => control: PathBuf =
            text(value::file, "a path", ".plugsocket/control");
    }
}

fn two_folders(settings: Folders, section: &mut Node<'_, '_>) -> Folders {
    if settings.plugin_dir == settings.staging_dir {
        let key = if section.has("staging_dir") { "staging_dir" } else { "plugin_dir" };
        let problem = "plugin_dir and staging_dir are the same folder, so that each staged copy \
            would count as a new plugin; name two folders";
        section.wrong(key, problem);
    }
    // The default may lie in a deep folder, too.
    if (section.has_right("control") || !section.has("control"))
        && let Err(Wrong(problem)) = address::check_socket(&settings.control)
    {
        section.wrong("control", problem);
    }
    settings
}

settings! {
    /// Network access: who may connect, and as what.
    pub struct Access: Default in "" {
        /// Addresses and networks of backends (`Client-Type: php` or `backend`, plain TCP, HTTP
        /// POST).
        "allowed_ips" => allowed_ips: Vec<IpNet> =
            strings(|text, _| address::net(text), &LOOPBACK, &LOOPBACK);
        /// Origins of the pages that may connect, empty: any. `"none"` is a client without an
        /// `Origin`, which is not a browser; a list without it refuses such clients.
        "allowed_origins" => allowed_origins: Vec<String> =
            strings(|text, _| address::origin(text), &[], &["https://www.example.org"]);
        /// Addresses and networks of reverse proxies whose `X-Forwarded-For` and PROXY header
        /// count; `"unix"` is every client of a Unix socket.
        "trusted_proxies" => trusted_proxies: Vec<TrustedProxy> =
            strings(trusted_proxy, &[], &["127.0.0.1"]);
        /// Connections from trusted proxies to `listen` begin with a PROXY protocol header.
        "proxy_protocol" => proxy_protocol: bool = switch(false);
    }
}

/// A reverse proxy whose word about a client's address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Any at these addresses.
    Net(IpNet),
    /// `"unix"`: any on a Unix socket.
    Unix,
}

fn trusted_proxy(text: &str, _: &At<'_>) -> Result<TrustedProxy, Wrong> {
    match text {
        "unix" => Ok(TrustedProxy::Unix),
        text if text.starts_with("unix:") => wrong!(
            "{} names a socket, but every socket of listen counts; write \"unix\"",
            quoted(text)
        ),
        text => address::net(text).map(TrustedProxy::Net),
    }
}

impl Access {
    /// Returns whether this address may be a backend. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn allows_backend(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.allowed_ips.iter().any(|net| net.contains(&ip))
    }

    /// Returns whether the `X-Forwarded-For` of this address counts. An IPv4-mapped IPv6 address
    /// counts as IPv4.
    pub fn is_trusted_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_trusted = |proxy: &_| matches!(proxy, TrustedProxy::Net(net) if net.contains(&ip));
        self.trusted_proxies.iter().any(is_trusted)
    }

    /// Returns whether the `X-Forwarded-For` of clients of a Unix socket counts.
    pub fn trusts_unix(&self) -> bool {
        self.trusted_proxies.contains(&TrustedProxy::Unix)
    }

    /// Returns whether a handshake with this `Origin` header may continue. An empty list allows
    /// any, also none. Letter case and an explicit default port make no difference.
    pub fn allows_origin(&self, origin: Option<&str>) -> bool {
        let is_allowed = |origin: &str| {
            self.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
        };
        self.allowed_origins.is_empty()
            || match origin.map(address::without_default_port) {
                // Not an origin, although a client can send it.
                Some(origin) => {
                    !origin.eq_ignore_ascii_case(address::NO_ORIGIN) && is_allowed(origin)
                }
                None => is_allowed(address::NO_ORIGIN),
            }
    }
}
