//! Clients that others wrote, each in its own language, against the real program with the bundled applications: the scripts are in
//! `tests/clients`. One whose runtime is missing is skipped with a line that says so, but never with `CI=true`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::explicit_write,
    reason = "a test fails loudly; a skip is said past the harness"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use plugsocket_tests::{Address, Setup, TestHost};
use tokio::process::Command;
use tokio::time::timeout;

/// For a whole script; a browser takes its time on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
/// How a script says that a package of its runtime is missing.
const MISSING: i32 = 77;

#[tokio::test]
async fn python_websockets() {
    let python = std::env::var("PLUGSOCKET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    against_host(&python, &["tests/clients/python_websockets.py"]).await;
}

#[tokio::test]
async fn node_ws_and_the_javascript_client() {
    against_host("node", &["tests/clients/node_ws.mjs"]).await;
}

#[tokio::test]
async fn a_browser_page_as_it_was_written_before() {
    against_host("node", &["tests/clients/old_browser.mjs"]).await;
}

#[tokio::test]
async fn the_page_of_the_host_in_a_browser() {
    if has_browser("the_page_of_the_host_in_a_browser") {
        against_host("node", &["--test", "clients/js/tests/page.test.js"]).await;
    }
}

#[tokio::test]
async fn php_scripts_as_they_were_written_before() {
    against_host("php", &["tests/clients/legacy_php.php"]).await;
}

#[tokio::test]
async fn the_php_client() {
    against_host("php", &["tests/clients/php_client.php"]).await;
}

#[tokio::test]
async fn curl() {
    against_host("bash", &["tests/clients/curl_post.sh"]).await;
}

#[tokio::test]
async fn the_javascript_client_passes_its_own_tests() {
    if has_package("the_javascript_client_passes_its_own_tests", "ws") {
        run("node", &["--test", "clients/js/tests/plugsocket.test.js"], None).await;
    }
}

#[tokio::test]
async fn the_php_client_passes_its_own_tests() {
    run("php", &["clients/php/tests/run.php"], None).await;
}

async fn against_host(runtime: &str, arguments: &[&str]) {
    let host = host().await;
    run(runtime, arguments, Some(&host)).await;
}

/// As the shipped plugins.toml maps them, but with a ping each second.
async fn host() -> TestHost {
    const COMMANDS: &str =
        r#"{ hello = "Hello, human", date = "Today is {date}", bye = "{close}Goodbye" }"#;
    Setup::new(env!("CARGO_BIN_EXE_plugsocket-under-test"))
        .server("ping_interval", "1")
        .resource("/", "feedback")
        .resource("/web", "feedback")
        .resource("/php", "feedback")
        .plain("/echo", "echo")
        .resource("/talk", "echo")
        .config("/talk", "prefix", r#""You have entered: ""#)
        .config("/talk", "commands", COMMANDS)
        .resource("/chat", "chat")
        .resource("/locks", "locks")
        .resource("/jobs", "jobs")
        .config("/jobs", "demo", "true")
        .start()
        .await
}

/// Runs a script to its end, in the folder of the repository.
async fn run(runtime: &str, arguments: &[&str], host: Option<&TestHost>) {
    let mut command = Command::new(runtime);
    command.args(arguments).current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(host) = host {
        let Address::Tcp(address) = host.address() else { unreachable!("it listens on TCP") };
        command.env("PLUGSOCKET_URL", format!("http://{address}"));
    }
    let what = arguments.join(" ");
    let output = match timeout(LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return skip(&what, &format!("{runtime} cannot be run: {error}")),
        Err(_) => panic!("{what} was not done within {LIMIT:?}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(MISSING) {
        return skip(&what, said.trim());
    }
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{said}{complained}", output.status);
    assert!(!said.trim().is_empty(), "{what} said nothing");
}

fn has_browser(test: &str) -> bool {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    if !Path::new(&chromium).exists() {
        skip(test, &format!("Chromium is missing: {chromium}"));
        return false;
    }
    has_package(test, "playwright-core")
}

fn has_package(test: &str, name: &str) -> bool {
    let is_there = repository().join("clients/js/node_modules").join(name).exists();
    if !is_there {
        skip(test, &format!("the npm package {name} is missing: cd clients/js && npm ci"));
    }
    is_there
}

/// Says it past the test harness, which keeps the output of tests that pass to itself.
fn skip(what: &str, why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{what}: {why}");
    writeln!(std::io::stderr(), "skipped: {what}: {why}").unwrap();
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
