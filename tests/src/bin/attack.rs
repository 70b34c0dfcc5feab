//! Runs denial-of-service attacks against the host and a server of npm `ws`, and prints a table.
//!
//! ```text
//! (cd clients/js && npm ci)
//! cargo run --release -p plugsocket-tests --bin attack
//! cargo run --release -p plugsocket-tests --bin attack -- --quick slow-readers churn
//! ```
//!
//! Exits with code 1 if the host exceeds a limit (bold in the table), or if a legitimate client of
//! the host lost a message or its connection. All connections are on 127.0.0.1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program prints")]

use std::process::ExitCode;
use std::time::Duration;

use plugsocket_tests::attack::{ATTACKS, Row, Scale};
use plugsocket_tests::ensure_file_limit;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // This program is also the host and its preflight child, so that no other must be built.
    if matches!(arguments.first().map(String::as_str), Some("run" | "preflight")) {
        return plugsocket::main();
    }
    let (options, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|argument| argument.starts_with("--"));
    let known = |name: &String| ATTACKS.iter().any(|attack| attack.name == name.as_str());
    if options.iter().any(|option| *option != "--quick") || !names.iter().all(|name| known(name)) {
        let names: Vec<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
        eprintln!("usage: attack [--quick] [NAME…]\nnames: {}", names.join(" "));
        return ExitCode::from(2);
    }
    let scale = if options.is_empty() { FULL } else { QUICK };
    if let Err(text) = ensure_file_limit(scale.sockets + OTHER_FILES) {
        eprintln!("attack: {text}");
        return ExitCode::FAILURE;
    }
    let selected = ATTACKS
        .iter()
        .filter(|attack| names.is_empty() || names.iter().any(|name| name.as_str() == attack.name));
    let runtime = tokio::runtime::Runtime::new().expect("the runtime's threads can be started");
    let program = std::env::current_exe().expect("the program's path is known");
    println!("{}", Row::HEADER);
    let mut passes = true;
    for attack in selected {
        let row = runtime.block_on(attack.run_on_host(&program, scale));
        println!("{row}");
        passes &= row.passes();
        if let Some(row) = runtime.block_on(attack.run_on_ws(scale)) {
            println!("{row}");
        }
    }
    if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// File descriptors needed besides the attacking connections.
const OTHER_FILES: usize = 600;

const FULL: Scale = Scale {
    sockets: 1000,
    length: Duration::from_secs(5),
    before: Duration::from_secs(3),
    timeouts: None,
};

const QUICK: Scale = Scale {
    sockets: 200,
    length: Duration::from_secs(1),
    before: Duration::from_secs(1),
    timeouts: Some((Duration::from_secs(1), Duration::from_secs(2))),
};
