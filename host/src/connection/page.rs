//! What the host itself answers to a plain GET: the JavaScript client and the demonstration page
//! under `/plugsocket/`, which are compiled into the program, and the paths that browsers try.

use crate::config::Config;
use crate::protocol::http::{Refusal, response};

/// The path prefix that the host reserves.
pub(crate) const FOLDER: &str = "/plugsocket/";

/// The JavaScript client, which is served without the page, too.
const CLIENT: &str = "/plugsocket/plugsocket.js";

struct File {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

const FILES: [File; 4] = [
    File {
        path: "/plugsocket/",
        content_type: "text/html; charset=utf-8",
        body: include_str!("../../page/index.html"),
    },
    File {
        path: "/plugsocket/page.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_str!("../../page/page.js"),
    },
    File {
        path: "/plugsocket/page.css",
        content_type: "text/css; charset=utf-8",
        body: include_str!("../../page/page.css"),
    },
    File {
        path: CLIENT,
        content_type: "text/javascript; charset=utf-8",
        body: include_str!("../../../clients/js/plugsocket.js"),
    },
];

/// Returns the response to a plain GET of `path`, or `None` where a WebSocket is expected.
pub(crate) fn answer(path: &str, config: &Config) -> Option<Vec<u8>> {
    if path == CLIENT || (config.server.page && path.starts_with(FOLDER)) {
        return Some(FILES.iter().find(|file| file.path == path).map_or_else(
            || not_found("there is no such file; the page is at /plugsocket/"),
            served,
        ));
    }
    let (is_page, is_resource) = (config.server.page, config.resources.contains_key(path));
    match path {
        "/plugsocket" if is_page => Some(redirect(308)),
        // For as long as the page is served and no resource has this path.
        "/" if is_page && !is_resource => Some(redirect(302)),
        "/" if is_page => Some(bad_request(
            "this is plugsocket, a WebSocket host: connect to / with a WebSocket, or open /plugsocket/",
        )),
        "/" if is_resource => {
            Some(bad_request("this is plugsocket, a WebSocket host: connect to / with a WebSocket"))
        }
        _ if is_resource => None,
        "/" => Some(not_found(
            "this is plugsocket, a WebSocket host; no resource has the path / and page = false",
        )),
        "/favicon.ico" => Some(not_found("this host has no icon")),
        _ if path == "/plugsocket" || path.starts_with(FOLDER) => Some(not_found(
            "the page is not served here (page = false); the client is at /plugsocket/plugsocket.js",
        )),
        _ => None,
    }
}

fn bad_request(reason: &'static str) -> Vec<u8> {
    Refusal::bad_request(reason).to_bytes()
}

fn not_found(reason: &'static str) -> Vec<u8> {
    Refusal::not_found(reason).to_bytes()
}

fn redirect(status: u16) -> Vec<u8> {
    response(status, "text/plain; charset=utf-8", b"", &[("Location", FOLDER)])
}

fn served(file: &File) -> Vec<u8> {
    let headers = [
        // 'self' covers WebSockets of the same origin in current browsers; older ones need the schemes.
        (
            "Content-Security-Policy",
            "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        // Pages of other origins import the client from here; the files are public.
        ("Access-Control-Allow-Origin", "*"),
        ("Cache-Control", "no-cache"),
    ];
    response(200, file.content_type, file.body.as_bytes(), &headers)
}
