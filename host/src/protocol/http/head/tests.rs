use super::*;

const MAX_HEAD: usize = 8192;

/// `expected` is the path, the status of the refusal, or `Ok("")` for an incomplete head.
fn check(head: &[u8], expected: Result<&str, u16>) {
    let found = |result: &Result<Option<(Head, usize)>, Refusal>| match result {
        Ok(Some((head, _))) => Ok(head.path().to_owned()),
        Ok(None) => Ok(String::new()),
        Err(refusal) => Err(refusal.status()),
    };
    let expected = expected.map(str::to_owned);
    let whole = Head::parse(head, MAX_HEAD);
    assert_eq!(found(&whole), expected, "{} {whole:?}", head.escape_ascii());
    if let Ok(Some((_, used))) = whole {
        assert_eq!(used, head.len(), "{}", head.escape_ascii());
    }
    let mut reader = HeadReader::new(MAX_HEAD);
    let split = (0..=head.len()).find_map(|len| reader.read(&head[..len]).transpose()).transpose();
    assert_eq!(found(&split), expected, "byte by byte: {}", head.escape_ascii());
}

/// Returns a head with a valid request line and these header lines.
fn fields(lines: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

const REQUEST_LINES: &[(&str, Result<&str, u16>)] = &[
    ("GET /x HTTP/1.1", Ok("/x")),
    ("POST /x HTTP/1.1", Ok("/x")),
    ("get /x HTTP/1.1", Ok("/x")),
    ("M-SEARCH /x HTTP/1.1", Ok("/x")),
    ("GET /x HTTP/1.2", Ok("/x")),
    ("GET /x?y HTTP/1.9", Ok("/x")),
    ("GET http://h HTTP/1.1", Ok("/")),
    ("GET http://other/x?y HTTP/1.1", Ok("/x")),
    ("GET WSS://[::1]:1/x HTTP/1.1", Ok("/x")),
    ("GET /x HTTP/1.0", Ok("/x")),
    ("GET /x HTTP/2.0", Err(505)),
    ("GET /x HTTP/0.9", Err(505)),
    ("GET /x HTTP/3.7", Err(505)),
    ("PRI * HTTP/2.0", Err(505)),
    ("GET /x HTTP/2", Err(400)),
    ("GET /x HTTP/1.10", Err(400)),
    ("GET /x HTTP/11.1", Err(400)),
    ("GET /x HTTP/1,1", Err(400)),
    ("GET /x http/1.1", Err(400)),
    ("GET /x HTTPS/1.1", Err(400)),
    ("GET /x ICY/1.1", Err(400)),
    ("GET /x", Err(400)),
    ("GET", Err(400)),
    ("GET  HTTP/1.1", Err(400)),
    ("GET  /x HTTP/1.1", Err(400)),
    ("GET /x  HTTP/1.1", Err(400)),
    ("GET /x HTTP/1.1 ", Err(400)),
    (" GET /x HTTP/1.1", Err(400)),
    ("GET /x y HTTP/1.1", Err(400)),
    ("GET\t/x HTTP/1.1", Err(400)),
    ("GET /x\tHTTP/1.1", Err(400)),
    ("GET /x\tHTTP/1.1 HTTP/1.1", Err(400)),
    ("G(T /x HTTP/1.1", Err(400)),
    ("G\u{e4}T /x HTTP/1.1", Err(400)),
    ("\"GET\" /x HTTP/1.1", Err(400)),
    (" /x HTTP/1.1", Err(400)),
    ("GET /\u{e4} HTTP/1.1", Err(400)),
    ("GET /x\0 HTTP/1.1", Err(400)),
    ("GET /\u{7f} HTTP/1.1", Err(400)),
    ("GET /\u{1b}[0m HTTP/1.1", Err(400)),
    ("GET /x#y HTTP/1.1", Err(400)),
    ("GET /x?y#z HTTP/1.1", Err(400)),
    ("OPTIONS * HTTP/1.1", Ok("/")),
    ("OPTIONS *?x HTTP/1.1", Err(400)),
    ("OPTIONS ** HTTP/1.1", Err(400)),
    ("options * HTTP/1.1", Err(400)),
    ("GET * HTTP/1.1", Err(400)),
    ("CONNECT h:443 HTTP/1.1", Err(400)),
    ("GET h HTTP/1.1", Err(400)),
    ("GET x/y HTTP/1.1", Err(400)),
    ("GET ftp://h/x HTTP/1.1", Err(400)),
    ("GET file:///x HTTP/1.1", Err(400)),
    ("GET http:///x HTTP/1.1", Err(400)),
    ("GET http://u:p@h/x HTTP/1.1", Err(400)),
    ("GET /../x HTTP/1.1", Err(400)),
    ("GET /x/.. HTTP/1.1", Err(400)),
    ("GET /x/%2e%2E/y HTTP/1.1", Err(400)),
    ("GET /x%2f..%2Fy HTTP/1.1", Err(400)),
    ("GET http://h/../x HTTP/1.1", Err(400)),
    ("GET /x\\..\\y HTTP/1.1", Err(400)),
    ("GET /x%5c..%5Cy HTTP/1.1", Err(400)),
    ("GET /x%00 HTTP/1.1", Err(400)),
    ("GET /x%0d%0aSet-Cookie:%20a HTTP/1.1", Err(400)),
    ("GET /%zz HTTP/1.1", Err(400)),
    ("GET /x% HTTP/1.1", Err(400)),
    ("GET /x%4 HTTP/1.1", Err(400)),
    ("\u{16}\u{3}\u{1}\u{2}", Err(400)),
];

#[test]
fn a_request_line_is_method_path_and_version() {
    for (line, expected) in REQUEST_LINES {
        check(format!("{line}\r\nHost: h\r\n\r\n").as_bytes(), *expected);
    }
}

const HEADER_LINES: &[(&str, Result<&str, u16>)] = &[
    ("Host: h\r\n", Ok("/x")),
    ("hOST:h\r\n", Ok("/x")),
    ("Host: \t h \t\r\n", Ok("/x")),
    ("Host: [::1]:8095\r\n", Ok("/x")),
    ("Host: h:\r\n", Ok("/x")),
    ("Host: h\r\nEmpty:\r\nBlank:  \r\n", Ok("/x")),
    ("Host: h\r\nX: a\tb\r\n", Ok("/x")),
    ("Host: h\r\nX: \u{e4}\r\n", Ok("/x")),
    ("Host: h\r\n!#$%&'*+-.^_`|~09: x\r\n", Ok("/x")),
    ("Host: h\r\nX: :::\r\n", Ok("/x")),
    ("Host: h\r\nContent-Length: 0\r\n", Ok("/x")),
    ("Host: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Ok("/x")),
    ("Host: h\r\nContent-Length: 5, 05\r\n", Ok("/x")),
    ("Host: h\r\nTransfer-Encoding: chunked\r\n", Ok("/x")),
    ("", Err(400)),
    ("X: y\r\n", Err(400)),
    ("Host:\r\n", Err(400)),
    ("Host: h\r\nHost: h\r\n", Err(400)),
    ("Host: h\r\nX: y\r\nHOST: i\r\n", Err(400)),
    ("Host: h, i\r\n", Err(400)),
    ("Host: h i\r\n", Err(400)),
    ("Host: http://h\r\n", Err(400)),
    ("Host: u@h\r\n", Err(400)),
    ("Host: h/x\r\n", Err(400)),
    ("Host: h:x\r\n", Err(400)),
    ("Host: h:65536\r\n", Err(400)),
    ("Host: [::1\r\n", Err(400)),
    ("Host: ::1\r\n", Err(400)),
    ("Host: \u{e4}\r\n", Err(400)),
    ("Host : h\r\n", Err(400)),
    ("Host\t: h\r\n", Err(400)),
    (" Host: h\r\n", Err(400)),
    ("\tHost: h\r\n", Err(400)),
    ("Host: h\r\n X: y\r\n", Err(400)),
    ("Host: h\r\nX: y\r\n folded\r\n", Err(400)),
    ("Host: h\r\nX: y\r\n\tfolded\r\n", Err(400)),
    ("Host: h\r\nX:\r\n y\r\n", Err(400)),
    ("Host: h\r\nX : y\r\n", Err(400)),
    ("Host: h\r\nX Y: z\r\n", Err(400)),
    ("Host: h\r\n: y\r\n", Err(400)),
    ("Host: h\r\nno colon\r\n", Err(400)),
    ("Host: h\r\nX(: y\r\n", Err(400)),
    ("Host: h\r\n\u{e4}: y\r\n", Err(400)),
    ("Host: h\r\nX\0: y\r\n", Err(400)),
    ("Host: h\r\nX: y\0z\r\n", Err(400)),
    ("Host: h\r\nX: y\u{1}\r\n", Err(400)),
    ("Host: h\r\nX: y\u{7f}\r\n", Err(400)),
    ("Host: h\r\nX: y\u{b}\r\n", Err(400)),
    ("Host: h\r\nX: y\rz\r\n", Err(400)),
    ("Host: h\r\nX: y\r\r\n", Err(400)),
    ("Host: h\r\nX: y\nZ: a\r\n", Err(400)),
    ("Host: h\n", Err(400)),
    ("Host: h\n\n", Err(400)),
    ("Host: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Err(400)),
    ("Host: h\r\nContent-Length: 5, 6\r\n", Err(400)),
    ("Host: h\r\nContent-Length: 5,\r\n", Err(400)),
    ("Host: h\r\nContent-Length:\r\n", Err(400)),
    ("Host: h\r\nContent-Length: +5\r\n", Err(400)),
    ("Host: h\r\nContent-Length: -5\r\n", Err(400)),
    ("Host: h\r\nContent-Length: 0x5\r\n", Err(400)),
    ("Host: h\r\nContent-Length: 5 5\r\n", Err(400)),
    ("Host: h\r\nContent-Length: \u{664}\r\n", Err(400)),
    ("Host: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(400)),
    ("Host: h\r\ntransfer-encoding: x\r\nCONTENT-LENGTH: 0\r\n", Err(400)),
];

#[test]
fn a_head_has_valid_lines_one_host_and_one_length() {
    for (lines, expected) in HEADER_LINES {
        check(&fields(lines), *expected);
    }
}

#[test]
fn a_head_of_http_1_0_may_lack_a_host_and_has_no_transfer_coding() {
    for (lines, expected) in [
        ("", Ok("/x")),
        ("Content-Length: 5\r\n", Ok("/x")),
        ("Host: h\r\n", Ok("/x")),
        ("Host: h\r\nHost: h\r\n", Err(400)),
        ("Host:\r\n", Err(400)),
        ("Host: u@h\r\n", Err(400)),
        ("Transfer-Encoding: chunked\r\n", Err(400)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(400)),
    ] {
        check(format!("POST /x HTTP/1.0\r\n{lines}\r\n").as_bytes(), expected);
    }
}

#[test]
fn a_head_begins_and_ends_with_its_lines_within_the_limits() {
    let many = |count: usize| fields(&format!("Host: h\r\n{}", "X: y\r\n".repeat(count - 1)));
    let long = |len: usize| {
        let bare = fields("Host: h\r\nX: \r\n").len();
        fields(&format!("Host: h\r\nX: {}\r\n", "y".repeat(len - bare)))
    };
    for (head, expected) in [
        (b"".to_vec(), Ok("")),
        (b"\r".to_vec(), Ok("")),
        (b"\r\n".to_vec(), Ok("")),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\r".to_vec(), Ok("")),
        (b"\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Ok("/x")),
        (b"\r\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
        (b"\r\n\r\n".to_vec(), Err(400)),
        (b"\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
        (b"\rGET /x HTTP/1.1\r\n".to_vec(), Err(400)),
        (b"GET /x HTTP/1.1\n".to_vec(), Err(400)),
        (b"GET /x HTTP/1.1\r\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
        (b"GET /x HTTP/1.1\r\n\r\n".to_vec(), Err(400)),
        (b"\xff\xfe\r\n\r\n".to_vec(), Err(400)),
        (b"\x80\x80 /x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(), Err(400)),
        (b"GET /x HTTP/1.1\r\nHost: h\r\nX: \xff\r\n\r\n".to_vec(), Ok("/x")),
        (many(MAX_HEADERS), Ok("/x")),
        (many(MAX_HEADERS + 1), Err(431)),
        (many(1000), Err(431)),
        (long(MAX_HEAD), Ok("/x")),
        (long(MAX_HEAD + 1), Err(431)),
        (vec![b'a'; MAX_HEAD - 1], Ok("")),
        (vec![b'a'; MAX_HEAD], Err(431)),
        (vec![b'a'; MAX_HEAD * 2], Err(431)),
    ] {
        check(&head, expected);
    }
}

#[test]
fn bytes_after_a_head_are_not_examined() {
    let mut sent = fields("Host: h\r\n");
    let len = sent.len();
    sent.extend_from_slice(b"\0\n\xffbody");
    assert_eq!(Head::parse(&sent, len).unwrap().unwrap().1, len);
    assert_eq!(Head::parse(&sent, len - 1).unwrap_err().status(), 431);
    sent.splice(..0, *b"\r\n");
    let (head, used) = Head::parse(&sent, MAX_HEAD).unwrap().unwrap();
    assert_eq!((used, head.path(), head.block.len()), (len + 2, "/x", len));
}

#[test]
fn a_lookup_ignores_case_and_finds_the_first_value() {
    let text = b"POST http://h/a/b?c=%2 HTTP/1.1\r\nHost: h\r\nX: 1 \r\nx:2\r\nBad: \xff\r\nEmpty:\r\n\r\n";
    let head = Head::parse(text, MAX_HEAD).unwrap().unwrap().0;
    assert_eq!((head.method(), head.path(), head.query()), (Method::Post, "/a/b", "c=%2"));
    for (name, expected) in [
        ("host", Some("h")),
        ("HOST", Some("h")),
        ("x", Some("1")),
        ("bad", None),
        ("empty", Some("")),
        ("none", None),
        ("", None),
    ] {
        assert_eq!(head.header(name), expected, "{name}");
    }
    let all: Vec<(&str, &[u8])> = head.headers().collect();
    let expected: [(&str, &[u8]); 5] =
        [("Host", b"h"), ("X", b"1"), ("x", b"2"), ("Bad", b"\xff"), ("Empty", b"")];
    assert_eq!(all, expected);
    assert_eq!(format!("{head:?}"), "Head { method: Post, path: \"/a/b\", .. }");
}

#[test]
fn an_absolute_form_without_a_path_means_the_root() {
    let head =
        Head::parse(b"GET ws://h?q HTTP/1.1\r\nHost: h\r\n\r\n", MAX_HEAD).unwrap().unwrap().0;
    assert_eq!((head.path(), head.query()), ("/", "q"));
}

#[test]
fn refusals_do_not_quote_the_request() {
    let target = "the request target is not a path that begins with a slash";
    let line = "the request line is malformed: it is method, target and HTTP/1.1, with one space between them";
    for (first, host, reason) in [
        ("GET http://u:SECRET@h/x HTTP/1.1", "h", "the request target has user information"),
        ("GET http://u:a/SECRET@h HTTP/1.1", "h", target),
        ("GET http://u:SECRET%40h/ HTTP/1.1", "h", target),
        ("GET u:SECRET@h:443 HTTP/1.1", "h", target),
        ("GET ftp://h/x?SECRET HTTP/1.1", "h", target),
        ("GET http://u:SECRET@h", "h", line),
        ("Authorization: Bearer SECRET", "h", line),
        (r#"{"opcode":"feedback","message":"SECRET"}"#, "h", line),
        ("GET / HTTP/1.1 Authorization: Bearer SECRET", "h", line),
        ("GET /x HTTP/1.1", "u:SECRET@h", "the Host has user information"),
        ("GET /x HTTP/1.1", "SECRET x", "the Host header is malformed"),
    ] {
        let text = format!("{first}\r\nHost: {host}\r\n\r\n");
        let refusal = Head::parse(text.as_bytes(), MAX_HEAD).unwrap_err();
        assert_eq!((refusal.status(), refusal.reason()), (400, reason), "{first}");
    }
}

#[test]
fn a_head_is_small() {
    assert!(size_of::<Head>() <= 40);
}

/// Damages a valid head at random: nothing panics, and a head that is accepted is well-formed.
#[test]
fn a_damaged_head_is_rejected_or_well_formed() {
    let valid =
        fields("Host: h:1\r\nUpgrade: websocket\r\nContent-Length: 0\r\nX-Forwarded-For: ::1\r\n");
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let bytes = b"\r\n\t\0 :/%.?#\\,;[]\x7f\xff1AH";
    for _ in 0..20_000 {
        let mut head = valid.clone();
        for _ in 0..1 + random(3) {
            let at = random(head.len());
            match random(3) {
                0 => head[at] = bytes[random(bytes.len())],
                1 => head.insert(at, bytes[random(bytes.len())]),
                _ => drop(head.remove(at)),
            }
        }
        if let Ok(Some((head, _))) = Head::parse(&head, MAX_HEAD) {
            assert!(head.path().starts_with('/'));
            assert_eq!(head.values("host").count(), 1);
            assert!(head.headers().all(|(name, value)| {
                !name.is_empty()
                    && value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
            }));
        }
    }
}
