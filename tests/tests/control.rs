//! The control socket and its commands: output, effects and exit codes.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use plugsocket_tests::{Address, Line, Request, Setup, TestHost, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

async fn succeed(host: &TestHost, arguments: &[&str]) -> String {
    let (code, output) = host.command(arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {output}");
    output
}

async fn json_of(host: &TestHost, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&succeed(host, &arguments).await).unwrap()
}

async fn plugin(host: &TestHost, name: &str) -> Value {
    let plugins = json_of(host, &["plugin", "list"]).await;
    plugins.as_array().unwrap().iter().find(|plugin| plugin["name"] == name).unwrap().clone()
}

fn counter() -> Setup {
    Setup::new(PROGRAM).resource("/count", "counter").library("counter", "counter_v1")
}

#[tokio::test]
async fn the_state_is_printed_as_a_table_and_as_json() {
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
        (&["connections"], &["ID", &client.uuid()[..8], "websocket", "127.0.0.1"]),
        (&["connections", "--quiet", "--resource", "/count"], &[client.uuid()]),
    ] {
        let table = succeed(&host, arguments).await;
        assert!(parts.iter().all(|part| table.contains(part)), "{table}");
    }
}

#[tokio::test]
async fn the_counters_of_status_add_up() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    for text in ["one", "two"] {
        client.send(text).await;
        client.until_next().await;
    }
    let before = json_of(&host, &["status"]).await["resources"][0].clone();
    // `ready`, and for each message an answer and `next`.
    assert_eq!([&before["opened_connections"], &before["sent_messages"]], [1, 5]);
    assert_eq!([&before["read_bytes"], &before["callbacks"]], [18, 3], "{before}");
    assert!(
        before["written_bytes"].as_u64() > Some(0)
            && before["callback_seconds"].as_f64() > Some(0.0)
    );
    assert_eq!(
        (&before["last_swap_age_seconds"], &before["on_probation"]),
        (&Value::Null, &json!(false))
    );
    succeed(&host, &["plugin", "reload", "counter"]).await;
    let after = json_of(&host, &["status"]).await["resources"][0].clone();
    assert!(after["last_swap_age_seconds"].as_u64() < Some(60), "{after}");
    assert_eq!(after["sent_messages"], before["sent_messages"]);
}

#[tokio::test]
async fn top_prints_a_page_of_rates_where_there_is_no_terminal() {
    let host = counter().resource("/echo", "echo").start().await;
    let mut client = host.connect("/count").await;
    let page = async { succeed(&host, &["top", "--interval", "0.3"]).await };
    tokio::pin!(page);
    let page = loop {
        tokio::select! {
            page = &mut page => break page,
            () = client.send("again") => { client.until_next().await; }
        }
    };
    assert!(page.starts_with("plugsocket ") && page.contains(", 1 connection, "), "{page}");
    let rows: Vec<Vec<&str>> = page.lines().map(|line| line.split("  ").collect()).collect();
    let cells = |start: &str| -> Vec<&str> {
        let row = rows.iter().find(|row| row[0].trim() == start).unwrap();
        row.iter().map(|cell| cell.trim()).filter(|cell| !cell.is_empty()).collect()
    };
    let (busy, quiet) = (cells("/count"), cells("/echo"));
    assert_eq!((&busy[..4], busy.last()), (&["/count", "counter", "1", "1"][..], Some(&"serving")));
    assert!(busy[4..8].iter().all(|rate| *rate != "0") && busy[8].ends_with('s'), "{page}");
    assert_eq!(quiet[3..10], ["0", "0", "0", "0", "0", "-", "-"], "{page}");
    assert!(page.find("/count") < page.find("/echo"), "{page}");
    assert!(page.trim_end().ends_with("INFO   ready") && !page.contains('\x1b'), "{page}");
    assert_eq!(host.command(&["top", "--interval", "0"]).await.0, 2);
}

#[tokio::test]
async fn top_restores_the_terminal_when_it_is_interrupted() {
    let host = counter().start().await;
    let config = host.folder().join("plugins.toml");
    let command = format!(
        "stty rows 12 cols 60; exec {PROGRAM} top --interval 0.1 --config {}",
        config.display()
    );
    // It gives the command a terminal, and passes on what it reads and writes.
    let mut script = tokio::process::Command::new("script");
    script.args(["-qefc", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut script = script.spawn().unwrap();
    let (mut input, mut output) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut shown = Vec::new();
    let text = |shown: &[u8]| String::from_utf8_lossy(shown).into_owned();
    // Three pages.
    while text(&shown).matches("/count").count() < 3 {
        assert!(
            within("a page", output.read_buf(&mut shown)).await.unwrap() > 0,
            "{}",
            text(&shown)
        );
    }
    input.write_all(b"\x03").await.unwrap();
    within("the end", output.read_to_end(&mut shown)).await.unwrap();
    assert!(within("the command to end", script.wait()).await.unwrap().success());
    let shown = text(&shown);
    assert!(shown.contains("\x1b[?1049h\x1b[?25l\x1b[H"), "{shown:?}");
    assert!(shown.ends_with("\x1b[?25h\x1b[?1049l"), "{shown:?}");
    assert!(shown.contains("\x1b[1mRESOURCE"), "the heading is bold: {shown:?}");
    // Without escape sequences, which end with a letter.
    let plain: Vec<String> = shown
        .replace("\x1b[H", "\x1b[H\n")
        .split("\x1b[")
        .map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()))
        .map(|part| part.get(1..).unwrap_or_default().to_owned())
        .collect();
    let plain = plain.concat();
    assert!(plain.lines().all(|line| line.chars().count() <= 60), "{plain}");
}

#[tokio::test]
async fn states_have_colours_on_a_terminal_only() {
    let host = counter().resource("/echo", "echo").start().await;
    succeed(&host, &["plugin", "disable", "counter"]).await;
    let config = host.folder().join("plugins.toml");
    for (variables, is_coloured) in
        [("NO_COLOR=", true), ("NO_COLOR=1", false), ("TERM=dumb", false)]
    {
        let command = format!("env {variables} {PROGRAM} status --config {}", config.display());
        let mut script = tokio::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        script.stdin(Stdio::null()).kill_on_drop(true);
        let output = within("the command to end", script.output()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.contains("\x1b[1mRESOURCE"), is_coloured, "{text:?}");
        assert_eq!(text.contains("\x1b[31m/count "), is_coloured, "{text:?}");
        assert!(text.contains("\n/echo ") && text.contains("/count "), "{text:?}");
    }
    for arguments in [&["status"][..], &["plugin", "list"], &["connections"]] {
        assert!(!host.command(arguments).await.1.contains('\x1b'));
    }
}

#[tokio::test]
async fn plugin_reload_keeps_the_state_and_reports_why_a_library_is_refused() {
    let host = counter().start().await;
    let mut client = host.connect("/count").await;
    client.send("one").await;
    client.until_next().await;
    let output = succeed(&host, &["plugin", "reload", "counter"]).await;
    assert_eq!(output.trim(), "generation 2 of counter serves /count");
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
    assert_eq!(refused["refused"], "it is not a shared library (ELF file)");
    let (code, output) = host.command(&["plugin", "reload", "counter"]).await;
    assert!(code == 1 && output.contains("it is not a shared library"), "{output}");
    let (code, output) = host.command(&["plugin", "reload", "nobody"]).await;
    assert!(code == 1 && output.contains("no resource of plugins.toml names"), "{output}");
}

#[tokio::test]
async fn a_disabled_plugin_closes_its_resources_until_it_is_enabled() {
    let host = counter().resource("/echo", "echo").start().await;
    let (mut client, mut other) = (host.connect("/count").await, host.connect("/echo").await);
    succeed(&host, &["plugin", "disable", "counter"]).await;
    let packet = client.expect_close_packet(1013).await;
    assert_eq!(packet["error"], "the application counter is disabled");
    assert_eq!(packet["retry_after"], 30);
    let mut rejected = host.open(Request::to("/count")).await;
    assert_eq!(rejected.expect_close_packet(1013).await["retry_after"], 30);
    other.send("here").await;
    assert_eq!(other.receive_text().await, "here");
    assert_eq!(plugin(&host, "counter").await["state"], "disabled");
    assert_eq!(host.command(&["plugin", "disable", "counter"]).await.0, 1);
    // A library that arrives while the plugin is disabled is loaded when it is enabled.
    host.replace_library("counter", "counter_v2");
    succeed(&host, &["plugin", "enable", "counter"]).await;
    let mut client = host.connect("/count").await;
    client.send("one").await;
    assert_eq!(client.until_next().await.packets[0]["by"], "v2");
}

#[tokio::test]
async fn check_diff_compares_and_reload_applies_the_configuration() {
    let host = counter().resource("/echo", "echo").start().await;
    assert_eq!(succeed(&host, &["check", "--diff"]).await.trim(), "nothing would change");
    let broken = counter().server("drain", "-1").toml();
    let position = host.log_position();
    host.write_config(&broken);
    host.wait_for_log_since(position, "the configuration to be rejected", |line: &Line| {
        line.starts_with("configuration not")
    })
    .await;
    for arguments in [&["reload"][..], &["check", "--diff"]] {
        let (code, output) = host.command(arguments).await;
        assert!(code == 1 && output.contains("server.drain: -1 seconds is negative"), "{output}");
    }
    let position = host.log_position();
    host.write_config(
        &counter().resource("/talk", "echo").server("listen", "['127.0.0.1:1']").toml(),
    );
    host.wait_for_log_since(position, "the configuration to be applied", |line: &Line| {
        line.starts_with("configuration applied")
    })
    .await;
    let diff = json_of(&host, &["check", "--diff"]).await;
    assert_eq!(diff["needs_restart"], json!(["listen"]));
    let output = succeed(&host, &["reload"]).await;
    assert!(output.contains("these keys need a restart: listen"), "{output}");
}

#[tokio::test]
async fn a_host_that_serves_nothing_is_not_ready() {
    let host = counter().without_library("counter").start().await;
    host.wait_for_log("a warning", |line| line.starts_with("no resource")).await;
    for arguments in [&["status", "--ready"][..], &["status", "--ready", "--json"]] {
        let (code, output) = host.command(arguments).await;
        assert!(code == 1 && output.contains("no resource is served"), "{output}");
    }
    succeed(&host, &["status"]).await;
    host.replace_library("counter", "counter_v1");
    host.wait_for_log("the resource", |line| line.starts_with("resource is served")).await;
    assert!(succeed(&host, &["status", "--ready"]).await.contains("/count"));
}

#[tokio::test]
async fn connections_close_and_stop_take_effect() {
    let mut host = counter().start().await;
    let (mut one, mut other) = (host.connect("/count").await, host.connect("/count").await);
    succeed(&host, &["connections", "close", one.uuid()]).await;
    assert_eq!(one.expect_close_packet(1001).await["error"], "closed by the operator");
    assert_eq!(host.command(&["connections", "close", "nobody"]).await.0, 1);
    // It returns when the process has ended; another host can start at once.
    let (stopped, packet) =
        tokio::join!(host.command(&["stop", "--wait"]), other.expect_close_packet(1001));
    assert_eq!((stopped.0, stopped.1.trim()), (0, "the host has stopped"));
    assert_eq!(packet["error"], "server shutting down");
    assert!(host.exited().await.success());
    let (code, output) = host.command(&["status"]).await;
    assert!(code == 3 && output.contains("no host answers"), "{output}");
}

#[tokio::test]
async fn connections_show_what_each_client_does_and_close_takes_a_unique_prefix() {
    let host = counter().resource("/web", "feedback").start().await;
    let none = host.command(&["connections", "--resource", "/web"]).await;
    assert_eq!((none.0, none.1.trim()), (1, "plugsocket: no connection is open at /web"));
    assert_eq!(host.command(&["connections", "--quiet"]).await.0, 1);
    let (mut one, mut other) = (host.connect("/count").await, host.connect("/count").await);
    one.send("four").await;
    one.until_next().await;
    let list = json_of(&host, &["connections"]).await;
    let mine = list.as_array().unwrap().iter().find(|it| it["uuid"] == one.uuid()).unwrap();
    // A frame with a mask: 2 + 4 + 4 bytes.
    assert_eq!((&mine["bytes_read"], &mine["queued_messages"]), (&json!(10), &json!(0)));
    assert!(mine["bytes_written"].as_u64().unwrap() > 0, "{mine}");
    assert!(mine["age_seconds"].as_u64().unwrap() < 60 && mine["user"].is_null(), "{mine}");
    let table = succeed(&host, &["connections"]).await;
    let id = &one.uuid()[..8];
    assert!(table.starts_with("ID ") && table.lines().any(|line| line.starts_with(id)), "{table}");
    // The whole uuid with a wrong end, and nothing, match no connection.
    let wrong = format!("{}x", one.uuid());
    for prefix in ["", &wrong] {
        let (code, output) = host.command(&["connections", "close", prefix]).await;
        assert!(code == 1 && output.contains("no connection has the uuid"), "{output}");
    }
    succeed(&host, &["connections", "close", id]).await;
    one.expect_close_packet(1001).await;
    other.send("still here").await;
    other.until_next().await;
    // Of seventeen connections two begin with the same character.
    let mut others = Vec::new();
    for _ in 0..16 {
        others.push(host.connect("/count").await);
    }
    let uuids = others.iter().map(|client| client.uuid()).chain([other.uuid()]);
    let mut firsts: Vec<&str> = uuids.map(|uuid| &uuid[..1]).collect();
    firsts.sort_unstable();
    let twice = firsts.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0];
    let (code, output) = host.command(&["connections", "close", twice]).await;
    assert!(code == 1 && output.contains("give more of it"), "{output}");
}

#[tokio::test]
async fn drain_refuses_new_connections_and_keeps_those_that_are_open() {
    let mut host = counter().resource("/echo", "echo").start().await;
    let mut client = host.connect("/count").await;
    for _ in 0..2 {
        let output = succeed(&host, &["drain"]).await;
        assert!(output.contains("no new connections; 1 are open"), "{output}");
        let Address::Tcp(address) = host.address() else { unreachable!() };
        let refused = async { while tokio::net::TcpStream::connect(address).await.is_ok() {} };
        within("connections to be refused", refused).await;
    }
    assert_eq!(json_of(&host, &["status"]).await["draining"], true);
    assert!(succeed(&host, &["status"]).await.contains("accepts no new connections"));
    // Open connections work, and their applications can be replaced.
    client.send("one").await;
    assert_eq!(client.until_next().await.packets[0]["total"], 1);
    host.reload("counter", "counter_v2").await;
    client.send("two").await;
    assert_eq!(client.until_next().await.packets[0]["total"], 2);
    client.close().await;
    // It ends only when it is told to.
    let left = async { while json_of(&host, &["status"]).await["connections"] != 0 {} };
    within("the client to leave", left).await;
    succeed(&host, &["stop"]).await;
    assert!(host.exited().await.success());
}

#[tokio::test]
async fn a_host_removes_only_its_own_control_socket() {
    let mut host = counter().start().await;
    let folder = host.folder().join(".plugsocket");
    let (code, output) = host.command(&["run"]).await;
    assert!(code == 1 && output.contains("another host uses"), "{output}");
    // The path now belongs to another process.
    let next = folder.join("next");
    let _other = std::os::unix::net::UnixListener::bind(&next).unwrap();
    std::fs::rename(next, folder.join("control")).unwrap();
    host.signal("TERM");
    assert!(host.exited().await.success());
    assert!(folder.join("control").exists());
}

#[tokio::test]
async fn an_invalid_control_request_is_refused() {
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
async fn two_hosts_cannot_share_a_state_dir() {
    let host = counter().start().await;
    let state = format!("{:?}", host.folder().join(".plugsocket/state"));
    let outcome = counter().server("state_dir", &state).run(&["run"]).await;
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("another host keeps its state in"), "{outcome:?}");
    // `check` does not use the state folder.
    assert_eq!(host.command(&["check"]).await.0, 0);
}

#[tokio::test]
async fn deleted_libraries_are_not_listed() {
    let host = counter().start().await;
    let names: Vec<String> = (0..50).map(|number| format!("spare{number}")).collect();
    let position = host.log_position();
    for name in &names {
        std::fs::write(host.library(name), "no library").unwrap();
    }
    let listed =
        async { while json_of(&host, &["plugin", "list"]).await.as_array().unwrap().len() < 51 {} };
    within("the libraries to be listed", listed).await;
    let is_match = |line: &Line| line.starts_with("libraries that no resource uses");
    host.wait_for_log_since(position, "the libraries to be reported", is_match).await;
    assert_eq!(json_of(&host, &["plugin", "list"]).await.as_array().unwrap().len(), 51);
    for name in &names {
        std::fs::remove_file(host.library(name)).unwrap();
    }
    let listed =
        async { while json_of(&host, &["plugin", "list"]).await.as_array().unwrap().len() > 1 {} };
    within("the libraries to disappear from the list", listed).await;
    // A library that returns is reported again.
    let position = host.log_position();
    std::fs::write(host.library("spare0"), "no library").unwrap();
    host.wait_for_log_since(position, "the library to be reported", |line| {
        line.starts_with("available")
    })
    .await;
}

#[tokio::test]
async fn the_control_socket_is_private_exclusive_and_replaced_when_stale() {
    let mut host = counter().start().await;
    let socket = host.folder().join(".plugsocket/control");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, output) = host.command(&["run"]).await;
    assert!(code == 1 && output.contains("another host uses"), "{output}");
    succeed(&host, &["status"]).await;
    // A killed host leaves its socket behind.
    host.signal("KILL");
    host.exited().await;
    assert!(socket.exists());
    let mut second = tokio::process::Command::new(PROGRAM);
    second.arg("--config").arg(host.folder().join("plugins.toml")).kill_on_drop(true);
    let second = second.stderr(Stdio::null()).spawn().unwrap();
    let answered = async { while host.command(&["status"]).await.0 != 0 {} };
    within("the second host to answer", answered).await;
    drop(second);
}

#[tokio::test]
async fn the_difference_names_refused_and_deleted_libraries() {
    let mut host = Setup::new(PROGRAM).resource("/a", "a").library("a", "counter_v1").start().await;
    let difference = async |host: &TestHost| {
        let (code, output) = host.command(&["check", "--diff"]).await;
        assert_eq!(code, 0, "{output}");
        output
    };
    // Each is reported, and not loaded: the host has no quiet moment to see it.
    host.apply(host.setup().reload("quiet", "600")).await;
    host.replace_library("a", "counter_v2");
    assert_eq!(difference(&host).await.trim(), "swapped: a");
    for (library, reason) in [
        ("no_plugin", "a: it is not a plugsocket plugin"),
        ("ctor_crash", "a: its constructor crashed"),
        ("start_refuse", "a: /a: it did not start: made to refuse"),
        ("restore_refuse", "a: /a: it does not take over the state"),
    ] {
        host.replace_library("a", library);
        let output = difference(&host).await;
        assert!(output.starts_with(&format!("refused: {reason}")), "{output}");
        assert!(!output.contains("swapped"), "{output}");
    }
    std::fs::remove_file(host.library("a")).unwrap();
    assert_eq!(difference(&host).await.trim(), "deleted: a");
}
