//! The page to try it: a few files that are part of the program, under `/plugsocket/`.

use crate::protocol::http::{Refusal, response};

/// The folder that the host keeps for itself.
pub(crate) const FOLDER: &str = "/plugsocket/";

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
        path: "/plugsocket/plugsocket.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_str!("../../../clients/js/plugsocket.js"),
    },
];

/// The answer to a GET of `path`; None if it is not in the host's folder.
pub(crate) fn answer(path: &str) -> Option<Vec<u8>> {
    if path == FOLDER.trim_end_matches('/') {
        return Some(response(308, "text/plain; charset=utf-8", b"", &[("Location", FOLDER)]));
    }
    if !path.starts_with(FOLDER) {
        return None;
    }
    let Some(file) = FILES.iter().find(|file| file.path == path) else {
        return Some(
            Refusal::not_found("there is no such file; the page is at /plugsocket/").to_bytes(),
        );
    };
    let headers = [
        // 'self' covers the page's own WebSockets in current browsers; older ones want the schemes.
        (
            "Content-Security-Policy",
            "default-src 'self'; connect-src 'self' ws: wss:; frame-ancestors 'none'",
        ),
        ("X-Content-Type-Options", "nosniff"),
        // A page of another origin, which is the usual case, imports the client from here. Nothing here is secret.
        ("Access-Control-Allow-Origin", "*"),
        ("Cache-Control", "no-cache"),
    ];
    Some(response(200, file.content_type, file.body.as_bytes(), &headers))
}
