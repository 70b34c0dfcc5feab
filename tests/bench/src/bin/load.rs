//! Keeps a load on a server for a while: `load ADDRESS PATH IN_FLIGHT SECONDS [ANSWERS]`, for profilers.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measuring tool, not a server"
)]

use std::time::Duration;

use plugsocket_bench::{Load, Talk};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, path, in_flight, seconds, rest @ ..] = args.as_slice() else {
        panic!("load ADDRESS PATH IN_FLIGHT SECONDS [ANSWERS]");
    };
    let answers = rest.first().map_or(1, |answers| answers.parse().unwrap());
    let talk = Talk {
        address: address.clone(),
        path: path.clone(),
        size: 64,
        in_flight: in_flight.parse().unwrap(),
        answers,
        greets: answers > 1,
    };
    let load = Load::start(&talk, 64).await.unwrap();
    tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
    println!("{} messages", load.answered());
    load.stop().await.unwrap();
}
