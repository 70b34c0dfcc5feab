//! A socket on which a test writes what it likes: HTTP by hand, frames by hand.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::stream::{Address, Stream};
use crate::within;

/// The first byte of a frame that is final, by what it is (RFC 6455, section 5.2).
pub mod opcode {
    /// More of the message before.
    pub const CONTINUATION: u8 = 0x80;
    /// A text.
    pub const TEXT: u8 = 0x81;
    /// Bytes.
    pub const BINARY: u8 = 0x82;
    /// The end.
    pub const CLOSE: u8 = 0x88;
    /// A question whether somebody is there.
    pub const PING: u8 = 0x89;
    /// The answer to it.
    pub const PONG: u8 = 0x8a;
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: see [`opcode`].
    pub first: u8,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as text.
    ///
    /// # Panics
    /// When it is none.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    /// The code, if this is a close frame.
    pub fn close_code(&self) -> Option<u16> {
        match (self.first, &*self.payload) {
            (opcode::CLOSE, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }
}

/// A whole HTTP response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As long as `Content-Length` says.
    pub body: String,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Each line of the body as JSON.
    ///
    /// # Panics
    /// When one is not.
    pub fn packets(&self) -> Vec<serde_json::Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A frame of a client: masked, with the shortest length. `first` is the whole first byte.
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

/// A close frame of a client.
pub fn closing(code: u16) -> Vec<u8> {
    masked(opcode::CLOSE, &code.to_be_bytes())
}

/// A socket and nothing else.
pub struct RawClient {
    stream: BufReader<Stream>,
}

impl RawClient {
    /// Connects and writes nothing.
    pub async fn connect(address: &Address) -> Self {
        Self::over(address.connect().await)
    }

    /// Takes a socket that is connected.
    pub fn over(stream: Stream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The socket, to read and write at once.
    ///
    /// # Panics
    /// When something was read that nobody asked for.
    pub fn into_stream(self) -> Stream {
        assert_eq!(self.stream.buffer(), b"");
        self.stream.into_inner()
    }

    /// The request of a valid handshake.
    pub fn handshake(target: &str) -> String {
        format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
    }

    /// Makes a handshake and reads its answer, up to the end of its headers.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn upgraded(mut self, target: &str) -> Self {
        self.write(Self::handshake(target)).await;
        self.expect_switching().await;
        self
    }

    /// Tries a handshake; the status of its answer.
    pub async fn try_handshake(&mut self, target: &str) -> u16 {
        self.write(Self::handshake(target)).await;
        self.head().await.0
    }

    /// Reads a 101 up to the end of its headers.
    ///
    /// # Panics
    /// When it is another status.
    pub async fn expect_switching(&mut self) {
        let (status, _) = self.head().await;
        assert_eq!(status, 101);
    }

    /// Writes all of it and flushes.
    ///
    /// # Panics
    /// When the connection is broken.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.unwrap();
    }

    /// The same where the connection may be broken.
    ///
    /// # Errors
    /// It is.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("to write", self.stream.write_all(bytes.as_ref())).await?;
        within("to write", self.stream.flush()).await
    }

    /// Ends the writing side.
    pub async fn finish(&mut self) {
        // The peer may have gone.
        drop(within("to shut down", self.stream.shutdown()).await);
    }

    /// Reads one line, without its end; empty at the end.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        within("a line", self.stream.read_line(&mut line)).await.unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    async fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let first = self.line().await;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.unwrap_or_else(|| panic!("no HTTP response: {first:?}"));
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

    /// A whole HTTP response, which must be the last one: `Content-Length`, `Connection: close`, and nothing behind.
    ///
    /// # Panics
    /// When it is not valid.
    pub async fn last_response(&mut self) -> Response {
        let (status, headers) = self.head().await;
        let rest = self.read_to_end().await;
        let response = Response { status, headers, body: String::from_utf8(rest).unwrap() };
        assert_eq!(response.header("connection"), Some("close"), "{response:?}");
        let length = response.header("content-length").expect("a Content-Length").parse();
        assert_eq!(length, Ok(response.body.len()), "{response:?}");
        response
    }

    /// Everything until the host ends the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end, too.
        drop(within("the end of the connection", self.stream.read_to_end(&mut bytes)).await);
        bytes
    }

    /// Some bytes; none at the end.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let length = within("some bytes", self.stream.read(&mut bytes)).await.unwrap_or(0);
        bytes.truncate(length);
        bytes
    }

    /// The next frame; None at the end of the connection.
    ///
    /// # Panics
    /// When the host masks it, or it is not whole.
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

    /// The next frame must be a text; it.
    ///
    /// # Panics
    /// When it is something else.
    pub async fn expect_text(&mut self) -> String {
        let frame = self.frame().await.expect("a frame before the end");
        assert_eq!(frame.first, opcode::TEXT, "{frame:?}");
        frame.text().to_owned()
    }

    /// The next frame must be a close frame with this code, and then the connection ends. Its reason.
    ///
    /// # Panics
    /// When something else comes.
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
