//! The servers that are compared with plugsocket: `baseline KIND PORT [SIZE]`.
//!
//! - `raw`: mio with one thread. Answers each `SIZE` bytes with prepared bytes: the limit of the
//!   machine.
//! - `raw-tokio`: `raw` as a tokio task.
//! - `fan`: `raw`, but each message goes to all other clients.
//! - `batched`: tokio-tungstenite with a 4 KiB read buffer; takes all messages that are ready, then
//!   flushes once.
//! - `bare`: tokio-tungstenite as in its examples: default buffers, one flush for each message.
//! - `relay`: `batched` with a queue for each connection. A new client receives its number. A
//!   message that begins with `*` goes to all others, one that begins with a number and a space to
//!   that client; the sender receives `ok`. A connection that begins with `backend` uses lines
//!   instead of frames.
//! - `chat`: `relay` with default buffers and one flush for each message.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measuring tool, not a server"
)]

mod raw;
mod relay;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::{SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async, accept_async_with_config};

use crate::raw::{Receivers, Sizes};
use crate::relay::{Peers, Style, relay};

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap();
    let port: u16 = args.next().unwrap().parse().unwrap();
    let size = args.next().map_or(64, |size| size.parse().unwrap());
    match kind.as_str() {
        "raw" => return raw::serve(port, size, Receivers::Echo).unwrap(),
        "fan" => return raw::serve(port, size, Receivers::Fan).unwrap(),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let peers = Peers::default();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            match kind.as_str() {
                "raw-tokio" => drop(tokio::spawn(raw_tokio(stream, size))),
                "batched" => drop(tokio::spawn(batched(stream))),
                "bare" => drop(tokio::spawn(bare(stream))),
                "relay" => drop(tokio::spawn(relay(stream, peers.clone(), Style::Batched))),
                "chat" => drop(tokio::spawn(relay(stream, peers.clone(), Style::Single))),
                other => panic!("unknown kind {other}"),
            }
        }
    });
}

async fn raw_tokio(stream: TcpStream, size: usize) {
    let Ok(stream) = accept_async(stream).await else { return };
    let mut stream = stream.into_inner();
    let sizes = Sizes::of(size);
    let mut buffer = vec![0; 4096];
    let answer = sizes.frames(4096 / sizes.received + 1);
    let mut rest = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let whole = (rest + read) / sizes.received;
        rest = (rest + read) % sizes.received;
        if whole > 0 && stream.write_all(&answer[..whole * sizes.sent]).await.is_err() {
            return;
        }
    }
}

fn batched_config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024)
}

async fn batched(stream: TcpStream) {
    let Ok(mut stream) = accept_async_with_config(stream, Some(batched_config())).await else {
        return;
    };
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

/// Receives all messages that are ready, at most 64.
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
    let Ok(mut stream) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        if message.is_close() || stream.send(message).await.is_err() {
            return;
        }
    }
}
