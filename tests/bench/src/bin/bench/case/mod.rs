//! The cases. Each starts its servers, puts them under load, and prints its tables.

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
mod post;
mod scale;

use std::io;

use plugsocket_bench::{Effort, Program, RAW, Setup, Subject, Talk, has_node};

/// All cases, in the order of `docs/explanation/performance.md`.
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
    "post",
];

/// The cases of `--quick`.
pub(crate) const CORE: &[&str] = &["echo", "broadcast", "feedback", "memory"];

/// Runs a case.
///
/// # Errors
/// The case is unknown, or a server or connection fails.
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
        "post" => post::run(effort).await,
        other => {
            Err(io::Error::other(format!("unknown case {other}; the cases are {}", ALL.join(" "))))
        }
    }
}

/// Returns the subjects with their names, without those of Node if it is not installed.
fn entries(subjects: &[Subject]) -> Vec<(String, Subject)> {
    let has_node = has_node();
    let available = subjects.iter().filter(|subject| has_node || subject.program != Program::Node);
    available.map(|subject| (subject.name.to_owned(), *subject)).collect()
}

/// Returns how many of the `wanted` connections the file limit allows; prints a line if it is
/// fewer.
fn possible(effort: &Effort, wanted: usize) -> usize {
    let most = usize::try_from(effort.files).unwrap_or(usize::MAX).saturating_sub(300);
    if wanted > most {
        println!(
            "\n{most} instead of {wanted} connections: the limit of open files is {} (`ulimit -Hn`)",
            effort.files
        );
    }
    wanted.min(most)
}

/// Returns the round trip time in seconds of a message of 64 bytes with the server `raw`.
async fn round_trip(effort: &Effort) -> io::Result<f64> {
    Ok(Talk::new(1, 1).measure(effort, &RAW, &Setup::default()).await?.p50)
}
