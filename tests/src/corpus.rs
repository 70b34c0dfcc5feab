//! The corpus of requests in `tests/corpus/requests.txt`, and a strict parser for the responses to
//! them.

use crate::raw::Response;

/// A request and its expected outcome.
#[derive(Clone, Debug)]
pub struct Row {
    /// A unique name.
    pub name: String,
    /// The expected outcome.
    pub expected: Expected,
    /// RFC number and section, or `host` for a rule of the host's own.
    pub rule: String,
    /// The bytes to send.
    pub bytes: Vec<u8>,
}

/// The expected outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One response with this status, then the end of the connection.
    Status(u16),
    /// A successful handshake.
    Switching,
    /// The end of the connection without a response, after the client has shut down its side.
    Close,
}

/// Returns all rows of the corpus.
///
/// # Panics
/// If the file does not have the format described at its beginning.
pub fn rows() -> Vec<Row> {
    let lines = include_str!("../corpus/requests.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(row).collect()
}

fn row(line: &str) -> Row {
    let fields: Vec<&str> = line.splitn(4, " | ").collect();
    // An editor may have removed trailing whitespace.
    let fields: Vec<&str> = match fields[..] {
        [a, b, c] => vec![a, b, c.trim_end_matches(" |"), ""],
        _ => fields,
    };
    let [name, expected, rule, bytes] = fields[..] else { panic!("not four fields: {line}") };
    let expected = match expected {
        "close" => Expected::Close,
        "101" => Expected::Switching,
        status => {
            Expected::Status(status.parse().unwrap_or_else(|_| panic!("not a status: {line}")))
        }
    };
    Row { name: name.to_owned(), expected, rule: rule.to_owned(), bytes: unescape(bytes) }
}

const MACROS: [(&str, &str); 8] = [
    ("get", "GET /speak HTTP/1.1\r\n"),
    ("post", "POST /speak HTTP/1.1\r\n"),
    ("host", "Host: h\r\n"),
    ("up", "Upgrade: websocket\r\n"),
    ("co", "Connection: Upgrade\r\n"),
    ("key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ("ver", "Sec-WebSocket-Version: 13\r\n"),
    ("or", "Origin: https://good.example\r\n"),
];

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let (byte, length) = match rest.as_bytes() {
                    [b'r', ..] => (b'\r', 1),
                    [b'n', ..] => (b'\n', 1),
                    [b't', ..] => (b'\t', 1),
                    [b'0', ..] => (0, 1),
                    [b'\\', ..] => (b'\\', 1),
                    [b'x', ..] => (u8::from_str_radix(&rest[1..3], 16).unwrap(), 3),
                    _ => panic!("unknown escape: \\{rest}"),
                };
                bytes.push(byte);
                rest = &rest[length..];
            }
            '{' => match rest.split_once('}') {
                Some((name, behind)) if !name.is_empty() => {
                    bytes.extend(expand(name));
                    rest = behind;
                }
                _ => bytes.push(b'{'),
            },
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

/// Expands a macro in braces.
fn expand(name: &str) -> Vec<u8> {
    if let Some((count, what)) = name.split_once('*') {
        return unescape(what).repeat(count.parse().unwrap());
    }
    let all = MACROS[3..].iter().map(|(_, line)| *line).collect::<String>();
    let line = MACROS.iter().find(|(known, _)| *known == name).map(|(_, line)| *line);
    line.unwrap_or_else(|| if name == "ws" { &all } else { panic!("unknown macro: {name}") }).into()
}

/// Parses `bytes` as exactly one complete response with `Connection: close`.
///
/// # Errors
/// If the response is malformed.
pub fn one_response(bytes: &[u8]) -> Result<Response, String> {
    let text = str::from_utf8(bytes).map_err(|_| "not UTF-8")?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the head is incomplete")?;
    let mut lines = head.split("\r\n");
    let status = status(lines.next().unwrap_or_default())?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(": ")
            .ok_or_else(|| format!("header line without a colon: {line:?}"))?;
        let is_token = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(is_token) || value.contains(char::is_control) {
            return Err(format!("malformed header line: {line:?}"));
        }
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let response = Response { status, headers, body: body.to_owned() };
    check_length(&response)?;
    check_required_headers(&response)?;
    Ok(response)
}

/// RFC 9112, section 4: `HTTP-version SP status-code SP [ reason-phrase ]`.
fn status(line: &str) -> Result<u16, String> {
    let malformed = || format!("malformed status line: {line:?}");
    let rest = line.strip_prefix("HTTP/1.1 ").ok_or_else(malformed)?;
    let (digits, phrase) = rest.split_once(' ').ok_or_else(malformed)?;
    if digits.len() != 3 || phrase.contains(char::is_control) {
        return Err(malformed());
    }
    digits.parse().map_err(|_| malformed())
}

fn check_length(response: &Response) -> Result<(), String> {
    let values = |name: &str| {
        let of = response.headers.iter().filter(|(found, _)| found == name);
        of.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    let [length] = values("content-length")[..] else {
        return Err(format!("expected one Content-Length: {response:?}"));
    };
    if length.parse() != Ok(response.body.len()) {
        return Err(format!("Content-Length differs from the body's length: {response:?}"));
    }
    // RFC 9110, section 6.6.1.
    let is_dated = matches!(values("date")[..], [date] if date.ends_with(" GMT"));
    if !is_dated {
        return Err(format!("expected one Date: {response:?}"));
    }
    if !values("connection").contains(&"close") {
        return Err(format!("missing Connection: close: {response:?}"));
    }
    if response.header("transfer-encoding").is_some() {
        return Err(format!("unexpected Transfer-Encoding: {response:?}"));
    }
    Ok(())
}

/// Checks the headers that a status requires.
fn check_required_headers(response: &Response) -> Result<(), String> {
    let needed: &[(&str, Option<&str>)] = match response.status {
        // RFC 9110, section 15.5.6.
        405 => &[("allow", None)],
        // RFC 9110, section 15.5.22, and RFC 6455, section 4.4.
        426 => &[("upgrade", Some("websocket")), ("sec-websocket-version", Some("13"))],
        503 => &[("retry-after", None)],
        _ => &[],
    };
    for (name, value) in needed {
        let found = response.header(name);
        if found.is_none() || value.is_some() && found != *value {
            return Err(format!("missing or wrong {name}: {response:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_and_escapes_of_a_row_are_expanded() {
        let row = row(r"a | 400 | 9112 3 | \x16{3*\r\n}{key}\\{}|");
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(row.bytes, format!("\x16\r\n\r\n\r\n{key}\\{{}}|").into_bytes());
        assert_eq!((&*row.rule, row.expected), ("9112 3", Expected::Status(400)));
    }

    #[test]
    fn malformed_incomplete_and_multiple_responses_are_rejected() {
        let good = "HTTP/1.1 400 Bad Request\r\nDate: Fri, 20 Nov 2026 21:40:00 GMT\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        assert_eq!(one_response(good.as_bytes()).unwrap().body, "no");
        for bad in [
            good.replace("HTTP/1.1 ", "HTTP/1.0 "),
            good.replace("400", "4000"),
            good.replace(" Bad Request", ""),
            good.replace("\r\nConn", "\nConn"),
            good.replace(": close", ": keep-alive"),
            good.replace(": 2", ": 3"),
            good.replace("Content-Length: 2", "Content-Length: 2\r\nContent-Length: 2"),
            good.replace("Date", "Data"),
            good.replace("400", "405"),
            good.replace("400", "426"),
            format!("{good}HTTP/1.1 400 Bad Request\r\n\r\n"),
            good[..good.len() - 1].to_owned(),
            String::new(),
        ] {
            assert!(one_response(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
