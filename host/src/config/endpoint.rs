//! URLs of HTTP endpoints.

use std::path::PathBuf;

use super::address::{self, host_and_port, is_host};
use super::value::{At, Wrong, quoted_url, wrong};

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

impl Endpoint {
    /// Checks a URL.
    pub(super) fn read(text: &str, at: &At<'_>) -> Result<Self, Wrong> {
        let said = quoted_url(text);
        let right =
            "write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\"";
        let Some(rest) = text.strip_prefix("http://") else {
            let what = match text.starts_with("https://") {
                true => {
                    "uses TLS, which the host does not use here: the endpoint is on this machine or in its own network"
                }
                false => "is not an HTTP URL",
            };
            return wrong!("{said} {what}; {right}");
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['#', '@']) {
            return wrong!("{said} is not an address and path as a browser sends them; {right}");
        }
        if let Some(rest) = rest.strip_prefix("unix:") {
            let (socket, target) = rest.split_once(':').unwrap_or((rest, "/"));
            if !target.starts_with('/') {
                return wrong!("{said} has a path without its slash; {right}");
            }
            let at = At { example: "http://unix:/run/app.sock:/auth.php", ..*at };
            let place = EndpointPlace::Unix(address::socket(socket, &at)?);
            let (authority, target) = ("localhost".to_owned(), target.to_owned());
            return Ok(Self { place, authority, target });
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = host_and_port(authority).unwrap_or_default();
        let Ok(port) = port.unwrap_or("80").parse::<u16>() else {
            return wrong!("{said} has a port that is not a number from 1 to 65535; {right}");
        };
        if port == 0 || !is_host(host) {
            return wrong!("{said} has no address to connect to; {right}");
        }
        let place = EndpointPlace::Tcp(host.trim_matches(['[', ']']).to_owned(), port);
        let slash = if target.starts_with('/') { "" } else { "/" };
        let (authority, target) = (authority.to_owned(), format!("{slash}{target}"));
        Ok(Self { place, authority, target })
    }
}
