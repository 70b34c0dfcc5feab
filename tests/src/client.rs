//! A WebSocket client.

use futures_util::{SinkExt, Stream as _};
use serde_json::Value;
use std::future::poll_fn;
use std::pin::Pin;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::stream::{Address, Stream};
use crate::within;

/// A handshake to be made.
#[derive(Clone, Debug)]
pub struct Request {
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// `target` is path and query.
    pub fn to(target: &str) -> Self {
        Self { target: target.to_owned(), headers: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(&self) -> http::Request<()> {
        let mut request = http::Request::builder()
            .uri(format!("ws://localhost{}", self.target))
            .header("Host", "localhost")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(()).unwrap()
    }
}

/// What a message is answered with: the packets, and then the `next`.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    /// What came before the `next`, in order.
    pub packets: Vec<Value>,
    /// Of the `next`.
    pub fyi: String,
}

/// A WebSocket client.
pub struct Client {
    socket: WebSocketStream<Stream>,
    uuid: String,
    protocol: Option<String>,
}

impl Client {
    /// Makes the handshake.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn open(address: &Address, request: Request) -> Self {
        let stream = address.connect().await;
        // Larger than the default: a test of a limit must not meet the client's.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        // There may be thousands of them.
        let config = config.read_buffer_size(READ_BUFFER);
        let handshake = client_async_with_config(request.build(), stream, Some(config));
        let (socket, response) = within("the handshake", handshake).await.unwrap();
        let protocol = response.headers().get("Sec-WebSocket-Protocol");
        let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
        Self { socket, uuid: String::new(), protocol }
    }

    /// Reads the `ready` that must come first.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn ready(mut self) -> Self {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "ready", "{packet}");
        packet["uuid"].as_str().unwrap().clone_into(&mut self.uuid);
        self
    }

    /// What `ready` said; empty without it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The subprotocol that the host chose.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: impl AsRef<str>) {
        self.send_message(Message::text(text.as_ref())).await;
    }

    /// Sends a binary message.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec())).await;
    }

    /// Sends any frame or message and flushes.
    ///
    /// # Panics
    /// When the connection is broken.
    pub async fn send_message(&mut self, message: Message) {
        within("to send", self.socket.send(message)).await.unwrap();
    }

    /// The same where the connection may be broken.
    pub async fn try_send(&mut self, message: Message) -> Result<(), Box<Error>> {
        within("to send", self.socket.send(message)).await.map_err(Box::new)
    }

    /// The next message or control frame; None where the connection ends.
    pub async fn receive(&mut self) -> Option<Message> {
        let next = poll_fn(|cx| Pin::new(&mut self.socket).poll_next(cx));
        within("a message", next).await.and_then(Result::ok)
    }

    /// The next text message. Pings are skipped; tungstenite answers them.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn receive_text(&mut self) -> String {
        loop {
            match self.receive().await {
                Some(Message::Text(text)) => return text.as_str().to_owned(),
                Some(Message::Ping(_)) => {}
                other => panic!("expected a text message, not {other:?}"),
            }
        }
    }

    /// The next text message as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub async fn receive_json(&mut self) -> Value {
        let text = self.receive_text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// The next packet must be a `next`; its `fyi`.
    ///
    /// # Panics
    /// When it is something else.
    pub async fn expect_next(&mut self) -> String {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "next", "{packet}");
        packet["fyi"].as_str().unwrap().to_owned()
    }

    /// All packets until the `next`.
    pub async fn until_next(&mut self) -> Next {
        let mut packets = Vec::new();
        loop {
            let packet = self.receive_json().await;
            if packet["opcode"] == "next" {
                return Next { packets, fyi: packet["fyi"].as_str().unwrap().to_owned() };
            }
            packets.push(packet);
        }
    }

    /// Sends a packet; what comes until its `next`.
    pub async fn call(&mut self, packet: &Value) -> Next {
        self.send(packet.to_string()).await;
        self.until_next().await
    }

    /// Gives the speaker a command; its result. Other packets that come before the answer are dropped.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&mut self, command: &Value) -> Value {
        let Next { packets, .. } = self.call(command).await;
        let answer = packets.iter().find(|packet| packet["do"] == command["do"]);
        answer.unwrap_or_else(|| panic!("no answer to {command} in {packets:?}"))["result"].clone()
    }

    /// The next that comes must be a close frame with this code; its reason.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn expect_close(&mut self, code: u16) -> String {
        loop {
            match self.receive().await {
                Some(Message::Close(Some(frame))) => {
                    assert_eq!(u16::from(frame.code), code, "{}", frame.reason);
                    return frame.reason.as_str().to_owned();
                }
                Some(Message::Ping(_)) => {}
                other => panic!("expected a close frame with {code}, not {other:?}"),
            }
        }
    }

    /// The next must be a `close` packet, and then a close frame with this code; the packet.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn expect_close_packet(&mut self, code: u16) -> Value {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "close", "{packet}");
        self.expect_close(code).await;
        packet
    }

    /// Closes in the proper way, and waits for the host's answer.
    pub async fn close(mut self) {
        // The host may have closed already.
        drop(self.try_send(Message::Close(None)).await);
        while self.receive().await.is_some() {}
    }
}

const READ_BUFFER: usize = 8 * 1024;

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}
