//! Every request of `tests/corpus/requests.txt` over TCP, Unix sockets and TLS: one valid response
//! or a clean end in bounded time, and no refused request reaches an application.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use plugsocket_tests::corpus::{Expected, Row, one_response, rows};
use plugsocket_tests::{Address, Authority, DEADLINE, Request, Setup, Stream, TestHost};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
/// The time limit of a request; the host waits for none longer than `close_timeout`.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Starts a host; returns its addresses: TCP, a Unix socket, TLS.
async fn host() -> (TestHost, Vec<Address>) {
    let authority = Authority::default();
    let host = Setup::new(PROGRAM)
        .server("listen", r#"["127.0.0.1:0", "unix:host.sock"]"#)
        .server("unknown_resource", r#""404""#)
        .server("allowed_origins", r#"["https://good.example"]"#)
        .resource("/speak", "speaker")
        .with_tls(&authority.issue(&["localhost"]))
        .start()
        .await;
    let [tcp, unix, tls] = host.addresses() else { panic!("{:?}", host.addresses()) };
    let addresses = vec![tcp.clone(), unix.clone(), authority.tls_address(tls, "localhost")];
    (host, addresses)
}

/// How a request is split into writes.
#[derive(Clone, Copy, Debug)]
enum Split {
    Whole,
    Bytes,
    At(usize),
}

async fn write(stream: &mut Stream, bytes: &[u8], split: Split) {
    let parts: Vec<&[u8]> = match split {
        Split::Whole => vec![bytes],
        Split::Bytes => bytes.chunks(1).collect(),
        Split::At(at) => vec![&bytes[..at], &bytes[at..]],
    };
    for part in parts {
        // The host may answer and close before the last byte.
        if stream.write_all(part).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Sends a row and checks the response; returns what is wrong with it.
async fn check(address: &Address, row: &Row, split: Split) -> Result<(), String> {
    let begun = Instant::now();
    let mut stream = address.connect().await;
    let answer = async {
        write(&mut stream, &row.bytes, split).await;
        let mut bytes = Vec::new();
        match row.expected {
            Expected::Switching => {
                while !bytes.ends_with(b"\r\n\r\n") {
                    bytes.push(stream.read_u8().await.map_err(|e| format!("{e}: {bytes:?}"))?);
                }
                return Ok(bytes);
            }
            Expected::Close => stream.shutdown().await.map_err(|e| e.to_string())?,
            Expected::Status(_) => {}
        }
        stream.read_to_end(&mut bytes).await.map_err(|e| format!("{e} after {bytes:?}"))?;
        Ok::<_, String>(bytes)
    };
    let bytes =
        timeout(DEADLINE, answer).await.map_err(|_| "the connection does not end".to_owned())??;
    if begun.elapsed() > TIME_LIMIT {
        return Err(format!("it took {:?}", begun.elapsed()));
    }
    let text = String::from_utf8_lossy(&bytes);
    match row.expected {
        Expected::Close if bytes.is_empty() => Ok(()),
        Expected::Close => Err(format!("unexpected response: {text}")),
        // RFC 6455, section 1.3: the value for the key that most rows use.
        Expected::Switching if row.bytes.windows(12).any(|w| w == b"dGhlIHNhbXBs") => {
            let accept = "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
            let extra = ["\r\nSec-WebSocket-Extensions:", "\r\nSec-WebSocket-Protocol:"];
            let is_right = text.starts_with("HTTP/1.1 101 ") && text.contains(accept);
            let is_right = is_right && !extra.iter().any(|name| text.contains(name));
            if is_right { Ok(()) } else { Err(text.into_owned()) }
        }
        Expected::Switching if text.starts_with("HTTP/1.1 101 ") => Ok(()),
        Expected::Switching => Err(text.into_owned()),
        Expected::Status(status) if is_head(&row.bytes) => {
            let is_right = text.starts_with(&format!("HTTP/1.1 {status} "));
            // RFC 9110, section 8.6: a Content-Length is that of the response to a GET, which a
            // refusal is not.
            let is_page = row.bytes.windows(17).any(|bytes| bytes == b"HEAD /plugsocket/");
            let is_right = is_right && text.contains("\r\nContent-Length:") == is_page;
            let is_right = is_right && text.find("\r\n\r\n") == Some(text.len() - 4);
            if is_right { Ok(()) } else { Err(text.into_owned()) }
        }
        Expected::Status(status) => match one_response(&bytes)? {
            response if response.status == status => Ok(()),
            response => Err(format!("{response:?}")),
        },
    }
}

/// Returns whether this is a HEAD request, whose response has no content (RFC 9110, section 9.3.2).
fn is_head(request: &[u8]) -> bool {
    request.strip_prefix(b"\r\n").unwrap_or(request).starts_with(b"HEAD ")
}

/// Sends rows to an address, a limited number at a time; returns all faults.
async fn faults(address: &Address, trials: Vec<(Row, Split)>) -> Vec<String> {
    const AT_ONCE: usize = 16;
    let mut found = Vec::new();
    let mut requests = JoinSet::new();
    for (row, split) in trials {
        if requests.len() == AT_ONCE {
            found.extend(requests.join_next().await.unwrap().unwrap());
        }
        let address = address.clone();
        requests.spawn(async move {
            let fault = check(&address, &row, split).await.err();
            fault.map(|fault| format!("{} ({split:?}): not {:?}: {fault}", row.name, row.expected))
        });
    }
    found.extend(requests.join_all().await.into_iter().flatten());
    found
}

/// Expects that the application has seen no session except the one opened here.
async fn expect_no_session(host: &TestHost) {
    let good = Request::to("/speak").header("Origin", "https://good.example");
    let mut client = host.open(good).await.ready().await;
    let calls = client.ask(&json!({"do": "log-of-calls"})).await;
    let uuid = client.uuid();
    let only = json!([{"call": "open", "uuid": uuid}, {"call": "message", "uuid": uuid}]);
    assert_eq!(calls, only);
}

fn refused() -> impl Iterator<Item = Row> {
    rows().into_iter().filter(|row| row.expected != Expected::Switching)
}

#[test]
fn the_corpus_has_at_least_200_hostile_rows_with_unique_names() {
    let names: HashSet<String> = rows().into_iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows().len());
    assert!(refused().count() >= 200, "{}", refused().count());
}

#[tokio::test]
async fn each_hostile_request_gets_one_valid_response_on_every_socket_and_opens_no_session() {
    let (host, addresses) = host().await;
    for address in &addresses {
        let found = faults(address, refused().map(|row| (row, Split::Whole)).collect()).await;
        assert!(found.is_empty(), "over {address:?}:\n{}", found.join("\n"));
    }
    expect_no_session(&host).await;
}

#[tokio::test]
async fn the_response_does_not_depend_on_how_a_request_is_split() {
    const SHORT: usize = 700;
    let (host, _) = host().await;
    let short = || refused().filter(|row| row.bytes.len() <= SHORT);
    let mut trials: Vec<(Row, Split)> = short().map(|row| (row, Split::Bytes)).collect();
    // Every tenth request is split at each of its bytes.
    for row in short().step_by(10) {
        trials.extend((1..row.bytes.len()).map(|at| (row.clone(), Split::At(at))));
    }
    assert!(trials.len() > 2000, "{}", trials.len());
    let found = faults(host.address(), trials).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
    expect_no_session(&host).await;
}

#[tokio::test]
async fn unusual_valid_requests_are_accepted_on_every_socket() {
    let (_host, addresses) = host().await;
    for address in &addresses {
        let right = rows().into_iter().filter(|row| row.expected == Expected::Switching);
        let trials = right.flat_map(|row| [(row.clone(), Split::Whole), (row, Split::Bytes)]);
        let found = faults(address, trials.collect()).await;
        assert!(found.is_empty(), "over {address:?}:\n{}", found.join("\n"));
    }
}

/// The table names the rows and tests that verify each requirement.
#[test]
fn each_requirement_of_the_standards_names_rows_and_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: HashSet<String> = rows().into_iter().map(|row| row.name).collect();
    let table =
        std::fs::read_to_string(root.join("../docs/reference/handshake-conformance.md")).unwrap();
    let mut numbers = 0;
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")) {
        numbers += 1;
        let [number, _, _, shown] = line.trim_matches('|').split(" | ").collect::<Vec<_>>()[..]
        else {
            panic!("not four fields: {line}")
        };
        assert_eq!(number.trim(), numbers.to_string(), "{line}");
        for name in shown.split(';').map(str::trim).filter(|name| !name.starts_with("**")) {
            let exists = match name.split_once("::") {
                Some((file, test)) => {
                    let file = root.join(format!("tests/{file}.rs"));
                    std::fs::read_to_string(file).unwrap().contains(&format!("fn {test}("))
                }
                None => names.contains(name),
            };
            assert!(exists, "{number}: {name:?} is neither a row nor a test");
        }
    }
    assert!(numbers >= 100, "{numbers}");
}
