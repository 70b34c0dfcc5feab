//! Commands to a running host where something is wrong: a faulty file, a port in use, a deep folder.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use plugsocket_tests::{Address, CommandOutput, Line, Setup, TestHost};
use serde_json::Value;

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
