//! Rollback to an earlier generation: with its state, without it, and across restarts.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::PathBuf;
use std::process::Stdio;

use plugsocket_tests::{Client, Setup, TestHost, plugin_path, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Returns the list entry of the only plugin.
async fn plugin(host: &TestHost) -> Value {
    let (code, output) = host.command(&["plugin", "list", "--json"]).await;
    assert_eq!(code, 0, "{output}");
    serde_json::from_str::<Value>(&output).unwrap()[0].clone()
}

fn kept(plugin: &Value) -> Vec<u64> {
    plugin["kept"].as_array().unwrap().iter().map(|kept| kept["number"].as_u64().unwrap()).collect()
}

async fn count(client: &mut Client) -> (String, u64) {
    client.send("x").await;
    let packet = client.until_next().await.packets.remove(0);
    (packet["by"].as_str().unwrap().to_owned(), packet["total"].as_u64().unwrap())
}

#[tokio::test]
async fn refused_libraries_and_restarts_leave_no_gap_in_the_numbers() {
    let folder = std::env::temp_dir().join(format!("plugsocket-numbers-{}", std::process::id()));
    let setup = counter().server("state_dir", &format!("{folder:?}"));
    for _ in 0..3 {
        let mut host = setup.clone().start().await;
        assert_eq!(kept(&plugin(&host).await), [1]);
        host.signal("TERM");
        host.exited().await;
    }
    let host = setup.start().await;
    for library in ["ctor_crash", "no_plugin", "start_refuse", "restore_refuse"] {
        let position = host.log_position();
        host.replace_library("app", library);
        host.wait_for_error(position, "plugin app refused").await;
    }
    host.reload("app", "counter_v2").await;
    let listed = plugin(&host).await;
    assert_eq!(listed["generation"]["number"], 2);
    let first = &listed["kept"][1];
    assert_eq!((&first["number"], &first["version"]), (&json!(1), &json!("0.0.0")));
    let (_, table) = host.command(&["plugin", "list"]).await;
    let hash = &first["hash"].as_str().unwrap()[..12];
    let row = table.lines().find(|line| line.starts_with("1 ")).unwrap();
    assert!(row.contains(hash) && row.contains("GMT") && row.ends_with("0.0.0"), "{table}");
    drop(host);
    std::fs::remove_dir_all(&folder).unwrap();
}

fn counter() -> Setup {
    Setup::new(PROGRAM).resource("/app", "app").library("app", "counter_v1")
}

#[tokio::test]
async fn a_rollback_keeps_the_state_and_the_newer_file_is_not_reloaded() {
    let mut host = counter().start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 1));
    host.reload("app", "counter_v2").await;
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 2));
    assert_eq!(kept(&plugin(&host).await), [2, 1]);

    let (code, output) = host.command(&["plugin", "rollback", "app"]).await;
    assert_eq!(
        (code, output.trim()),
        (0, "generation 3 of app serves /app; it has the content of generation 1")
    );
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 3));
    assert_eq!(kept(&plugin(&host).await), [3, 2]);
    let (code, output) = host.command(&["plugin", "rollback", "app"]).await;
    assert!(code == 1 && output.contains("no earlier generation of app is kept"), "{output}");

    // The library that was rolled back is not loaded again.
    let position = host.log_position();
    host.replace_library("app", "counter_v2");
    host.wait_for_error(position, "was rolled back").await;
    assert_eq!(count(&mut client).await, ("v1".to_owned(), 4));

    // A restart does not load it either.
    let hash = plugin(&host).await["generation"]["hash"].clone();
    host.signal("KILL");
    host.exited().await;
    let mut again = tokio::process::Command::new(PROGRAM);
    again.arg("--config").arg(host.folder().join("plugins.toml")).kill_on_drop(true);
    let again = again.stderr(Stdio::null()).spawn().unwrap();
    within("the host to answer again", async { while host.command(&["status"]).await.0 != 0 {} })
        .await;
    let running = plugin(&host).await;
    assert_eq!(
        [&running["generation"]["hash"], &running["generation"]["number"]],
        [&hash, &json!(3)],
        "the number of a library that served, not of a start or of a refused file"
    );
    let (code, output) = host.command(&["plugin", "reload", "app"]).await;
    assert_eq!((code, output.trim()), (0, "generation 4 of app serves /app"));
    assert_ne!(plugin(&host).await["generation"]["hash"], hash);
    drop(again);
}

#[tokio::test]
async fn state_that_the_earlier_library_refuses_is_dropped_only_with_fresh() {
    // The speaker accepts no state, and the counter has some.
    let host = counter().library("app", "speaker").start().await;
    let mut client = host.connect("/app").await;
    host.reload("app", "counter_v1").await;
    assert_eq!(count(&mut client).await.1, 1);
    let (code, output) = host.command(&["plugin", "rollback", "app", "1"]).await;
    assert!(code == 1 && output.contains("does not restore state"), "{output}");
    assert_eq!(count(&mut client).await.1, 2);
    let (code, _) = host.command(&["plugin", "rollback", "app", "1", "--fresh"]).await;
    assert_eq!(code, 0);
    let me = client.ask(&json!({"do": "whoami"})).await;
    assert_eq!(me["uuid"], client.uuid());
    let (code, output) = host.command(&["plugin", "rollback", "app", "99"]).await;
    assert!(code == 1 && output.contains("generation 99 of app is not kept; kept are"), "{output}");
}

#[tokio::test]
async fn only_keep_generations_libraries_are_kept() {
    let host = counter().library("app", "speaker").reload("keep_generations", "1").start().await;
    for (library, expected) in
        [("counter_v1", [2, 1]), ("counter_v2", [3, 2]), ("counter_v1", [4, 3])]
    {
        host.reload("app", library).await;
        assert_eq!(kept(&plugin(&host).await), expected, "{library}");
    }
    let folder = host.folder().join(".plugsocket/state/generations/app");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2);
}

#[tokio::test]
async fn a_modified_archived_library_is_refused() {
    let host = counter().start().await;
    let mut client = host.connect("/app").await;
    host.reload("app", "counter_v2").await;
    let folder = host.folder().join(".plugsocket/state/generations/app");
    let mut kept = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let is_first = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("1.");
    std::fs::copy(plugin_path("speaker"), kept.find(is_first).unwrap()).unwrap();
    let (code, output) = host.command(&["plugin", "rollback", "app"]).await;
    assert!(
        code == 1 && output.contains("it is not the library that was kept: its SHA-256 is"),
        "{output}"
    );
    assert_eq!(count(&mut client).await, ("v2".to_owned(), 1));
}
