//! The servers that plugsocket is compared with: `baseline (raw|batched|bare|relay) PORT`.
//!
//! - `raw`: answers bytes for bytes, knowing their sizes: what the kernel and tokio cost, the limit.
//! - `batched`: tokio-tungstenite as it should be used: a 4 KiB read buffer, all messages of one readiness, one flush.
//! - `bare`: tokio-tungstenite as its examples use it: default buffers, a flush for each message.
//! - `relay`: `batched` with a queue for each connection. On connecting, a client is told its number; a message that begins with `*`
//!   goes to all others, one that begins with a number and a space to that client; the sender is answered `ok`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measuring tool, not a server"
)]

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use futures_util::{SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async, accept_async_with_config};

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap();
    let port: u16 = args.next().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let peers = Peers::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            match kind.as_str() {
                "raw" => drop(tokio::spawn(raw(stream))),
                "batched" => drop(tokio::spawn(batched(stream))),
                "bare" => drop(tokio::spawn(bare(stream))),
                "relay" => drop(tokio::spawn(relay(stream, peers.clone()))),
                other => panic!("{other}: no such baseline"),
            }
        }
    });
}

/// Frames of 64 bytes, masked in, unmasked out. The handshake is answered by tungstenite.
async fn raw(stream: TcpStream) {
    const IN: usize = 2 + 4 + 64;
    const OUT: usize = 2 + 64;
    let mut stream = accept_async(stream).await.unwrap().into_inner();
    let mut buffer = vec![0; 4096];
    let answer: Vec<u8> = [[0x81, 64].as_slice(), &[b'x'; 64]].concat().repeat(4096 / IN + 1);
    let mut rest = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let whole = (rest + read) / IN;
        rest = (rest + read) % IN;
        if whole > 0 && stream.write_all(&answer[..whole * OUT]).await.is_err() {
            return;
        }
    }
}

async fn batched(stream: TcpStream) {
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
    let mut stream = accept_async_with_config(stream, Some(config)).await.unwrap();
    let mut batch = Vec::new();
    while let Some(()) = receive(&mut stream, &mut batch).await {
        for message in batch.drain(..) {
            if stream.feed(message).await.is_err() {
                return;
            }
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut WebSocketStream<TcpStream>, batch: &mut Vec<Message>) -> Option<()> {
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *stream).poll_next(cx) {
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Some(())),
                Poll::Ready(Some(Ok(message))) if !message.is_close() => batch.push(message),
                Poll::Ready(_) => return Poll::Ready(None),
            }
            if batch.len() == 64 {
                return Poll::Ready(Some(()));
            }
        }
    })
    .await
}

async fn bare(stream: TcpStream) {
    let mut stream = accept_async(stream).await.unwrap();
    while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        if message.is_close() || stream.send(message).await.is_err() {
            return;
        }
    }
}

type Peers = Arc<Mutex<HashMap<u64, mpsc::Sender<Message>>>>;

async fn relay(stream: TcpStream, peers: Peers) {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
    let mut stream = accept_async_with_config(stream, Some(config)).await.unwrap();
    let (outbox, mut queue) = mpsc::channel(1024);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    stream.send(Message::text(number.to_string())).await.unwrap();
    peers.lock().unwrap().insert(number, outbox);
    let (mut batch, mut out) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            taken = queue.recv_many(&mut out, 64) => if taken == 0 { break },
            received = receive(&mut stream, &mut batch) => if received.is_none() { break },
        }
        for message in batch.drain(..) {
            let text = message.to_text().unwrap();
            let peers = peers.lock().unwrap();
            match text.split_once(' ') {
                Some(("*", _)) => {
                    peers.iter().filter(|(to, _)| **to != number).for_each(|(_, outbox)| {
                        drop(outbox.try_send(message.clone()));
                    })
                }
                Some((to, _)) => drop(peers[&to.parse().unwrap()].try_send(message.clone())),
                None => {}
            }
            out.push(Message::text("ok"));
        }
        for message in out.drain(..) {
            if stream.feed(message).await.is_err() {
                peers.lock().unwrap().remove(&number);
                return;
            }
        }
        if stream.flush().await.is_err() {
            break;
        }
    }
    peers.lock().unwrap().remove(&number);
}
