//! Keeps a host under load, for profilers: `load PATH IN_FLIGHT SECONDS` starts the host of the
//! same folder, prints its process id, and sends on 64 connections.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measuring tool, not a server"
)]

use std::time::Duration;

use plugsocket_bench::{HOST, HOST_DIALOG, Load, Server, Setup, Talk};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, in_flight, seconds] = args.as_slice() else {
        panic!("usage: load PATH IN_FLIGHT SECONDS; PATH is /echo or /dialog");
    };
    let subject = if path == "/dialog" { HOST_DIALOG } else { HOST };
    let server = Server::start(&subject, &Setup::default()).await.unwrap();
    println!("process {}", server.pid());
    let talk = Talk::new(64, in_flight.parse().unwrap());
    let load = Load::start(&server, &subject, &talk).await.unwrap();
    tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
    println!("{} messages", load.answered());
    load.stop().await.unwrap();
}
