//! A raw connection to any WebSocket server. Unlike `RawClient` it returns errors and has no
//! deadlines.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::raw::{RawClient, masked, opcode};

/// A WebSocket connection after the handshake.
#[derive(Debug)]
pub(super) struct Peer {
    stream: BufReader<TcpStream>,
}

impl Peer {
    /// Connects and performs the handshake.
    ///
    /// # Errors
    /// If the handshake is refused or the connection ends.
    pub(super) async fn open(address: SocketAddr, path: &str) -> io::Result<Self> {
        let mut stream = connect(address).await?;
        stream.write_all(RawClient::handshake(path).as_bytes()).await?;
        let mut stream = BufReader::with_capacity(8192, stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
        }
        Ok(Self { stream })
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(super) async fn send(&mut self, text: &[u8]) -> io::Result<()> {
        self.write(&masked(opcode::TEXT, text)).await
    }

    /// Writes raw bytes.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// Returns the payload of the next text or binary message.
    ///
    /// # Errors
    /// If the connection has ended or a close frame arrives.
    pub(super) async fn message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let first = self.stream.read_u8().await?;
            let length = match self.stream.read_u8().await? {
                126 => u64::from(self.stream.read_u16().await?),
                127 => self.stream.read_u64().await?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.stream.read_exact(&mut payload).await?;
            match first {
                opcode::TEXT | opcode::BINARY => return Ok(payload),
                opcode::CLOSE => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
        }
    }

    /// Returns the socket; buffered input is discarded.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }
}

/// Connects a socket without writing to it.
///
/// # Errors
/// If the connection is refused.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
