//! Large messages: rate, and memory of the host.

use std::io;
use std::time::Duration;

use plugsocket_bench::{
    BARE, BATCHED, Effort, HOST, HOST_DIALOG, HOST_WEB, NODE, RAW, Sample, Server, Setup, Subject,
    Table, Talk, forget_peak, frame, peak_bytes, resident_bytes,
};

use super::entries;

pub(super) async fn run(effort: &Effort) -> io::Result<()> {
    echoes(effort).await?;
    chunks(effort).await
}

async fn echoes(effort: &Effort) -> io::Result<()> {
    const SIZE: usize = 1024 * 1024;
    let talk = Talk { size: SIZE, ..Talk::new(1, 1) };
    let setup = Setup { size: SIZE, ..Setup::default() };
    let entries = entries(&[RAW, BATCHED, BARE, NODE, HOST]);
    let measure = async |subject: &Subject| talk.measure(effort, subject, &setup).await;
    let rows = effort.rounds(&entries, measure).await?;
    let table = Table::new("large: echo of 1 MiB, one connection, 1 in flight")
        .value("messages")
        .busy()
        .time("p50", |s| s.p50)
        .ratio("of raw", RAW.name, |s| s.value, 1.0)
        .ratio("of batched", BATCHED.name, |s| s.value, 1.0)
        .ratio("of bare", BARE.name, |s| s.value, 1.0);
    println!("{}", table.render(&rows));
    Ok(())
}

/// 16 MiB, the default of `max_message`, in 64 chunks.
const CHUNKS: usize = 64;
const CHUNK: usize = 256 * 1024;

async fn chunks(effort: &Effort) -> io::Result<()> {
    let effort = Effort { rounds: effort.rounds.min(3), ..*effort };
    let entries = [("received only".to_owned(), HOST_WEB), ("echoed".to_owned(), HOST_DIALOG)];
    let rows = effort.rounds(&entries, measure).await?;
    let table = Table::new(
        "large: a message of 16 MiB in 64 chunks; growth of the host's memory in units of 16 MiB",
    )
    .number("peak", |s| s.value)
    .number("after 1 s", |s| s.other);
    println!("{}", table.render(&rows));
    Ok(())
}

async fn measure(subject: &Subject) -> io::Result<Sample> {
    let server = Server::start(subject, &Setup::default()).await?;
    let (mut link, _) = server.open(subject, 0).await?;
    let before = resident_bytes(server.pid())?;
    forget_peak(server.pid())?;
    // `feedback` acknowledges and ignores an unknown opcode.
    let mut text = br#"{"opcode":"none","message":""#.to_vec();
    text.resize(CHUNKS * CHUNK - 2, b'x');
    text.extend(br#""}"#);
    link.send(&frame(b"bufferON")).await?;
    link.expect(1).await?;
    for chunk in text.chunks(CHUNK) {
        link.send(&frame(chunk)).await?;
        link.expect(1).await?;
    }
    link.send(&frame(b"bufferOFF")).await?;
    link.expect(subject.answers).await?;
    let of_message = |bytes: u64| bytes.saturating_sub(before) as f64 / (CHUNKS * CHUNK) as f64;
    let value = of_message(peak_bytes(server.pid())?);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let other = of_message(resident_bytes(server.pid())?);
    Ok(Sample { value, other, ..Sample::default() })
}
