//! HTTP POST: each message on a new connection, or all of a client on one that is kept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plugsocket_bench::{Effort, HOST_WEB, Latencies, Sample, Server, Setup, Table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const NEW: &str = "new connections";

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    for clients in [50, 1] {
        let entries = [(NEW.to_owned(), false), ("kept connections".to_owned(), true)];
        let measure = async |is_kept: &bool| measure(effort, clients, *is_kept).await;
        let rows = effort.rounds(&entries, measure).await?;
        let table = Table::new(format!("post: {clients} clients, each waits for its response"))
            .value("posts")
            .busy()
            .ratio("of new", NEW, |s| s.value, 1.0);
        println!("{}", table.render(&rows));
    }
    Ok(())
}

async fn measure(effort: &Effort, clients: usize, is_kept: bool) -> io::Result<Sample> {
    let server = Server::start(&HOST_WEB, &Setup::default()).await?;
    let (answered, latencies) = (Arc::new(AtomicU64::new(0)), Latencies::default());
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        tasks.spawn(client(server.address, is_kept, answered.clone(), latencies.clone()));
    }
    tokio::select! {
        sample = effort.observe(&server, &latencies, || answered.load(Ordering::Relaxed)) => sample,
        Some(ended) = tasks.join_next() => Err(io::Error::other(format!("ended early: {ended:?}"))),
    }
}

/// Posts one message after the other.
async fn client(
    address: SocketAddr,
    is_kept: bool,
    answered: Arc<AtomicU64>,
    latencies: Latencies,
) -> io::Result<()> {
    let packet = r#"{"opcode":"feedback","uuid":"unknown","message":"50 %"}"#;
    let connection = if is_kept { "keep-alive" } else { "close" };
    let request = format!(
        "POST /php HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n{packet}",
        packet.len()
    );
    let (mut kept, mut response) = (None, Vec::with_capacity(1024));
    loop {
        let begun = Instant::now();
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(address).await?,
        };
        stream.write_all(request.as_bytes()).await?;
        response.clear();
        // A kept connection has no end that could be awaited; the answer is one packet.
        while !(is_kept && response.ends_with(b"}\n")) {
            if stream.read_buf(&mut response).await? == 0 {
                break;
            }
        }
        if !response.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other(String::from_utf8_lossy(&response).into_owned()));
        }
        kept = is_kept.then_some(stream);
        latencies.record(begun.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
    }
}
