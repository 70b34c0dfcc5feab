//! State that is handed over: within limits, or not at all.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::process::Stdio;

use plugsocket_tests::{Address, Client, Request, Setup, TestHost, within};

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

/// Starts the host once more in the folder of one that has ended, on the same port; its process.
async fn again(host: &TestHost) -> tokio::process::Child {
    let Address::Tcp(address) = host.address() else { unreachable!("it listens on TCP") };
    let text = host.setup().server("listen", &format!(r#"["{address}"]"#)).toml();
    host.write_config(&text);
    let mut program = tokio::process::Command::new(PROGRAM);
    program.arg("--config").arg(host.folder().join("plugins.toml")).kill_on_drop(true);
    let child = program.stderr(Stdio::null()).spawn().unwrap();
    within("the host to listen again", async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    child
}

#[tokio::test]
async fn the_last_state_is_written_after_the_one_that_is_being_written() {
    let setup = counter().key("/app", "snapshot_every", "0.1").server("drain", "2");
    let setup = setup.reload("snapshot_limit", "100000000").config("/app", "ballast", "60000000");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    let under_way = || {
        let files = std::fs::read_dir(snapshots(&host)).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "next"))
    };
    let mut total = 0;
    for _ in 0..3 {
        within("a state to be written", async {
            while !under_way() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        total = count(&mut client).await.1;
    }
    host.signal("TERM");
    client.expect_close_packet(1001).await;
    client.close().await;
    assert!(host.ended().await.success());
    let left: Vec<_> = std::fs::read_dir(snapshots(&host)).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let _second = again(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, total + 1);
}

#[tokio::test]
async fn a_state_is_written_under_the_name_of_the_application_that_gave_it() {
    let setup = counter().key("/app", "snapshot_every", "0.1").reload("restore_timeout", "15");
    // The later of two resources takes its time, so that the configuration is not in force while the first has a new application.
    let setup = setup.resource("/slow", "app");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    count(&mut client).await;
    let setup = host.setup().resource("/app", "other").library("other", "counter_v2");
    let position = host.log_position();
    host.offer(setup.config("/slow", "restore_delay_ms", "10000"));
    let served = |line: &plugsocket_tests::Line| line.says("resource is served by a new instance");
    host.wait_for_log_since(position, "the new application", served).await;
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 1));
    let file = snapshots(&host).join("%2Fapp.snapshot");
    within("the state of the new one", async {
        // Nothing else is ever under that name.
        while !std::fs::read(&file).is_ok_and(|state| {
            let text = String::from_utf8_lossy(&state).into_owned();
            text.contains("plugin other\n")
        }) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let applied = |line: &plugsocket_tests::Line| line.says("configuration applied");
    assert!(!host.log().iter().any(applied), "it was to be early");
}

fn snapshots(host: &TestHost) -> std::path::PathBuf {
    host.folder().join(".plugsocket/state/snapshots")
}

#[tokio::test]
async fn state_on_disk_survives_a_restart_and_a_crash_and_a_damaged_file_is_set_aside() {
    let setup = counter().key("/app", "snapshot_every", "0.1");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await.1, 1);
    // In order: what came last is written.
    host.signal("TERM");
    assert!(host.ended().await.success());
    let mut second = again(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 2);
    // A crash: what was written before. Two writings after the message, so that one of them began after it.
    let file = snapshots(&host).join("%2Fapp.snapshot");
    let modified = || std::fs::metadata(&file).unwrap().modified().unwrap();
    within("two writings", async {
        for _ in 0..2 {
            let before = modified();
            while modified() == before {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    second.kill().await.unwrap();
    let mut third = again(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 3);
    third.kill().await.unwrap();
    std::fs::write(&file, "plugsocket snapshot 2\n").unwrap();
    let _fourth = again(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 1);
    assert!(snapshots(&host).join("%2Fapp.refused").exists());
}
