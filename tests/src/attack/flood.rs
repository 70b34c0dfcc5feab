//! Attacks by clients that send at full speed, or that do not read.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::peer::Peer;
use super::{Metric, Target};
use crate::raw::{masked, opcode};

/// The number of flooding clients.
const CLIENTS: usize = 20;

/// Floods with small messages and reads their echoes.
pub(super) async fn small_messages(target: &Target) -> Vec<Metric> {
    flood(target, "/echo", b"", masked(opcode::TEXT, b"sixteen bytes ..")).await
}

/// Floods with empty messages.
pub(super) async fn empty_messages(target: &Target) -> Vec<Metric> {
    flood(target, "/echo", b"", masked(opcode::TEXT, b"")).await
}

/// Floods with empty fragments of a message that never ends.
pub(super) async fn empty_fragments(target: &Target) -> Vec<Metric> {
    flood(target, "/echo", &masked(0x01, b""), masked(0x00, b"")).await
}

/// Floods with empty pings and reads the pongs.
pub(super) async fn pings(target: &Target) -> Vec<Metric> {
    flood(target, "/echo", b"", masked(opcode::PING, b"")).await
}

/// Floods with `bufferON`.
pub(super) async fn buffers(target: &Target) -> Vec<Metric> {
    flood(target, "/talk", b"", masked(opcode::TEXT, b"bufferON")).await
}

/// Joins two chat rooms in turn.
pub(super) async fn joins(target: &Target) -> Vec<Metric> {
    let join =
        |room| masked(opcode::TEXT, format!(r#"{{"opcode":"join","room":"{room}"}}"#).as_bytes());
    flood(target, "/chat", b"", [join("a"), join("b")].concat()).await
}

/// Sends pings of maximum size from five clients that never read.
pub(super) async fn pings_unread(target: &Target) -> Vec<Metric> {
    let begun = Instant::now();
    let mut flooding = JoinSet::new();
    for _ in 0..5 {
        let Ok(peer) = Peer::open(target.address, "/echo").await else { continue };
        let (read, write) = peer.into_stream().into_split();
        let block = masked(opcode::PING, &[b'p'; 125]).repeat(500);
        let length = target.scale.length;
        flooding.spawn(async move {
            let sent = write_until(write, block, begun + length).await;
            // Neither read nor closed until the end.
            drop(read);
            sent
        });
    }
    let sent: u64 = flooding.join_all().await.into_iter().sum();
    vec![Metric::unlimited("sent", megabytes(sent))]
}

/// Broadcasts to a hundred clients that do not read and to a few that do.
pub(super) async fn slow_readers(target: &Target) -> Vec<Metric> {
    const READERS: usize = 5;
    let until = Instant::now() + target.scale.length;
    let mut slow = Vec::new();
    for _ in 0..100 {
        slow.extend(Peer::open(target.address, "/web").await.ok());
    }
    let mut listening = JoinSet::new();
    for _ in 0..READERS {
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
    let received = listening.join_all().await;
    let lost: u64 = received.iter().map(|received| sent.saturating_sub(*received)).sum();
    drop(slow);
    vec![
        Metric::unlimited("broadcasts", sent.to_string()),
        Metric::count("lost by clients that read", lost, 0),
    ]
}

/// Returns the number of broadcasts received before the last one.
async fn listen(mut peer: Peer, until: Instant) -> u64 {
    let mut received = 0;
    let left = until.saturating_duration_since(Instant::now());
    let all = timeout(left, async {
        while let Ok(message) = peer.message().await {
            if message.ends_with(br#""message":"last"}"#) {
                break;
            }
            received += u64::from(message.starts_with(br#"{"opcode":"broadcast""#));
        }
    });
    drop(all.await);
    received
}

/// Writes `first`, then `frame` repeatedly, and reads the answers.
async fn flood(target: &Target, path: &str, first: &[u8], frame: Vec<u8>) -> Vec<Metric> {
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
        flooding.spawn(async move {
            tokio::join!(write_until(write, block, until), read_until(read, until))
        });
    }
    let sums = flooding.join_all().await;
    let (sent, received) = sums.iter().fold((0, 0), |(s, r), (sent, read)| (s + sent, r + read));
    let cpu = target.process.cpu().saturating_sub(cpu).as_secs_f64();
    let rate = sent as f64 / frame.len() as f64 / begun.elapsed().as_secs_f64();
    let per_byte = cpu * 1e9 / (sent.max(1)) as f64;
    vec![
        Metric::unlimited("frames", format!("{rate:.0}/s")),
        Metric::unlimited("CPU", format!("{per_byte:.0} ns per byte sent")),
        Metric::ratio("bytes back", received as f64 / sent.max(1) as f64),
    ]
}

/// Writes a block repeatedly; returns the number of bytes written.
async fn write_until(mut write: OwnedWriteHalf, block: Vec<u8>, until: Instant) -> u64 {
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

async fn read_until(mut read: OwnedReadHalf, until: Instant) -> u64 {
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

/// Reads until the end of the stream; returns the number of bytes.
pub(super) async fn read_to_end(stream: &mut TcpStream) -> u64 {
    let mut buffer = vec![0; 64 * 1024];
    let mut received = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        received += count as u64;
    }
    received
}
