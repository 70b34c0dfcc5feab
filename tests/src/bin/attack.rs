//! Attacks a host and a server of npm `ws` beside it, while honest clients go on, and prints one table.
//!
//! ```text
//! (cd clients/js && npm ci)
//! cargo run --release -p plugsocket-tests --bin attack
//! cargo run --release -p plugsocket-tests --bin attack -- --quick slow-readers churn
//! ```
//!
//! Ends with exit code 1 if a figure of the host's is missed (bold in the table), or an honest client of its lost a message or its
//! connection. Everything happens on 127.0.0.1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its caller")]

use std::process::ExitCode;
use std::time::Duration;

use plugsocket_tests::allow_files;
use plugsocket_tests::attack::{ATTACKS, Row, Scale};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // This program is the host as well, and the host's preflight child: so it needs no other program to be built.
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
    if let Err(text) = allow_files(scale.sockets + OTHER_FILES) {
        eprintln!("attack: {text}");
        return ExitCode::FAILURE;
    }
    let chosen = ATTACKS
        .iter()
        .filter(|attack| names.is_empty() || names.iter().any(|name| name.as_str() == attack.name));
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    let program = std::env::current_exe().expect("a program knows its own path");
    println!("{}", Row::HEAD);
    let mut is_good = true;
    for attack in chosen {
        let row = runtime.block_on(attack.on_host(&program, scale));
        println!("{row}");
        is_good &= row.is_good();
        if let Some(row) = runtime.block_on(attack.on_other(scale)) {
            println!("{row}");
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What else is open.
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
