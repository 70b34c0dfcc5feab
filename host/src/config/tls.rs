//! The table `[server.tls]`.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Listen};
use super::keys::settings;
use super::rules::{distinct_strings, seconds, switch, tables, text};
use super::value::{self, At, Wrong, wrong};

settings! {
    /// TLS 1.2 and 1.3, on addresses of its own.
    pub struct TlsSettings in "tls." {
        /// Addresses to listen on with TLS, TCP only. Empty if systemd passes the sockets.
        "listen" [restart] => listen: Vec<Listen> =
            distinct_strings(tcp, &[], &["0.0.0.0:8443"], Listen::is_duplicate)
            .required(r#"listen = ["0.0.0.0:8443"], or [] where systemd passes the sockets"#);
        /// Certificates. The client's server name chooses one; the first serves all other names.
        "certificates" => certificates: Vec<Certificate> =
            tables(Certificate::groups, |section| Some(Certificate::read_alone(section)), EXAMPLE)
            .required(r#"certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#);
        /// PEM file of the authority whose client certificates make a client a backend. Without it,
        /// the host asks no client for a certificate.
        "client_ca" => client_ca: Option<FileSetting> =
            text(FileSetting::read, "a path", "ca.pem").optional();
        /// Time from accepting a connection, or from its PROXY header, to the end of the TLS
        /// handshake.
        "tls_timeout" => timeout: Duration = seconds(5.0, 0.001, "would refuse every client");
        /// Connections from trusted proxies to these addresses begin with a PROXY protocol header,
        /// before TLS.
        "proxy_protocol" => proxy_protocol: bool = switch(false);
    }
}

settings! {
    /// A certificate and its key.
    pub struct Certificate in "tls.certificates." {
        /// PEM file of the certificate, followed by its chain.
        "certificate" => certificate: FileSetting =
            text(FileSetting::read, "a path", "fullchain.pem").required(EXAMPLE);
        /// PEM file of the key, not encrypted.
        "key" => key: FileSetting = text(FileSetting::read, "a path", "key.pem").required(EXAMPLE);
    }
}

const EXAMPLE: &str = r#"{ certificate = "fullchain.pem", key = "key.pem" }"#;

/// A file that a key names, and the line of that key. Comparison ignores the line.
#[derive(Debug, Clone, Eq)]
pub struct FileSetting {
    /// The file, absolute. The configuration does not know whether it exists.
    pub path: PathBuf,
    /// Line in `plugins.toml`, from 1.
    pub line: usize,
}

impl PartialEq for FileSetting {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl FileSetting {
    pub(super) fn read(text: &str, at: &At<'_>) -> Result<Self, Wrong> {
        value::file(text, at).map(|path| Self { path, line: at.line })
    }
}

fn tcp(text: &str, at: &At<'_>) -> Result<Listen, Wrong> {
    match address::listen(text, at)? {
        Listen::Unix(_) => wrong!(
            "a Unix socket does not leave the machine and needs no TLS; move it to listen under [server]"
        ),
        tcp => Ok(tcp),
    }
}
