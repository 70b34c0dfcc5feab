//! A plain TCP client: each packet is one line.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::client::Next;
use crate::stream::{Address, Stream};
use crate::within;

/// A plain TCP client.
pub struct LineClient {
    stream: BufReader<Stream>,
    uuid: String,
}

impl LineClient {
    /// Connects and writes the opening as it is.
    pub async fn open(address: &Address, opening: &str) -> Self {
        let mut client =
            Self { stream: BufReader::new(address.connect().await), uuid: String::new() };
        client.write(opening).await;
        client
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

    /// What `ready` said.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Writes in one write, without a line end.
    ///
    /// # Panics
    /// When the connection is broken.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("to write", self.stream.write_all(bytes.as_ref())).await.unwrap();
        within("to write", self.stream.flush()).await.unwrap();
    }

    /// Writes a line.
    pub async fn send(&mut self, text: impl std::fmt::Display) {
        self.write(format!("{text}\n")).await;
    }

    /// The next line, without its end; None where the host has ended the connection.
    ///
    /// # Panics
    /// When a line is not whole.
    pub async fn receive(&mut self) -> Option<String> {
        let mut line = String::new();
        // A reset is an end, too.
        match within("a line", self.stream.read_line(&mut line)).await {
            Ok(1..) => {
                assert!(line.ends_with('\n'), "half a line: {line:?}");
                line.pop();
                Some(line)
            }
            Ok(0) | Err(_) => None,
        }
    }

    /// The next line as JSON.
    ///
    /// # Panics
    /// When there is none.
    pub async fn receive_json(&mut self) -> Value {
        let line = self.receive().await.expect("a line before the end");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
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

    /// The next packet must be a `next`; its `fyi`.
    ///
    /// # Panics
    /// When it is something else.
    pub async fn expect_next(&mut self) -> String {
        let Next { packets, fyi } = self.until_next().await;
        assert_eq!(packets, Vec::<Value>::new());
        fyi
    }

    /// Sends a packet as a line; what comes until its `next`.
    pub async fn call(&mut self, packet: &Value) -> Next {
        self.send(packet).await;
        self.until_next().await
    }

    /// The next must be a `close` packet, and then the end; the packet.
    ///
    /// # Panics
    /// When something else comes.
    pub async fn expect_close_packet(&mut self) -> Value {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "close", "{packet}");
        self.expect_end().await;
        packet
    }

    /// Nothing more may come.
    ///
    /// # Panics
    /// When something comes.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}

impl std::fmt::Debug for LineClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineClient").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}
