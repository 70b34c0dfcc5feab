//! The preflight: whatever a library does when it is opened, started, restored or dropped happens
//! in a child process first, and the host reports which callback did it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;
use std::path::Path;

use plugsocket_tests::{Client, Line, Request, Setup, TestHost, plugin_path, processes, within};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// What happens at a place, and the sentence about it.
const FAULTS: [(&str, &str, &str); 8] = [
    ("start", "abort", "/app: `start` crashed: SIGABRT"),
    ("start", "exit", "/app: `start` ended the process with exit code 3"),
    ("start", "hang", "/app: `start` hung: it did not start within 400ms"),
    ("thread", "abort", "/app: `start` crashed: SIGABRT"),
    ("restore", "abort", "/app: `restore` crashed: SIGABRT"),
    ("restore", "exit", "/app: `restore` ended the process with exit code 3"),
    ("restore", "hang", "/app: `restore` hung: it did not take over the state within 300ms"),
    ("drop", "hang", "/app: the drop of its instance hung: it did not end within 2s"),
];

fn setup() -> Setup {
    Setup::new(PROGRAM)
        .plain("/app", "app")
        .library("app", "saboteur")
        .reload("start_timeout", "0.4")
        .reload("restore_timeout", "0.3")
        .reload("preflight_timeout", "2")
}

fn failing(setup: Setup, at: &str, how: &str) -> Setup {
    setup.config("/app", "at", &format!("{at:?}")).config("/app", "how", &format!("{how:?}"))
}

async fn echoes(client: &mut Client) {
    client.send("x").await;
    assert_eq!(client.receive_text().await, "x");
}

#[tokio::test]
async fn settings_with_which_a_callback_ends_the_process_are_refused() {
    let mut host = setup().start().await;
    let mut client = host.open(Request::to("/app")).await;
    for (at, how, sentence) in FAULTS {
        let position = host.log_position();
        host.write_setup(failing(setup(), at, how));
        let sentence = sentence.strip_prefix("/app: ").unwrap();
        host.wait_for_error(position, sentence).await;
        echoes(&mut client).await;
    }
}

#[tokio::test]
async fn a_library_whose_callback_ends_the_process_is_refused() {
    // The echo of the first generation ignores the settings of the next.
    for (at, how, sentence) in FAULTS {
        let first = failing(setup(), at, how).library("app", "ctor_fork");
        let host = first.start().await;
        let mut client = host.open(Request::to("/app")).await;
        let position = host.log_position();
        host.replace_library("app", "saboteur");
        match at {
            // The echo has no state.
            "restore" => drop(host.wait_for_reload(position).await),
            _ => drop(host.wait_for_error(position, sentence).await),
        }
        echoes(&mut client).await;
    }
}

#[tokio::test]
async fn a_host_starts_whatever_its_library_does() {
    for (at, how, sentence) in FAULTS.into_iter().filter(|fault| fault.0 != "restore") {
        let host = failing(setup(), at, how).plain("/good", "echo").start().await;
        host.wait_for_error(0, sentence).await;
        echoes(&mut host.open(Request::to("/good")).await).await;
    }
}

#[tokio::test]
async fn a_state_on_disk_that_ends_the_process_is_set_aside() {
    let folder = std::env::temp_dir().join(format!("plugsocket-preflight-{}", std::process::id()));
    for how in ["abort", "exit", "hang"] {
        let setup = setup().key("/app", "snapshot_every", "3600");
        let setup = setup.server("state_dir", &format!("{folder:?}"));
        let mut host = setup.clone().start().await;
        host.signal("TERM");
        host.exited().await;
        assert!(folder.join("snapshots/%2Fapp.snapshot").exists());
        let host = failing(setup, "restore", how).start().await;
        host.wait_for_error(0, "the state on disk is not restored").await;
        echoes(&mut host.open(Request::to("/app")).await).await;
        assert!(folder.join("snapshots/%2Fapp.refused").exists());
        drop(host);
        fs::remove_dir_all(&folder).unwrap();
    }
}

#[tokio::test]
async fn the_state_on_disk_is_restored_by_the_library_that_mends_a_refused_one() {
    let folder = std::env::temp_dir().join(format!("plugsocket-mended-{}", std::process::id()));
    let setup = Setup::new(PROGRAM).resource("/app", "app").library("app", "counter_v1");
    let setup = setup.key("/app", "snapshot_every", "3600");
    let setup = setup.server("state_dir", &format!("{folder:?}"));
    let mut host = setup.clone().start().await;
    assert_eq!(total(&mut host.connect("/app").await).await, 1);
    host.signal("TERM");
    host.exited().await;
    let host = setup.library("app", "ctor_crash").start().await;
    host.wait_for_error(0, "its constructor crashed").await;
    host.reload("app", "counter_v2").await;
    host.wait_for_log("the state", |line| line.starts_with("state restored from disk")).await;
    assert_eq!(total(&mut host.connect("/app").await).await, 2);
    fs::remove_dir_all(&folder).unwrap();
}

async fn total(client: &mut Client) -> u64 {
    client.send("x").await;
    client.until_next().await.packets[0]["total"].as_u64().unwrap()
}

#[tokio::test]
async fn preflight_open_starts_each_instance_once() {
    for (mode, expected) in [("full", 2), ("open", 1)] {
        let file = std::env::temp_dir().join(format!("plugsocket-{mode}-{}", std::process::id()));
        let setup = setup().config("/app", "starts", &format!("{file:?}"));
        let host = setup.plugin_key("app", "preflight", &format!("{mode:?}")).start().await;
        echoes(&mut host.open(Request::to("/app")).await).await;
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), expected, "{mode}");
        fs::remove_file(&file).unwrap();
    }
}

/// Starts a process of each kind that outlives its parent, and writes their numbers to `file`.
fn leaving_processes(file: &Path) -> String {
    let file = file.display();
    format!(
        "touch {file}; sleep 4242 & echo $! >> {file}; \
         setsid sh -c 'echo $$ >> {file}; exec sleep 4242' & \
         setsid sh -c 'setsid sh -c \"echo \\$\\$ >> {file}; exec sleep 4242\" & exit' & \
         while [ $(wc -l < {file}) -lt 3 ]; do sleep 0.01; done"
    )
}

/// Expects that three processes were started, and that none of them is left.
fn expect_no_process(file: &Path) {
    let text = fs::read_to_string(file).unwrap();
    let started: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(started.len(), 3, "{text}");
    let left = processes("sleep");
    let left: Vec<_> = left.into_iter().filter(|process| started.contains(process)).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_file(file).unwrap();
}

fn pid_file(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("plugsocket-pids-{name}-{}", std::process::id()))
}

#[tokio::test]
async fn processes_that_a_refused_library_has_started_are_ended() {
    let file = pid_file("ctor");
    let command = leaving_processes(&file);
    let setup = setup().library("app", "ctor_fork");
    let host = setup.environment("PLUGSOCKET_TEST_CONSTRUCTOR", &command).start().await;
    host.wait_for_error(0, "its constructor crashed: SIGABRT").await;
    expect_no_process(&file);
    for how in ["abort", "exit", "hang"] {
        let file = pid_file(&format!("start-{how}"));
        let command = leaving_processes(&file);
        let setup = failing(self::setup(), "start", how).reload("start_timeout", "5");
        let setup = setup.config("/app", "before", &format!("'''{command}'''"));
        let host = setup.start().await;
        host.wait_for_error(0, "/app: `start`").await;
        expect_no_process(&file);
    }
}

#[tokio::test]
async fn plugin_check_applies_the_limits_of_the_host_and_names_the_callback() {
    let host = setup().start().await;
    let snapshot = state(&host).await;
    let library = plugin_path("saboteur");
    for (at, how, sentence) in FAULTS {
        let settings = format!(r#"{{"at":"{at}","how":"{how}"}}"#);
        let arguments = ["plugin", "check", library.to_str().unwrap(), "--settings", &settings];
        let with_state = ["--with-state", snapshot.to_str().unwrap()];
        let (code, output) = host.command(&[&arguments[..], &with_state].concat()).await;
        let sentence = sentence.strip_prefix("/app: ").unwrap();
        assert!(code == 1 && output.contains(sentence), "{at} {how}: {output}");
    }
}

/// Writes a state of the application.
async fn state(host: &TestHost) -> std::path::PathBuf {
    let setup = host.setup().key("/app", "snapshot_every", "3600");
    let mut other = setup.start().await;
    other.signal("TERM");
    other.exited().await;
    let file = host.folder().join("state");
    let written = other.folder().join(".plugsocket/state/snapshots/%2Fapp.snapshot");
    within("the state", tokio::fs::copy(written, &file)).await.unwrap();
    file
}

#[tokio::test]
async fn a_resource_whose_instance_fails_at_start_does_not_stop_others_of_its_library() {
    for (at, how, sentence) in FAULTS.into_iter().filter(|fault| fault.0 != "restore") {
        let host = failing(setup(), at, how).plain("/good", "app").start().await;
        host.wait_for_error(0, sentence).await;
        echoes(&mut host.open(Request::to("/good")).await).await;
    }
}

/// The plugin `needing` with the C library that it needs.
fn needing() -> Setup {
    let helper = fs::read(plugin_path("test_needed")).unwrap();
    Setup::new(PROGRAM)
        .plain("/app", "app")
        .library("app", "needing")
        .put("plugins/libtest_needed.so", helper)
        // Cargo adds the folder of the built libraries.
        .environment("LD_LIBRARY_PATH", "")
}

async fn answer(client: &mut Client) -> String {
    client.send("x").await;
    client.receive_text().await
}

#[tokio::test]
async fn a_library_finds_the_libraries_that_lie_beside_it() {
    let host = needing().start().await;
    let mut client = host.open(Request::to("/app")).await;
    assert_eq!(answer(&mut client).await, "1");
    let library = host.library("app");
    let check = ["plugin", "check", library.to_str().unwrap()];
    let (code, output) = host.command(&check).await;
    assert!(code == 0 && output.ends_with("fine: it starts\n"), "{output}");
    // A kept generation finds them, too.
    host.reload("app", "echo").await;
    assert_eq!(host.command(&["plugin", "rollback", "app"]).await.0, 0);
    assert_eq!(answer(&mut client).await, "1");

    host.replace_library("app", "needing");
    fs::remove_file(host.folder().join("plugins/libtest_needed.so")).unwrap();
    let (code, output) = host.command(&check).await;
    assert!(code == 1 && output.contains("libtest_needed.so"), "{output}");
    let (code, output) = host.command(&["plugin", "reload", "app"]).await;
    assert!(code == 1 && output.contains("libtest_needed.so"), "{output}");
    assert_eq!(answer(&mut client).await, "1");
}

#[tokio::test]
async fn a_library_that_is_not_a_plugin_is_not_offered_as_one() {
    let setup = needing().library("rust", "no_plugin").library("spare", "echo");
    let mut host = setup.file("text", b"no library").start().await;
    let offered = |line: &Line| line.starts_with("available");
    let is_late = |line: &Line| offered(line) && line.field("plugin") == "late";
    host.replace_library("second", "test_needed");
    host.replace_library("late", "echo");
    host.wait_for_log("the plugin to be reported", is_late).await;
    let names: Vec<_> =
        host.log().iter().filter(|line| offered(line)).map(|line| line.field("plugin")).collect();
    assert_eq!(names, ["spare", "text", "late"]);
    let list = async |host: &TestHost| {
        let (_, list) = host.command(&["plugin", "list", "--json"]).await;
        let list: Value = serde_json::from_str(&list).unwrap();
        let of = |plugin: &Value| {
            ["name", "state"].map(|key| plugin[key].as_str().unwrap().to_owned()).join(" ")
        };
        list.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let offered = ["app active", "late available", "spare available", "text available"];
    assert_eq!(list(&host).await, offered);
    // Mapped by mistake, it is listed with the reason.
    host.write_setup(host.setup().plain("/needed", "test_needed"));
    let (code, output) = host.command(&["reload"]).await;
    assert!(code == 1 && output.contains("it is not a plugsocket plugin"), "{output}");
}

#[tokio::test]
async fn a_changed_needed_library_of_the_same_name_is_refused() {
    let host = needing().start().await;
    let mut client = host.open(Request::to("/app")).await;
    assert_eq!(answer(&mut client).await, "1");
    let changed = fs::read(plugin_path("test_needed_v2")).unwrap();
    host.put("plugins/libtest_needed.so", changed);
    let (code, output) = host.command(&["plugin", "reload", "app"]).await;
    assert!(
        code == 1 && output.contains("which differs from the library of this name"),
        "{output}"
    );
    assert_eq!(answer(&mut client).await, "1");
}

#[tokio::test]
async fn the_thread_that_opens_a_library_never_ends() {
    let host = Setup::new(PROGRAM).plain("/app", "app").library("app", "ctor_thread").start().await;
    let mut client = host.open(Request::to("/app")).await;
    assert_eq!(answer(&mut client).await, "false");
    // Another generation, from another thread of the supervisor.
    assert_eq!(host.command(&["plugin", "reload", "app"]).await.0, 0);
    assert_eq!(answer(&mut client).await, "false");
    let library = plugin_path("ctor_thread");
    let (code, output) = host.command(&["plugin", "check", library.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{output}");
}
