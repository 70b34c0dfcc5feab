//! Library files that change rapidly or partially: only the state after the quiet period counts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use plugsocket_tests::{Client, Line, Setup, TestHost, plugin_path, processes, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

/// Sends a message and expects that it is the `seq`-th of this connection, counted by version `by`.
async fn counts(client: &mut Client, by: &str, seq: u64) {
    client.send("x").await;
    let next = client.until_next().await;
    let counted = &next.packets[0];
    assert_eq!((&counted["by"], &counted["seq"]), (&by.into(), &seq.into()), "{counted}");
}

fn loaded(host: &TestHost) -> usize {
    host.log().iter().filter(|line| line.message() == "plugin loaded").count()
}

async fn wait(host: &TestHost, position: usize, beginning: &str) -> Line {
    host.wait_for_log_since(position, beginning, |line| line.starts_with(beginning)).await
}

#[tokio::test]
async fn only_the_last_of_rapid_writes_is_loaded() {
    let host = setup().reload("quiet", "1.5").start().await;
    let mut client = host.connect("/count").await;
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    host.replace_library("counter", "counter_v1");
    wait(&host, position, "library touched").await;
    assert_eq!(loaded(&host), 1, "the intermediate library was never loaded");
    for library in ["counter_v2", "speaker", "counter_v1", "counter_v2"] {
        fs::copy(plugin_path(library), host.library("counter")).unwrap();
    }
    host.wait_for_reload(position).await;
    counts(&mut client, "v2", 1).await;
    assert_eq!(loaded(&host), 2);
    assert!(!host.log().iter().any(|line| line.level() == "ERROR"));
}

#[tokio::test]
async fn a_partially_written_library_is_refused_and_loaded_once_complete() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    let whole = fs::read(plugin_path("counter_v2")).unwrap();
    let position = host.log_position();
    fs::write(host.library("counter"), &whole[..whole.len() / 2]).unwrap();
    let line = host.wait_for_error(position, "incomplete").await;
    assert!(line.message().contains("generation 1 keeps serving"), "{line}");
    counts(&mut client, "v1", 1).await;
    let mut file = fs::OpenOptions::new().append(true).open(host.library("counter")).unwrap();
    std::io::Write::write_all(&mut file, &whole[whole.len() / 2..]).unwrap();
    drop(file);
    host.wait_for_reload(position).await;
    counts(&mut client, "v2", 2).await;
}

#[tokio::test]
async fn a_library_renamed_away_and_back_changes_nothing() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let aside = host.folder().join("aside");
    let position = host.log_position();
    fs::rename(host.library("counter"), &aside).unwrap();
    wait(&host, position, "library deleted").await;
    counts(&mut client, "v1", 2).await;
    fs::rename(&aside, host.library("counter")).unwrap();
    wait(&host, position, "library touched").await;
    counts(&mut client, "v1", 3).await;
    assert_eq!(loaded(&host), 1);
}

/// Replaces a symbolic link atomically.
fn relink(link: &Path, target: &Path) {
    let next = link.with_extension("next");
    symlink(target, &next).unwrap();
    fs::rename(next, link).unwrap();
}

#[tokio::test]
async fn a_release_switched_by_a_symbolic_link_is_found_by_rescan() {
    let host = setup().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    let releases = host.folder().join("releases");
    for (release, library) in [("41", "counter_v1"), ("42", "counter_v2")] {
        fs::create_dir_all(releases.join(release)).unwrap();
        fs::copy(plugin_path(library), releases.join(release).join("libapp.so")).unwrap();
    }
    let current = host.folder().join("current");
    relink(&current, &releases.join("41"));
    let position = host.log_position();
    relink(&host.library("counter"), &current.join("libapp.so"));
    wait(&host, position, "library touched").await;
    for (release, by, seq) in [("42", "v2", 1), ("41", "v1", 2)] {
        let position = host.log_position();
        relink(&current, &releases.join(release));
        host.wait_for_reload(position).await;
        counts(&mut client, by, seq).await;
    }
}

#[tokio::test]
async fn a_recreated_plugin_folder_is_watched_again() {
    let host = setup().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    let folder = host.folder().join("plugins");
    let position = host.log_position();
    fs::remove_dir_all(&folder).unwrap();
    wait(&host, position, "library deleted").await;
    counts(&mut client, "v1", 1).await;
    fs::create_dir(&folder).unwrap();
    fs::copy(plugin_path("counter_v2"), host.library("counter")).unwrap();
    host.wait_for_reload(position).await;
    counts(&mut client, "v2", 2).await;
}

#[tokio::test]
async fn twenty_plugins_replaced_at_once_all_take_over() {
    let mut setup = Setup::new(PROGRAM);
    let names: Vec<String> = (0..20).map(|number| format!("app{number}")).collect();
    for name in &names {
        setup = setup.library(name, "counter_v1").resource(&format!("/{name}"), name);
    }
    let host = setup.start().await;
    let mut clients = Vec::new();
    for name in &names {
        clients.push(host.connect(&format!("/{name}")).await);
    }
    let (position, begun) = (host.log_position(), Instant::now());
    for name in &names {
        host.replace_library(name, "counter_v2");
    }
    for name in &names {
        let is_match =
            |line: &Line| line.message() == "plugin loaded" && line.field("plugin") == *name;
        host.wait_for_log_since(position, name, is_match).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for client in &mut clients {
        counts(client, "v2", 1).await;
    }
}

/// Configures a delay in the application's `start`.
async fn set_start_delay(host: &mut TestHost, milliseconds: &str) {
    let setup = host.setup().config("/count", "start_delay_ms", milliseconds);
    host.apply(setup).await;
}

#[tokio::test]
async fn a_library_that_arrives_while_another_starts_is_loaded_next() {
    let mut host = setup().start().await;
    set_start_delay(&mut host, "600").await;
    let mut client = host.connect("/count").await;
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    // The staged copy shows that the library has been read.
    let begun = Instant::now();
    while !staged_copies(&host).contains(&"counter.2".to_owned()) {
        assert!(begun.elapsed() < plugsocket_tests::DEADLINE, "the library is never staged");
        tokio::task::yield_now().await;
    }
    host.replace_library("counter", "counter_v1");
    for number in ["2", "3"] {
        let is_match =
            |line: &Line| line.message() == "plugin loaded" && line.field("generation") == number;
        host.wait_for_log_since(position, number, is_match).await;
    }
    counts(&mut client, "v1", 1).await;
}

#[tokio::test]
async fn a_reload_in_progress_does_not_delay_the_shutdown() {
    let setup = setup().reload("start_timeout", "60").server("drain", "5");
    let mut host = setup.start().await;
    let mut client = host.connect("/count").await;
    counts(&mut client, "v1", 1).await;
    let slow = host.setup().config("/count", "start_delay_ms", "50000");
    host.write_setup(slow);
    let begun = Instant::now();
    // The instance starts on a thread of this name, in the preflight child.
    let library = host.folder().join(".plugsocket/staged").display().to_string();
    let is_start = |comm: String| comm.starts_with("start:/count");
    let starts = |process: u32| {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        tasks
            .into_iter()
            .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(is_start))
    };
    while !processes(&library).into_iter().any(starts) {
        assert!(begun.elapsed() < plugsocket_tests::DEADLINE, "the instance never starts");
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    // The running instance answers until the drain.
    counts(&mut client, "v1", 2).await;
    host.signal("TERM");
    client.expect_close_packet(1001).await;
    client.close().await;
    assert_eq!(host.exited().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let staged = host.folder().join(".plugsocket/staged");
    assert_eq!(fs::read_dir(staged).unwrap().count(), 0, "the staged copies are removed");
    within("the preflight child to end", async {
        while !processes(&library).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_library_that_cannot_be_staged_is_refused_with_the_cause() {
    let host = setup().start().await;
    let mut client = host.connect("/count").await;
    // Simulates a full disk: no file may grow beyond 4 KiB.
    let limit = ["--fsize=4096:4096", "--pid", &host.pid().to_string()].map(ToOwned::to_owned);
    let Ok(limited) = std::process::Command::new("prlimit").args(limit).status() else {
        assert!(std::env::var_os("CI").is_none(), "prlimit (util-linux) is missing");
        return;
    };
    assert!(limited.success());
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    let line = host.wait_for_error(position, "cannot copy it to").await;
    assert!(line.message().contains("File too large"), "{line}");
    assert!(line.message().ends_with("generation 1 keeps serving"), "{line}");
    counts(&mut client, "v1", 1).await;
    assert_eq!(staged_copies(&host), ["counter.1"], "no partial copy is left");
}

/// Returns the names of the staged copies of the host.
fn staged_copies(host: &TestHost) -> Vec<String> {
    let own = fs::read_dir(host.folder().join(".plugsocket/staged")).unwrap().next();
    let copies = fs::read_dir(own.unwrap().unwrap().path()).unwrap();
    copies.map(|copy| copy.unwrap().file_name().into_string().unwrap()).collect()
}
