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

/// A handshake request.
#[derive(Clone, Debug)]
pub struct Request {
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Creates a request; `target` is path and query.
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

/// The answer to a message: packets, then a `next`.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    /// The packets before the `next`, in order.
    pub packets: Vec<Value>,
    /// The `fyi` of the `next`.
    pub fyi: String,
}

/// A WebSocket client.
pub struct Client {
    socket: WebSocketStream<Stream>,
    uuid: String,
    protocol: Option<String>,
}

impl Client {
    /// Connects and performs the handshake.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn open(address: &Address, request: Request) -> Self {
        let stream = address.connect().await;
        // A test of the host's limits must not reach the client's.
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        // Small, for thousands of clients.
        let config = config.read_buffer_size(READ_BUFFER);
        let handshake = client_async_with_config(request.build(), stream, Some(config));
        let (socket, response) = within("the handshake", handshake).await.unwrap();
        let protocol = response.headers().get("Sec-WebSocket-Protocol");
        let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
        Self { socket, uuid: String::new(), protocol }
    }

    /// Reads the `ready` packet.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn ready(mut self) -> Self {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "ready", "{packet}");
        packet["uuid"].as_str().unwrap().clone_into(&mut self.uuid);
        self
    }

    /// Returns the uuid from the `ready` packet; empty before it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Returns the subprotocol that the host selected.
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

    /// Sends a frame or message and flushes.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn send_message(&mut self, message: Message) {
        within("to send", self.socket.send(message)).await.unwrap();
    }

    /// Like [`send_message`](Self::send_message), but returns an error if the connection is broken.
    pub async fn try_send(&mut self, message: Message) -> Result<(), Box<Error>> {
        within("to send", self.socket.send(message)).await.map_err(Box::new)
    }

    /// Returns the next message or control frame; None at the end of the connection.
    pub async fn receive(&mut self) -> Option<Message> {
        let next = poll_fn(|cx| Pin::new(&mut self.socket).poll_next(cx));
        within("a message", next).await.and_then(Result::ok)
    }

    /// Returns the next text message. Pings are skipped; tungstenite answers them.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn receive_text(&mut self) -> String {
        loop {
            match self.receive().await {
                Some(Message::Text(text)) => return text.as_str().to_owned(),
                Some(Message::Ping(_)) => {}
                other => panic!("expected a text message, not {other:?}"),
            }
        }
    }

    /// Returns the next text message as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub async fn receive_json(&mut self) -> Value {
        let text = self.receive_text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    /// Expects a `next` packet; returns its `fyi`.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn expect_next(&mut self) -> String {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "next", "{packet}");
        packet["fyi"].as_str().unwrap().to_owned()
    }

    /// Returns all packets up to the `next`.
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

    /// Sends a packet; returns all packets up to the `next`.
    pub async fn call(&mut self, packet: &Value) -> Next {
        self.send(packet.to_string()).await;
        self.until_next().await
    }

    /// Sends a command to the test plugin `speaker`; returns the result and drops other packets.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn ask(&mut self, command: &Value) -> Value {
        let Next { packets, .. } = self.call(command).await;
        let answer = packets.iter().find(|packet| packet["do"] == command["do"]);
        answer.unwrap_or_else(|| panic!("no answer to {command} in {packets:?}"))["result"].clone()
    }

    /// Expects a close frame with this code; returns its reason.
    ///
    /// # Panics
    /// If something else arrives.
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

    /// Expects a `close` packet and a close frame with this code; returns the packet.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn expect_close_packet(&mut self, code: u16) -> Value {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "close", "{packet}");
        self.expect_close(code).await;
        packet
    }

    /// Performs the closing handshake.
    pub async fn close(mut self) {
        // The host may already have closed the connection.
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
