//! The demonstration page: files under `/plugsocket/` that are compiled into the program.

use crate::protocol::http::{Refusal, response};

/// The path prefix that the host reserves.
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

/// Returns the response to a GET of `path`, or `None` for a path outside [`FOLDER`].
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
    Some(response(200, file.content_type, file.body.as_bytes(), &headers))
}
