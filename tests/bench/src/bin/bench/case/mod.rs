//! The cases: each starts its servers, loads them, and prints its tables. One of encrypted connections would need a second way to open
//! a `Link`, and a `Setup::keys` with a certificate; the rest stays.

mod broadcast;
mod cores;
mod echo;
mod feedback;
mod large;
mod latency;
mod lookup;
mod memory;
mod opening;
mod pings;
mod scale;

use std::io;

use plugsocket_bench::{Effort, Program, RAW, Setup, Subject, Talk, has_node};

/// All, in the order in which docs/explanation/performance.md has their tables.
pub(crate) const ALL: &[&str] = &[
    "echo",
    "broadcast",
    "feedback",
    "memory",
    "opening",
    "pings",
    "latency",
    "lookup",
    "scale",
    "cores",
    "large",
];

/// Those of `--quick`.
pub(crate) const CORE: &[&str] = &["echo", "broadcast", "feedback", "memory"];

/// Runs one.
///
/// # Errors
/// There is no such case, or something fails on the way.
pub(crate) async fn run(name: &str, effort: &Effort) -> io::Result<()> {
    match name {
        "echo" => echo::run(effort).await,
        "broadcast" => broadcast::run(effort).await,
        "feedback" => feedback::run(effort).await,
        "memory" => memory::run(effort).await,
        "opening" => opening::run(effort).await,
        "pings" => pings::run(effort).await,
        "latency" => latency::run(effort).await,
        "lookup" => lookup::run(effort).await,
        "scale" => scale::run(effort).await,
        "cores" => cores::run(effort).await,
        "large" => large::run(effort).await,
        other => {
            Err(io::Error::other(format!("{other}: no such case; there are {}", ALL.join(" "))))
        }
    }
}

/// Entries that go by their own names. Node's are left out where it is not installed.
fn entries(subjects: &[Subject]) -> Vec<(String, Subject)> {
    let has_node = has_node();
    let there = subjects.iter().filter(|subject| has_node || subject.program != Program::Node);
    there.map(|subject| (subject.name.to_owned(), *subject)).collect()
}

/// How many connections are possible of those wanted: both ends are files, each of its own process. Says what is left out.
fn possible(effort: &Effort, wanted: usize) -> usize {
    let most = usize::try_from(effort.files).unwrap_or(usize::MAX).saturating_sub(300);
    if wanted > most {
        println!(
            "\n{wanted} connections need as many files; this system allows {} (`ulimit -Hn`): {most} instead",
            effort.files
        );
    }
    wanted.min(most)
}

/// Seconds that a message of 64 bytes takes there and back, without any server to speak of.
async fn round_trip(effort: &Effort) -> io::Result<f64> {
    Ok(Talk::new(1, 1).measure(effort, &RAW, &Setup::default()).await?.p50)
}
