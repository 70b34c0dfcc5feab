//! Attacks that hold connections by doing next to nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::peer::{Peer, connect};
use super::{Figure, Target};
use crate::raw::{RawClient, masked, opcode};

/// What a connection begins with, and what it goes on with, a byte each second.
#[derive(Clone, Debug, Default)]
struct Drip {
    /// A path whose handshake is made first.
    path: Option<&'static str>,
    first: Vec<u8>,
    then: Vec<u8>,
    /// Whether the writing side is ended behind that.
    ends: bool,
    /// Whether it is for the port where TLS is spoken.
    is_secure: bool,
}

/// A request head that is begun and left.
pub(super) async fn stalled_heads(target: &Target) -> Vec<Figure> {
    let first = b"GET /echo HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, Drip { first, ..Drip::default() }, limit).await
}

/// A request head of one byte a second.
pub(super) async fn slow_heads(target: &Target) -> Vec<Figure> {
    let then = RawClient::handshake("/echo").into_bytes();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, Drip { then, ..Drip::default() }, limit).await
}

/// A TLS hello that is begun and left.
pub(super) async fn stalled_hellos(target: &Target) -> Vec<Figure> {
    // A record of 512 bytes with a ClientHello of 508, up to its version and a part of its random.
    let first = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03plugsocket".to_vec();
    let drip = Drip { first, is_secure: true, ..Drip::default() };
    hold(target, drip, target.scale.tls_timeout() + SECOND).await
}

/// The lines that open plain TCP, begun and left.
pub(super) async fn stalled_openings(target: &Target) -> Vec<Figure> {
    let first = b"backend\nGET /ta".to_vec();
    let limit = target.scale.head_timeout() + SECOND;
    hold(target, Drip { first, ..Drip::default() }, limit).await
}

/// The opening of plain TCP, one byte a second, up to the middle of its first message.
pub(super) async fn slow_openings(target: &Target) -> Vec<Figure> {
    let drip = Drip {
        first: b"backend\nGET /talk HTTP/1.1\n\n{\"opcode\":".to_vec(),
        then: vec![b'"'; 1000],
        ..Drip::default()
    };
    hold(target, drip, told(target)).await
}

/// Half a frame, and its payload one byte a second.
pub(super) async fn half_frames(target: &Target) -> Vec<Figure> {
    let mut frame = masked(opcode::TEXT, &[b'x'; 60_000]);
    let then = frame.split_off(10_000);
    let drip = Drip { path: Some("/echo"), first: frame, then, ..Drip::default() };
    hold(target, drip, told(target)).await
}

/// An open chunk buffer with something in it.
pub(super) async fn open_buffers(target: &Target) -> Vec<Figure> {
    let chunk = masked(opcode::TEXT, &[b'x'; 1000]);
    let first = [masked(opcode::TEXT, b"bufferON"), chunk].concat();
    let drip = Drip { path: Some("/talk"), first, ..Drip::default() };
    hold(target, drip, told(target)).await
}

/// A peer that ends its side and keeps the other one.
pub(super) async fn half_closes(target: &Target) -> Vec<Figure> {
    let drip = Drip { path: Some("/echo"), ends: true, ..Drip::default() };
    hold(target, drip, Duration::from_secs(4)).await
}

/// A violation, and no answer to the close frame that it brings.
pub(super) async fn unanswered_closes(target: &Target) -> Vec<Figure> {
    let drip = Drip { path: Some("/echo"), first: masked(0xf1, b""), ..Drip::default() };
    hold(target, drip, Duration::from_secs(4)).await
}

/// Told in a close frame after `message_timeout`; then the answer to that is awaited for `close_timeout`, 3 s.
fn told(target: &Target) -> Duration {
    target.scale.message_timeout() + 4 * SECOND
}

const SECOND: Duration = Duration::from_secs(1);

/// Opens connections that do this until the server ends them, and keeps their sockets; how long that took, and when the server
/// had let go of their descriptors.
async fn hold(target: &Target, drip: Drip, limit: Duration) -> Vec<Figure> {
    let before = target.process.descriptors();
    let begun = Instant::now();
    let address = if drip.is_secure { target.secure.expect("a host") } else { target.address };
    let mut opening = JoinSet::new();
    for _ in 0..target.scale.sockets {
        opening.spawn(begin(address, drip.clone()));
    }
    let mut holding = JoinSet::new();
    let mut refused = 0;
    for opened in opening.join_all().await {
        match opened {
            Some(stream) => drop(holding.spawn(until_dropped(stream, drip.then.clone()))),
            None => refused += 1,
        }
    }
    // Beyond the limit it is enough to know that it is beyond.
    let patience = (limit + 2 * SECOND).saturating_sub(begun.elapsed());
    let mut kept = Vec::new();
    let all = timeout(patience, async {
        while let Some(stream) = holding.join_next().await {
            kept.push(stream);
        }
    });
    let is_done = all.await.is_ok();
    let took = begun.elapsed();
    let mut figures = vec![Figure::seconds("dropped within", took, is_done, limit)];
    let freed = descriptors_fall(target, before, begun).await;
    figures.push(Figure::plain("descriptors free after", freed));
    if refused > 0 {
        figures.push(Figure::plain("not accepted", refused.to_string()));
    }
    figures
}

async fn begin(address: SocketAddr, drip: Drip) -> Option<TcpStream> {
    let mut stream = match drip.path {
        Some(path) => Peer::open(address, path).await.ok()?.into_stream(),
        None => connect(address).await.ok()?,
    };
    stream.write_all(&drip.first).await.ok()?;
    if drip.ends {
        stream.shutdown().await.ok()?;
    }
    Some(stream)
}

/// Reads to the end and keeps the socket.
async fn until_dropped(mut stream: TcpStream, drip: Vec<u8>) -> TcpStream {
    let mut tick = interval(Duration::from_secs(1));
    let mut drip = drip.into_iter();
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return stream,
            },
            _ = tick.tick() => if let Some(byte) = drip.next()
                && stream.write_all(&[byte]).await.is_err()
            {
                return stream;
            },
        }
    }
}

/// When the server has no more open files than before, though the peers keep theirs.
async fn descriptors_fall(target: &Target, before: usize, begun: Instant) -> String {
    let until = Instant::now() + 4 * SECOND;
    while target.process.descriptors() > before + 2 {
        if Instant::now() > until {
            return format!("not {:.1} s", begun.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    format!("{:.1} s", begun.elapsed().as_secs_f64())
}
