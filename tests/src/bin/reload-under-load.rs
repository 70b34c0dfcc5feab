//! Replaces an application again and again while connections exchange numbered messages with it, and counts what was lost.
//!
//! ```text
//! cargo run --release -p plugsocket-tests --bin reload-under-load
//! cargo run --release -p plugsocket-tests --bin reload-under-load -- --sockets 200 --talkers 200 --reloads 20 --bad 0 --state-mb 100
//! ```
//!
//! Prints a summary and ends with exit code 1 if a message was lost, answered twice or out of order, or a connection was
//! closed, or the application's count is not what was sent. It needs a file for each connection, and so does the host that it
//! starts: it raises the limit where it may. Everything happens on 127.0.0.1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its caller")]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use plugsocket_tests::allow_files;
use plugsocket_tests::load::{Plan, Report, percentile, reload_under_load};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // This program is the host as well, and the host's preflight child: so it needs no other program to be built.
    if matches!(arguments.next().as_deref(), Some("run" | "preflight")) {
        return plugsocket::main();
    }
    let Some(plan) = plan(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Err(text) = allow_files(plan.sockets + OTHER_FILES) {
        eprintln!("reload-under-load: {text}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    let program = std::env::current_exe().expect("a program knows its own path");
    let report = runtime.block_on(reload_under_load(program, plan));
    print!("{}", summary(plan, &report));
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const USAGE: &str = "\
usage: reload-under-load [OPTION NUMBER]…
  --sockets   connections in all (10000)
  --talkers   of these, how many exchange messages all the time (500)
  --pace-ms   how long a talker waits after each answer (50)
  --reloads   how often the application is replaced (100)
  --bad       libraries that are no good, tried meanwhile (10)
  --state-mb  megabytes added to the application's state (0)";

fn plan(mut arguments: impl Iterator<Item = String>) -> Option<Plan> {
    let mut plan = Plan {
        reloads: 100,
        sockets: 10_000,
        talkers: 500,
        pace: Duration::from_millis(50),
        bad: 10,
        ballast: 0,
    };
    while let Some(name) = arguments.next() {
        let number: usize = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--sockets" => plan.sockets = number,
            "--talkers" => plan.talkers = number,
            "--pace-ms" => plan.pace = Duration::from_millis(number as u64),
            "--reloads" => plan.reloads = number,
            "--bad" => plan.bad = number,
            "--state-mb" => plan.ballast = number * 1_000_000,
            _ => return None,
        }
    }
    plan.talkers = plan.talkers.min(plan.sockets);
    (plan.talkers > 0 && plan.reloads > 0).then_some(plan)
}

/// What host and load have open besides the connections.
const OTHER_FILES: usize = 200;

fn summary(plan: Plan, report: &Report) -> String {
    let Plan { reloads, sockets, talkers, .. } = plan;
    let Report { sent, answered, lost, duplicated, reordered, closed, counted, took, .. } = report;
    let of = |times: &[Duration]| {
        let [p50, p99, most] = [50, 99, 100].map(|share| percentile(times, share));
        format!("p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?}")
    };
    let growth = report.resident_growth();
    let [before, after] = [report.resident.first(), report.resident.last()]
        .map(|bytes| bytes.map_or(0.0, |bytes| *bytes as f64 / 1e6));
    let state = report.state_bytes as f64 / 1e6;
    let rate = state / percentile(&report.pauses, 50).as_secs_f64();
    let mut text = format!(
        "{reloads} reloads under {sockets} connections, {talkers} of which talk all the time, in {took:.1?}\n\
         connections  {closed} closed\n\
         messages     {sent} sent, {answered} answered, {lost} lost, {duplicated} duplicated, {reordered} reordered\n\
         state        {counted} counted by the application over all generations, {}\n\
         pause        {}; {state:.1} MB handed over, {rate:.0} MB/s\n\
         mv to served {}\n\
         memory       {:.0} kB ± {:.0} kB for each retired generation; {before:.1} MB resident before, {after:.1} MB after\n",
        if counted == sent { "exact" } else { "NOT EXACT" },
        of(&report.pauses),
        of(&report.delays),
        growth.slope / 1e3,
        growth.error / 1e3,
    );
    for (what, sentence) in &report.refusals {
        writeln!(text, "refused      {what}: {sentence}").expect("a text takes any length");
    }
    text
}
