//! What the host itself answers to a plain GET: the JavaScript client and the demonstration page
//! under `/plugsocket/`, which are compiled into the program, and the paths that browsers try.

use crate::config::Config;
use crate::protocol::http::{Refusal, response};

/// The path prefix that the host reserves.
pub(crate) const FOLDER: &str = "/plugsocket/";

/// The JavaScript client, which is served also without the page.
const CLIENT: &str = "/plugsocket/plugsocket.js";

/// Further paths that the host answers itself where no resource has them.
const OWN_PATHS: [&str; 3] = ["/", "/plugsocket", "/favicon.ico"];
const TEXT: &str = "text/plain; charset=utf-8";

/// Returns whether the host's own page has this path, which no pattern of a resource then matches.
pub(crate) fn is_own(path: &str, config: &Config) -> bool {
    config.server.page && (path == "/plugsocket" || path.starts_with(FOLDER))
}

/// Returns the response to a plain GET of `path`, or `None` where a WebSocket is expected.
pub(crate) fn answer(path: &str, is_resource: bool, config: &Config) -> Option<Vec<u8>> {
    let is_page = config.server.page;
    if path == CLIENT || (is_page && path.starts_with(FOLDER)) {
        return Some(file(path));
    }
    let refusal = match path {
        "/plugsocket" if is_page => return Some(redirect(308)),
        // Temporary: a resource may get this path.
        "/" if is_page && !is_resource => return Some(redirect(302)),
        "/" if is_page => Refusal::bad_request(
            "this is plugsocket, a WebSocket host: connect to / with a WebSocket, or open /plugsocket/",
        ),
        "/" if is_resource => Refusal::bad_request(
            "this is plugsocket, a WebSocket host: connect to / with a WebSocket",
        ),
        _ if is_resource => return None,
        "/" => Refusal::not_found(
            "this is plugsocket, a WebSocket host; no resource has the path / and page = false",
        ),
        "/favicon.ico" => Refusal::not_found("this host has no icon"),
        _ if path == "/plugsocket" || path.starts_with(FOLDER) => Refusal::not_found(
            "the page is not served here (page = false); the client is at /plugsocket/plugsocket.js",
        ),
        _ => return None,
    };
    Some(refusal.to_bytes())
}

/// Returns the response to OPTIONS, which is the health check of some load balancers.
pub(crate) fn options(path: &str, is_resource: bool) -> Vec<u8> {
    response(200, TEXT, b"", &[("Allow", allowed_methods(path, is_resource))])
}

/// Returns the methods that a path accepts, for the header `Allow`.
pub(crate) fn allowed_methods(path: &str, is_resource: bool) -> &'static str {
    let is_own = path.starts_with(FOLDER) || OWN_PATHS.contains(&path);
    match is_own && !is_resource {
        true => "GET, HEAD, OPTIONS",
        false => "GET, POST, OPTIONS",
    }
}

fn redirect(status: u16) -> Vec<u8> {
    response(status, TEXT, b"", &[("Location", FOLDER)])
}

fn file(path: &str) -> Vec<u8> {
    let (content_type, body) = match path {
        FOLDER => ("text/html", include_str!("../../page/index.html")),
        "/plugsocket/page.js" => ("text/javascript", include_str!("../../page/page.js")),
        "/plugsocket/page.css" => ("text/css", include_str!("../../page/page.css")),
        CLIENT => ("text/javascript", include_str!("../../page/plugsocket.js")),
        _ => {
            return Refusal::not_found("there is no such file; the page is at /plugsocket/")
                .to_bytes();
        }
    };
    const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'";
    let headers = [
        // Only in current browsers does 'self' cover WebSockets; older ones need the schemes.
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        // Pages of other origins import the client from here; the files are public.
        ("Access-Control-Allow-Origin", "*"),
        ("Cache-Control", "no-cache"),
    ];
    response(200, &format!("{content_type}; charset=utf-8"), body.as_bytes(), &headers)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_element_that_the_script_names_is_on_the_page() {
        let page = include_str!("../../page/index.html");
        let script = include_str!("../../page/page.js");
        let named = script.split("byId('").skip(1).filter_map(|rest| rest.split('\'').next());
        let names: Vec<_> = named.collect();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
        }
    }
}
