//! Cost of keeping idle connections: pings and pongs.

use std::io;
use std::time::{Duration, Instant};

use plugsocket_bench::{Effort, HOST, HOST_DIALOG, Sample, Server, Setup, Subject, Table};

use super::{entries, possible};

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let count = possible(effort, if effort.is_quick { 2000 } else { 10_000 });
    // The default interval takes a minute per server; the cost of a ping does not depend on it.
    let (interval, rounds) = if effort.is_quick { (2, 1) } else { (30, 1) };
    let effort = Effort { rounds, ..*effort };
    let measure = async |subject: &Subject| measure(subject, count, interval).await;
    let rows = effort.rounds(&entries(&[HOST, HOST_DIALOG]), measure).await?;
    let title =
        format!("pings: {count} connections, one ping every {interval} s; CPU time per connection");
    let table = Table::new(title).time("per second", |s| s.value).time("per ping", |s| s.other);
    println!("{}", table.render(&rows));
    Ok(())
}

async fn measure(subject: &Subject, count: usize, interval: u64) -> io::Result<Sample> {
    let keys = format!("ping_interval = {interval}");
    let server = Server::start(subject, &Setup { keys, ..Setup::default() }).await?;
    let mut crowd = server.crowd(subject, 0..count).await?;
    let alone = server.cpu_time()?;
    // Two intervals, so that each connection receives two pings.
    let (begun, window) = (Instant::now(), Duration::from_secs(2 * interval));
    tokio::select! {
        () = tokio::time::sleep(window) => {}
        Some(ended) = crowd.join_next() => {
            return Err(io::Error::other(format!("a client was closed: {ended:?}")));
        }
    }
    let cpu = (server.cpu_time()? - alone).as_secs_f64() / count as f64;
    Ok(Sample { value: cpu / begun.elapsed().as_secs_f64(), other: cpu / 2.0, ..Sample::default() })
}
