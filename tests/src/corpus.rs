//! The corpus of requests in `tests/corpus/requests.txt`, and a strict reader of what a host answers.
//!
//! The reader takes nothing for granted: it is what a client that trusts nobody would check of a refusal.

use crate::raw::Response;

/// One request, and what must come of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Unique.
    pub name: String,
    /// What must come.
    pub expected: Expected,
    /// The number of an RFC and a section, or `host`.
    pub rule: String,
    /// What is sent.
    pub bytes: Vec<u8>,
}

/// What must come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One response with this status, and the end.
    Status(u16),
    /// The handshake.
    Switching,
    /// The end without an answer, once the sender has ended its side.
    Close,
}

/// All rows.
///
/// # Panics
/// When the file is not as its first lines say.
pub fn rows() -> Vec<Row> {
    let lines = include_str!("../corpus/requests.txt").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(row).collect()
}

fn row(line: &str) -> Row {
    let fields: Vec<&str> = line.splitn(4, " | ").collect();
    // An editor may have cut the blank behind the last bar.
    let fields: Vec<&str> = match fields[..] {
        [a, b, c] => vec![a, b, c.trim_end_matches(" |"), ""],
        _ => fields,
    };
    let [name, expected, rule, bytes] = fields[..] else { panic!("not four fields: {line}") };
    let expected = match expected {
        "close" => Expected::Close,
        "101" => Expected::Switching,
        status => Expected::Status(status.parse().unwrap_or_else(|_| panic!("no status: {line}"))),
    };
    Row { name: name.to_owned(), expected, rule: rule.to_owned(), bytes: unescaped(bytes) }
}

const LINES: [(&str, &str); 8] = [
    ("get", "GET /speak HTTP/1.1\r\n"),
    ("post", "POST /speak HTTP/1.1\r\n"),
    ("host", "Host: h\r\n"),
    ("up", "Upgrade: websocket\r\n"),
    ("co", "Connection: Upgrade\r\n"),
    ("key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ("ver", "Sec-WebSocket-Version: 13\r\n"),
    ("or", "Origin: https://good.example\r\n"),
];

fn unescaped(text: &str) -> Vec<u8> {
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
                    _ => panic!("no such escape: \\{rest}"),
                };
                bytes.push(byte);
                rest = &rest[length..];
            }
            '{' => match rest.split_once('}') {
                Some((name, behind)) if !name.is_empty() => {
                    bytes.extend(meant(name));
                    rest = behind;
                }
                _ => bytes.push(b'{'),
            },
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

/// What stands in braces.
fn meant(name: &str) -> Vec<u8> {
    if let Some((count, what)) = name.split_once('*') {
        return unescaped(what).repeat(count.parse().unwrap());
    }
    let all = LINES[3..].iter().map(|(_, line)| *line).collect::<String>();
    let line = LINES.iter().find(|(known, _)| *known == name).map(|(_, line)| *line);
    line.unwrap_or_else(|| if name == "ws" { &all } else { panic!("no such line: {name}") }).into()
}

/// Reads `bytes` as exactly one whole response that ends its connection.
///
/// # Errors
/// Why it is none.
pub fn one_response(bytes: &[u8]) -> Result<Response, String> {
    let text = str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("its head does not end")?;
    let mut lines = head.split("\r\n");
    let status = status(lines.next().unwrap_or_default())?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) =
            line.split_once(": ").ok_or_else(|| format!("a line without a colon: {line:?}"))?;
        let is_token = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(is_token) || value.contains(char::is_control) {
            return Err(format!("a malformed line: {line:?}"));
        }
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let response = Response { status, headers, body: body.to_owned() };
    check_length(&response)?;
    check_obligations(&response)?;
    Ok(response)
}

/// RFC 9112, section 4: `HTTP-version SP status-code SP [ reason-phrase ]`.
fn status(line: &str) -> Result<u16, String> {
    let malformed = || format!("a malformed status line: {line:?}");
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
        return Err(format!("not one Content-Length: {response:?}"));
    };
    if length.parse() != Ok(response.body.len()) {
        return Err(format!("the body is not as long as it says: {response:?}"));
    }
    // RFC 9110, section 6.6.1.
    let is_dated = matches!(values("date")[..], [date] if date.ends_with(" GMT"));
    if !is_dated {
        return Err(format!("not one Date: {response:?}"));
    }
    if !values("connection").contains(&"close") {
        return Err(format!("no Connection: close: {response:?}"));
    }
    if response.header("transfer-encoding").is_some() {
        return Err(format!("a Transfer-Encoding: {response:?}"));
    }
    Ok(())
}

/// The headers that a status obliges to.
fn check_obligations(response: &Response) -> Result<(), String> {
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
            return Err(format!("no proper {name}: {response:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let row = row(r"a | 400 | 9112 3 | \x16{3*\r\n}{key}\\{}|");
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(row.bytes, format!("\x16\r\n\r\n\r\n{key}\\{{}}|").into_bytes());
        assert_eq!((&*row.rule, row.expected), ("9112 3", Expected::Status(400)));
    }

    #[test]
    fn only_one_whole_response_is_one() {
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
