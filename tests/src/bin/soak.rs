//! Soak test: millions of messages over short connections while the application is replaced and
//! clients do not read large answers.
//! Reports whether each message was answered once and in order, and whether resources were leaked.
//!
//! ```text
//! cargo run --release -p plugsocket-tests --bin soak
//! cargo run --release -p plugsocket-tests --bin soak -- --messages 1000000
//! ```
//!
//! The application is replaced ten times; the memory growth includes what each retired generation
//! keeps mapped. Four times, ten clients send 8 MiB each to an echo and do not read the answer; memory
//! at the end has to be within 10 % of that after the warm-up. Exits with code 1 on a failure. All
//! connections are on 127.0.0.1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints")]

use std::process::ExitCode;

use plugsocket_tests::soak::{Plan, soak};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let messages = match words[..] {
        // This program is also the host, its preflight child and its command line.
        ["run" | "preflight" | "connections", ..] => return plugsocket::main(),
        [] => Some(10_000_000),
        ["--messages", number] => number.parse().ok().filter(|number| *number >= 1000),
        _ => None,
    };
    let Some(messages) = messages else {
        eprintln!("usage: soak [--messages NUMBER]   (10000000; at least 1000)");
        return ExitCode::from(2);
    };
    let plan =
        Plan { messages, connections: 50, each: 500, reload_every: (messages / 10).max(1000) };
    let runtime = tokio::runtime::Runtime::new().expect("the runtime's threads can be started");
    let program = std::env::current_exe().expect("the program's path is known");
    let report = runtime.block_on(soak(program, plan));
    let (growth, megabytes) =
        (report.growth(), |bytes: Option<&u64>| bytes.map_or(0.0, |b| *b as f64 / 1e6));
    println!(
        "messages     {} sent, {} answered once and in order, {} counted by the application, in {:.1?}\n\
         connections  {} opened and closed, {} left\n\
         reloads      {}\n\
         not reading  {} clients with a large message, all closed\n\
         memory       {:.1} MB before, {:.1} MB after; {:.0} kB ± {:.0} kB per million messages with {:.0} reloads\n\
         returned     {:.1} MB after the warm-up, {:.1} MB at the end without connections\n\
         open files   {} before, {} after; threads {} before, {} after\n\
         verdict      {}",
        report.sent,
        report.answered,
        report.counted,
        report.took,
        report.sessions,
        report.left,
        report.reloads,
        report.non_readers,
        megabytes(report.resident.first()),
        megabytes(report.resident.last()),
        growth.slope / 1e3,
        growth.error / 1e3,
        1e6 / plan.reload_every as f64,
        report.warm() / 1e6,
        report.resident_at_end as f64 / 1e6,
        report.descriptors.0,
        report.descriptors.1,
        report.threads.0,
        report.threads.1,
        if report.is_clean() { "clean" } else { "NOT CLEAN" },
    );
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
