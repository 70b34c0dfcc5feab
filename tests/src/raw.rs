//! A raw socket, for handwritten HTTP requests and WebSocket frames.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::stream::{Address, Stream};
use crate::within;

/// The first byte of a final frame, by opcode (RFC 6455, section 5.2).
pub mod opcode {
    /// The last fragment of a message.
    pub const CONTINUATION: u8 = 0x80;
    /// A text message.
    pub const TEXT: u8 = 0x81;
    /// A binary message.
    pub const BINARY: u8 = 0x82;
    /// A close frame.
    pub const CLOSE: u8 = 0x88;
    /// A ping.
    pub const PING: u8 = 0x89;
    /// A pong.
    pub const PONG: u8 = 0x8a;
}

/// A received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: see [`opcode`].
    pub first: u8,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the payload as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// Returns the close code, if this is a close frame with one.
    pub fn close_code(&self) -> Option<u16> {
        match (self.first, &*self.payload) {
            (opcode::CLOSE, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }
}

/// A complete HTTP response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// Returns the first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Parses each line of the body as JSON.
    ///
    /// # Panics
    /// If a line is not JSON.
    pub fn packets(&self) -> Vec<serde_json::Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Encodes a masked frame with the shortest length form. `first` is the whole first byte.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Encodes a masked close frame.
pub fn close_frame(code: u16) -> Vec<u8> {
    masked(opcode::CLOSE, &code.to_be_bytes())
}

/// A client that reads and writes bytes.
pub struct RawClient {
    stream: BufReader<Stream>,
}

impl RawClient {
    /// Connects without writing.
    pub async fn connect(address: &Address) -> Self {
        Self::over(address.connect().await)
    }

    /// Wraps a connected socket.
    pub fn over(stream: Stream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Returns the socket.
    ///
    /// # Panics
    /// If unread input is buffered.
    pub fn into_stream(self) -> Stream {
        assert_eq!(self.stream.buffer(), b"");
        self.stream.into_inner()
    }

    /// Returns a valid handshake request.
    pub fn handshake(target: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    }

    /// Performs a handshake.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn upgraded(mut self, target: &str) -> Self {
        self.write(Self::handshake(target)).await;
        self.expect_switching().await;
        self
    }

    /// Attempts a handshake; returns the status code.
    pub async fn try_handshake(&mut self, target: &str) -> u16 {
        self.try_request(&Self::handshake(target)).await
    }

    /// Sends a request; returns the status code.
    pub async fn try_request(&mut self, request: &str) -> u16 {
        self.write(request).await;
        self.head().await.0
    }

    /// Expects the head of a 101 response.
    ///
    /// # Panics
    /// If the status differs.
    pub async fn expect_switching(&mut self) {
        let (status, _) = self.head().await;
        assert_eq!(status, 101);
    }

    /// Writes all bytes and flushes.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.unwrap();
    }

    /// Like [`write`](Self::write), but returns an error if the connection is broken.
    ///
    /// # Errors
    /// If the connection is broken.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("to write", self.stream.write_all(bytes.as_ref())).await?;
        within("to write", self.stream.flush()).await
    }

    /// Shuts down the writing side.
    pub async fn finish(&mut self) {
        // The connection may already have ended.
        drop(within("to shut down", self.stream.shutdown()).await);
    }

    /// Reads a line without its line end; empty at the end of the stream.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line", self.stream.read_line(&mut line)).await.unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    async fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let first = self.line().await;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.unwrap_or_else(|| panic!("not an HTTP response: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else {
                assert_eq!(line, "");
                return (status.parse().unwrap(), headers);
            };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
    }

    /// Reads a complete HTTP response with a `Content-Length`.
    ///
    /// # Panics
    /// If it is malformed or incomplete.
    pub async fn response(&mut self) -> Response {
        let (status, headers) = self.head().await;
        let mut response = Response { status, headers, body: String::new() };
        let length = response.header("content-length").expect("a Content-Length").parse();
        let mut body = vec![0; length.unwrap()];
        within("a body", self.stream.read_exact(&mut body)).await.unwrap();
        response.body = String::from_utf8(body).unwrap();
        response
    }

    /// Reads a complete HTTP response, which must be the last one on the connection.
    ///
    /// # Panics
    /// If it is malformed, lacks `Connection: close`, or more bytes follow.
    pub async fn last_response(&mut self) -> Response {
        let response = self.response().await;
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
        assert_eq!(self.read_to_end().await, b"", "{response:?}");
        response
    }

    /// Reads until the end of the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset also ends the connection.
        drop(within("the end of the connection", self.stream.read_to_end(&mut bytes)).await);
        bytes
    }

    /// Reads available bytes; returns none at the end of the connection.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let length = within("some bytes", self.stream.read(&mut bytes)).await.unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    /// Reads the next frame; None at the end of the connection.
    ///
    /// # Panics
    /// If it is masked or incomplete.
    pub async fn frame(&mut self) -> Option<Frame> {
        within("a frame", async {
            let first = self.stream.read_u8().await.ok()?;
            let length = match self.stream.read_u8().await.unwrap() {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                length @ 0..126 => u64::from(length),
                masked => panic!("a server must not mask: {masked:#x}"),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.unwrap();
            Some(Frame { first, payload })
        })
        .await
    }

    /// Expects a text frame; returns its payload.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn expect_text(&mut self) -> String {
        let frame = self.frame().await.expect("a frame before the end");
        assert_eq!(frame.first, opcode::TEXT, "{frame:?}");
        frame.text().to_owned()
    }

    /// Expects a close frame with this code and the end of the connection; returns the reason.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn expect_close(&mut self, code: u16) -> String {
        let frame = self.frame().await.expect("a close frame before the end");
        assert_eq!(frame.close_code(), Some(code), "{frame:?}");
        self.finish().await;
        assert_eq!(self.frame().await, None);
        String::from_utf8(frame.payload[2..].to_vec()).unwrap()
    }
}

impl std::fmt::Debug for RawClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawClient")
    }
}
