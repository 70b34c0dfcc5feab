//! A plain TCP client, which sends and receives one packet per line.

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
    /// Connects and writes the opening unchanged.
    pub async fn open(address: &Address, opening: &str) -> Self {
        let mut client =
            Self { stream: BufReader::new(address.connect().await), uuid: String::new() };
        client.write(opening).await;
        client
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

    /// Returns the uuid from the `ready` packet.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Writes `bytes` in one write, without adding a line end.
    ///
    /// # Panics
    /// If the connection is broken.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("to write", self.stream.write_all(bytes.as_ref())).await.unwrap();
        within("to write", self.stream.flush()).await.unwrap();
    }

    /// Sends a line.
    pub async fn send(&mut self, text: impl std::fmt::Display) {
        self.write(format!("{text}\n")).await;
    }

    /// Returns the next line without its line feed; None at the end of the connection.
    ///
    /// # Panics
    /// If the last line is incomplete.
    pub async fn receive(&mut self) -> Option<String> {
        let mut line = String::new();
        // A reset also ends the connection.
        match within("a line", self.stream.read_line(&mut line)).await {
            Ok(1..) => {
                assert!(line.ends_with('\n'), "incomplete line: {line:?}");
                line.pop();
                Some(line)
            }
            Ok(0) | Err(_) => None,
        }
    }

    /// Returns the next line as JSON.
    ///
    /// # Panics
    /// If the connection ends or the line is not JSON.
    pub async fn receive_json(&mut self) -> Value {
        let line = self.receive().await.expect("a line before the end");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
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

    /// Expects a `next` packet; returns its `fyi`.
    ///
    /// # Panics
    /// When it is something else.
    pub async fn expect_next(&mut self) -> String {
        let Next { packets, fyi } = self.until_next().await;
        assert_eq!(packets, Vec::<Value>::new());
        fyi
    }

    /// Sends a packet; returns all packets up to the `next`.
    pub async fn call(&mut self, packet: &Value) -> Next {
        self.send(packet).await;
        self.until_next().await
    }

    /// Expects a `close` packet and the end of the connection; returns the packet.
    ///
    /// # Panics
    /// If something else arrives.
    pub async fn expect_close_packet(&mut self) -> Value {
        let packet = self.receive_json().await;
        assert_eq!(packet["opcode"], "close", "{packet}");
        self.expect_end().await;
        packet
    }

    /// Expects the end of the connection.
    ///
    /// # Panics
    /// If a line arrives.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}

impl std::fmt::Debug for LineClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineClient").field("uuid", &self.uuid).finish_non_exhaustive()
    }
}
