//! Attacks by many short connections, by too many, and by single messages that cost more than they should.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::flood::rest;
use super::peer::{Peer, connect};
use super::{Figure, Target};
use crate::raw::{RawClient, masked, opcode};

/// More sockets than the server may have open files.
pub(super) async fn descriptors(target: &Target) -> Vec<Figure> {
    const SOCKETS: usize = 400;
    let mut kept = Vec::new();
    for _ in 0..SOCKETS {
        // The system accepts them on behalf of the server.
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), connect(target.address)).await {
            kept.push(stream);
        }
    }
    let (begun, cpu) = (Instant::now(), target.process.cpu());
    sleep(target.scale.length).await;
    let used = target.process.cpu().saturating_sub(cpu).as_secs_f64();
    let share = used / begun.elapsed().as_secs_f64() * 100.0;
    let gone = Instant::now();
    kept.clear();
    let mut serving = Duration::from_secs(99);
    while gone.elapsed() < Duration::from_secs(10) {
        if let Ok(Ok(_)) =
            timeout(Duration::from_secs(2), Peer::open(target.address, "/echo")).await
        {
            serving = gone.elapsed();
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    vec![
        Figure::limited("processor meanwhile", share, 5.0, "%"),
        Figure::seconds(
            "serving again after",
            serving,
            serving.as_secs() < 99,
            Duration::from_secs(1),
        ),
    ]
}

/// Connections that come and go: closed in order, by FIN and by RST, in turn.
pub(super) async fn churn(target: &Target) -> Vec<Figure> {
    let before = target.process.descriptors();
    let until = Instant::now() + target.scale.length;
    let begun = Instant::now();
    let mut churning = JoinSet::new();
    for _ in 0..8 {
        let address = target.address;
        churning.spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < until {
                let Ok(mut peer) = Peer::open(address, "/echo").await else { continue };
                let end = masked(opcode::CLOSE, &1000_u16.to_be_bytes());
                match count % 3 {
                    0 => drop(peer.write(&end).await),
                    1 => {}
                    _ => drop(peer.write(&masked(opcode::TEXT, b"bye")[..4]).await),
                }
                let stream = peer.into_stream();
                // A port that waits two minutes for late packets is one less for the next.
                if !count.is_multiple_of(3) {
                    drop(stream.set_zero_linger());
                }
                drop(stream);
                count += 1;
            }
            count
        });
    }
    let count: u64 = churning.join_all().await.iter().sum();
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let mut left = usize::MAX;
    for _ in 0..100 {
        left = target.process.descriptors().saturating_sub(before);
        if left == 0 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    vec![
        Figure::plain("connections", format!("{count}, {rate:.0}/s")),
        Figure::count("descriptors left", left as u64, 0),
    ]
}

/// What one byte to the server brings out of it at most.
pub(super) async fn amplification(target: &Target) -> Vec<Figure> {
    // The packets that open and close a connection of TCP, with their headers, are bytes of the attacker, too.
    const SEGMENTS: usize = 5 * 40;
    let many = |frame: Vec<u8>| frame.repeat(10_000);
    let good = RawClient::handshake("/echo").into_bytes();
    let mut figures = Vec::new();
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
        let sent = bytes.len() + good.len() + SEGMENTS;
        let received = exchange(peer.into_stream(), &bytes).await;
        figures.push(Figure::amplified(what, received as f64 / sent as f64));
    }
    for (what, bytes) in [
        ("refused head", b"x\r\n\r\n".to_vec()),
        ("unknown path", RawClient::handshake("/nowhere").into_bytes()),
        ("page", b"GET /plugsocket/page.js HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
    ] {
        let Ok(stream) = connect(target.address).await else { continue };
        let received = exchange(stream, &bytes).await;
        figures.push(Figure::amplified(what, received as f64 / (bytes.len() + SEGMENTS) as f64));
    }
    figures
}

/// Sends all of it, reads all that comes.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> u64 {
    if stream.write_all(bytes).await.is_err() {
        return 0;
    }
    // An answer that does not come in a second is none.
    let mut received = 0;
    let mut part = vec![0; 64 * 1024];
    while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(1), stream.read(&mut part)).await {
        received += count as u64;
    }
    received
}

/// Frames that claim lengths that cannot be.
pub(super) async fn lengths(target: &Target) -> Vec<Figure> {
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
            if timeout(Duration::from_secs(5), rest(&mut stream)).await.is_err() {
                open += 1;
            }
            slowest = slowest.max(begun.elapsed());
        }
    }
    vec![
        Figure::count("still open", open, 0),
        Figure::seconds("slowest end", slowest, open == 0, Duration::from_secs(1)),
    ]
}

/// JSON a hundred thousand levels deep, and as much nonsense as fits into a message.
pub(super) async fn deep_json(target: &Target) -> Vec<Figure> {
    let paths: &[&str] = if target.is_host { &["/web", "/chat"] } else { &["/json"] };
    let deep = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    let mut tried = 0;
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
            drop(timeout(Duration::from_secs(10), rest(&mut peer.into_stream())).await);
            tried += 1;
        }
    }
    vec![Figure::plain("messages", tried.to_string())]
}
