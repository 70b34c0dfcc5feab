//! The control socket and the commands that use it: what they show, what they change, how they end.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::os::unix::fs::PermissionsExt;

use plugsocket_tests::{Line, Request, Setup, TestHost, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn done(host: &TestHost, arguments: &[&str]) -> String {
    let (code, said) = host.command(arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

async fn json_of(host: &TestHost, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&done(host, &arguments).await).unwrap()
}

async fn plugin(host: &TestHost, name: &str) -> Value {
    let plugins = json_of(host, &["plugin", "list"]).await;
    plugins.as_array().unwrap().iter().find(|plugin| plugin["name"] == name).unwrap().clone()
}

fn counter() -> Setup {
    Setup::new(PROGRAM).resource("/count", "counter").library("counter", "counter_v1")
}

#[tokio::test]
async fn what_runs_is_shown_as_a_table_and_as_json() {
    let setup = counter().resource("/echo", "echo").resource("/web", "feedback");
    let setup = setup.file("broken", b"no library").library("spare", "speaker");
    let host = setup.start().await;
    let mut client = host.connect("/count").await;
    client.send("one").await;
    client.until_next().await;

    let status = json_of(&host, &["status"]).await;
    assert_eq!((&status["connections"], &status["pid"]), (&json!(1), &json!(host.pid())));
    let count = &status["resources"][0];
    assert_eq!([&count["path"], &count["plugin"], &count["lane"]], ["/count", "counter", "shared"]);
    assert_eq!([&count["generation"], &count["sessions"], &count["messages"]], [1, 1, 1]);

    let counter = plugin(&host, "counter").await;
    assert_eq!([&counter["state"], &counter["resources"][0]], ["active", "/count"]);
    assert_eq!(counter["generation"]["package"], "plugsocket-test-counter_v1");
    assert_eq!(counter["generation"]["hash"].as_str().unwrap().len(), 64);
    assert_eq!(plugin(&host, "spare").await["state"], "available");

    let connections = json_of(&host, &["connections", "--resource", "/count"]).await;
    assert_eq!(connections[0]["uuid"], client.uuid());
    assert_eq!(json_of(&host, &["connections", "--resource", "/web"]).await, json!([]));

    for (arguments, parts) in [
        (&["status"][..], &["RESOURCE", "/count", "counter", "shared"][..]),
        (&["plugin", "list"], &["PLUGIN", "counter", "active", "available"]),
        (&["connections"], &["UUID", client.uuid(), "websocket", "127.0.0.1"]),
    ] {
        let table = done(&host, arguments).await;
        assert!(parts.iter().all(|part| table.contains(part)), "{table}");
    }
}

#[tokio::test]
async fn a_plugin_is_loaded_again_on_request_with_its_state_and_a_refused_one_says_why() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    client.send("one").await;
    client.until_next().await;
    let said = done(&host, &["plugin", "reload", "counter"]).await;
    assert_eq!(said.trim(), "generation 2 of counter serves /count");
    client.send("two").await;
    assert_eq!(client.until_next().await.packets[0]["total"], 2);
    let counter = plugin(&host, "counter").await;
    assert_eq!([&counter["generation"]["number"], &counter["retired"]], [2, 1]);

    let position = host.log_position();
    std::fs::write(host.library("counter"), "no library").unwrap();
    host.wait_for_error(position, "refused").await;
    let refused = plugin(&host, "counter").await;
    assert_eq!(
        [&refused["state"], &refused["generation"]["number"]],
        [&json!("active"), &json!(2)]
    );
    assert_eq!(refused["refused"], "it is no shared library (ELF file)");
    let (code, said) = host.command(&["plugin", "reload", "counter"]).await;
    assert!(code == 1 && said.contains("it is no shared library"), "{said}");
    let (code, said) = host.command(&["plugin", "reload", "nobody"]).await;
    assert!(code == 1 && said.contains("no resource of plugins.toml names"), "{said}");
}

#[tokio::test]
async fn a_disabled_plugin_closes_its_resources_until_it_is_enabled() {
    let host = counter().resource("/echo", "echo").start().await;
    let (mut client, mut other) = (host.connect("/count").await, host.connect("/echo").await);
    done(&host, &["plugin", "disable", "counter"]).await;
    let packet = client.expect_close_packet(1013).await;
    assert_eq!(packet["error"], "the application counter is switched off");
    assert_eq!(packet["retry_after"], 30);
    let mut turned_away = host.open(Request::to("/count")).await;
    assert_eq!(turned_away.expect_close_packet(1013).await["retry_after"], 30);
    other.send("here").await;
    assert_eq!(other.receive_text().await, "here");
    assert_eq!(plugin(&host, "counter").await["state"], "disabled");
    assert_eq!(host.command(&["plugin", "disable", "counter"]).await.0, 1);
    // What is put into the folder meanwhile is taken when it is enabled.
    host.replace_library("counter", "counter_v2");
    done(&host, &["plugin", "enable", "counter"]).await;
    let mut client = host.connect("/count").await;
    client.send("one").await;
    assert_eq!(client.until_next().await.packets[0]["by"], "v2");
}

#[tokio::test]
async fn the_configuration_is_compared_and_read_again_on_request() {
    let host = counter().resource("/echo", "echo").start().await;
    assert_eq!(done(&host, &["check", "--diff"]).await.trim(), "nothing would change");
    let broken = counter().server("drain", "-1").toml();
    let position = host.log_position();
    host.write_config(&broken);
    host.wait_for_log_since(position, "the refusal", |line: &Line| line.says("configuration not"))
        .await;
    for arguments in [&["reload"][..], &["check", "--diff"]] {
        let (code, said) = host.command(arguments).await;
        assert!(code == 1 && said.contains("server.drain: -1 seconds cannot be"), "{said}");
    }
    let position = host.log_position();
    host.write_config(
        &counter().resource("/talk", "echo").server("listen", "['127.0.0.1:1']").toml(),
    );
    host.wait_for_log_since(position, "the reload", |line: &Line| {
        line.says("configuration applied")
    })
    .await;
    let diff = json_of(&host, &["check", "--diff"]).await;
    assert_eq!(diff["needs_restart"], json!(["listen"]));
    let said = done(&host, &["reload"]).await;
    assert!(said.contains("what needs a restart: listen"), "{said}");
}

#[tokio::test]
async fn one_connection_is_closed_and_the_host_is_drained_on_request() {
    let mut host = counter().start().await;
    let (mut one, mut other) = (host.connect("/count").await, host.connect("/count").await);
    done(&host, &["connections", "close", one.uuid()]).await;
    assert_eq!(one.expect_close_packet(1001).await["error"], "closed by the operator");
    assert_eq!(host.command(&["connections", "close", "nobody"]).await.0, 1);
    done(&host, &["drain"]).await;
    other.expect_close_packet(1001).await;
    assert!(host.ended().await.success());
    let (code, said) = host.command(&["status"]).await;
    assert!(code == 3 && said.contains("no host answers"), "{said}");
}

#[tokio::test]
async fn a_socket_that_was_removed_is_made_anew_and_another_hosts_is_left_alone() {
    let mut host = counter().start().await;
    let folder = host.folder().join(".plugsocket");
    for gone in [&["control"][..], &["control", "control.lock"]] {
        let position = host.log_position();
        gone.iter().for_each(|name| std::fs::remove_file(folder.join(name)).unwrap());
        let is_back = |line: &Line| line.says("the control socket had been removed");
        host.wait_for_log_since(position, "the socket to come back", is_back).await;
        done(&host, &["status"]).await;
    }
    let (code, said) = host.command(&["run"]).await;
    assert!(code == 1 && said.contains("another host uses"), "{said}");
    // Somebody else's by now.
    let next = folder.join("next");
    let _other = std::os::unix::net::UnixListener::bind(&next).unwrap();
    std::fs::rename(next, folder.join("control")).unwrap();
    host.signal("TERM");
    assert!(host.ended().await.success());
    assert!(folder.join("control").exists());
}

#[tokio::test]
async fn a_request_that_is_no_text_is_refused_as_any_other() {
    let host = counter().start().await;
    let control = host.folder().join(".plugsocket/control");
    for request in [&b"{\"do\":\"status\xff\"}\n"[..], b"\xff\xfe\n", b"nonsense\n"] {
        let mut stream = tokio::net::UnixStream::connect(&control).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        within("the answer", stream.read_to_end(&mut answer)).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["answer"], "refused", "{answer}");
    }
}

#[tokio::test]
async fn two_hosts_keep_their_states_apart() {
    let host = counter().start().await;
    let state = format!("{:?}", host.folder().join(".plugsocket/state"));
    let outcome = counter().server("state_dir", &state).run(&["run"]).await;
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.complained.contains("another host keeps its state in"), "{outcome:?}");
    // To look at it needs no state.
    assert_eq!(host.command(&["check"]).await.0, 0);
}

#[tokio::test]
async fn libraries_that_are_gone_are_not_listed() {
    let host = counter().start().await;
    let names: Vec<String> = (0..50).map(|number| format!("spare{number}")).collect();
    let position = host.log_position();
    for name in &names {
        std::fs::write(host.library(name), "no library").unwrap();
    }
    for name in &names {
        let is_it = |line: &Line| line.says("available") && line.field("plugin") == *name;
        host.wait_for_log_since(position, name, is_it).await;
    }
    assert_eq!(json_of(&host, &["plugin", "list"]).await.as_array().unwrap().len(), 51);
    for name in &names {
        std::fs::remove_file(host.library(name)).unwrap();
    }
    let listed =
        async { while json_of(&host, &["plugin", "list"]).await.as_array().unwrap().len() > 1 {} };
    within("the list to be short", listed).await;
    // What is known of one that comes back is known anew.
    let position = host.log_position();
    std::fs::write(host.library("spare0"), "no library").unwrap();
    host.wait_for_log_since(position, "the offer", |line| line.says("available")).await;
}

#[tokio::test]
async fn the_socket_is_private_a_stale_one_is_replaced_and_two_hosts_need_two() {
    let mut host = counter().start().await;
    let socket = host.folder().join(".plugsocket/control");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, said) = host.command(&["run"]).await;
    assert!(code == 1 && said.contains("another host uses"), "{said}");
    done(&host, &["status"]).await;
    // One that was killed leaves its socket.
    host.signal("KILL");
    host.ended().await;
    assert!(socket.exists());
    let mut second = tokio::process::Command::new(PROGRAM);
    second.arg("--config").arg(host.folder().join("plugins.toml")).kill_on_drop(true);
    let second = second.stderr(std::process::Stdio::null()).spawn().unwrap();
    let answered = async { while host.command(&["status"]).await.0 != 0 {} };
    within("the second host to answer", answered).await;
    drop(second);
}
