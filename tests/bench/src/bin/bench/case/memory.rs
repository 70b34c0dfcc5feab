//! Memory of an idle connection.

use std::io;
use std::time::Duration;

use plugsocket_bench::{
    BARE, BATCHED, Effort, HOST, HOST_DIALOG, NODE, Sample, Server, Setup, Subject, Table,
    resident_bytes,
};

use super::{entries, possible};

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let mut counts = vec![possible(effort, 10_000)];
    if effort.is_large {
        counts.push(possible(effort, 50_000));
    }
    // The results hardly vary, and opening many connections takes long.
    let effort = Effort { rounds: if effort.is_quick { 1 } else { 3 }, ..*effort };
    for count in counts {
        let entries = entries(&[BATCHED, BARE, NODE, HOST, HOST_DIALOG]);
        let rows = effort.rounds(&entries, async |subject| measure(subject, count).await).await?;
        let table =
            Table::new(format!("memory: {count} idle connections; resident bytes per connection"))
                .value("bytes")
                .ratio("of batched", BATCHED.name, |s| s.value, 1.0);
        println!("{}", table.render(&rows));
    }
    Ok(())
}

async fn measure(subject: &Subject, count: usize) -> io::Result<Sample> {
    const FIRST: usize = 100;
    let server = Server::start(subject, &Setup::default()).await?;
    let first = server.crowd(subject, 0..FIRST).await?;
    let before = resident_bytes(server.pid())?;
    let others = server.crowd(subject, FIRST..FIRST + count).await?;
    // Until the server has released what it needed for the handshakes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let bytes = resident_bytes(server.pid())?.saturating_sub(before);
    drop((first, others));
    Ok(Sample { value: bytes as f64 / count as f64, ..Sample::default() })
}
