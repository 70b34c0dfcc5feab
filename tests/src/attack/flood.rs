//! Attacks that send as fast as they can, and those that do not read.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::peer::Peer;
use super::{Figure, Target};
use crate::raw::{masked, opcode};

/// How many clients flood at once.
const CLIENTS: usize = 20;

/// Small messages, whose echoes are read.
pub(super) async fn small_messages(target: &Target) -> Vec<Figure> {
    flood(target, "/echo", b"", masked(opcode::TEXT, b"sixteen bytes ..")).await
}

/// Messages of no bytes.
pub(super) async fn empty_messages(target: &Target) -> Vec<Figure> {
    flood(target, "/echo", b"", masked(opcode::TEXT, b"")).await
}

/// Fragments of no bytes, of a message that never ends.
pub(super) async fn empty_fragments(target: &Target) -> Vec<Figure> {
    flood(target, "/echo", &masked(0x01, b""), masked(0x00, b"")).await
}

/// Pings of no bytes, whose pongs are read.
pub(super) async fn pings(target: &Target) -> Vec<Figure> {
    flood(target, "/echo", b"", masked(opcode::PING, b"")).await
}

/// `bufferON` again and again.
pub(super) async fn buffers(target: &Target) -> Vec<Figure> {
    flood(target, "/talk", b"", masked(opcode::TEXT, b"bufferON")).await
}

/// From one room of the chat to another and back.
pub(super) async fn joins(target: &Target) -> Vec<Figure> {
    let join =
        |room| masked(opcode::TEXT, format!(r#"{{"opcode":"join","room":"{room}"}}"#).as_bytes());
    flood(target, "/chat", b"", [join("a"), join("b")].concat()).await
}

/// Pings of the largest size from five peers that never read.
pub(super) async fn pings_unread(target: &Target) -> Vec<Figure> {
    let begun = Instant::now();
    let mut flooding = JoinSet::new();
    for _ in 0..5 {
        let Ok(peer) = Peer::open(target.address, "/echo").await else { continue };
        let (read, write) = peer.into_stream().into_split();
        let block = masked(opcode::PING, &[b'p'; 125]).repeat(500);
        let length = target.scale.length;
        flooding.spawn(async move {
            let sent = pour(write, block, begun + length).await;
            // Not read, but not closed either.
            drop(read);
            sent
        });
    }
    let sent: u64 = flooding.join_all().await.into_iter().sum();
    vec![Figure::plain("sent", megabytes(sent))]
}

/// A hundred listeners that do not read while a broadcaster talks; and others that do.
pub(super) async fn slow_readers(target: &Target) -> Vec<Figure> {
    const GOOD: usize = 5;
    let until = Instant::now() + target.scale.length;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.extend(Peer::open(target.address, "/web").await.ok());
    }
    let mut listening = JoinSet::new();
    for _ in 0..GOOD {
        let Ok(peer) = Peer::open(target.address, "/web").await else { continue };
        listening.spawn(listen(peer, until + Duration::from_secs(20)));
    }
    let Ok(mut speaker) = Peer::open(target.address, "/web").await else { return Vec::new() };
    let filler = "x".repeat(4000);
    let mut sent = 0_u64;
    let mut pace = tokio::time::interval(Duration::from_millis(2));
    while Instant::now() < until {
        pace.tick().await;
        let packet = format!(r#"{{"opcode":"broadcast","message":"{sent} {filler}"}}"#);
        if speaker.send(packet.as_bytes()).await.is_err() {
            break;
        }
        sent += 1;
    }
    drop(speaker.send(br#"{"opcode":"broadcast","message":"last"}"#).await);
    let heard = listening.join_all().await;
    let lost: u64 = heard.iter().map(|heard| sent.saturating_sub(*heard)).sum();
    drop(slow);
    vec![
        Figure::plain("broadcasts", sent.to_string()),
        Figure::count("lost by those who read", lost, 0),
    ]
}

/// How many broadcasts came until the last one.
async fn listen(mut peer: Peer, until: Instant) -> u64 {
    let mut heard = 0;
    let left = until.saturating_duration_since(Instant::now());
    let all = timeout(left, async {
        while let Ok(message) = peer.message().await {
            if message.ends_with(br#""message":"last"}"#) {
                break;
            }
            heard += u64::from(message.starts_with(br#"{"opcode":"broadcast""#));
        }
    });
    drop(all.await);
    heard
}

/// Writes `first` and then `frame` again and again, and reads what comes.
async fn flood(target: &Target, path: &str, first: &[u8], frame: Vec<u8>) -> Vec<Figure> {
    let (begun, cpu) = (Instant::now(), target.process.cpu());
    let until = begun + target.scale.length;
    let mut flooding = JoinSet::new();
    for _ in 0..CLIENTS {
        let Ok(mut peer) = Peer::open(target.address, path).await else { continue };
        if peer.write(first).await.is_err() {
            continue;
        }
        let (read, write) = peer.into_stream().into_split();
        let block = frame.repeat(4096 / frame.len() + 1);
        flooding
            .spawn(async move { tokio::join!(pour(write, block, until), soak_up(read, until)) });
    }
    let sums = flooding.join_all().await;
    let (sent, received) = sums.iter().fold((0, 0), |(s, r), (sent, read)| (s + sent, r + read));
    let cpu = target.process.cpu().saturating_sub(cpu).as_secs_f64();
    let rate = sent as f64 / frame.len() as f64 / begun.elapsed().as_secs_f64();
    let per_byte = cpu * 1e9 / (sent.max(1)) as f64;
    vec![
        Figure::plain("frames", format!("{rate:.0}/s")),
        Figure::plain("processor", format!("{per_byte:.0} ns per byte sent")),
        Figure::ratio("bytes back", received as f64 / sent.max(1) as f64),
    ]
}

/// Writes a block again and again; the bytes that were taken.
async fn pour(mut write: OwnedWriteHalf, block: Vec<u8>, until: Instant) -> u64 {
    let mut sent = 0;
    let left = until.saturating_duration_since(Instant::now());
    let all = timeout(left, async {
        while let Ok(()) = write.write_all(&block).await {
            sent += block.len() as u64;
        }
    });
    drop(all.await);
    sent
}

async fn soak_up(mut read: OwnedReadHalf, until: Instant) -> u64 {
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    let left = until.saturating_duration_since(Instant::now());
    let all = timeout(left, async {
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            received += count as u64;
        }
    });
    drop(all.await);
    received
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Reads everything until the end.
pub(super) async fn rest(stream: &mut TcpStream) -> u64 {
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        received += count as u64;
    }
    received
}
