//! Commands to a running host where something is wrong: a faulty file, a port in use, a deep folder.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use plugsocket_tests::{
    Address, CommandOutput, Line, RawClient, Request, Setup, TestHost, masked, within,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn echo() -> Setup {
    Setup::new(PROGRAM).resource("/echo", "echo")
}

async fn refuse(host: &TestHost, text: &str) {
    let position = host.log_position();
    host.write_config(text);
    let is_refused = |line: &Line| line.starts_with("configuration not applied");
    host.wait_for_log_since(position, "the file to be refused", is_refused).await;
}

async fn run(host: &TestHost, arguments: &[&str]) -> CommandOutput {
    let file = host.folder().join("plugins.toml");
    host.run(arguments, &[("PLUGSOCKET_CONFIG", file.to_str().unwrap())]).await
}

#[tokio::test]
async fn commands_work_while_the_file_has_mistakes() {
    let host = echo().server("control", "'ctl'").start().await;
    let right = host.setup().toml();
    let _client = host.connect("/echo").await;
    for (broken, mistake) in [
        (format!("{right}\nnonsense = 1"), "nonsense"),
        (format!("{right}\n[resources.'/x']\nplugin = 7"), "plugin"),
        (format!("{right}\n[resources.'/x'\nplugin = 'echo'"), "toml:"),
        (format!("{right}\nplugin ="), "toml:"),
        (format!("{right}\n[server]\n"), "server"),
        ("[server]\ncontrol = 'ctl'\n".to_owned(), "maps no resource"),
    ] {
        refuse(&host, &broken).await;
        for arguments in
            [&["status"][..], &["plugin", "list"], &["connections"], &["plugin", "reload", "echo"]]
        {
            let CommandOutput { code, stderr, .. } = run(&host, arguments).await;
            assert_eq!(code, Some(0), "{arguments:?} with {broken}: {stderr}");
            let is_said = stderr.contains("was refused") && stderr.contains(" s ago");
            assert!(is_said && stderr.contains(mistake), "{arguments:?}: {stderr}");
        }
        let status = run(&host, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        assert_eq!(status["config_file"]["state"], "refused");
        assert!(status["config_file"]["refused"].as_str().unwrap().contains(mistake), "{status}");
        assert!(run(&host, &["status"]).await.stdout.contains("refused"));
    }
    let position = host.log_position();
    host.write_config(&right);
    let is_corrected = |line: &Line| line.starts_with("configuration file corrected");
    host.wait_for_log_since(position, "the file to be corrected", is_corrected).await;
    let status = run(&host, &["status", "--json"]).await;
    assert_eq!(status.stderr, "");
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["config_file"]["state"], "applied", "{status}");
    // A key that needs a restart.
    let mut host = host;
    let other = host.setup().server("max_head", "999").server("inbox_messages", "9");
    host.apply(other).await;
    let status = run(&host, &["status"]).await.stdout;
    assert!(status.contains("these keys need a restart: inbox_messages"), "{status}");
}

#[tokio::test]
async fn the_socket_can_be_named_and_the_file_may_be_gone() {
    let host = echo().start().await;
    let socket = host.folder().join(".plugsocket/control");
    let output = host.run(&["status", "--control", socket.to_str().unwrap()], &[]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let position = host.log_position();
    std::fs::remove_file(host.folder().join("plugins.toml")).unwrap();
    let is_refused = |line: &Line| line.starts_with("configuration not applied");
    host.wait_for_log_since(position, "the missing file to be noticed", is_refused).await;
    let output = run(&host, &["status"]).await;
    assert!(output.code == Some(0) && output.stderr.contains("no such file"), "{output:?}");
    // Without a host, the mistakes are shown as well.
    let folder = echo().create_folder();
    std::fs::write(folder.join("plugins.toml"), "[server]\nnonsense = 1").unwrap();
    let file = folder.join("plugins.toml");
    let output = host.run(&["status", "--config", file.to_str().unwrap()], &[]).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(output.stderr.contains("no host answers") && output.stderr.contains("nonsense"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_port_in_use_names_its_key_and_listen_replaces_it() {
    let first = echo().start().await;
    let Address::Tcp(address) = first.address() else { unreachable!() };
    let address = address.to_string();
    let listen = format!("['{address}']");
    let output = echo().server("listen", &listen).run(&["run"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let parts = [&*address, "(server.listen)", "--listen"];
    assert!(parts.iter().all(|part| output.stderr.contains(part)), "{output:?}");
    let output = echo().run(&["run", "--listen", &address]).await;
    assert!(output.stderr.contains("(option --listen)"), "{output:?}");
    let output = echo().run(&["status", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    let output = echo().run(&["run", "--listen", "8095"]).await;
    assert!(output.code == Some(2) && output.stderr.contains("lacks the address"), "{output:?}");

    let two = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0"];
    let mut host = echo().server("listen", &listen).options(&two).start().await;
    assert_eq!(host.addresses().len(), 2);
    host.connect("/echo").await;
    // It stays in effect when the file is read again.
    let more = host.setup().resource("/more", "echo");
    host.apply(more).await;
    host.connect("/more").await;
    let (code, output) = host.command(&["check", "--diff"]).await;
    assert!(code == 0 && output.trim() == "nothing would change", "{output}");
}

#[tokio::test]
async fn a_control_path_that_is_too_long_is_refused_by_host_check_and_commands() {
    let folder = echo().create_folder();
    let deep = folder.join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let file = deep.join("plugins.toml");
    std::fs::copy(folder.join("plugins.toml"), &file).unwrap();
    let host = echo().start().await;
    for arguments in [&["run"][..], &["check"], &["status"]] {
        let arguments = [arguments, &["--config", file.to_str().unwrap()]].concat();
        let output = host.run(&arguments, &[]).await;
        assert_ne!(output.code, Some(0), "{output:?}");
        let parts = ["server.control", "too long", "107"];
        assert!(parts.iter().all(|part| output.stderr.contains(part)), "{output:?}");
    }
    let long = format!("/{}", "d".repeat(107));
    let output = host.run(&["status", "--control", &long], &[]).await;
    assert!(output.code == Some(2) && output.stderr.contains("107"), "{output:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn many_unmapped_libraries_are_one_line() {
    let mut setup = echo();
    for number in 0..200 {
        setup = setup.file(&format!("spare{number}"), b"no library");
    }
    let host = setup.start().await;
    let is_available = |line: &Line| {
        line.starts_with("libraries that no resource uses") || line.starts_with("available")
    };
    let lines = || host.log().into_iter().filter(is_available).collect::<Vec<_>>();
    assert_eq!(lines().len(), 1, "{:?}", lines());
    assert_eq!((lines()[0].level(), &*lines()[0].field("count")), ("INFO", "200"));
    // One that is added later is named.
    let position = host.log_position();
    std::fs::write(host.library("late"), "no library").unwrap();
    let is_late = |line: &Line| line.starts_with("available") && line.field("plugin") == "late";
    host.wait_for_log_since(position, "the library to be reported", is_late).await;
    assert_eq!(lines().len(), 2);
}

#[tokio::test]
async fn the_reason_in_a_clients_close_frame_is_cut_and_escaped_at_debug_only() {
    for (level, expected) in [("info", 0), ("info,plugsocket=debug", 1)] {
        let setup = echo().resource("/plain", "echo").key("/plain", "dialog", "false");
        let host = setup.environment("RUST_LOG", level).start().await;
        let mut client = host.raw().await.upgraded("/plain").await;
        let reason = format!("line\nbreak {}", "x".repeat(100));
        let payload = [&1000_u16.to_be_bytes()[..], reason.as_bytes()].concat();
        client.write(masked(0x88, &payload)).await;
        client.expect_close(1000).await;
        assert_eq!(host.command(&["stop", "--wait"]).await.0, 0);
        host.wait_for_log("the end", |line| line.message() == "host stopped").await;
        let lines = host.log();
        let with_reason: Vec<_> =
            lines.iter().filter(|line| line.text().contains("break xxx")).collect();
        assert_eq!(with_reason.len(), expected, "{with_reason:?}");
        assert!(with_reason.iter().all(|line| line.field("reason").len() <= 42));
    }
}

#[tokio::test]
async fn state_that_cannot_be_written_is_logged_once_and_shown_in_the_status() {
    let setup = Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter");
    let host = setup.key("/count", "snapshot_every", "0.1").start().await;
    host.connect("/count").await.send("one").await;
    let snapshot = async || {
        let status: Value =
            serde_json::from_str(&run(&host, &["status", "--json"]).await.stdout).unwrap();
        status["resources"][0]["snapshot"].clone()
    };
    within("a snapshot", async { while snapshot().await["bytes"].is_null() {} }).await;
    assert!(snapshot().await["error"].is_null());
    assert!(run(&host, &["status"]).await.stdout.contains(" B"));
    // A file in place of the folder.
    let folder = host.folder().join(".plugsocket/state/snapshots");
    let position = host.log_position();
    std::fs::rename(&folder, folder.with_extension("away")).unwrap();
    std::fs::write(&folder, "").unwrap();
    let is_failure = |line: &Line| line.starts_with("cannot write the snapshot");
    let is_again = |line: &Line| line.message() == "cannot write the snapshot again";
    host.wait_for_log_since(position, "a second failure", is_again).await;
    let failures = host.log().into_iter().filter(|line| is_failure(line) && !is_again(line));
    assert_eq!(failures.map(|line| line.level().to_owned()).collect::<Vec<_>>(), ["ERROR"]);
    let shown = snapshot().await;
    assert!(shown["error"].is_string() && shown["age_seconds"].is_u64(), "{shown}");
    let table = run(&host, &["status"]).await.stdout;
    assert!(table.contains("/count: snapshots have failed for"), "{table}");
    let position = host.log_position();
    std::fs::remove_file(&folder).unwrap();
    let is_written = |line: &Line| line.message() == "snapshots are written again";
    let line = host.wait_for_log_since(position, "the end of the failures", is_written).await;
    assert_eq!(line.level(), "INFO");
    assert!(snapshot().await["error"].is_null());
}

#[tokio::test]
async fn a_secret_that_all_users_can_read_is_reported() {
    let key = r#"[{ algorithm = "HS256", file = "secret.key" }]"#;
    let setup = echo().put("secret.key", "0123456789abcdef0123456789abcdef");
    let folder = setup.clone().auth("/echo", "keys", key).create_folder();
    let secret = folder.join("secret.key");
    let host = echo().start().await;
    let file = folder.join("plugins.toml");
    for (mode, is_reported) in [(0o644, true), (0o640, false), (0o600, false)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = host.run(&["check", "--config", file.to_str().unwrap()], &[]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let is_warned = output.stderr.contains("all users can read this secret");
        assert_eq!(is_warned, is_reported, "{mode:o}: {output:?}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn clients_without_an_origin_are_admitted_by_none() {
    for (list, expected) in [
        ("[]", [101, 101, 101]),
        ("['http://a.example']", [403, 101, 403]),
        ("['none', 'http://a.example']", [101, 101, 403]),
        ("['file://']", [403, 403, 403]),
    ] {
        let host = echo().server("allowed_origins", list).start().await;
        for (origin, status) in
            ["", "Origin: http://a.example\r\n", "Origin: none\r\n"].iter().zip(expected)
        {
            let mut client = host.raw().await;
            let request = RawClient::handshake("/echo");
            let request = request.replace("\r\n\r\n", &format!("\r\n{origin}\r\n"));
            assert_eq!(client.try_request(&request).await, status, "{list}: {origin}");
        }
    }
    let host = echo().server("allowed_origins", "['file://']").start().await;
    host.open(Request::to("/echo").header("Origin", "file://")).await.ready().await;
}

#[tokio::test]
async fn watch_prints_again_until_the_host_ends() {
    let mut host = echo().start().await;
    let file = host.folder().join("plugins.toml");
    let mut command = Command::new(PROGRAM);
    command.args(["status", "--json", "--watch", "--config"]).arg(file);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = within("a status", lines.next_line()).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["pid"], host.pid());
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
    }
    assert_eq!(host.command(&["stop"]).await.0, 0);
    assert!(host.exited().await.success());
    assert_eq!(within("it to end", child.wait()).await.unwrap().code(), Some(3));
}
