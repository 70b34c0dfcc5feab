//! What applications can do beside answering messages: defer, post, set timers, retire.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod batches;
mod deferred;
mod events;
mod retiring;

use plugsocket_tests::{Client, Next, Setup, TestHost, plugin_path};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const LANES: [&str; 2] = ["thread", "shared"];

/// The test plugin `worker` on `/w`, as an instance with this label.
fn worker(label: &str) -> Setup {
    Setup::new(PROGRAM).resource("/w", "worker").config("/w", "label", &format!("{label:?}"))
}

/// Replaces a library by one with the same code.
async fn reload(host: &TestHost, plugin: &str) {
    let position = host.log_position();
    let mut library = std::fs::read(host.library(plugin)).unwrap();
    library.push(0);
    host.put_library(plugin, &library);
    host.wait_for_reload(position).await;
}

/// Sends a command to `worker`; returns its result.
async fn command(client: &mut Client, command: Value) -> Value {
    let Next { packets, .. } = client.call(&command).await;
    result_in(&packets)
}

fn result_in(packets: &[Value]) -> Value {
    let result = packets.iter().find_map(|packet| packet.get("result"));
    result.unwrap_or_else(|| panic!("no result in {packets:?}")).clone()
}

/// Sends a command that `worker` answers without a `next`.
async fn command_without_next(client: &mut Client, command: Value) -> Value {
    client.send(command.to_string()).await;
    result_in(&[client.receive_json().await])
}

/// Defers a message under a name.
async fn defer(client: &mut Client, name: &str) {
    let result = command_without_next(client, json!({"do": "defer", "name": name})).await;
    assert_eq!(result, json!(true));
}

fn library(name: &str) -> Vec<u8> {
    std::fs::read(plugin_path(name)).unwrap()
}
