//! The load: connections that keep a number of messages in flight, on one thread, with frames made beforehand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What one connection does.
#[derive(Clone, Debug)]
pub struct Talk {
    /// `127.0.0.1:port`.
    pub address: String,
    /// The path.
    pub path: String,
    /// Bytes of each message's text.
    pub size: usize,
    /// Messages sent before their answers are awaited.
    pub in_flight: usize,
    /// Frames that answer one message.
    pub answers: usize,
    /// Whether the server sends a frame (`ready`) first.
    pub greets: bool,
}

/// Opens a WebSocket by hand; what came behind the answer is returned with it.
///
/// # Errors
/// No connection, or no 101.
pub async fn connect(address: &str, path: &str, headers: &str) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::with_capacity(512);
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            if !buffer.starts_with(b"HTTP/1.1 101") {
                return Err(io::Error::other(String::from_utf8_lossy(&buffer).into_owned()));
            }
            let rest = buffer.split_off(end + 4);
            return Ok((stream, rest));
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A masked text frame; the mask is zero, which a server unmasks like any other.
#[must_use]
pub fn frame(text: &[u8]) -> Vec<u8> {
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
    frame.extend([0x11, 0x22, 0x33, 0x44]);
    frame.extend(text.iter().enumerate().map(|(at, byte)| byte ^ [0x11, 0x22, 0x33, 0x44][at % 4]));
    frame
}

/// Counts whole frames in a stream of a server's bytes.
#[derive(Debug, Default)]
pub struct FrameCounter {
    header: Vec<u8>,
    body_left: usize,
}

impl FrameCounter {
    /// How many frames end in these bytes.
    pub fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut frames = 0;
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let taken = self.body_left.min(bytes.len());
                self.body_left -= taken;
                bytes = &bytes[taken..];
                frames += usize::from(self.body_left == 0);
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            let length = match (self.header.get(1), self.header.len()) {
                (Some(short @ 0..126), 2) => usize::from(*short),
                (Some(126), 4) => usize::from(u16::from_be_bytes([self.header[2], self.header[3]])),
                (Some(127), 10) => {
                    self.header[2..].iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
                }
                _ => continue,
            };
            self.header.clear();
            self.body_left = length;
            frames += usize::from(length == 0);
        }
        frames
    }
}

/// Connections at work, counting what was answered.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<io::Result<()>>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Opens the connections and lets them talk.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn start(talk: &Talk, connections: usize) -> io::Result<Self> {
        let mut load =
            Self { tasks: JoinSet::new(), answered: Arc::default(), stop: Arc::default() };
        for _ in 0..connections {
            let (stream, rest) = connect(&talk.address, &talk.path, "").await?;
            let (answered, stop) = (load.answered.clone(), load.stop.clone());
            load.tasks.spawn(converse(stream, rest, talk.clone(), answered, stop));
        }
        Ok(load)
    }

    /// Messages answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends all.
    ///
    /// # Errors
    /// One of them failed on the way.
    pub async fn stop(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    }
}

async fn converse(
    mut stream: TcpStream,
    rest: Vec<u8>,
    talk: Talk,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> io::Result<()> {
    let burst = frame(&vec![b'x'; talk.size]).repeat(talk.in_flight);
    let mut counter = FrameCounter::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = counter.count(&rest);
    if talk.greets {
        while frames == 0 {
            let read = read(&mut stream, &mut buffer).await?;
            frames += counter.count(&buffer[..read]);
        }
        frames -= 1;
    }
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&burst).await?;
        while frames < talk.in_flight * talk.answers {
            let read = read(&mut stream, &mut buffer).await?;
            frames += counter.count(&buffer[..read]);
        }
        frames -= talk.in_flight * talk.answers;
        answered.fetch_add(talk.in_flight as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}

/// Reads the greeting of a server and returns its text.
///
/// # Errors
/// The connection ends before.
pub async fn greeting(stream: &mut TcpStream, rest: Vec<u8>) -> io::Result<String> {
    let mut bytes = rest;
    loop {
        let text = match bytes.as_slice() {
            [_, 126, high, low, text @ ..] => {
                text.get(..usize::from(u16::from_be_bytes([*high, *low])))
            }
            [_, length @ 0..126, text @ ..] => text.get(..usize::from(*length)),
            _ => None,
        };
        if let Some(text) = text {
            return Ok(String::from_utf8_lossy(text).into_owned());
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Counts the frames that a connection receives, until it ends.
///
/// # Errors
/// The connection fails.
pub async fn listen(mut stream: TcpStream, received: Arc<AtomicU64>) -> io::Result<()> {
    let mut counter = FrameCounter::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => received.fetch_add(counter.count(&buffer[..read]) as u64, Ordering::Relaxed),
        };
    }
}

/// Sends bursts of `in_flight` messages and waits for as many frames in answer, for ever.
///
/// # Errors
/// The connection fails.
pub async fn speak(mut stream: TcpStream, text: Vec<u8>, in_flight: usize) -> io::Result<()> {
    let burst = frame(&text).repeat(in_flight);
    let mut counter = FrameCounter::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        stream.write_all(&burst).await?;
        let mut frames = 0;
        while frames < in_flight {
            let read = read(&mut stream, &mut buffer).await?;
            frames += counter.count(&buffer[..read]);
        }
    }
}

/// What a process has used of the processor so far, over all its threads.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        if let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) {
            nanos += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// What a process has resident, in bytes.
///
/// # Errors
/// There is no such process.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024)
}
