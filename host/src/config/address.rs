//! Rules of addresses, networks and origins: string in, legal value or error text out. Pure: no
//! name is looked up.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use super::value::{self, At, Wrong, file, quoted, wrong};

/// An address to listen on. `Display` prints the form of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port` or `[v6]:port`.
    Tcp {
        /// An address or a name, without brackets.
        host: String,
        /// Port; 0 is any free port.
        port: u16,
    },
    /// `unix:/path`, absolute; at most 107 bytes, as a socket address requires.
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

impl Listen {
    /// Returns whether a second entry of `listen` is a duplicate; port 0 is another port each time.
    pub(super) fn is_duplicate(&self, other: &Self) -> bool {
        self == other && !matches!(self, Self::Tcp { port: 0, .. })
    }
}

/// Checks the path of a Unix socket, and makes it absolute.
pub(super) fn socket(text: &str, at: &At<'_>) -> Result<PathBuf, Wrong> {
    let path = file(text, at)?;
    check_socket(&path).map(|()| path)
}

/// Checks the length of the absolute path of a Unix socket.
pub(super) fn check_socket(path: &Path) -> Result<(), Wrong> {
    // sun_path is 108 bytes with its terminating zero (unix(7)).
    let (length, said) = (path.as_os_str().len(), quoted(&path.to_string_lossy()));
    match length {
        ..=107 => Ok(()),
        _ => wrong!(
            "{said} is too long: {length} bytes, and the path of a socket may have 107; write a shorter one"
        ),
    }
}

/// Checks the path of a control socket that is given on the command line.
///
/// # Errors
/// One sentence.
pub fn control_path(text: &str) -> Result<PathBuf, String> {
    on_command_line(|at| socket(text, at))
}

impl FromStr for Listen {
    type Err = String;

    /// Checks an address that is given on the command line.
    fn from_str(text: &str) -> Result<Self, String> {
        on_command_line(|at| listen(text, at))
    }
}

/// Reads a value whose relative paths are relative to the working directory.
fn on_command_line<T>(read: impl FnOnce(&At<'_>) -> Result<T, Wrong>) -> Result<T, String> {
    let base = std::env::current_dir().map_err(|error| error.to_string())?;
    let at = At { base: &base, line: 0, example: "/run/plugsocket/control" };
    read(&at).map_err(|Wrong(problem)| problem)
}

/// Checks an address to listen on.
pub(super) fn listen(text: &str, at: &At<'_>) -> Result<Listen, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        let at = At { example: "unix:/run/plugsocket.sock", ..*at };
        return socket(path, &at).map(Listen::Unix);
    }
    let said = quoted(text);
    let right = "write an address or a name and a port, e.g. \"127.0.0.1:8095\", \"[::1]:8095\", or \"unix:/path\"";
    if text.is_empty() {
        return wrong!("the string is empty; {right}");
    }
    if let Some((_, rest)) = text.split_once("://") {
        let address = value::shown(rest).and_then(|rest| rest.split('/').next());
        return match address {
            Some(address) => {
                wrong!("{said} is a URL; write only the address and port, {}", quoted(address))
            }
            None => wrong!("{said} is a URL; {right}"),
        };
    }
    if text.parse::<u16>().is_ok() || text.starts_with([':', '*']) && !text.starts_with("::") {
        let port: u16 = text.trim_start_matches(['*', ':']).parse().unwrap_or(8095);
        return wrong!(
            "{said} lacks the address; write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all addresses of the machine"
        );
    }
    if !text.starts_with('[') && text.matches(':').count() > 1 {
        return bare_v6(text);
    }
    let Some((host, port)) = host_and_port(text) else { return bare_v6(text) };
    let Some(port) = port.filter(|port| !port.is_empty()) else {
        let text = text.trim_end_matches(':');
        return wrong!("{said} lacks the port; write {}", quoted(&format!("{text}:8095")));
    };
    if !is_host(host) {
        return wrong!("{said} has an address that cannot be listened on; {right}");
    }
    let Ok(port) = port.parse() else {
        let said = quoted(port);
        return wrong!(
            "{said} is not a port; give a number from 1 to 65535, or 0 for any free port"
        );
    };
    Ok(Listen::Tcp { host: host.trim_matches(['[', ']']).to_owned(), port })
}

/// Splits `host:port` or `[v6]:port`, of which the port may be missing. Brackets stay.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<&str>)> {
    if !text.starts_with('[') {
        return Some(text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))));
    }
    let (host, rest) = text.split_at(text.find(']')? + 1);
    let port = rest.strip_prefix(':');
    (port.is_some() || rest.is_empty()).then_some((host, port))
}

fn bare_v6(text: &str) -> Result<Listen, Wrong> {
    let said = quoted(text);
    match text.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
            wrong!("{said} is ambiguous; write an IPv6 address in brackets, \"[{host}]:{port}\"")
        }
        _ => wrong!(
            "{said} is not an address with a port; write an IPv6 address in brackets, e.g. \"[::1]:8095\""
        ),
    }
}

/// Returns whether this can be a name, an IPv4 address, or an IPv6 address in brackets, which may
/// have a scope such as `%eth0`.
pub(super) fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.split('%').next().is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    let name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let like_v4 = host.chars().all(number);
    !host.is_empty() && host.chars().all(name) && (!like_v4 || host.parse::<Ipv4Addr>().is_ok())
}

/// Checks an address or a network. IPv4-mapped IPv6 becomes IPv4.
pub(super) fn net(text: &str) -> Result<IpNet, Wrong> {
    let said = quoted(text);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let Ok(net) = text.parse::<IpNet>() else {
        let right = "give an address such as \"192.0.2.7\" or a network such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
        if text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':') {
            return wrong!("{said} is a name, and the host does not look up names here; {right}");
        }
        return wrong!("{said} is not an address; {right}");
    };
    if net.addr() != net.network() {
        let (net, ip) = (net.trunc(), net.addr());
        return wrong!(
            "{said} is an address with the mask of a network; write \"{net}\" or \"{ip}\""
        );
    }
    let mapped = match net {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    Ok(mapped.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok()).map_or(net, IpNet::V4))
}

/// In `allowed_origins`: clients without an `Origin`, which are not browsers.
pub(super) const NO_ORIGIN: &str = "none";

/// Checks an origin; returns it in lower case and without a default port (RFC 6454 section 6.2).
pub(super) fn origin(text: &str) -> Result<String, Wrong> {
    let said = quoted(text);
    if text == "*" {
        return wrong!("{said} is not an origin; to allow every origin, leave the array empty");
    }
    if text.is_empty() {
        return wrong!("the string is empty; write e.g. \"https://www.example.org\"");
    }
    if text == "null" || text == NO_ORIGIN {
        return Ok(text.to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong!("{said} lacks its scheme; write {}", quoted(&format!("https://{text}")));
    };
    if text.contains('*') {
        return wrong!("{said} has a wildcard; name each origin, e.g. \"https://www.example.org\"");
    }
    if text.contains([',', ' ']) {
        return wrong!(
            "{said} is not one origin; put quotes around each, [\"https://www.example.org\", \"https://example.org\"]"
        );
    }
    if rest.contains(['/', '?', '#', '@']) {
        let host = value::shown(rest).and_then(|rest| rest.split('/').next());
        let right = host.map(|host| format!("{scheme}://{host}"));
        return match right.filter(|right| origin(right).is_ok()) {
            Some(right) => wrong!("{said} has more than an origin; write {}", quoted(&right)),
            None => wrong!(
                "{said} has more than an origin; write scheme://host, e.g. \"https://www.example.org\""
            ),
        };
    }
    if let Some(web) = ["ws", "wss"].iter().position(|ws| scheme.eq_ignore_ascii_case(ws)) {
        let right = quoted(&format!("{}://{rest}", ["http", "https"][web]));
        return wrong!("{said} is the address of a socket; write the origin of the page, {right}");
    }
    if !text.is_ascii() {
        return wrong!(
            "{said} must be written as a browser sends it, with the host in its ASCII form (xn--…)"
        );
    }
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    // Web views send "file://", as an origin of such a scheme has no host.
    let is_local = rest.is_empty() && !scheme.to_ascii_lowercase().starts_with("http");
    let is_authority = is_local
        || host_and_port(rest).is_some_and(|(host, port)| {
            is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
        });
    if !is_scheme || !is_authority {
        return wrong!(
            "{said} is not an origin; write scheme://host or scheme://host:port, e.g. \"https://www.example.org\""
        );
    }
    Ok(without_default_port(text).to_ascii_lowercase())
}

/// Removes `:80` after `http` and `:443` after `https` from an origin.
pub(super) fn without_default_port(origin: &str) -> &str {
    let (port, authority) = match origin.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (":80", rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (":443", rest),
        _ => return origin,
    };
    // After another port it is not a port, and this not an origin.
    let is_whole = |host: &str| host.ends_with(']') || !host.contains(':');
    let has_port = authority.strip_suffix(port).is_some_and(is_whole);
    if has_port { &origin[..origin.len() - port.len()] } else { origin }
}
