//! Faults of the system and of clients: disk, threads, memory, files of the wrong type, noise.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use plugsocket_tests::attack::Process;
use plugsocket_tests::{Address, Line, RawClient, Setup, TestHost, masked, opcode, within};
use serde_json::{Value, json};

use crate::{PROGRAM, ShellHost, count, counter, echoes, on_unix, skip};

#[tokio::test]
async fn a_log_that_cannot_be_written_does_not_stop_the_host() {
    let setup = on_unix(counter());
    // A full disk, a closed descriptor, and a pipe without a reader.
    for script in [r#"exec "$@" 2>/dev/full"#, r#"exec "$@" 2>&-"#, BROKEN_PIPE] {
        let host = ShellHost::start(setup.create_folder(), script);
        let mut client = host.connect("/count").await;
        assert_eq!(count(&mut client).await, 1);
    }
}

/// Standard error is a pipe whose reader has ended.
const BROKEN_PIPE: &str = r#"mkfifo log && { true <log & exec "$@" 2>log; }"#;

#[tokio::test]
async fn a_log_that_is_not_read_stops_nothing_and_dropped_lines_are_counted() {
    for format in ["json", "text"] {
        let setup = Setup::new(PROGRAM).resource("/x", "speaker").log_format(format);
        let mut host = setup.start().await;
        let mut client = host.connect("/x").await;
        host.pause_log(true);
        let line = json!({"do": "log", "level": "warn", "message": "x".repeat(32 << 10)});
        // More than the pipe and the queue of the log hold.
        for _ in 0..200 {
            assert_eq!(client.ask(&line).await, true);
        }
        assert_eq!(host.connect("/x").await.ask(&line).await, true);
        assert_eq!(host.command(&["status"]).await.0, 0);
        host.pause_log(false);
        let is_match = |line: &Line| line.text().contains("log lines dropped: standard error");
        host.wait_for_log("dropped lines to be reported", is_match).await;
        host.pause_log(true);
        for _ in 0..20 {
            client.ask(&line).await;
        }
        host.signal("TERM");
        assert!(host.exited().await.success());
    }
}

#[tokio::test]
async fn on_a_full_disk_snapshots_fail_and_the_application_continues() {
    let host = counter().key("/count", "snapshot_every", "0.2").start().await;
    let mut client = host.connect("/count").await;
    assert_eq!(count(&mut client).await, 1);
    let pid = host.pid().to_string();
    let limit = ["--fsize=8:8", "--pid", &pid];
    assert!(std::process::Command::new("prlimit").args(limit).status().unwrap().success());
    let position = host.log_position();
    let is_match = |line: &Line| {
        matches!(line.level(), "WARN" | "ERROR") && line.text().contains("File too large")
    };
    host.wait_for_log_since(position, "the snapshot to fail", is_match).await;
    assert_eq!(count(&mut client).await, 2);
    let snapshots = host.folder().join(".plugsocket/state/snapshots");
    let is_partial = |file: fs::DirEntry| file.file_name().to_string_lossy().ends_with(".next");
    within("the partial file to be removed", async {
        // The file exists while a snapshot is being written.
        while fs::read_dir(&snapshots).unwrap().any(|file| file.is_ok_and(is_partial)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Starts a host as a user of its own, whose number of threads can be limited; None if that is not
/// possible.
async fn with_own_user(test: &str, setup: Setup) -> Option<TestHost> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let tools = ["setpriv", "prlimit"].map(|tool| {
        std::process::Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success())
    });
    if !is_root || tools != [true; 2] {
        skip(test, "it needs root, setpriv and prlimit", "");
        return None;
    }
    // The kernel counts the threads of all processes of a user, also those of other test runs.
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = 2 * std::process::id() + LAST.fetch_add(1, Ordering::Relaxed);
    let user = 20_000 + number % 40_000;
    let script = format!(
        r#"for last; do :; done; chown -R {user}:{user} "${{last%/*}}" && exec setpriv --reuid={user} --regid={user} --clear-groups "$@""#
    );
    Some(setup.launcher(&["sh", "-c", &script, "sh"]).start().await)
}

/// Limits the threads of the host's user. Runs as that user, because root in a container may lack
/// the capability.
fn limit_threads(host: &TestHost, count: usize) {
    let user = fs::metadata(format!("/proc/{}", host.pid())).unwrap().uid();
    let mut command = std::process::Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    command.args(["prlimit", &format!("--nproc={count}:"), "--pid", &host.pid().to_string()]);
    assert!(command.status().unwrap().success());
}

#[tokio::test]
async fn without_a_free_thread_a_command_fails_and_succeeds_later() {
    let test = "without_a_free_thread_a_command_fails_and_succeeds_later";
    let setup = counter().key("/count", "snapshot_every", "0.1");
    let Some(mut host) = with_own_user(test, setup).await else { return };
    let mut client = host.connect("/count").await;
    let file = host.folder().join(".plugsocket/state/snapshots/%2Fcount.snapshot");
    assert_eq!(count(&mut client).await, 1);
    limit_threads(&host, 1);
    let position = host.log_position();
    host.signal("HUP");
    host.wait_for_error(position, "cannot start a thread").await;
    let (code, output) = host.command(&["plugin", "reload", "counter"]).await;
    assert!(code == 1 && output.contains("cannot start a thread"), "{output}");
    let is_failure = |line: &Line| line.starts_with("cannot write the snapshot");
    host.wait_for_log_since(position, "the snapshot to fail", is_failure).await;
    assert_eq!(count(&mut client).await, 2);
    limit_threads(&host, 10_000);
    let modified = || fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    let before = modified();
    within("the next snapshot", async {
        while modified() == before {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (code, output) = host.command(&["plugin", "reload", "counter"]).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(count(&mut client).await, 3);
    host.signal("TERM");
    client.expect_close_packet(1001).await;
    client.close().await;
    assert_eq!(host.exited().await.code(), Some(0));
}

/// Returns whether the host has a thread of a lane or one that ends after a short time.
fn has_short_threads(process: Process) -> bool {
    let names = fs::read_dir(format!("/proc/{}/task", process.0)).unwrap();
    let names = names.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let kinds = ["lane:", "start:", "aside", "restore"];
    names.into_iter().any(|name| kinds.iter().any(|kind| name.starts_with(kind)))
}

#[tokio::test]
async fn a_lane_without_a_free_thread_stays_on_the_shared_runtime() {
    let test = "a_lane_without_a_free_thread_stays_on_the_shared_runtime";
    let setup = counter().resource("/more", "counter");
    let Some(mut host) = with_own_user(test, setup).await else { return };
    let mut clients = [host.connect("/count").await, host.connect("/more").await];
    for client in &mut clients {
        assert_eq!(count(client).await, 1);
    }
    let lanes = |host: &TestHost, lane: &str| {
        host.setup().key("/count", "lane", lane).key("/more", "lane", lane)
    };
    let is_result = |line: &Line| {
        line.starts_with("configuration not applied") || line.starts_with("configuration applied")
    };
    let process = Process(host.pid());
    let threads = || process.threads();
    within("one of the two lanes to find no free thread", async {
        loop {
            // A thread that is about to end would be counted, and both lanes would get a thread.
            while has_short_threads(process) {
                tokio::task::yield_now().await;
            }
            // One thread for reading the file; afterwards one of the two lanes can have it.
            limit_threads(&host, threads() + 1);
            let position = host.log_position();
            host.write_setup(lanes(&host, r#""thread""#));
            let mut since = position;
            // A thread that has just ended may still count against the limit.
            while host
                .wait_for_log_since(since, "the result", is_result)
                .await
                .starts_with("configuration not")
            {
                since = host.log_position();
                limit_threads(&host, threads() + 1);
                host.signal("HUP");
            }
            let is_kept = |line: &Line| line.starts_with("resource keeps its lane");
            if host.log()[position..].iter().any(is_kept) {
                break;
            }
            limit_threads(&host, 10_000);
            host.apply(lanes(&host, r#""shared""#)).await;
        }
    })
    .await;
    for client in &mut clients {
        assert_eq!(count(client).await, 2);
    }
    limit_threads(&host, 10_000);
    let (code, output) = host.command(&["reload"]).await;
    assert_eq!(code, 0, "{output}");
    let (_, output) = host.command(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&output).unwrap();
    let lanes = status["resources"].as_array().unwrap().iter().map(|r| r["lane"].clone());
    assert_eq!(lanes.collect::<Vec<_>>(), ["thread", "thread"]);
    for client in &mut clients {
        assert_eq!(count(client).await, 3);
    }
}

#[tokio::test]
async fn pipes_and_devices_in_place_of_a_file_are_refused_at_once() {
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
        host.wait_for_error(position, "not a regular file but a folder, a pipe or a device").await;
        // Otherwise the next refusal has the same reason, which is not logged as an error again.
        let position = host.log_position();
        host.put("plugins.toml", &good);
        let is_match = |line: &Line| line.starts_with("configuration file corrected");
        host.wait_for_log_since(position, "the file to be read again", is_match).await;
    }
    host.reload("counter", "counter_v2").await;
    let library = host.library("counter");
    fs::remove_file(&library).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&library).status().unwrap().success());
    let (code, output) = host.command(&["check", "--diff"]).await;
    let refused =
        "refused: counter: cannot read it: not a regular file but a folder, a pipe or a device";
    assert_eq!((code, output.trim()), (0, refused));
    let (code, output) = host.command(&["plugin", "rollback", "counter"]).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(count(&mut client).await, 1);
}

/// Returns the staging folders of hosts.
fn staging_folders(host: &TestHost) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.folder().join(".plugsocket/staged")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_removed_staging_folder_is_recreated() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    assert_eq!(count(&mut client).await, 1);
    let own = staging_folders(&host);
    for gone in [&own[0], &host.folder().join(".plugsocket/staged")] {
        fs::remove_dir_all(gone).unwrap();
        let (code, output) = host.command(&["plugin", "reload", "counter"]).await;
        assert_eq!(code, 0, "{output}");
    }
    assert_eq!(count(&mut client).await, 2);
    assert_eq!(staging_folders(&host), own);
    assert_eq!(fs::metadata(&own[0]).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn only_staging_folders_of_hosts_that_have_ended_are_removed() {
    let folder = counter().create_folder();
    let staged = folder.join(".plugsocket/staged");
    for name in ["host-ended", "host-running", "other"] {
        fs::create_dir_all(staged.join(name)).unwrap();
    }
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o700)).unwrap();
    let running = fs::File::open(staged.join("host-running")).unwrap();
    running.lock().unwrap();
    let host = counter().server("staging_dir", &format!("{staged:?}")).start().await;
    assert!(!staged.join("host-ended").exists());
    assert!(staged.join("host-running").exists() && staged.join("other").exists());
    drop(host);
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn claimed_frame_lengths_allocate_no_memory() {
    // 300 times 16 MiB would be 4.8 GB.
    let setup = on_unix(Setup::new(PROGRAM).resource("/talk", "echo"));
    let host = ShellHost::start(setup.create_folder(), r#"ulimit -v 2000000 && exec "$@""#);
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
    let grown = Process(host.child.id().unwrap()).resident_bytes();
    assert!(grown < 64 << 20, "{grown}");
}

#[tokio::test]
async fn other_users_are_refused_on_the_control_socket() {
    let host = counter().start().await;
    let program = PathBuf::from(PROGRAM);
    fs::set_permissions(host.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let as_other_user = |arguments: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.args(arguments).arg("--config").arg(host.folder().join("plugins.toml")).output()
    };
    let runs =
        as_other_user(&["check"]).is_ok_and(|output| output.status.code().is_some_and(|c| c < 3));
    if !runs {
        let test = "other_users_are_refused_on_the_control_socket";
        skip(test, "it needs root and setpriv", "");
        return;
    }
    // Even if the socket is writable for all users.
    for mode in [0o600, 0o666] {
        let control = host.folder().join(".plugsocket/control");
        fs::set_permissions(control.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&control, fs::Permissions::from_mode(mode)).unwrap();
        for arguments in [&["status"][..], &["drain"], &["stop"], &["plugin", "disable", "counter"]]
        {
            let output = as_other_user(arguments).unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        }
    }
    assert_eq!(count(&mut host.connect("/count").await).await, 1);
}

#[tokio::test]
async fn a_timed_out_request_head_frees_its_file_descriptor() {
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
async fn random_bytes_after_the_handshake_do_not_harm_the_host() {
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
