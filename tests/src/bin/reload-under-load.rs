//! Replaces an application repeatedly while connections exchange numbered messages with it, and
//! counts lost, duplicated and reordered messages.
//!
//! ```text
//! cargo run --release -p plugsocket-tests --bin reload-under-load
//! cargo run --release -p plugsocket-tests --bin reload-under-load -- \
//!     --sockets 200 --talkers 200 --reloads 20 --bad 0 --state-mb 100
//! ```
//!
//! Prints a summary. Exits with code 1 if a message was lost, answered twice or out of order, if a
//! connection was closed, or if the application's count differs from the number sent. Needs one
//! file descriptor per connection, as does the host; the limit is raised if allowed. All
//! connections are on 127.0.0.1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints")]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use plugsocket_tests::ensure_file_limit;
use plugsocket_tests::load::{Plan, Report, percentile, reload_under_load};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // This program is also the host and its preflight child, so that no other must be built.
    if matches!(arguments.next().as_deref(), Some("run" | "preflight")) {
        return plugsocket::main();
    }
    let Some(plan) = plan(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Err(text) = ensure_file_limit(plan.sockets + OTHER_FILES) {
        eprintln!("reload-under-load: {text}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Runtime::new().expect("the runtime's threads can be started");
    let program = std::env::current_exe().expect("the program's path is known");
    let report = runtime.block_on(reload_under_load(program, plan));
    print!("{}", summary(plan, &report));
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const USAGE: &str = "\
usage: reload-under-load [OPTION NUMBER]…
  --sockets   number of connections (10000)
  --talkers   connections that exchange messages continuously (500)
  --pace-ms   pause of a talker after each answer (50)
  --reloads   number of reloads (100)
  --bad       invalid libraries to offer between the reloads (10)
  --state-mb  megabytes of ballast in the application's state (0)";

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

/// File descriptors needed besides the connections.
const OTHER_FILES: usize = 200;

fn summary(plan: Plan, report: &Report) -> String {
    let Plan { reloads, sockets, talkers, .. } = plan;
    let Report { sent, answered, lost, duplicated, reordered, closed, counted, took, .. } = report;
    let percentiles = |times: &[Duration]| {
        let [p50, p99, most] = [50, 99, 100].map(|share| percentile(times, share));
        format!("p50 {p50:.1?}, p99 {p99:.1?}, max {most:.1?}")
    };
    let growth = report.resident_growth();
    let [before, after] = [report.resident.first(), report.resident.last()]
        .map(|bytes| bytes.map_or(0.0, |bytes| *bytes as f64 / 1e6));
    let state = report.state_bytes as f64 / 1e6;
    let rate = state / percentile(&report.pauses, 50).as_secs_f64();
    let mut text = format!(
        "{reloads} reloads under {sockets} connections, {talkers} of them talkers, in {took:.1?}\n\
         connections  {closed} closed\n\
         messages     {sent} sent, {answered} answered, {lost} lost, {duplicated} duplicated, {reordered} reordered\n\
         state        {counted} counted by the application over all generations, {}\n\
         pause        {}; {state:.1} MB handed over, {rate:.0} MB/s\n\
         mv to answer {}\n\
         memory       {:.0} kB ± {:.0} kB per retired generation; {before:.1} MB resident before, {after:.1} MB after\n",
        if counted == sent { "exact" } else { "NOT EXACT" },
        percentiles(&report.pauses),
        percentiles(&report.delays),
        growth.slope / 1e3,
        growth.error / 1e3,
    );
    for (what, sentence) in &report.refusals {
        writeln!(text, "refused      {what}: {sentence}").expect("writing to a string cannot fail");
    }
    text
}
