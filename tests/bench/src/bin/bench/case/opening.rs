//! Handshakes: connections that are opened and stay open.

use std::io;
use std::time::Instant;

use plugsocket_bench::{
    BARE, BATCHED, Effort, HOST, HOST_DIALOG, NODE, RAW, Sample, Server, Setup, Subject, Table,
};
use tokio::task::JoinSet;

use super::entries;

/// Connections that are opened concurrently.
const AT_ONCE: usize = 16;

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let count = if effort.is_quick { 2000 } else { 8000 };
    let entries = entries(&[RAW, BATCHED, BARE, NODE, HOST, HOST_DIALOG]);
    let rows = effort.rounds(&entries, async |subject| measure(subject, count).await).await?;
    let table = Table::new(format!(
        "opening: {count} connections, {AT_ONCE} concurrently; until 101, with a dialog until `ready`"
    ))
    .value("handshakes")
    .busy()
    .ratio("of raw", RAW.name, |s| s.value, 1.0)
    .ratio("of batched", BATCHED.name, |s| s.value, 1.0)
    .ratio("of bare", BARE.name, |s| s.value, 1.0);
    println!("{}", table.render(&rows));
    Ok(())
}

async fn measure(subject: &Subject, count: usize) -> io::Result<Sample> {
    let server = Server::start(subject, &Setup::default()).await?;
    let (begun, cpu) = (Instant::now(), server.cpu_time()?);
    let mut openers = JoinSet::new();
    let (address, subject) = (server.address, *subject);
    for _ in 0..AT_ONCE {
        openers.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..count / AT_ONCE {
                open.push(subject.open(address, 0).await?.0);
            }
            io::Result::Ok(open)
        });
    }
    let mut open = Vec::new();
    while let Some(opened) = openers.join_next().await {
        open.extend(opened.map_err(io::Error::other)??);
    }
    let cpu = (server.cpu_time()? - cpu).as_secs_f64();
    let elapsed = begun.elapsed().as_secs_f64();
    let opened = open.len() as f64;
    Ok(Sample {
        value: opened / cpu,
        busy: cpu / elapsed,
        per_second: opened / elapsed,
        ..Sample::default()
    })
}
