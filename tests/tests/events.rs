//! `plugsocket events` and its stream on the control socket: what the host did, without a log.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Setup, TestHost, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SERVED: &str = "resource is served by a new instance";

fn counter() -> Setup {
    Setup::new(PROGRAM).resource("/count", "counter").library("counter", "counter_v1")
}

async fn events(host: &TestHost, arguments: &[&str]) -> Vec<Value> {
    let (code, output) = host.command(&[&["events", "--json"], arguments].concat()).await;
    assert_eq!(code, 0, "{output}");
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks the control socket for a stream without reading it.
async fn ask(host: &TestHost, request: &Value) -> BufReader<UnixStream> {
    let control = host.folder().join(".plugsocket/control");
    let mut stream = UnixStream::connect(control).await.unwrap();
    stream.write_all(format!("{request}\n").as_bytes()).await.unwrap();
    BufReader::new(stream)
}

async fn next(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    within("a line of the stream", stream.read_line(&mut line)).await.unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[tokio::test]
async fn a_follower_sees_each_change_when_it_happens() {
    // What the log leaves out is an event all the same.
    let host = counter().start().await;
    let mut follower = host.follow(&["events", "--follow", "--json", "--last", "1000"]);
    assert_eq!(follower.until_json("event", "host starting").await["level"], "INFO");
    let first = follower.until_json("event", "resource is served").await;
    assert_eq!([&first["resource"], &first["plugin"]], ["/count", "counter"]);
    follower.until_json("event", "ready").await;

    host.reload("counter", "counter_v2").await;
    let swap = follower.until_json("event", SERVED).await;
    assert_eq!((&swap["resource"], &swap["generation"]), (&json!("/count"), &json!(2)));
    assert!(swap["pause"].is_string() && swap["time"].as_str().unwrap().ends_with('Z'), "{swap}");

    std::fs::write(host.library("counter"), "no library").unwrap();
    let refusal = follower.until_json("level", "ERROR").await;
    let sentence = refusal["event"].as_str().unwrap();
    assert!(
        sentence.starts_with("plugin counter refused: it is not a shared library"),
        "{sentence}"
    );

    host.write_config(&counter().server("drain", "-1").toml());
    let mistake = follower.until_json("level", "ERROR").await;
    assert!(mistake["event"].as_str().unwrap().contains("-1 seconds is negative"), "{mistake}");

    assert_eq!(host.command(&["drain"]).await.0, 0);
    let drain = follower.until_json("event", "draining: new connections are not accepted").await;
    assert_eq!(drain["connections"], 0);
    follower.signal("INT");
    let (code, _, errors) = follower.ended().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn events_do_not_depend_on_the_filter_of_the_log_and_lines_of_plugins_are_none() {
    let setup = Setup::new(PROGRAM).resource("/x", "speaker").environment("RUST_LOG", "info");
    let host = setup.start().await;
    let mut client = host.connect("/x").await;
    client.ask(&json!({"do": "log", "level": "warn", "message": "of a plugin"})).await;
    host.wait_for_log("the line", |line| line.text().contains("of a plugin")).await;
    let all = events(&host, &[]).await;
    assert!(all.iter().all(|event| !event.to_string().contains("of a plugin")), "{all:?}");
    assert_eq!(all[0]["event"], "host starting");
    let last = events(&host, &["--last", "1"]).await;
    assert_eq!(last, [all.last().unwrap().clone()]);
    // Without --json: aligned lines, and no colours where there is no terminal.
    let (_, text) = host.command(&["events", "--last", "1"]).await;
    assert!(text.trim_end().ends_with("Z  INFO   ready"), "{text:?}");
    drop(host);

    // A host whose log is off; its harness cannot wait for `ready`.
    let folder = counter().create_folder();
    let file = folder.join("plugins.toml");
    let command = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(arguments).arg("--config").arg(&file).env("RUST_LOG", "off");
        command.kill_on_drop(true);
        command
    };
    let mut quiet = command(&["run"]);
    let quiet = quiet.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let events = async {
        loop {
            let output = command(&["events", "--json"]).output().await.unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            if text.contains(r#""event":"ready""#) {
                return text;
            }
        }
    };
    let text = within("the events of the quiet host", events).await;
    assert!(text.starts_with(r#"{"time":""#) && text.contains("host starting"), "{text}");
    assert!(command(&["stop"]).status().await.unwrap().success());
    let output = within("the host to end", quiet.wait_with_output()).await.unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_follower_gets_the_last_events_when_the_host_ends() {
    let mut host = counter().start().await;
    let _client = host.connect("/count").await;
    let mut people = host.follow(&["events", "-f"]);
    people.until("ready", |line| line.ends_with("ready")).await;
    let mut stream = ask(&host, &json!({"do": "events", "last": 0, "follow": true})).await;
    assert_eq!(next(&mut stream).await, json!({"answer": "stream"}));
    assert_eq!(host.command(&["stop"]).await.0, 0);
    for event in ["stop requested on the control socket", "draining connections", "host stopped"] {
        assert_eq!(next(&mut stream).await["event"], event);
    }
    let last = next(&mut stream).await;
    assert_eq!(last, json!({"answer": "done", "data": "the host has stopped"}));
    let (code, output, errors) = people.ended().await;
    assert!(output.ends_with("INFO   host stopped\n"), "{output:?}");
    assert_eq!((code, errors.as_str()), (Some(3), "plugsocket: the host has stopped\n"));
    assert!(host.exited().await.success());

    // A reader that has what it wants ends the command, although no event follows.
    let host = counter().start().await;
    let file = host.folder().join("plugins.toml");
    let pipeline = format!("{PROGRAM} events -f --config {} | grep -m 1 -o ready", file.display());
    let mut shell = tokio::process::Command::new("sh");
    let output = shell.args(["-c", &pipeline]).kill_on_drop(true).output();
    let output = within("the pipeline to end", output).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ready\n");

    // A killed host says nothing.
    let host = counter().start().await;
    let mut follower = host.follow(&["events", "--follow"]);
    follower.until("ready", |line| line.ends_with("ready")).await;
    host.signal("KILL");
    let (code, _, errors) = follower.ended().await;
    assert!(code == Some(3) && errors.contains("the host has ended, or"), "{errors}");
}

#[tokio::test]
async fn followers_are_bounded_and_slow_ones_are_dropped() {
    let host = counter().start().await;
    let request = json!({"do": "events", "last": 0, "follow": true});
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut stream = ask(&host, &request).await;
        assert_eq!(next(&mut stream).await["answer"], "stream");
        slow.push(stream);
    }
    let refused = next(&mut ask(&host, &request).await).await;
    assert_eq!(refused["answer"], "refused");
    assert!(refused["data"].as_str().unwrap().contains("16 streams"), "{refused}");
    let (code, output) = host.command(&["events", "--follow"]).await;
    assert!(code == 1 && output.contains("end one of them"), "{output}");
    // The events that are kept need no place.
    assert!(events(&host, &[]).await.len() > 3);
    // A vanished follower leaves its place.
    drop(slow.pop());
    let mut reader = within("a place", async {
        loop {
            let mut stream = ask(&host, &request).await;
            if next(&mut stream).await["answer"] == "stream" {
                return stream;
            }
        }
    })
    .await;
    // More than the sockets of the others hold: each mistake is an event of 4 KB.
    let long = "x".repeat(4_000);
    let mistakes: String = (0..150).map(|key| format!("{long}{key} = 1\n")).collect();
    let position = host.log_position();
    host.write_config(&format!("[server]\n{mistakes}"));
    loop {
        let event = next(&mut reader).await;
        if event["event"].as_str().unwrap().starts_with("configuration not applied") {
            break;
        }
    }
    // The host was not delayed, and drops them.
    host.wait_for_log_since(position, "the refusal", |line| line.starts_with("configuration not"))
        .await;
    drop(reader);
    let places = async {
        let mut found = Vec::new();
        while found.len() < 16 {
            let mut stream = ask(&host, &request).await;
            if next(&mut stream).await["answer"] == "stream" {
                found.push(stream);
            }
        }
        found
    };
    let _new = within("the places of the slow followers", places).await;
    for mut stream in slow {
        let mut rest = String::new();
        // Cut off wherever the buffer of the socket was full.
        let read = within("the end of the stream", stream.read_to_string(&mut rest)).await;
        assert!(read.is_err() || !rest.contains("configuration not applied"), "{rest}");
        assert!(!rest.contains(r#""answer""#), "{rest}");
    }
}
