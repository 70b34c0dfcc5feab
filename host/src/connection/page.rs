//! The demonstration page: files under `/plugsocket/` that are compiled into the program.

use crate::protocol::http::{Refusal, response};

/// The path prefix that the host reserves.
pub(crate) const FOLDER: &str = "/plugsocket/";

/// Returns the response to a GET of `path`, or `None` for a path outside [`FOLDER`].
pub(crate) fn answer(path: &str) -> Option<Vec<u8>> {
    if path == FOLDER.trim_end_matches('/') {
        return Some(response(308, "text/plain; charset=utf-8", b"", &[("Location", FOLDER)]));
    }
    let (content_type, body) = match path.strip_prefix(FOLDER)? {
        "" => ("text/html", include_str!("../../page/index.html")),
        "page.js" => ("text/javascript", include_str!("../../page/page.js")),
        "page.css" => ("text/css", include_str!("../../page/page.css")),
        "plugsocket.js" => ("text/javascript", include_str!("../../../clients/js/plugsocket.js")),
        _ => {
            let refusal = Refusal::not_found("there is no such file; the page is at /plugsocket/");
            return Some(refusal.to_bytes());
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
    let content_type = format!("{content_type}; charset=utf-8");
    Some(response(200, &content_type, body.as_bytes(), &headers))
}
