//! Signals, and hosts that end without draining: what is left behind, and what the next host
//! restores.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use plugsocket_tests::{RawClient, Setup, masked, opcode, processes, within};

use crate::{PROGRAM, ShellHost, count, counter, echoes, on_unix};

#[tokio::test]
async fn a_killed_host_leaves_no_preflight_child() {
    let mut host = counter().reload("preflight_timeout", "600").start().await;
    host.replace_library("counter", "ctor_hang");
    let staged = host.folder().join(".plugsocket/staged").display().to_string();
    // The library is mapped, so its constructor is running.
    let opens = |process: &u32| {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        maps.contains("/counter.2/libcounter.so")
    };
    within("the preflight child", async {
        while !processes(&staged).iter().any(opens) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    host.signal("KILL");
    host.exited().await;
    within("the preflight child to end", async {
        while !processes(&staged).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn out_of_memory_aborts_the_host_and_a_new_one_starts() {
    let setup = on_unix(Setup::new(PROGRAM).resource("/rogue", "rogue"));
    let folder = setup.create_folder();
    let mut host = ShellHost::start(folder.clone(), r#"ulimit -v 1500000 && exec "$@""#);
    let mut client = host.connect("/rogue").await;
    client.send("allocate").await;
    assert_eq!(host.exited().await.signal(), Some(6));
    let next = ShellHost::start(folder, r#"exec "$@""#);
    echoes(&mut next.connect("/rogue").await).await;
}

#[tokio::test]
async fn a_killed_host_leaves_nothing_that_blocks_the_next() {
    let setup = on_unix(counter()).key("/count", "snapshot_every", "0.1");
    let folder = setup.create_folder();
    let mut host = ShellHost::start(folder.clone(), r#"exec "$@""#);
    assert_eq!(count(&mut host.connect("/count").await).await, 1);
    host.signal("KILL");
    assert_eq!(host.exited().await.signal(), Some(9));
    let (socket, control) = (folder.join("host.sock"), folder.join(".plugsocket/control"));
    assert!(socket.exists() && control.exists());
    let staged = || fs::read_dir(folder.join(".plugsocket/staged")).unwrap().count();
    assert_eq!(staged(), 1, "the staged copies are left");
    let next = ShellHost::start(folder.clone(), r#"exec "$@""#);
    count(&mut next.connect("/count").await).await;
    assert_eq!(staged(), 1, "only the staged copies of the new host");
}

#[tokio::test]
async fn sigterm_during_startup_shuts_down_cleanly() {
    // Three instances that start one after the other and take long.
    let mut setup = on_unix(Setup::new(PROGRAM).library("counter", "counter_v2"));
    for path in ["/a", "/b", "/c"] {
        setup = setup.resource(path, "counter").config(path, "start_delay_ms", "60000");
    }
    let setup = setup.reload("start_timeout", "100");
    let folder = setup.create_folder();
    let mut host = ShellHost::start(folder.clone(), r#"exec "$@""#);
    within("the library to be staged", async {
        while !fs::read_dir(folder.join(".plugsocket/staged")).is_ok_and(|mut d| d.next().is_some())
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let begun = Instant::now();
    host.signal("TERM");
    let ended = host.exited().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(folder.join(".plugsocket/staged")).unwrap().count(), 0);
}

#[tokio::test]
async fn sigterm_during_handshakes_shuts_down_in_time() {
    let mut host = counter().server("drain", "1").start().await;
    let mut halves = Vec::new();
    for beginning in ["", "GET /count HT", "GET /count HTTP/1.1\r\nHost: h\r\n", "backend\nGET /co"]
    {
        let mut client = host.raw().await;
        client.write(beginning).await;
        halves.push(client);
    }
    let begun = Instant::now();
    host.signal("TERM");
    assert_eq!(host.exited().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn after_a_standstill_what_has_arrived_is_read_before_a_time_limit_ends_a_connection() {
    // All limits pass while the process does not run.
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("idle_timeout", "1.5");
    let setup = setup.server("message_timeout", "1.5").server("head_timeout", "1.5");
    let host = setup.server("ping_interval", "1").start().await;
    let mut partial = host.raw().await.upgraded("/echo").await;
    let frame = masked(opcode::TEXT, b"part");
    let (begun, rest) = frame.split_at(7);
    partial.write(begun).await;
    let mut opening = host.raw().await;
    let request = RawClient::handshake("/echo");
    let (head, tail) = request.split_at(30);
    opening.write(head).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(host.raw().await.upgraded("/echo").await);
    }
    host.signal("STOP");
    partial.write(rest).await;
    opening.write(tail).await;
    for client in &mut clients {
        client.write(masked(opcode::TEXT, b"hello")).await;
    }
    // The standstill itself, not a wait for an event.
    tokio::time::sleep(Duration::from_secs(3)).await;
    host.signal("CONT");
    opening.expect_switching().await;
    assert_eq!(partial.expect_text().await, "part");
    for client in &mut clients {
        assert_eq!(client.expect_text().await, "hello");
    }
}

#[tokio::test]
async fn signals_without_a_meaning_do_not_end_the_host() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    // 16 is SIGSTKFLT, whose name `kill` does not know.
    for name in ["USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "16", "PIPE", "XFSZ", "USR1"] {
        host.signal(name);
    }
    host.wait_for_log("SIGUSR1", |line| line.starts_with("SIGUSR1 has no effect")).await;
    assert_eq!(count(&mut client).await, 1);
}

#[tokio::test]
async fn a_second_sigterm_does_not_cut_the_drain_short() {
    let mut host = counter().server("drain", "2").start().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(host.connect("/count").await);
    }
    host.signal("TERM");
    host.wait_for_log("the drain", |line| line.message() == "draining connections").await;
    host.signal("TERM");
    for mut client in clients {
        client.expect_close_packet(1001).await;
        client.close().await;
    }
    assert_eq!(host.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_fatal_plugin_error_ends_the_host_and_the_next_restores_the_snapshot() {
    // The exit code or the signal.
    for (command, expected) in
        [("exit", Ok(7)), ("abort", Err(6)), ("overflow", Err(6)), ("double panic", Err(6))]
    {
        let setup = on_unix(Setup::new(PROGRAM).resource("/rogue", "rogue"));
        let setup = setup.library("counter", "counter_v1").resource("/count", "counter");
        let setup = setup.key("/count", "snapshot_every", "0.1");
        let folder = setup.create_folder();
        let mut host = ShellHost::start(folder.clone(), r#"exec "$@""#);
        count(&mut host.connect("/count").await).await;
        let file = folder.join(".plugsocket/state/snapshots/%2Fcount.snapshot");
        // Two snapshots after the message: one of them began after it.
        let modified = || fs::metadata(&file).and_then(|meta| meta.modified()).ok();
        within("two snapshots", async {
            for _ in 0..2 {
                let before = modified();
                while modified() == before {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        host.connect("/rogue").await.send(command).await;
        let ended = host.exited().await;
        let how = ended.code().ok_or_else(|| ended.signal().unwrap());
        // A stack overflow is caught by Rust's signal handler or ends in SIGSEGV.
        assert!(how == expected || command == "overflow" && how == Err(11), "{command}: {how:?}");
        let next = ShellHost::start(folder, r#"exec "$@""#);
        let mut client = next.connect("/count").await;
        client.send("x").await;
        assert_eq!(client.until_next().await.packets[0]["total"], 2, "{command}");
    }
}
