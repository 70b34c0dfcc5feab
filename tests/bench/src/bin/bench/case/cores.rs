//! Gain from a second core, with one resource (one event at a time) and with eight.
//!
//! With three or more cores the load has its own. With two it shares the server's second core: the
//! rates are then lower than possible, but the cost of a message remains comparable.

use std::io;

use plugsocket_bench::{BATCHED, Effort, HOST, Setup, Subject, Table, Talk};

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let has_third = !matches!(online.trim(), "0" | "0-1");
    let two = if has_third { "0,2" } else { "0,1" };
    let paths = |count: usize| (0..count).map(|number| format!("/echo/{number}")).collect();
    let shapes: [(&str, Subject, Vec<String>); 3] = [
        ("batched", BATCHED, Vec::new()),
        ("plugsocket, 1 resource", HOST, paths(1)),
        ("plugsocket, 8 resources", HOST, paths(8)),
    ];
    for (name, subject, paths) in shapes {
        let entries = ["0", two].map(|cores| (format!("{name}, cores {cores}"), cores));
        let talk = Talk { paths, ..Talk::new(64, 16) };
        let measure = async |cores: &&'static str| {
            let setup = Setup { cores, echoes: 8, ..Setup::default() };
            talk.measure(effort, &subject, &setup).await
        };
        let rows = effort.rounds(&entries, measure).await?;
        let shared = if has_third { "" } else { "; the load shares the second core" };
        let table = Table::new(format!("cores: {name}, 64 connections, 16 in flight{shared}"))
            .value("messages")
            .busy()
            .number("per second", |s| s.per_second)
            .ratio("per second, of one core", &entries[0].0, |s| s.per_second, 1.0);
        println!("{}", table.render(&rows));
    }
    Ok(())
}
