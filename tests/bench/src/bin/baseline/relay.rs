//! A hand-written relay, the alternative to plugsocket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

use crate::{batched_config, receive};

/// Outboxes of the connections, by number.
pub(crate) type Peers = Arc<Mutex<HashMap<u64, mpsc::Sender<Message>>>>;

/// Buffers and flushes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Small buffers, one flush for all waiting messages.
    Batched,
    /// Default buffers, one flush for each message.
    Single,
}

/// A connection, with either framing.
enum Connection {
    Frames(Box<WebSocketStream<TcpStream>>),
    Lines { stream: TcpStream, read: Vec<u8> },
}

pub(crate) async fn relay(stream: TcpStream, peers: Peers, style: Style) {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let Some(mut connection) = Connection::open(stream, style).await else { return };
    let (outbox, mut queue) = mpsc::channel(1024);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    if connection.write(&mut vec![Message::text(number.to_string())], style).await.is_err() {
        return;
    }
    peers.lock().unwrap().insert(number, outbox);
    let (mut batch, mut out) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            taken = queue.recv_many(&mut out, 64) => if taken == 0 { break },
            received = connection.read(&mut batch) => if received.is_none() { break },
        }
        for message in batch.drain(..) {
            forward(&peers, number, &message);
            out.push(Message::text("ok"));
        }
        if connection.write(&mut out, style).await.is_err() {
            break;
        }
    }
    peers.lock().unwrap().remove(&number);
}

fn forward(peers: &Peers, sender: u64, message: &Message) {
    let text = message.to_text().unwrap();
    let peers = peers.lock().unwrap();
    match text.split_once(' ') {
        Some(("*", _)) => peers.iter().filter(|(to, _)| **to != sender).for_each(|(_, outbox)| {
            drop(outbox.try_send(message.clone()));
        }),
        Some((to, _)) => {
            if let Some(outbox) = to.parse().ok().and_then(|to: u64| peers.get(&to)) {
                drop(outbox.try_send(message.clone()));
            }
        }
        None => {}
    }
}

impl Connection {
    async fn open(mut stream: TcpStream, style: Style) -> Option<Self> {
        let mut first = [0; 1];
        stream.peek(&mut first).await.ok()?;
        if first == *b"G" {
            let config = match style {
                Style::Batched => batched_config(),
                Style::Single => WebSocketConfig::default(),
            };
            let stream = accept_async_with_config(stream, Some(config)).await.ok()?;
            return Some(Self::Frames(Box::new(stream)));
        }
        // The line `backend`, the request line, and an empty line.
        let mut read = Vec::with_capacity(4096);
        while !read.ends_with(b"\n\n") {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        }
        read.clear();
        Some(Self::Lines { stream, read })
    }

    /// Cancel safe: received bytes are kept.
    async fn read(&mut self, batch: &mut Vec<Message>) -> Option<()> {
        match self {
            Self::Frames(stream) => receive(stream, batch).await,
            Self::Lines { stream, read } => {
                if stream.read_buf(read).await.ok()? == 0 {
                    return None;
                }
                while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                    let text = std::str::from_utf8(&read[..end]).ok()?.to_owned();
                    batch.push(Message::text(text));
                    read.drain(..=end);
                }
                Some(())
            }
        }
    }

    async fn write(&mut self, out: &mut Vec<Message>, style: Style) -> Result<(), Error> {
        match self {
            Self::Frames(stream) => {
                for message in out.drain(..) {
                    match style {
                        Style::Batched => stream.feed(message).await?,
                        Style::Single => stream.send(message).await?,
                    }
                }
                stream.flush().await
            }
            Self::Lines { stream, .. } => {
                let mut bytes = Vec::new();
                for message in out.drain(..) {
                    bytes.extend(message.to_text()?.as_bytes());
                    bytes.push(b'\n');
                }
                Ok(stream.write_all(&bytes).await?)
            }
        }
    }
}
