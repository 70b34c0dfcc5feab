//! The rules of addresses: where to listen, who may come in, from which pages. Text in, legal value or a sentence out.
//! Pure; nothing is looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use super::Listen;
use super::value::{self, Wrong, file, quoted, wrong};

/// The path of a socket.
pub(super) fn socket(path: PathBuf) -> Result<PathBuf, Wrong> {
    // sun_path is 108 bytes with its terminating zero (unix(7)).
    match path.as_os_str().len() {
        ..=107 => Ok(path),
        long => wrong!(
            "{} is {long} bytes long; the path of a socket may have 107",
            quoted(&path.to_string_lossy())
        ),
    }
}

/// An entry of `listen`.
pub(super) fn listen(text: &str, base: &Path) -> Result<Listen, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return file(path, base, "\"unix:/run/plugsocket.sock\"")
            .and_then(socket)
            .map(Listen::Unix);
    }
    let said = quoted(text);
    let right = "write an address or a name and a port, e.g. \"127.0.0.1:8095\", \"[::1]:8095\", or \"unix:/path\"";
    if text.is_empty() {
        return wrong!("the text is empty; {right}");
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
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, rest)) => (v6, rest.strip_prefix(':')),
        None if text.matches(':').count() > 1 => return bare_v6(text),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let Some(port) = port.filter(|port| !port.is_empty()) else {
        let text = text.trim_end_matches(':');
        return wrong!("{said} lacks the port; write {}", quoted(&format!("{text}:8095")));
    };
    if !is_host(host, text.starts_with('[')) {
        return wrong!("{said} has no address that could be listened on; {right}");
    }
    match port.parse() {
        Ok(port) => Ok(Listen::Tcp { host: host.to_owned(), port }),
        Err(_) => wrong!(
            "{} is no port; give a number from 1 to 65535, or 0 for any free port",
            quoted(port)
        ),
    }
}

fn bare_v6(text: &str) -> Result<Listen, Wrong> {
    let said = quoted(text);
    match text.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
            wrong!("{said} is ambiguous; write an IPv6 address in brackets, \"[{host}]:{port}\"")
        }
        _ => wrong!(
            "{said} is no address with a port; write an IPv6 address in brackets, e.g. \"[::1]:8095\""
        ),
    }
}

/// Whether this can be an address or a name; a scope such as `%eth0` may follow an IPv6 address.
pub(super) fn is_host(host: &str, brackets: bool) -> bool {
    if brackets {
        return host.split('%').next().is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    let name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let like_v4 = host.chars().all(number);
    !host.is_empty() && host.chars().all(name) && (!like_v4 || host.parse::<Ipv4Addr>().is_ok())
}

/// An address or a network. IPv4-mapped ones become IPv4.
pub(super) fn net(text: &str) -> Result<IpNet, Wrong> {
    let said = quoted(text);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.to_canonical().into());
    }
    let Ok(net) = text.parse::<IpNet>() else {
        let right = "give an address such as \"192.0.2.7\" or a network such as \"192.0.2.0/24\" or \"2001:db8::/32\"";
        return match text.parse::<Ipv4Addr>().is_err()
            && text.contains(|c: char| c.is_ascii_alphabetic())
        {
            true if !text.contains(':') => {
                wrong!("{said} is a name, and names are not looked up here; {right}")
            }
            _ => wrong!("{said} is no address; {right}"),
        };
    };
    if net.addr() != net.network() {
        return wrong!(
            "{said} is one address with the mask of a network; write \"{}\" or \"{}\"",
            net.trunc(),
            net.addr()
        );
    }
    let mapped = match net {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    Ok(mapped.and_then(|(ip, prefix)| Ipv4Net::new(ip, prefix).ok()).map_or(net, IpNet::V4))
}

/// An entry of `allowed_origins`, in lower case and without a default port (RFC 6454 section 6.2).
pub(super) fn origin(text: &str) -> Result<String, Wrong> {
    let said = quoted(text);
    if text == "*" {
        return wrong!("{said} is no origin; to let in every origin leave the list empty");
    }
    if text.is_empty() {
        return wrong!("the text is empty; write e.g. \"https://www.example.org\"");
    }
    if text == "null" {
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
            "{said} is no origin; put quotes around each, [\"https://www.example.org\", \"https://example.org\"]"
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
        let right = format!("{}://{rest}", ["http", "https"][web]);
        return wrong!(
            "{said} is where a socket goes; the origin is the page's, write {}",
            quoted(&right)
        );
    }
    if !text.is_ascii() {
        return wrong!(
            "{said} must be written as a browser sends it, with the host in its ASCII form (xn--…)"
        );
    }
    let host = without_port(rest);
    let bracketed = host.and_then(|host| host.strip_prefix('[')?.strip_suffix(']'));
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !scheme_ok
        || !host.is_some_and(|host| is_host(bracketed.unwrap_or(host), bracketed.is_some()))
    {
        return wrong!(
            "{said} is no origin; write scheme://host or scheme://host:port, e.g. \"https://www.example.org\""
        );
    }
    Ok(without_default_port(text).to_ascii_lowercase())
}

/// The host of `host:port`, `[v6]:port`, or of either without a port; `None` if the port is none.
fn without_port(authority: &str) -> Option<&str> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok().then_some(host),
        _ => Some(authority),
    }
}

/// An origin without `:80` after `http` and without `:443` after `https`.
pub(super) fn without_default_port(origin: &str) -> &str {
    let (port, authority) = match origin.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (":80", rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (":443", rest),
        _ => return origin,
    };
    match authority.strip_suffix(port) {
        // Behind another port it is none, and this no origin.
        Some(host) if host.ends_with(']') || !host.contains(':') => {
            &origin[..origin.len() - port.len()]
        }
        _ => origin,
    }
}
