//! Attacks by messages that cost the server more than the client: amplification, false lengths,
//! deep JSON.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::flood::read_to_end;
use super::peer::{Peer, connect};
use super::{Metric, Target};
use crate::raw::{RawClient, masked, opcode};

/// Measures the number of bytes that the server sends for each byte received.
pub(super) async fn amplification(target: &Target) -> Vec<Metric> {
    // The TCP segments that open and close a connection count as bytes of the attacker.
    const SEGMENTS: usize = 5 * 40;
    let many = |frame: Vec<u8>| frame.repeat(10_000);
    let handshake = RawClient::handshake("/echo").into_bytes();
    let mut metrics = Vec::new();
    for (what, path, bytes) in [
        ("empty ping", "/echo", many(masked(opcode::PING, b""))),
        ("empty message, echoed", "/echo", many(masked(opcode::TEXT, b""))),
        ("empty message in the dialog", "/talk", many(masked(opcode::TEXT, b""))),
        ("bufferON", "/talk", many(masked(opcode::TEXT, b"bufferON"))),
        ("violation", "/talk", masked(0xf1, b"")),
    ] {
        if path == "/talk" && !target.is_host {
            continue;
        }
        let Ok(peer) = Peer::open(target.address, path).await else { continue };
        let sent = bytes.len() + handshake.len() + SEGMENTS;
        let received = exchange(peer.into_stream(), &bytes).await;
        metrics.push(Metric::amplified(what, received as f64 / sent as f64));
    }
    for (what, bytes) in [
        ("refused head", b"x\r\n\r\n".to_vec()),
        ("unknown path", RawClient::handshake("/nowhere").into_bytes()),
        ("page", b"GET /plugsocket/page.js HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
    ] {
        let Ok(stream) = connect(target.address).await else { continue };
        let received = exchange(stream, &bytes).await;
        metrics.push(Metric::amplified(what, received as f64 / (bytes.len() + SEGMENTS) as f64));
    }
    metrics
}

/// Sends `bytes`; returns the number of bytes received.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> u64 {
    if stream.write_all(bytes).await.is_err() {
        return 0;
    }
    // The connection may stay open, so reading ends after a second of silence.
    let mut received = 0;
    let mut part = vec![0; 64 * 1024];
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(1), stream.read(&mut part)).await {
        received += count as u64;
    }
    received
}

/// Sends frame headers with lengths beyond any limit.
pub(super) async fn lengths(target: &Target) -> Vec<Metric> {
    let mut slowest = Duration::ZERO;
    let mut open = 0;
    for length in [1_u64 << 63, u64::MAX, (1 << 63) - 1, 1 << 40, 1 << 32] {
        for first in [opcode::TEXT, opcode::BINARY, 0x01] {
            let Ok(mut peer) = Peer::open(target.address, "/echo").await else { continue };
            let header = [&[first, 0x80 | 127][..], &length.to_be_bytes(), &[1, 2, 3, 4]].concat();
            let begun = Instant::now();
            drop(peer.write(&header).await);
            drop(peer.write(&[0; 1000]).await);
            let mut stream = peer.into_stream();
            if timeout(Duration::from_secs(5), read_to_end(&mut stream)).await.is_err() {
                open += 1;
            }
            slowest = slowest.max(begun.elapsed());
        }
    }
    vec![
        Metric::count("still open", open, 0),
        Metric::seconds("slowest end", slowest, open == 0, Duration::from_secs(1)),
    ]
}

/// Sends JSON that is 100,000 levels deep, and invalid or expensive JSON of maximum size.
pub(super) async fn deep_json(target: &Target) -> Vec<Metric> {
    let paths: &[&str] = if target.is_host { &["/web", "/chat"] } else { &["/json"] };
    let deep = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    let mut sent = 0;
    for path in paths {
        for text in [
            deep("[", "]"),
            deep(r#"{"a":"#, "}"),
            format!(r#"{{"opcode":"broadcast","message":{}}}"#, deep("[", "]")),
            "[".repeat(10_000_000),
            format!("[{}1]", "1,".repeat(5_000_000)),
            format!(r#"{{"opcode":"echo","message":"{}"}}"#, r"\u0000".repeat(1_000_000)),
        ] {
            let Ok(mut peer) = Peer::open(target.address, path).await else { continue };
            drop(peer.send(text.as_bytes()).await);
            let end = masked(opcode::CLOSE, &1000_u16.to_be_bytes());
            drop(peer.write(&end).await);
            drop(timeout(Duration::from_secs(10), read_to_end(&mut peer.into_stream())).await);
            sent += 1;
        }
    }
    vec![Metric::unlimited("messages", sent.to_string())]
}
