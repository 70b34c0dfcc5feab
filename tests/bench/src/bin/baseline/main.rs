//! The servers that plugsocket is compared with: `baseline KIND PORT [SIZE]`.
//!
//! - `raw`: mio and one thread; answers bytes for bytes, knowing that messages have `SIZE` bytes: the limit of this machine.
//! - `raw-tokio`: the same as a tokio task.
//! - `fan`: `raw`, but what one sends goes to all others, from preencoded bytes.
//! - `batched`: tokio-tungstenite as it should be used: a 4 KiB read buffer, all messages of one readiness, one flush.
//! - `bare`: tokio-tungstenite as its examples use it: default buffers, a flush for each message.
//! - `relay`: `batched` with a queue for each connection. On connecting, a client is told its number; a message that begins with `*`
//!   goes to all others, one that begins with a number and a space to that client; the sender is answered `ok`. A connection that
//!   begins with `backend` speaks the same in lines.
//! - `chat`: `relay` as examples have it: default buffers, a flush for each message.
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

use crate::raw::{Manner, Sizes};
use crate::relay::{Peers, Style, relay};

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap();
    let port: u16 = args.next().unwrap().parse().unwrap();
    let size = args.next().map_or(64, |size| size.parse().unwrap());
    match kind.as_str() {
        "raw" => return raw::serve(port, size, Manner::Echo).unwrap(),
        "fan" => return raw::serve(port, size, Manner::Fan).unwrap(),
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
                other => panic!("{other}: no such baseline"),
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

/// All messages of one readiness, 64 at most.
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
