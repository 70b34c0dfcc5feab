//! Handover of state to a new instance and to disk, and its limits.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::process::Stdio;

use plugsocket_tests::{Address, Client, Line, Request, Setup, TestHost, within};

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
async fn state_over_the_limit_keeps_the_running_instance() {
    let mut host = counter().config("/app", "ballast", "10000").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 1));
    let position = host.log_position();
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "and reload.snapshot_limit is 10000").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 2));
    // The limit can be raised at run time.
    host.apply(counter().config("/app", "ballast", "10000").reload("snapshot_limit", "20000"))
        .await;
    host.reload("app", "counter_v2").await;
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 3));
}

#[tokio::test]
async fn a_restore_that_times_out_keeps_the_running_instance() {
    let host = counter().config("/app", "restore_delay_ms", "3000").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 1));
    let position = host.log_position();
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "did not take over the state within 300ms").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 2));
}

/// Starts another host in the folder of one that has ended, on the same port.
async fn restart(host: &TestHost) -> tokio::process::Child {
    let Address::Tcp(address) = host.address() else { unreachable!("it listens on TCP") };
    let text = host.setup().server("listen", &format!(r#"["{address}"]"#)).toml();
    host.write_config(&text);
    let mut program = tokio::process::Command::new(PROGRAM);
    program.arg("--config").arg(host.folder().join("plugins.toml")).kill_on_drop(true);
    let child = program.stderr(Stdio::null()).spawn().unwrap();
    within("the restarted host to listen", async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    child
}

#[tokio::test]
async fn the_final_snapshot_is_written_after_one_in_progress() {
    let setup = counter().key("/app", "snapshot_every", "0.1").server("drain", "2");
    let setup = setup.reload("snapshot_limit", "100000000").config("/app", "ballast", "60000000");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    let is_writing = || {
        let files = std::fs::read_dir(snapshots(&host)).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "next"))
    };
    let mut total = 0;
    for _ in 0..3 {
        within("a snapshot to be written", async {
            while !is_writing() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        total = count(&mut client).await.1;
    }
    host.signal("TERM");
    client.expect_close_packet(1001).await;
    client.close().await;
    assert!(host.exited().await.success());
    let files: Vec<_> = std::fs::read_dir(snapshots(&host)).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let _second = restart(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, total + 1);
}

#[tokio::test]
async fn a_snapshot_names_the_application_that_produced_it() {
    let setup = counter().key("/app", "snapshot_every", "0.1").reload("restore_timeout", "15");
    // `/slow` delays the configuration, so that `/app` has its new application before it is
    // applied.
    let setup = setup.resource("/slow", "app");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    count(&mut client).await;
    let setup = host.setup().resource("/app", "other").library("other", "counter_v2");
    let position = host.log_position();
    host.write_setup(setup.config("/slow", "restore_delay_ms", "10000"));
    let served = |line: &Line| line.starts_with("resource is served by a new instance");
    host.wait_for_log_since(position, "the new application", served).await;
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 1));
    let file = snapshots(&host).join("%2Fapp.snapshot");
    within("the snapshot of the new application", async {
        // The file name depends on the resource only.
        while !std::fs::read(&file).is_ok_and(|state| {
            let text = String::from_utf8_lossy(&state).into_owned();
            text.contains("plugin other\n")
        }) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let applied = |line: &Line| line.starts_with("configuration applied");
    assert!(!host.log().iter().any(applied), "the configuration is not yet applied");
}

fn snapshots(host: &TestHost) -> std::path::PathBuf {
    host.folder().join(".plugsocket/state/snapshots")
}

#[tokio::test]
async fn snapshots_survive_restart_and_crash_and_a_damaged_one_is_set_aside() {
    let setup = counter().key("/app", "snapshot_every", "0.1");
    let mut host = setup.start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await.1, 1);
    // A graceful shutdown writes the last state.
    host.signal("TERM");
    assert!(host.exited().await.success());
    let mut second = restart(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 2);
    // After a crash the last snapshot is used. Two snapshots after the message: one began after it.
    let file = snapshots(&host).join("%2Fapp.snapshot");
    let modified = || std::fs::metadata(&file).unwrap().modified().unwrap();
    within("two snapshots", async {
        for _ in 0..2 {
            let before = modified();
            while modified() == before {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    second.kill().await.unwrap();
    let mut third = restart(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 3);
    third.kill().await.unwrap();
    std::fs::write(&file, "plugsocket snapshot 2\n").unwrap();
    let _fourth = restart(&host).await;
    let mut client = Client::open(host.address(), Request::to("/app")).await.ready().await;
    assert_eq!(count(&mut client).await.1, 1);
    assert!(snapshots(&host).join("%2Fapp.refused").exists());
}
