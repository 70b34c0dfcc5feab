//! Request head: splits do not change the result, httparse agrees with an accepted head, and every
//! refusal is one HTTP response.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::http::{
    BodyEnd, Head, HeadReader, MAX_HEADERS, Method, Refusal, check_upgrade, choose_protocol, ident,
    post_body, switching,
};
use plugsocket_fuzz::Input;

type Verdict = Result<Option<(Head, usize)>, Refusal>;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let max_head = [64, 512, 16 << 10][input.below(3)];
    let cuts = input.cuts();
    let bytes = input.0;
    let whole = Head::parse(bytes, max_head);
    let mut reader = HeadReader::new(max_head);
    let split = cuts.ends(bytes).into_iter().find_map(|end| reader.read(&bytes[..end]).transpose());
    assert_eq!(summary(&whole), summary(&split.transpose()));
    match whole {
        Ok(None) => assert!(bytes.len() < max_head, "more is read than the limit"),
        Err(refusal) => check_refusal(&refusal),
        Ok(Some((head, used))) => {
            assert!(used <= max_head.min(bytes.len()));
            check_head(&head, &bytes[..used]);
            check_meaning(&head);
        }
    }
});

fn summary(verdict: &Verdict) -> impl PartialEq + std::fmt::Debug + use<> {
    match verdict {
        Ok(None) => None,
        Err(refusal) => Some(Err(refusal.clone())),
        Ok(Some((head, used))) => {
            let headers: Vec<_> =
                head.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            let (path, query) = (head.path().to_owned(), head.query().to_owned());
            Some(Ok((*used, head.method(), path, query, headers)))
        }
    }
}

fn check_head(head: &Head, bytes: &[u8]) {
    assert!(
        head.path().starts_with('/') && head.path().bytes().all(|byte| byte.is_ascii_graphic())
    );
    assert!(!decoded(head.path()).split(|byte| *byte == b'/').any(|segment| segment == b".."));
    assert!(head.query().bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(head.headers().count() <= MAX_HEADERS);
    let hosts = head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("host")).count();
    assert!(hosts == 1 || hosts == 0 && head.is_http_1_0());
    for (_, value) in head.headers() {
        assert!(!value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
    }
    // httparse knows only HTTP/1.0 and 1.1.
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut other = httparse::Request::new(&mut fields);
    match other.parse(bytes) {
        Err(httparse::Error::Version) => {}
        verdict => {
            assert_eq!(verdict, Ok(httparse::Status::Complete(bytes.len())));
            let method = match other.method.unwrap() {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" => Method::Post,
                "OPTIONS" => Method::Options,
                _ => Method::Other,
            };
            assert_eq!(head.method(), method);
            assert!(other.path.unwrap().contains(head.query()));
            let ours: Vec<_> = head.headers().collect();
            let theirs: Vec<_> =
                other.headers.iter().map(|h| (h.name, h.value.trim_ascii())).collect();
            assert_eq!(ours, theirs);
        }
    }
}

fn check_meaning(head: &Head) {
    match check_upgrade(head) {
        Err(refusal) => check_refusal(&refusal),
        Ok(accept) => {
            let key = head.header("sec-websocket-key").unwrap();
            let expected = tungstenite::handshake::derive_accept_key(key.as_bytes());
            assert_eq!(accept, expected);
            let offered = ["chat".to_owned(), "echo.v2".to_owned()];
            let protocol = choose_protocol(head, &offered);
            let answer = switching(&accept, protocol);
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Response::new(&mut fields);
            assert_eq!(parsed.parse(&answer), Ok(httparse::Status::Complete(answer.len())));
            assert_eq!(parsed.code, Some(101));
        }
    }
    match post_body(head, 1000) {
        Ok(BodyEnd::Length(length)) => assert!(length <= 1000),
        Ok(BodyEnd::Chunked) => assert!(head.header("content-length").is_none()),
        Err(refusal) => check_refusal(&refusal),
    }
    assert!(ident(head).is_none_or(|name| (1..=256).contains(&name.len())));
}

fn check_refusal(refusal: &Refusal) {
    assert!(!refusal.reason().contains(char::is_control), "{:?}", refusal.reason());
    let answer = refusal.to_bytes();
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(used)) = parsed.parse(&answer) else {
        panic!("not an HTTP response: {}", answer.escape_ascii());
    };
    assert_eq!(parsed.code, Some(refusal.status()));
    assert!((400..600).contains(&refusal.status()));
    let value = |name: &str| {
        let field = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        std::str::from_utf8(field.unwrap().value).unwrap()
    };
    assert_eq!(value("content-length"), (answer.len() - used).to_string());
    assert_eq!(value("connection"), "close");
}

/// Decodes a path leniently.
fn decoded(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}
