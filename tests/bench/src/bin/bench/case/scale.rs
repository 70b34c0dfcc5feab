//! Cost of a message by number of active connections and by number of resources.

use std::io;
use std::time::Duration;

use plugsocket_bench::{BATCHED, Effort, HOST, Setup, Subject, Table, Talk};

use super::possible;

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    connections(effort).await?;
    resources(effort).await
}

async fn connections(effort: &Effort) -> io::Result<()> {
    let counts = [10, 64, 1000, possible(effort, 10_000)];
    let name = |subject: &Subject, count: usize| format!("{}, {count}", subject.name);
    let of_64 = |subject: &Subject| name(subject, 64);
    let mut entries = Vec::new();
    for subject in [BATCHED, HOST] {
        for count in counts {
            entries.push((name(&subject, count), (subject, count)));
        }
    }
    let measure = async |(subject, count): &(Subject, usize)| {
        // Ten thousand answers take part of a second, and a window must contain many rounds.
        let window = effort.window.max(Duration::from_micros(200 * *count as u64));
        let effort = Effort { window, ..*effort };
        Talk::new(*count, 1).measure(&effort, subject, &Setup::default()).await
    };
    let rows = effort.rounds(&entries, measure).await?;
    let mut table = Table::new("scale: active connections, 64 bytes, 1 in flight each")
        .value("messages")
        .busy();
    for subject in [BATCHED, HOST] {
        let head = format!("of {}", of_64(&subject));
        table = table.ratio(&head, &of_64(&subject), |s| s.value, 1.0);
    }
    // Cache misses affect all servers, so the ratio at the same number is what counts.
    let of_batched: Vec<String> = counts
        .iter()
        .map(|count| {
            let row = |subject| rows.iter().find(|row| row.name == name(subject, *count));
            let ratio =
                row(&HOST).zip(row(&BATCHED)).map(|(host, base)| host.ratio(base, |s| s.value));
            format!("{count}: {:.2}", ratio.unwrap_or(f64::NAN))
        })
        .collect();
    println!("{}\nratio of plugsocket to batched: {}", table.render(&rows), of_batched.join(", "));
    Ok(())
}

async fn resources(effort: &Effort) -> io::Result<()> {
    let name = |count: &usize| format!("{count} resources");
    let counts = [1, 10, 100];
    let entries = counts.map(|count| (name(&count), count));
    let measure = async |count: &usize| {
        let paths = (0..*count).map(|number| format!("/echo/{number}")).collect();
        let setup = Setup { echoes: *count, ..Setup::default() };
        Talk { paths, ..Talk::new(100, 1) }.measure(effort, &HOST, &setup).await
    };
    let rows = effort.rounds(&entries, measure).await?;
    let table = Table::new("scale: 100 connections over several resources, 64 bytes, 1 in flight")
        .value("messages")
        .busy()
        .ratio("of 1", &name(&1), |s| s.value, 1.0);
    println!("{}", table.render(&rows));
    Ok(())
}
