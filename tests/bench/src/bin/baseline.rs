//! The servers that plugsocket is compared with: `baseline (raw|batched|bare) PORT`.
//!
//! - `raw`: answers bytes for bytes, knowing their sizes: what the kernel and tokio cost, the limit.
//! - `batched`: tokio-tungstenite as it should be used: a 4 KiB read buffer, all messages of one readiness, one flush.
//! - `bare`: tokio-tungstenite as its examples use it: default buffers, a flush for each message.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measuring tool, not a server"
)]

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::{SinkExt, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async, accept_async_with_config};

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap();
    let port: u16 = args.next().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            match kind.as_str() {
                "raw" => drop(tokio::spawn(raw(stream))),
                "batched" => drop(tokio::spawn(batched(stream))),
                "bare" => drop(tokio::spawn(bare(stream))),
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

async fn receive(
    stream: &mut WebSocketStream<TcpStream>,
    batch: &mut Vec<tokio_tungstenite::tungstenite::Message>,
) -> Option<()> {
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
