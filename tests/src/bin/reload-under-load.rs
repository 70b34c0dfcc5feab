//! Replaces an application again and again while connections exchange numbered messages with it, and counts what was lost.
//!
//! ```text
//! cargo run --release -p plugsocket-tests --bin reload-under-load -- --reloads 100 --connections 200
//! ```
//!
//! Prints a summary and ends with exit code 1 if a message was lost, answered twice or out of order, or a connection was
//! closed. The pause is how long the application's messages waited at a reload, as the host measured it; it does not contain the
//! preparation, during which the old generation goes on serving.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its caller")]

use std::process::ExitCode;

use plugsocket_tests::load::{Plan, Report, reload_under_load};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // This program is the host as well, and the host's preflight child: so it needs no other program to be built.
    if matches!(arguments.next().as_deref(), Some("run" | "preflight")) {
        return plugsocket::main();
    }
    let Some(plan) = plan(std::env::args().skip(1)) else {
        eprintln!("usage: reload-under-load [--reloads N] [--connections N]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    let program = std::env::current_exe().expect("a program knows its own path");
    let report = runtime.block_on(reload_under_load(program, plan));
    println!("{}", summary(plan, &report));
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Option<Plan> {
    let mut plan = Plan { reloads: 100, connections: 200 };
    while let Some(name) = arguments.next() {
        let number = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--reloads" => plan.reloads = number,
            "--connections" => plan.connections = number,
            _ => return None,
        }
    }
    Some(plan)
}

fn summary(plan: Plan, report: &Report) -> String {
    let Plan { reloads, connections } = plan;
    let Report { sent, answered, lost, duplicated, reordered, closed, took, .. } = report;
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20);
    format!(
        "{reloads} reloads, {connections} connections, {took:.1?}: {sent} messages sent, {answered} answered, \
         {lost} lost, {duplicated} duplicated, {reordered} reordered, {closed} connections closed; \
         pause p50 {:.1?}, p99 {:.1?}, max {:.1?}; resident {} before, {} after",
        report.pause(50),
        report.pause(99),
        report.pause(100),
        mib(report.resident_before),
        mib(report.resident_after),
    )
}
