//! Faults around and inside a host: a full disk, a killed process, signals at every moment, plugins that do their worst. Each outcome
//! is in docs/reliability.md.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::explicit_write,
    reason = "a test fails loudly; a skip is said past the harness"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use plugsocket_tests::attack::Process;
use plugsocket_tests::{
    Address, Client, Request, Setup, TestHost, masked, opcode, plugin_path, within,
};
use serde_json::Value;
use tokio::process::{Child, Command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn counter() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

/// The count of this connection's messages after one more.
async fn count(client: &mut Client) -> u64 {
    client.send("x").await;
    client.until_next().await.packets[0]["seq"].as_u64().unwrap()
}

async fn echoes(client: &mut Client) {
    client.send("hello").await;
    assert_eq!(client.receive_text().await, "hello");
    client.expect_next().await;
}

/// A host that is started by a shell, so that its log can go elsewhere and its limits can be set.
struct ByShell {
    folder: PathBuf,
    child: Child,
}

impl ByShell {
    /// `script` gets the program and its arguments as `"$@"`.
    fn start(folder: PathBuf, script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PROGRAM, "run", "--config"]);
        command.arg(folder.join("plugins.toml")).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.current_dir(&folder).stderr(Stdio::null()).spawn().unwrap();
        Self { folder, child }
    }

    /// On its Unix socket, as soon as there is somebody.
    async fn connect(&self, path: &str) -> Client {
        let socket = self.folder.join("host.sock");
        within("the host to listen", async {
            while std::os::unix::net::UnixStream::connect(&socket).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Client::open(&Address::Unix(socket), Request::to(path)).await.ready().await
    }

    async fn ended(&mut self) -> ExitStatus {
        within("the host to end", self.child.wait()).await.unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(killed.unwrap().success());
    }
}

impl Drop for ByShell {
    fn drop(&mut self) {
        drop(self.child.start_kill());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn on_unix(setup: Setup) -> Setup {
    setup.server("listen", r#"["unix:host.sock"]"#)
}

// ---- The system ----

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nobody() {
    let setup = on_unix(counter());
    // A full disk, nothing at all, and a pipe that nobody reads.
    for script in [r#"exec "$@" 2>/dev/full"#, r#"exec "$@" 2>&-"#, ABANDONED] {
        let host = ByShell::start(setup.lay_out(), script);
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
    let is_meant = |line: &plugsocket_tests::Line| {
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
    let unwritten = |line: &plugsocket_tests::Line| line.says("the state cannot be written");
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
    let is_judged = |line: &plugsocket_tests::Line| {
        line.says("configuration not applied") || line.says("configuration applied")
    };
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
async fn a_killed_host_leaves_no_process_that_tries_a_library() {
    let mut host = counter().reload("preflight_timeout", "600").start().await;
    let pid = host.pid();
    host.replace_library("counter", "ctor_hang");
    let children = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        lists
            .flat_map(|list| {
                list.unwrap_or_default()
                    .split_whitespace()
                    .map(ToOwned::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let is_preflight = |child: &String| {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let maps = fs::read_to_string(format!("/proc/{child}/maps")).unwrap_or_default();
        // The library is open, so its constructor hangs.
        line.windows(9).any(|word| word == b"preflight") && maps.contains("counter.2.so")
    };
    let mut child = None;
    within("the child", async {
        while child.is_none() {
            child = children().into_iter().find(is_preflight);
            tokio::task::yield_now().await;
        }
    })
    .await;
    host.signal("KILL");
    host.ended().await;
    within("the child to end", async {
        // What nobody has waited for yet has no command line any more.
        while fs::read(format!("/proc/{}/cmdline", child.as_ref().unwrap()))
            .is_ok_and(|line| !line.is_empty())
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn lengths_that_are_only_claimed_take_no_memory() {
    // 300 times 16 MiB would be 4.8 GB.
    let setup = on_unix(Setup::new(PROGRAM).resource("/talk", "echo"));
    let host = ByShell::start(setup.lay_out(), r#"ulimit -v 2000000 && exec "$@""#);
    let mut bystander = host.connect("/talk").await;
    let mut claiming = Vec::new();
    let address = Address::Unix(host.folder.join("host.sock"));
    for _ in 0..300 {
        let mut client =
            plugsocket_tests::RawClient::connect(&address).await.upgraded("/talk").await;
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
async fn without_memory_the_host_ends_by_abort_and_a_new_one_serves() {
    let setup = on_unix(Setup::new(PROGRAM).resource("/rogue", "rogue"));
    let folder = setup.lay_out();
    let mut host = ByShell::start(folder.clone(), r#"ulimit -v 1500000 && exec "$@""#);
    let mut client = host.connect("/rogue").await;
    client.send("allocate").await;
    assert_eq!(host.ended().await.signal(), Some(6));
    let again = ByShell::start(folder, r#"exec "$@""#);
    echoes(&mut again.connect("/rogue").await).await;
}

#[tokio::test]
async fn a_killed_host_leaves_nothing_that_keeps_the_next_one_from_serving() {
    let setup = on_unix(counter()).key("/count", "snapshot_every", "0.1");
    let folder = setup.lay_out();
    let mut host = ByShell::start(folder.clone(), r#"exec "$@""#);
    assert_eq!(count(&mut host.connect("/count").await).await, 1);
    host.signal("KILL");
    assert_eq!(host.ended().await.signal(), Some(9));
    let (socket, control) = (folder.join("host.sock"), folder.join(".plugsocket/control"));
    assert!(socket.exists() && control.exists());
    let staged = || fs::read_dir(folder.join(".plugsocket/staged")).unwrap().count();
    assert_eq!(staged(), 1, "its copies are still there");
    let again = ByShell::start(folder.clone(), r#"exec "$@""#);
    count(&mut again.connect("/count").await).await;
    assert_eq!(staged(), 1, "only those of the new one");
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

fn skip(test: &str, why: &str) {
    // Past the harness, which shows what a test prints only where it fails.
    writeln!(std::io::stderr(), "{test}: skipped: {why}").unwrap();
}

// ---- Signals ----

#[tokio::test]
async fn sigterm_before_it_is_ready_ends_it_in_order() {
    // Three that take longer than anybody would wait, one after the other.
    let mut setup = on_unix(Setup::new(PROGRAM).library("counter", "counter_v2"));
    for path in ["/a", "/b", "/c"] {
        setup = setup.resource(path, "counter").config(path, "start_delay_ms", "60000");
    }
    let setup = setup.reload("start_timeout", "100");
    let folder = setup.lay_out();
    let mut host = ByShell::start(folder.clone(), r#"exec "$@""#);
    within("the library to be staged", async {
        while !fs::read_dir(folder.join(".plugsocket/staged")).is_ok_and(|mut d| d.next().is_some())
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let begun = Instant::now();
    host.signal("TERM");
    let ended = host.ended().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(fs::read_dir(folder.join(".plugsocket/staged")).unwrap().count(), 0);
}

#[tokio::test]
async fn sigterm_during_handshakes_ends_it_in_time() {
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
    assert_eq!(host.ended().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_sigterm_changes_nothing_and_no_connection_is_cut_before_its_time() {
    let mut host = counter().server("drain", "2").start().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(host.connect("/count").await);
    }
    host.signal("TERM");
    host.wait_for_log("the drain", |line| line.message() == "draining").await;
    host.signal("TERM");
    for mut client in clients {
        client.expect_close_packet(1001).await;
        client.close().await;
    }
    assert_eq!(host.ended().await.code(), Some(0));
}

// ---- Plugins ----

#[tokio::test]
async fn what_nobody_can_catch_ends_the_host_and_the_next_one_has_the_state_on_disk() {
    // As the service manager sees it: a code, or a signal.
    for (command, expected) in
        [("exit", Ok(7)), ("abort", Err(6)), ("overflow", Err(6)), ("double panic", Err(6))]
    {
        let setup = on_unix(Setup::new(PROGRAM).resource("/rogue", "rogue"));
        let setup = setup.library("counter", "counter_v1").resource("/count", "counter");
        let setup = setup.key("/count", "snapshot_every", "0.1");
        let folder = setup.lay_out();
        let mut host = ByShell::start(folder.clone(), r#"exec "$@""#);
        count(&mut host.connect("/count").await).await;
        let file = folder.join(".plugsocket/state/snapshots/%2Fcount.snapshot");
        // Two writings after the message, so that one of them began after it.
        let modified = || fs::metadata(&file).and_then(|meta| meta.modified()).ok();
        within("two writings", async {
            for _ in 0..2 {
                let before = modified();
                while modified() == before {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        host.connect("/rogue").await.send(command).await;
        let ended = host.ended().await;
        let how = ended.code().ok_or_else(|| ended.signal().unwrap());
        // A stack that is used up is told by Rust's own handler, or by the system.
        assert!(how == expected || command == "overflow" && how == Err(11), "{command}: {how:?}");
        let again = ByShell::start(folder, r#"exec "$@""#);
        let mut client = again.connect("/count").await;
        client.send("x").await;
        assert_eq!(client.until_next().await.packets[0]["total"], 2, "{command}");
    }
}

#[tokio::test]
async fn a_plugin_that_floods_its_own_clients_costs_those_who_do_not_read() {
    let host =
        Setup::new(PROGRAM).resource("/rogue", "rogue").resource("/talk", "echo").start().await;
    let mut bystander = host.connect("/talk").await;
    let mut deaf = host.raw().await.upgraded("/rogue").await;
    deaf.expect_text().await;
    let mut told = host.connect("/rogue").await;
    let before = host.resident_bytes();
    for _ in 0..50 {
        told.send("flood 500").await;
        // The sender reads all of it.
        assert_eq!(told.until_next().await.packets.len(), 500);
    }
    echoes(&mut bystander).await;
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown}");
    drop(deaf);
}

#[tokio::test]
async fn threads_of_a_plugin_hold_up_nobody() {
    let host = Setup::new(PROGRAM).resource("/rogue", "rogue").start().await;
    let mut client = host.connect("/rogue").await;
    client.send("threads 200").await;
    assert_eq!(client.receive_text().await, "threads 200");
    client.expect_next().await;
    echoes(&mut client).await;
    assert!(Process(host.pid()).threads() >= 200);
}

/// What may be put into the folder of the plugins by mistake: each with what it is.
fn bad_candidates() -> Vec<(String, Vec<u8>)> {
    let good = fs::read(plugin_path("counter_v2")).unwrap();
    let mut bad = vec![
        ("empty".to_owned(), Vec::new()),
        ("text".to_owned(), b"plugin = \"counter\"\n".to_vec()),
        ("script".to_owned(), b"#!/bin/sh\nexit 1\n".to_vec()),
        ("archive".to_owned(), b"!<arch>\n".to_vec()),
        ("only magic".to_owned(), b"\x7fELF".to_vec()),
        ("zeros".to_owned(), vec![0; 100_000]),
        ("ones".to_owned(), vec![0xff; 100_000]),
        ("of another program".to_owned(), fs::read("/proc/self/exe").unwrap()),
    ];
    // Cut off: in the header, in the tables, and everywhere in between.
    let ends = (0..64).chain((1..60).map(|part| good.len() / 60 * part));
    bad.extend(ends.map(|end| (format!("cut at {end}"), good[..end].to_vec())));
    // Header fields: class, byte order, version, type, machine, and where its tables are and how large.
    for at in (4..7).chain([16, 17, 18, 19, 20]).chain(32..64) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            bad.push((format!("byte {at} of the header xor {flip:#x}"), bytes));
        }
    }
    bad
}

#[tokio::test]
async fn hundreds_of_bad_files_in_the_folder_cost_no_message_and_no_crash() {
    let host = counter().reload("quiet", "0.02").reload("preflight_timeout", "2").start().await;
    let mut client = host.connect("/count").await;
    let bad = bad_candidates();
    assert!(bad.len() >= 220, "{}", bad.len());
    let mut sent = 0;
    for (what, content) in &bad {
        let position = host.log_position();
        host.put_library("counter", content);
        let is_judged = |line: &plugsocket_tests::Line| {
            line.says("plugin counter refused")
                || line.message() == "plugin loaded"
                || line.says("library touched")
        };
        let verdict = host.wait_for_log_since(position, what, is_judged);
        tokio::pin!(verdict);
        loop {
            tokio::select! {
                line = &mut verdict => {
                    // A byte that no loader looks at makes no bad library; but it must not take the state away.
                    let is_harmless = what.contains("header") && line.message() != "";
                    assert!(line.says("plugin counter refused") || is_harmless, "{what}: {line}");
                    break;
                }
                seq = count(&mut client) => {
                    sent += 1;
                    assert_eq!(seq, sent, "{what}");
                }
            }
        }
        // One that was dropped by the select has been sent, and is counted.
        sent = resynchronized(&mut client, sent).await;
    }
    assert!(host.log().iter().filter(|line| line.says("plugin counter refused")).count() >= 200);
}

/// The answers that are still under way, and one more message: its number.
async fn resynchronized(client: &mut Client, sent: u64) -> u64 {
    client.send("mark").await;
    let mut last = sent;
    loop {
        let packet: Value = client.receive_json().await;
        if packet["opcode"] == "next" {
            continue;
        }
        let seq = packet["seq"].as_u64().unwrap();
        assert_eq!(seq, last + 1, "{packet}");
        last = seq;
        if packet["message"] == "mark" {
            client.expect_next().await;
            return last;
        }
    }
}

#[tokio::test]
async fn folders_pipes_links_and_holes_in_the_place_of_a_library_are_refused() {
    let host = counter().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    let place = host.library("counter");
    type Put = fn(&Path);
    let cases: [(&str, Put); 6] = [
        ("a folder", |place| fs::create_dir(place).unwrap()),
        ("a pipe", |place| {
            assert!(std::process::Command::new("mkfifo").arg(place).status().unwrap().success());
        }),
        ("a link to nowhere", |place| std::os::unix::fs::symlink("/nowhere", place).unwrap()),
        ("a link to itself", |place| std::os::unix::fs::symlink(place, place).unwrap()),
        ("a device without an end", |place| {
            std::os::unix::fs::symlink("/dev/zero", place).unwrap()
        }),
        ("a hole of a terabyte", |place| {
            fs::File::create(place).unwrap().set_len(1 << 40).unwrap();
        }),
    ];
    for (number, (what, put)) in cases.into_iter().enumerate() {
        remove(&place);
        put(&place);
        let (code, said) = host.command(&["plugin", "reload", "counter"]).await;
        assert!(code == 1 && said.contains("counter"), "{what}: {code} {said}");
        assert_eq!(count(&mut client).await, number as u64 + 1, "{what}");
    }
    remove(&place);
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    host.wait_for_reload(position).await;
    assert_eq!(count(&mut client).await, 7);
}

fn remove(place: &Path) {
    if fs::remove_file(place).is_err() {
        fs::remove_dir(place).unwrap();
    }
}

#[tokio::test]
async fn a_library_that_lacks_something_or_is_no_plugin_is_refused() {
    let host: TestHost = counter().start().await;
    let mut client = host.connect("/count").await;
    for (source, arguments) in [
        // An unknown symbol.
        ("int nowhere(void); int here(void) { return nowhere(); }", &[][..]),
        // A missing dependency.
        ("int here(void) { return 1; }", &["-Wl,--no-as-needed", "-lgone"]),
        // Constructors.
        (FORKING, &[]),
        (CLOSING, &[]),
    ] {
        let Some(library) = compiled(host.folder(), source, arguments) else {
            skip("a_library_that_lacks_something_or_is_no_plugin_is_refused", "no cc");
            return;
        };
        let position = host.log_position();
        host.put_library("counter", &library);
        host.wait_for_error(position, "plugin counter refused").await;
        count(&mut client).await;
    }
}

const FORKING: &str = "#include <unistd.h>\n\
    __attribute__((constructor)) static void c(void) { if (fork() == 0) _exit(0); }";
const CLOSING: &str = "#include <unistd.h>\n\
    __attribute__((constructor)) static void c(void) { for (int i = 0; i < 64; i++) close(i); }";

/// A shared library of this C source; None where there is no compiler.
fn compiled(folder: &Path, source: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let at = folder.join("made");
    fs::create_dir_all(&at).unwrap();
    let gone = at.join("libgone.so");
    fs::write(at.join("gone.c"), "int gone(void) { return 1; }").unwrap();
    fs::write(at.join("made.c"), source).unwrap();
    let cc = |input: &str, output: &Path, more: &[&str]| {
        let mut command = std::process::Command::new("cc");
        command.args(["-shared", "-fPIC", "-o"]).arg(output).arg(at.join(input)).arg("-L").arg(&at);
        command.args(more).status().ok()?.success().then_some(())
    };
    cc("gone.c", &gone, &[])?;
    let made = at.join("made.so");
    cc("made.c", &made, arguments)?;
    fs::remove_file(gone).unwrap();
    fs::read(made).ok()
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
