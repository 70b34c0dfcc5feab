//! Third-party clients in their own languages against the host with the bundled applications; the
//! scripts are in `tests/clients`. A test without its runtime is skipped with a message; with
//! `CI=true` it fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use plugsocket_tests::{Address, Setup, TestHost, skip};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// The time limit of a script; a browser is slow on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(180);
/// The exit code of a script that misses a package.
const MISSING: i32 = 77;

#[tokio::test]
async fn the_python_websockets_library_works() {
    against_host(&python(), &["tests/clients/python_websockets.py"]).await;
}

#[tokio::test]
async fn the_python_client_works() {
    against_host(&python(), &["tests/clients/python_client.py"]).await;
}

#[tokio::test]
async fn node_ws_and_the_javascript_client_work() {
    against_host("node", &["tests/clients/node_ws.mjs"]).await;
}

#[tokio::test]
async fn a_browser_page_written_for_the_predecessor_works() {
    against_host("node", &["tests/clients/old_browser.mjs"]).await;
}

#[tokio::test]
async fn the_hosts_page_works_in_a_browser() {
    if has_browser("the_hosts_page_works_in_a_browser") {
        against_host("node", &["--test", "clients/js/tests/page.test.js"]).await;
    }
}

#[tokio::test]
async fn php_scripts_written_for_the_predecessor_work() {
    against_host("php", &["tests/clients/legacy_php.php"]).await;
}

#[tokio::test]
async fn the_php_client_works() {
    against_host("php", &["tests/clients/php_client.php"]).await;
}

#[tokio::test]
async fn the_php_client_survives_a_planned_restart() {
    survives_a_planned_restart("php", "tests/clients/php_restart.php").await;
}

#[tokio::test]
async fn the_python_client_survives_a_planned_restart() {
    survives_a_planned_restart(&python(), "tests/clients/python_restart.py").await;
}

async fn survives_a_planned_restart(runtime: &str, path: &str) {
    let first = setup().start().await;
    let Address::Tcp(address) = first.address().clone() else { unreachable!("it listens on TCP") };
    let mut command = Command::new(runtime);
    command.arg(path).current_dir(repository()).kill_on_drop(true);
    command.env("PLUGSOCKET_URL", format!("http://{address}"));
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut script) = spawned else {
        return skip(path, &format!("{runtime} cannot be run"), install(runtime));
    };
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let mut line = async || timeout(TIME_LIMIT, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line().await.as_deref(), Some("connected"));
    // Between two messages of the script the host stops and comes again.
    let mut host = first;
    host.signal("TERM");
    assert!(host.exited().await.success());
    script.stdin.take().unwrap().write_all(b"continue\n").await.unwrap();
    drop(host);
    let listen = format!("[\"{address}\"]");
    let _second = setup().server("listen", &listen).start().await;
    assert_eq!(line().await.as_deref(), Some("all messages were delivered"));
    assert!(timeout(TIME_LIMIT, script.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn curl_can_post() {
    against_host("bash", &["tests/clients/curl_post.sh"]).await;
}

#[tokio::test]
async fn the_javascript_client_passes_its_own_tests() {
    if has_package("the_javascript_client_passes_its_own_tests", "ws") {
        run("node", &["--test", "clients/js/tests/plugsocket.test.js"], None).await;
    }
}

#[tokio::test]
async fn the_npm_package_passes_its_checks() {
    const TOOLS: [&str; 4] = ["typescript", "publint", "@arethetypeswrong/cli", "react-dom"];
    if TOOLS.iter().all(|tool| has_package("the_npm_package_passes_its_checks", tool)) {
        run("npm", &["--prefix", "clients/js", "run", "check"], None).await;
    }
}

#[tokio::test]
async fn the_php_client_passes_its_own_tests() {
    run("php", &["clients/php/tests/run.php"], None).await;
}

#[tokio::test]
async fn the_php_client_is_a_composer_package() {
    run("php", &["clients/php/tests/composer.php"], None).await;
}

#[tokio::test]
async fn the_laravel_broadcaster_passes_its_tests() {
    run("php", &["clients/php/tests/laravel.php"], None).await;
}

#[tokio::test]
async fn the_symfony_example_passes_its_tests() {
    run("php", &["clients/php/tests/symfony.php"], None).await;
}

#[tokio::test]
async fn the_python_client_passes_its_own_tests() {
    run(&python(), &["clients/python/tests/test_plugsocket.py"], None).await;
}

async fn against_host(runtime: &str, arguments: &[&str]) {
    let host = host().await;
    run(runtime, arguments, Some(&host)).await;
}

/// Starts a host with the resources of the shipped plugins.toml and a ping every second.
async fn host() -> TestHost {
    setup().start().await
}

/// `/members` requires a token of everyone, also of scripts.
fn setup() -> Setup {
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
        .put("secret.key", SECRET)
        .resource("/members", "feedback")
        .auth("/members", "keys", r#"[{ algorithm = "HS256", file = "secret.key" }]"#)
        .auth("/members", "from", r#"["header", "subprotocol"]"#)
        .auth("/members", "backends", r#""required""#)
}

/// The scripts sign their tokens with it.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs a script in the root folder of the repository.
async fn run(runtime: &str, arguments: &[&str], host: Option<&TestHost>) {
    let mut command = Command::new(runtime);
    command.args(arguments).current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(host) = host {
        let Address::Tcp(address) = host.address() else { unreachable!("it listens on TCP") };
        command.env("PLUGSOCKET_URL", format!("http://{address}"));
    }
    let what = arguments.join(" ");
    let output = match timeout(TIME_LIMIT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return skip(&what, &format!("{runtime} cannot be run: {error}"), install(runtime));
        }
        Err(_) => panic!("{what} did not end within {TIME_LIMIT:?}"),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(MISSING) {
        return skip(&what, stdout.trim(), install(runtime));
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{stdout}{stderr}", output.status);
    assert!(!stdout.trim().is_empty(), "{what} printed nothing");
}

fn python() -> String {
    std::env::var("PLUGSOCKET_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn has_browser(test: &str) -> bool {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    if !Path::new(&chromium).exists() {
        skip(test, &format!("{chromium} is missing"), "apt-get install chromium");
        return false;
    }
    has_package(test, "playwright-core")
}

fn has_package(test: &str, name: &str) -> bool {
    let is_there = repository().join("clients/js/node_modules").join(name).exists();
    if !is_there {
        let why = format!("the npm package {name} is missing");
        skip(test, &why, "cd clients/js && npm ci");
    }
    is_there
}

/// Returns the command that installs a runtime, or what its script needs.
fn install(runtime: &str) -> &'static str {
    match runtime {
        "node" | "npm" => "apt-get install nodejs npm && cd clients/js && npm ci",
        "php" => "apt-get install php-cli; for composer, Laravel and Symfony see tests/README.md",
        "python3" => "apt-get install python3 python3-websockets",
        _ => "install the runtime as tests/README.md says",
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
