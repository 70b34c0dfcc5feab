//! Faults of the system and of clients: disk, threads, memory, files of the wrong type, noise.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use plugsocket_tests::attack::Process;
use plugsocket_tests::{Address, Line, RawClient, Setup, TestHost, masked, opcode, within};
use serde_json::Value;

use crate::{PROGRAM, ShellHost, count, counter, echoes, on_unix, skip};

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nobody() {
    let setup = on_unix(counter());
    // A full disk, nothing at all, and a pipe that nobody reads.
    for script in [r#"exec "$@" 2>/dev/full"#, r#"exec "$@" 2>&-"#, ABANDONED] {
        let host = ShellHost::start(setup.lay_out(), script);
        let mut client = host.connect("/count").await;
        assert_eq!(count(&mut client).await, 1);
    }
}

/// Standard error is a pipe whose reader has gone.
const ABANDONED: &str = r#"mkfifo log && { true <log & exec "$@" 2>log; }"#;

#[tokio::test]
async fn a_full_disk_costs_the_snapshot_and_not_the_application() {
    let host = counter().key("/count", "snapshot_every", "0.2").start().await;
    let mut client = host.connect("/count").await;
    assert_eq!(count(&mut client).await, 1);
    let pid = host.pid().to_string();
    let limit = ["--fsize=8:8", "--pid", &pid];
    assert!(std::process::Command::new("prlimit").args(limit).status().unwrap().success());
    let position = host.log_position();
    let is_meant = |line: &Line| {
        matches!(line.level(), "WARN" | "ERROR") && line.text().contains("File too large")
    };
    host.wait_for_log_since(position, "the snapshot that is not written", is_meant).await;
    assert_eq!(count(&mut client).await, 2);
    let snapshots = host.folder().join(".plugsocket/state/snapshots");
    let is_half = |file: fs::DirEntry| file.file_name().to_string_lossy().ends_with(".next");
    within("the half file to go", async {
        // It is there while it is written.
        while fs::read_dir(&snapshots).unwrap().any(|file| file.is_ok_and(is_half)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A host of a user of its own, who may have so few threads that no new one can be had; None where that cannot be.
async fn short_of_threads(test: &str, user: u32, setup: Setup) -> Option<TestHost> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let tools = ["setpriv", "prlimit"].map(|tool| {
        std::process::Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success())
    });
    if !is_root || tools != [true; 2] {
        skip(test, "it needs root, setpriv and prlimit");
        return None;
    }
    let script = format!(
        r#"for last; do :; done; chown -R {user}:{user} "${{last%/*}}" && exec setpriv --reuid={user} --regid={user} --clear-groups "$@""#
    );
    Some(setup.launcher(&["sh", "-c", &script, "sh"]).start().await)
}

/// Lets the user of a host have so many threads; said by that user, as root may not have the right in a container.
fn allow_threads(host: &TestHost, count: usize) {
    let user = fs::metadata(format!("/proc/{}", host.pid())).unwrap().uid();
    let mut command = std::process::Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    command.args(["prlimit", &format!("--nproc={count}:"), "--pid", &host.pid().to_string()]);
    assert!(command.status().unwrap().success());
}

#[tokio::test]
async fn without_a_thread_an_order_fails_and_the_next_one_is_done() {
    let test = "without_a_thread_an_order_fails_and_the_next_one_is_done";
    let setup = counter().key("/count", "snapshot_every", "0.1");
    let Some(mut host) = short_of_threads(test, 64_411, setup).await else { return };
    let mut client = host.connect("/count").await;
    let file = host.folder().join(".plugsocket/state/snapshots/%2Fcount.snapshot");
    assert_eq!(count(&mut client).await, 1);
    allow_threads(&host, 1);
    let position = host.log_position();
    host.signal("HUP");
    host.wait_for_error(position, "the system gives no thread").await;
    let (code, said) = host.command(&["plugin", "reload", "counter"]).await;
    assert!(code == 1 && said.contains("the system gives no thread"), "{said}");
    let unwritten = |line: &Line| line.says("the state cannot be written");
    host.wait_for_log_since(position, "the snapshot that is not written", unwritten).await;
    assert_eq!(count(&mut client).await, 2);
    allow_threads(&host, 10_000);
    let modified = || fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    let before = modified();
    within("the next snapshot", async {
        while modified() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (code, said) = host.command(&["plugin", "reload", "counter"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(count(&mut client).await, 3);
    host.signal("TERM");
    client.expect_close_packet(1001).await;
    client.close().await;
    assert_eq!(host.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_lane_for_which_there_is_no_thread_stays_where_it_is() {
    let test = "a_lane_for_which_there_is_no_thread_stays_where_it_is";
    let setup = counter().resource("/more", "counter");
    let Some(mut host) = short_of_threads(test, 64_412, setup).await else { return };
    let mut clients = [host.connect("/count").await, host.connect("/more").await];
    for client in &mut clients {
        assert_eq!(count(client).await, 1);
    }
    let lanes = |host: &TestHost, lane: &str| {
        host.setup().key("/count", "lane", lane).key("/more", "lane", lane)
    };
    let is_judged =
        |line: &Line| line.says("configuration not applied") || line.says("configuration applied");
    loop {
        // One for reading the file, which is free again when one of the two lanes takes it.
        allow_threads(&host, Process(host.pid()).threads() + 1);
        let position = host.log_position();
        let setup = lanes(&host, r#""thread""#);
        host.offer(setup);
        let mut judged = position;
        // A thread that has just ended may still count with the system.
        while host.wait_for_log_since(judged, "the file", is_judged).await.says("configuration not")
        {
            judged = host.log_position();
            host.signal("HUP");
        }
        if host.log()[position..].iter().any(|line| line.says("resource keeps its lane")) {
            break;
        }
        // One that was about to end counted above, and both lanes found a thread.
        allow_threads(&host, 10_000);
        let setup = lanes(&host, r#""shared""#);
        host.apply(setup).await;
    }
    for client in &mut clients {
        assert_eq!(count(client).await, 2);
    }
    allow_threads(&host, 10_000);
    let (code, said) = host.command(&["reload"]).await;
    assert_eq!(code, 0, "{said}");
    let (_, said) = host.command(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&said).unwrap();
    let lanes = status["resources"].as_array().unwrap().iter().map(|r| r["lane"].clone());
    assert_eq!(lanes.collect::<Vec<_>>(), ["thread", "thread"]);
    for client in &mut clients {
        assert_eq!(count(client).await, 3);
    }
}

#[tokio::test]
async fn pipes_and_endless_files_in_the_place_of_a_file_are_refused_at_once() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    let place = host.folder().join("plugins.toml");
    let good = fs::read(&place).unwrap();
    for what in ["a pipe", "a device"] {
        let position = host.log_position();
        fs::remove_file(&place).unwrap();
        if what == "a pipe" {
            assert!(std::process::Command::new("mkfifo").arg(&place).status().unwrap().success());
        } else {
            std::os::unix::fs::symlink("/dev/zero", &place).unwrap();
        }
        host.signal("HUP");
        host.wait_for_error(position, "it is no file but a folder, a pipe or a device").await;
    }
    host.put("plugins.toml", good);
    host.reload("counter", "counter_v2").await;
    let library = host.library("counter");
    fs::remove_file(&library).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&library).status().unwrap().success());
    let (code, said) = host.command(&["check", "--diff"]).await;
    assert_eq!((code, said.trim()), (0, "nothing would change"));
    let (code, said) = host.command(&["plugin", "rollback", "counter"]).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(count(&mut client).await, 1);
}

#[tokio::test]
async fn a_folder_of_copies_that_was_tidied_away_is_made_anew() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    assert_eq!(count(&mut client).await, 1);
    for gone in [format!(".plugsocket/staged/{}", host.pid()), ".plugsocket/staged".to_owned()] {
        fs::remove_dir_all(host.folder().join(gone)).unwrap();
        let (code, said) = host.command(&["plugin", "reload", "counter"]).await;
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(count(&mut client).await, 2);
    let own = host.folder().join(format!(".plugsocket/staged/{}", host.pid()));
    assert_eq!(fs::metadata(own).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn lengths_that_are_only_claimed_take_no_memory() {
    // 300 times 16 MiB would be 4.8 GB.
    let setup = on_unix(Setup::new(PROGRAM).resource("/talk", "echo"));
    let host = ShellHost::start(setup.lay_out(), r#"ulimit -v 2000000 && exec "$@""#);
    let mut bystander = host.connect("/talk").await;
    let mut claiming = Vec::new();
    let address = Address::Unix(host.folder.join("host.sock"));
    for _ in 0..300 {
        let mut client = RawClient::connect(&address).await.upgraded("/talk").await;
        let header = [&[opcode::TEXT, 0x80 | 127][..], &(16_u64 << 20).to_be_bytes(), &[0; 4]];
        client.write(header.concat()).await;
        client.write([b'x'; 1000]).await;
        claiming.push(client);
    }
    echoes(&mut bystander).await;
    let grown = Process(host.child.id().unwrap()).resident();
    assert!(grown < 64 << 20, "{grown}");
}

#[tokio::test]
async fn another_user_is_not_answered_on_the_control_socket() {
    let host = counter().start().await;
    let program = PathBuf::from(PROGRAM);
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.args(arguments).arg("--config").arg(host.folder().join("plugins.toml")).output()
    };
    let runs =
        as_nobody(&["check"]).is_ok_and(|output| output.status.code().is_some_and(|c| c < 3));
    if !runs {
        skip("another_user_is_not_answered_on_the_control_socket", "it needs root and setpriv");
        return;
    }
    // Even where somebody has made the socket open to all.
    for mode in [0o600, 0o666] {
        let control = host.folder().join(".plugsocket/control");
        fs::set_permissions(control.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&control, fs::Permissions::from_mode(mode)).unwrap();
        for arguments in [&["status"][..], &["drain"], &["plugin", "disable", "counter"]] {
            let output = as_nobody(arguments).unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        }
    }
    assert_eq!(count(&mut host.connect("/count").await).await, 1);
}

#[tokio::test]
async fn a_stalled_head_gives_its_descriptor_back_though_its_peer_keeps_the_socket() {
    let host = counter().server("head_timeout", "0.2").server("close_timeout", "60").start().await;
    let before = Process(host.pid()).descriptors();
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut client = host.raw().await;
        client.write("GET /count HTTP/1.1\r\nHost: ").await;
        stalled.push(client);
    }
    for client in &mut stalled {
        assert_eq!(client.last_response().await.status, 408);
    }
    within("the descriptors to fall", async {
        while Process(host.pid()).descriptors() > before + 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_frames_are_no_reason_to_fall() {
    let host = counter().start().await;
    let mut bystander = host.connect("/count").await;
    let mut state = 7_u64;
    for _ in 0..200 {
        let mut client = host.raw().await.upgraded("/count").await;
        let noise: Vec<u8> = (0..300)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as u8
            })
            .collect();
        client.write([masked(opcode::TEXT, b"x"), noise].concat()).await;
        client.finish().await;
        client.read_to_end().await;
    }
    assert_eq!(count(&mut bystander).await, 1);
}
