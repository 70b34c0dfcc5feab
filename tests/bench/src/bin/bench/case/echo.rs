//! Echoes of 64 bytes on 64 connections.

use std::io;

use plugsocket_bench::{
    BARE, BATCHED, Effort, HOST, HOST_DIALOG, NODE, RAW, RAW_TOKIO, Setup, Table, Talk,
};

use super::entries;

/// Messages in flight, and the ratio of `raw` to uWebSockets, measured on a machine of this class.
const IN_FLIGHT: [(usize, f64); 2] = [(1, 193.0 / 188.0), (16, 2.91 / 2.59)];

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let entries = entries(&[RAW, RAW_TOKIO, BATCHED, BARE, NODE, HOST, HOST_DIALOG]);
    for (in_flight, over_uws) in IN_FLIGHT {
        let talk = Talk::new(64, in_flight);
        let measure = async |subject: &_| talk.measure(effort, subject, &Setup::default()).await;
        let rows = effort.rounds(&entries, measure).await?;
        let table = Table::new(format!("echo: 64 bytes, 64 connections, {in_flight} in flight"))
            .value("messages")
            .busy()
            .ratio("of raw", RAW.name, |s| s.value, 1.0)
            .ratio("of batched", BATCHED.name, |s| s.value, 1.0)
            .ratio("of uWebSockets", RAW.name, |s| s.value, over_uws);
        println!("{}", table.render(&rows));
    }
    Ok(())
}
