//! State that is handed over: within limits, or not at all.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Client, Setup};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn count(client: &mut Client) -> (String, u64) {
    client.send("x").await;
    let packet = client.until_next().await.packets.remove(0);
    (packet["by"].as_str().unwrap().to_owned(), packet["total"].as_u64().unwrap())
}

fn counter() -> Setup {
    let setup = Setup::new(PROGRAM).resource("/app", "app").library("app", "counter_v1");
    setup.reload("snapshot_limit", "10000").reload("restore_timeout", "0.3")
}

#[tokio::test]
async fn state_over_the_limit_is_not_handed_over_and_the_running_instance_goes_on() {
    let mut host = counter().config("/app", "ballast", "10000").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 1));
    let position = host.log_position();
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "and reload.snapshot_limit is 10000").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 2));
    // The limit can be raised while the host runs.
    host.apply(counter().config("/app", "ballast", "10000").reload("snapshot_limit", "20000"))
        .await;
    host.reload("app", "counter_v2").await;
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 3));
}

#[tokio::test]
async fn a_restore_that_takes_too_long_is_left_behind_and_the_running_instance_goes_on() {
    let host = counter().config("/app", "restore_delay_ms", "3000").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 1));
    let position = host.log_position();
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "did not take over the state within 300ms").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 2));
}
