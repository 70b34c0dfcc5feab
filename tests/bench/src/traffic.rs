//! One connection of the load. It sends prepared frames and counts the received ones without
//! decoding them, so that the load costs less than any server.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

thread_local! {
    /// Read buffer of all connections: one for each would not stay in the CPU cache.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// Connections from one address. The system has 28,000 ports for each.
const PORTS: usize = 20_000;

/// An open connection.
#[derive(Debug)]
pub struct Link {
    /// The receiving half.
    pub inbound: Inbound,
    /// The sending half. Dropping it ends the connection.
    pub outbound: OwnedWriteHalf,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Inbound {
    half: OwnedReadHalf,
    counter: Counter,
    /// Frames counted but not yet returned.
    waiting: usize,
}

impl Link {
    /// Opens a WebSocket. `number` counts the connections: every 20,000 use another local address.
    ///
    /// # Errors
    /// The server does not accept, or does not answer with 101.
    pub async fn open(
        address: SocketAddr,
        path: &str,
        headers: &str,
        number: usize,
    ) -> io::Result<Self> {
        let mut stream = connect(address, number).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(256);
        // Reads in blocks for speed; `rest` is what follows the head.
        let rest = loop {
            if stream.read_buf(&mut head).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break head.split_off(end + 4);
            }
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
        }
        Ok(Self::new(stream, Counter::Frames(FrameCounter::default()), &rest))
    }

    /// Opens a backend connection over plain TCP.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn open_lines(address: SocketAddr, path: &str) -> io::Result<Self> {
        let mut stream = connect(address, 0).await?;
        stream.write_all(format!("backend\nGET {path} HTTP/1.1\n\n").as_bytes()).await?;
        Ok(Self::new(stream, Counter::Lines, &[]))
    }

    fn new(stream: TcpStream, counter: Counter, rest: &[u8]) -> Self {
        let (half, outbound) = stream.into_split();
        let mut inbound = Inbound { half, counter, waiting: 0 };
        inbound.waiting = inbound.counter.count(rest);
        Self { inbound, outbound }
    }

    /// Sends bytes without framing them.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.outbound.write_all(bytes).await
    }

    /// Waits for this number of frames.
    ///
    /// # Errors
    /// The connection fails or ends.
    pub async fn expect(&mut self, frames: usize) -> io::Result<()> {
        self.inbound.expect(frames).await
    }

    /// Answers pings until the connection ends, and sends nothing else.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn idle(mut self) -> io::Result<()> {
        const PONG: [u8; 6] = [0x8a, 0x80, 0x11, 0x22, 0x33, 0x44];
        loop {
            self.inbound.receive().await?;
            if let Counter::Frames(counter) = &mut self.inbound.counter {
                for _ in 0..std::mem::take(&mut counter.pings) {
                    self.outbound.write_all(&PONG).await?;
                }
            }
        }
    }
}

impl Inbound {
    /// Returns the number of frames that end in the next read; 0 if it contains only a part of one.
    ///
    /// # Errors
    /// The connection fails or ends.
    pub async fn receive(&mut self) -> io::Result<usize> {
        if self.waiting > 0 {
            return Ok(std::mem::take(&mut self.waiting));
        }
        poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.half).poll_read(cx, &mut buffer))?;
                Poll::Ready(match buffer.filled() {
                    [] => Err(io::ErrorKind::UnexpectedEof.into()),
                    bytes => Ok(self.counter.count(bytes)),
                })
            })
        })
        .await
    }

    /// Waits for this number of frames.
    ///
    /// # Errors
    /// The connection fails or ends.
    pub async fn expect(&mut self, frames: usize) -> io::Result<()> {
        let mut left = frames;
        loop {
            let received = self.receive().await?;
            if received >= left {
                self.waiting = received - left;
                return Ok(());
            }
            left -= received;
        }
    }

    /// Waits for a frame and returns the text of the connection's first one, the greeting.
    ///
    /// # Errors
    /// The connection ends first.
    pub async fn greeting(&mut self) -> io::Result<String> {
        self.expect(1).await?;
        Ok(match &mut self.counter {
            Counter::Frames(counter) => {
                String::from_utf8_lossy(&std::mem::take(&mut counter.first)).into_owned()
            }
            Counter::Lines => String::new(),
        })
    }
}

async fn connect(address: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if number >= PORTS {
        let last = u8::try_from(1 + number / PORTS).map_err(io::Error::other)?;
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Returns a masked text frame.
#[must_use]
pub fn frame(text: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![0x81];
    match text.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(text.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]));
    frame
}

#[derive(Debug)]
enum Counter {
    Frames(FrameCounter),
    Lines,
}

impl Counter {
    fn count(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Frames(counter) => counter.count(bytes),
            Self::Lines => bytes.iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}

/// Counts complete frames in a server's byte stream.
#[derive(Debug, Default)]
struct FrameCounter {
    header: Vec<u8>,
    body_left: usize,
    /// Pings received. They do not count as answers.
    pings: usize,
    /// Payload of the first frame, if it is short.
    first: Vec<u8>,
    is_past_first: bool,
}

impl FrameCounter {
    /// Returns the number of frames that end in these bytes, without pings.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut frames = 0;
        while let Some(first) = bytes.first() {
            if self.body_left > 0 {
                let taken = self.body_left.min(bytes.len());
                self.body_left -= taken;
                if !self.is_past_first {
                    self.first.extend(&bytes[..taken.min(512)]);
                    self.is_past_first = self.body_left == 0;
                }
                bytes = &bytes[taken..];
                frames += usize::from(self.body_left == 0);
                continue;
            }
            self.header.push(*first);
            bytes = &bytes[1..];
            let length = match (self.header.get(1), self.header.len()) {
                (Some(short @ 0..126), 2) => usize::from(*short),
                (Some(126), 4) => usize::from(u16::from_be_bytes([self.header[2], self.header[3]])),
                (Some(127), 10) => {
                    self.header[2..].iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
                }
                _ => continue,
            };
            let is_ping = self.header[0] == 0x89;
            self.header.clear();
            self.body_left = length;
            self.pings += usize::from(is_ping);
            frames += usize::from(length == 0 && !is_ping);
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_reads_split_them() {
        let long = [[0x81, 126, 0x12, 0x34].as_slice(), &[7; 0x1234]].concat();
        let stream = [b"\x81\x02hi".as_slice(), b"\x89\x00", b"\x82\x00", &long].concat();
        for step in [1, 2, 3, 5, 100, stream.len()] {
            let mut counter = FrameCounter::default();
            let frames: usize = stream.chunks(step).map(|bytes| counter.count(bytes)).sum();
            assert_eq!((frames, counter.pings), (3, 1), "in steps of {step}");
        }
    }
}
