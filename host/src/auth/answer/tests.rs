//! Tests of endpoint responses.

use super::*;

#[track_caller]
fn check_answer(status: u16, (kind, users): (&str, &[&[u8]]), body: &[u8], expected: &str) {
    let status = StatusCode::from_u16(status).unwrap();
    let answer = Answer { status, content_type: kind, users, body };
    let found = match interpret(&answer) {
        Ok(Ok(login)) => format!("{:?} {:?}", login.user, login.claims),
        Ok(Err(denial)) => format!("{} {}", denial.refusal.status(), denial.refusal.reason()),
        Err(problem) => problem,
    };
    assert!(found.starts_with(expected), "{answer:?}: {found}");
}

const JSON: (&str, &[&[u8]]) = ("application/json", &[]);

#[test]
fn responses_accept_with_2xx_and_refuse_with_401_or_403_only() {
    let ann = ("text/html", &[&b"ann"[..]][..]);
    for (status, head, body, expected) in [
        (200, JSON, r#"{"user":"ann","claims":{"a":[1]}}"#, r#"Some("ann") Some("{\"a\":[1]}")"#),
        (200, ("text/html", &[][..]), r#" {"user":7} "#, r#"Some("7") None"#),
        (200, JSON, r#"{"user":7,"claims":null}"#, r#"Some("7") None"#),
        (
            200,
            JSON,
            r#"{"claims":{"n":12345678901234567890123}}"#,
            r#"None Some("{\"n\":12345678901234567890123}")"#,
        ),
        (204, ann, "", r#"Some("ann") None"#),
        (200, ann, "<html>", r#"Some("ann") None"#),
        (200, (JSON.0, ann.1), "{}", r#"Some("ann") None"#),
        (200, (JSON.0, ann.1), r#"{"user":"bob"}"#, r#"Some("bob") None"#),
        (200, ("", &[]), "", "None None"),
        (200, JSON, " \r\n", "None None"),
        (200, JSON, "{}", "None None"),
        (200, JSON, r#"{"user":"","error":null}"#, "None None"),
        (401, ("", &[]), "", "401 not signed in"),
        (403, JSON, r#"{"error":"no\u001b[31m seat"}"#, "403 no[31m seat"),
        (403, ("text/plain; charset=utf-8", &[]), "banned\nuntil May", "403 banned"),
        (403, ("text/html", &[]), "<html>no</html>", "403 not allowed"),
        (302, ("", &[]), "", "status 302: redirects are not followed"),
        (404, ("", &[]), "", "status 404"),
        (500, JSON, r#"{"user":"ann"}"#, "status 500"),
    ] {
        check_answer(status, head, body.as_bytes(), expected);
    }
}

#[test]
fn responses_with_2xx_and_an_unexpected_body_are_errors() {
    const NO_OBJECT: &str = "the response body is not a JSON object";
    const BYTE_ORDER_MARK: &str = "the response body starts with a byte order mark (U+FEFF); save";
    let html: (&str, &[&[u8]]) = ("text/html; charset=utf-8", &[]);
    // From PHP, when a session cannot be started and output is not buffered.
    let warning =
        "<br />\n<b>Warning</b>:  session_start(): Failed<br />\n{\"error\":\"log in first\"}";
    for (head, body, expected) in [
        (html, warning, NO_OBJECT),
        (html, "welcome", NO_OBJECT),
        (("", &[][..]), "ok", NO_OBJECT),
        (JSON, "{", NO_OBJECT),
        (JSON, "[]", NO_OBJECT),
        (JSON, "null", NO_OBJECT),
        (JSON, r#""ann""#, NO_OBJECT),
        (JSON, "\u{feff}{\"user\":\"ann\"}", BYTE_ORDER_MARK),
        (("", &[b"ann"]), "\u{feff}{\"user\":\"bob\"}", BYTE_ORDER_MARK),
        ((JSON.0, &[b"ann"]), "<html>", NO_OBJECT),
        (JSON, &"[".repeat(100_000), NO_OBJECT),
        (("", &[b""]), "<html>", NO_OBJECT),
        (JSON, r#"{"error":"log in first"}"#, "status 2xx, but the body has an error"),
        (JSON, r#"{"user":"","error":true}"#, "status 2xx, but the body has an error"),
        (JSON, r#"{"user":{"id":1}}"#, "the user in the response is neither"),
        (JSON, r#"{"user":12345678901234567890123}"#, "the user in the response is not an integer"),
        (JSON, r#"{"user":7.5}"#, "the user in the response is not an integer"),
        (JSON, r#"{"user":"a\nb"}"#, "the user in the response has"),
        (("", &[b"a\tb"]), "", "the user in the response has"),
        (("", &[b"ann", b"bob"]), "", "the response has 2 headers X-User"),
        (("", &[b"ann", b"ann"]), "", "the response has 2 headers X-User"),
        (("", &[b"\xe4nn"]), "", "the header X-User of the response is not UTF-8"),
        (
            (JSON.0, &[b"\xe4nn"]),
            r#"{"user":"ann"}"#,
            "the header X-User of the response is not UTF-8",
        ),
    ] {
        check_answer(200, head, body.as_bytes(), expected);
    }
}
