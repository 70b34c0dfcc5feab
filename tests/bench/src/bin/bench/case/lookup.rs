//! Cost of a lookup by number of connections: feedback among idle connections.

use std::io;

use plugsocket_bench::{Effort, HOST_WEB, RELAY, Sample, Server, Setup, Subject, Table};

use super::feedback::{Traffic, Transport};
use super::possible;

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let mut counts = vec![10, 1000, possible(effort, 10_000)];
    if effort.is_large {
        counts.push(possible(effort, 100_000));
    }
    for subject in [RELAY, HOST_WEB] {
        let name = |idle: &usize| format!("{idle} idle");
        let entries: Vec<(String, usize)> = counts.iter().map(|idle| (name(idle), *idle)).collect();
        let measure = async |idle: &usize| measure(effort, &subject, *idle).await;
        let rows = effort.rounds(&entries, measure).await?;
        let title =
            format!("lookup, {}: 8 backends to 8 browsers among idle connections", subject.name);
        let table = Table::new(title)
            .value("packets")
            .busy()
            .time("p50", |s| s.p50)
            .time("p99", |s| s.p99)
            .ratio("of 10 idle", &name(&10), |s| s.value, 1.0);
        println!("{}", table.render(&rows));
    }
    Ok(())
}

async fn measure(effort: &Effort, subject: &Subject, idle: usize) -> io::Result<Sample> {
    let server = Server::start(subject, &Setup::default()).await?;
    let crowd = server.crowd(subject, 0..idle).await?;
    let traffic = Traffic::start(&server, subject, Transport::WebSocket, 8).await?;
    let sample = traffic.measure(effort, &server).await;
    drop(crowd);
    sample
}
