//! Slowloris attacks: connections held open by sending little or nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::peer::{Peer, connect};
use super::{Metric, Target};
use crate::raw::{RawClient, masked, opcode};

/// What a connection sends: the beginning at once, the rest one byte per second.
#[derive(Clone, Debug, Default)]
struct SlowSend {
    /// The path of a handshake to perform first.
    path: Option<&'static str>,
    first: Vec<u8>,
    then: Vec<u8>,
    /// Whether to shut down the writing side after `first`.
    ends: bool,
    /// Whether to connect to the TLS port.
    is_secure: bool,
}

/// Sends half a request head and stops.
pub(super) async fn stalled_heads(target: &Target) -> Vec<Metric> {
    let first = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, SlowSend { first, ..SlowSend::default() }, limit).await
}

/// Sends a request head at one byte per second.
pub(super) async fn slow_heads(target: &Target) -> Vec<Metric> {
    let then = RawClient::handshake("/echo").into_bytes();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, SlowSend { then, ..SlowSend::default() }, limit).await
}

/// Sends half a TLS ClientHello and stops.
pub(super) async fn stalled_hellos(target: &Target) -> Vec<Metric> {
    // A record of 512 bytes with a ClientHello of 508, cut inside its random.
    let first = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03plugsocket".to_vec();
    let slow = SlowSend { first, is_secure: true, ..SlowSend::default() };
    hold(target, slow, target.scale.tls_timeout() + SECOND).await
}

/// Sends half the opening of plain TCP and stops.
pub(super) async fn stalled_openings(target: &Target) -> Vec<Metric> {
    let first = b"backend\nGET /ta".to_vec();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, SlowSend { first, ..SlowSend::default() }, limit).await
}

/// Opens plain TCP and sends the first message at one byte per second.
pub(super) async fn slow_openings(target: &Target) -> Vec<Metric> {
    let slow = SlowSend {
        first: b"backend\nGET /talk HTTP/1.1\n\n{\"opcode\":".to_vec(),
        then: vec![b'"'; 1000],
        ..SlowSend::default()
    };
    hold(target, slow, close_deadline(target)).await
}

/// Sends half a frame, then its payload at one byte per second.
pub(super) async fn half_frames(target: &Target) -> Vec<Metric> {
    let mut frame = masked(opcode::TEXT, &[b'x'; 60_000]);
    let then = frame.split_off(10_000);
    let slow = SlowSend { path: Some("/echo"), first: frame, then, ..SlowSend::default() };
    hold(target, slow, close_deadline(target)).await
}

/// Opens a chunk buffer, sends one chunk and stops.
pub(super) async fn open_buffers(target: &Target) -> Vec<Metric> {
    let chunk = masked(opcode::TEXT, &[b'x'; 1000]);
    let first = [masked(opcode::TEXT, b"bufferON"), chunk].concat();
    let slow = SlowSend { path: Some("/talk"), first, ..SlowSend::default() };
    hold(target, slow, close_deadline(target)).await
}

/// Shuts down the writing side and keeps the reading side open.
pub(super) async fn half_closes(target: &Target) -> Vec<Metric> {
    let slow = SlowSend { path: Some("/echo"), ends: true, ..SlowSend::default() };
    hold(target, slow, Duration::from_secs(4)).await
}

/// Violates the protocol and does not answer the close frame.
pub(super) async fn unanswered_closes(target: &Target) -> Vec<Metric> {
    let slow = SlowSend { path: Some("/echo"), first: masked(0xf1, b""), ..SlowSend::default() };
    hold(target, slow, Duration::from_secs(4)).await
}

/// The close frame comes after `message_timeout`, the cut after `close_timeout` (3 s) more.
fn close_deadline(target: &Target) -> Duration {
    target.scale.message_timeout() + 4 * SECOND
}

const SECOND: Duration = Duration::from_secs(1);

/// Opens connections that send slowly, and keeps their sockets; measures when the server has ended
/// them and closed its file descriptors.
async fn hold(target: &Target, slow: SlowSend, limit: Duration) -> Vec<Metric> {
    let before = target.process.descriptors();
    let begun = Instant::now();
    let address = if slow.is_secure { target.secure.expect("a host") } else { target.address };
    let mut opening = JoinSet::new();
    for _ in 0..target.scale.sockets {
        opening.spawn(begin(address, slow.clone()));
    }
    let mut holding = JoinSet::new();
    let mut refused = 0;
    for opened in opening.join_all().await {
        match opened {
            Some(stream) => drop(holding.spawn(until_dropped(stream, slow.then.clone()))),
            None => refused += 1,
        }
    }
    // The exact time does not matter beyond the limit.
    let longest = (limit + 2 * SECOND).saturating_sub(begun.elapsed());
    let mut kept = Vec::new();
    let all = timeout(longest, async {
        while let Some(stream) = holding.join_next().await {
            kept.push(stream);
        }
    });
    let is_done = all.await.is_ok();
    let took = begun.elapsed();
    let mut metrics = vec![Metric::seconds("dropped within", took, is_done, limit)];
    let freed = wait_for_descriptors(target, before, begun).await;
    metrics.push(Metric::unlimited("descriptors free after", freed));
    if refused > 0 {
        metrics.push(Metric::unlimited("not accepted", refused.to_string()));
    }
    metrics
}

async fn begin(address: SocketAddr, slow: SlowSend) -> Option<TcpStream> {
    let mut stream = match slow.path {
        Some(path) => Peer::open(address, path).await.ok()?.into_stream(),
        None => connect(address).await.ok()?,
    };
    stream.write_all(&slow.first).await.ok()?;
    if slow.ends {
        stream.shutdown().await.ok()?;
    }
    Some(stream)
}

/// Reads until the server ends the connection; returns the open socket.
async fn until_dropped(mut stream: TcpStream, slow: Vec<u8>) -> TcpStream {
    let mut tick = interval(Duration::from_secs(1));
    let mut slow = slow.into_iter();
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return stream,
            },
            _ = tick.tick() => if let Some(byte) = slow.next()
                && stream.write_all(&[byte]).await.is_err()
            {
                return stream;
            },
        }
    }
}

/// Waits until the server has no more open file descriptors than before.
async fn wait_for_descriptors(target: &Target, before: usize, begun: Instant) -> String {
    let until = Instant::now() + 4 * SECOND;
    while target.process.descriptors() > before + 2 {
        if Instant::now() > until {
            return format!("not {:.1} s", begun.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    format!("{:.1} s", begun.elapsed().as_secs_f64())
}
