//! Compares the host with other servers on the same machine:
//!
//! ```text
//! cargo build --release --workspace && target/release/bench [--quick] [--large] [CASE…]
//! ```
//!
//! The servers run on core 0, the load on core 1; each server is measured several times, in turns.
//! `docs/explanation/performance.md` explains the tables.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod case;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use plugsocket_bench::{Effort, allow_files, pin};

const USAGE: &str = "\
usage: bench [--quick] [--large] [--rounds=N] [--window=MS] [CASE…]
  --quick      one minute for the first four cases; short windows, so results vary more
  --large      adds 50,000 and 100,000 connections; needs as many files (`ulimit -Hn`)
  --rounds=N   turns of each server; after --quick
  --window=MS  length of a turn; after --quick
cases (default: all; with --quick the first four):
  echo broadcast feedback memory opening pings latency lookup scale cores large post";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let (options, cases): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let Some(effort) = effort(&options) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Err(error) = run(&effort, &cases).await {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn effort(options: &[String]) -> Option<Effort> {
    let mut effort = Effort {
        rounds: 7,
        window: Duration::from_secs(2),
        is_quick: false,
        is_large: false,
        files: 0,
    };
    for option in options {
        match option.as_str() {
            "--quick" => {
                effort.is_quick = true;
                effort.rounds = 5;
                effort.window = Duration::from_millis(250);
            }
            "--large" => effort.is_large = true,
            other => match other.split_once('=')? {
                ("--rounds", number) => effort.rounds = number.parse().ok().filter(|n| *n > 0)?,
                ("--window", millis) => effort.window = Duration::from_millis(millis.parse().ok()?),
                _ => return None,
            },
        }
    }
    effort.files = allow_files(if effort.is_large { 120_000 } else { 20_000 });
    Some(effort)
}

async fn run(effort: &Effort, wanted: &[String]) -> io::Result<()> {
    // A machine with one core is usable: the tables contain the CPU use of the server.
    if let Err(error) = pin(1) {
        println!("the load shares the core of the server: {error}");
    }
    println!(
        "medians of {} rounds of {} ms; rates per CPU second of the server; file limit {}",
        effort.rounds,
        effort.window.as_millis(),
        effort.files
    );
    let defaults = if effort.is_quick { case::CORE } else { case::ALL };
    let wanted: Vec<&str> = match wanted {
        [] => defaults.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    for name in wanted {
        case::run(name, effort).await?;
    }
    Ok(())
}
