//! The author's kit: `plugin new` creates a plugin that builds, passes its tests and is served by
//! `dev`, which replaces it after each change of its sources.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use plugsocket_tests::markdown::root;
use plugsocket_tests::{Address, Client, Request, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
/// The first build compiles dependencies.
const DEADLINE: Duration = Duration::from_secs(300);

/// A temporary folder, which is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("plugsocket-kit-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Runs a program in the folder.
    async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let command = command(program, &self.0).args(arguments).output();
        tokio::time::timeout(DEADLINE, command).await.unwrap().unwrap()
    }

    /// Runs `plugin new`, which must fail, and returns the error.
    async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(PROGRAM, &[&["plugin", "new"], arguments].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A command that compiles without the network, into a folder that is kept between two runs.
fn command(program: &str, folder: &Path) -> Command {
    let executable = std::env::current_exe().unwrap();
    let target = executable.ancestors().find(|path| path.ends_with("target")).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target.join("author-kit"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// A running `plugsocket dev`, with the lines that it and its compiler print.
struct Dev {
    child: Child,
    lines: mpsc::Receiver<String>,
    _readers: JoinSet<()>,
    address: Address,
}

impl Dev {
    async fn start(folder: &Path) -> Self {
        let mut command = command(PROGRAM, folder);
        command.args(["dev", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel(10_000);
        let mut readers = JoinSet::new();
        readers.spawn(forward(child.stdout.take().unwrap(), sender.clone()));
        readers.spawn(forward(child.stderr.take().unwrap(), sender));
        let mut dev =
            Self { child, lines, _readers: readers, address: Address::parse("127.0.0.1:0") };
        let line = dev.line("listening address=").await;
        let address = line.split_once("address=").unwrap().1;
        dev.address = Address::parse(address.split_whitespace().next().unwrap());
        dev.line("dev: serves each change").await;
        dev
    }

    /// Waits for a line with this text.
    async fn line(&mut self, text: &str) -> String {
        let (mut before, lines) = (Vec::new(), &mut self.lines);
        let found = async {
            while let Some(line) = lines.recv().await {
                if line.contains(text) {
                    return Some(line);
                }
                before.push(line);
            }
            None
        };
        let found = tokio::time::timeout(DEADLINE, found).await;
        found.ok().flatten().unwrap_or_else(|| panic!("no line with {text:?} in {before:#?}"))
    }

    async fn connect(&self, path: &str) -> Client {
        Client::open(&self.address, Request::to(path)).await.ready().await
    }

    /// Ends it as Ctrl-C does.
    async fn interrupt(mut self) {
        let command = format!("kill -INT {}", self.child.id().unwrap());
        assert!(
            std::process::Command::new("sh").args(["-c", &command]).status().unwrap().success()
        );
        assert!(within("dev to end", self.child.wait()).await.unwrap().success());
    }
}

async fn forward(stream: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

/// Replaces texts in a source, and saves it once.
fn edit(source: &Path, changes: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(source).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(source, text).unwrap();
}

/// Votes for tea; returns the tally.
async fn vote(client: &mut Client) -> Value {
    client.send(r#"{"opcode":"vote","choice":"tea"}"#).await;
    let tally = client.receive_json().await;
    client.expect_next().await;
    tally["votes"]["tea"].clone()
}

#[tokio::test]
async fn a_new_plugin_passes_its_tests_and_each_saved_change_is_served_with_the_state() {
    let folder = Folder::new("rust");
    let api = root().join("plugin-api");
    let arguments = ["plugin", "new", "my-votes", "--api", api.to_str().unwrap()];
    let created = folder.run(PROGRAM, &arguments).await;
    assert!(created.status.success(), "{created:?}");
    let plugin = folder.0.join("my-votes");
    // The versions of this workspace are on this machine.
    std::fs::copy(root().join("Cargo.lock"), plugin.join("Cargo.lock")).unwrap();
    let tests = command("cargo", &plugin).arg("test").output();
    let tests = tokio::time::timeout(DEADLINE, tests).await.unwrap().unwrap();
    assert!(tests.status.success(), "{tests:?}");
    assert!(String::from_utf8_lossy(&tests.stdout).contains("2 passed"), "{tests:?}");

    let mut dev = Dev::start(&plugin).await;
    let mut ann = dev.connect("/my-votes").await;
    assert_eq!(ann.receive_json().await["votes"], json!({"coffee": 0, "tea": 0}));
    assert_eq!(vote(&mut ann).await, 1);

    let source = plugin.join("src/lib.rs");
    edit(&source, &[("*count += 1;", "*count += 10;")]);
    let line = dev.line("after a build").await;
    assert!(line.starts_with("dev: generation 2 of my_votes serves /my-votes: pause "), "{line}");
    assert!(line.contains(" µs, 20 bytes of state; "), "{line}");
    assert_eq!(vote(&mut ann).await, 11);

    edit(&source, &[("*count += 10;", "*count += ;")]);
    dev.line("expected expression").await;
    dev.line("dev: not built; the running generation keeps serving").await;
    assert_eq!(vote(&mut ann).await, 21);

    edit(&source, &[("*count += ;", "*count += 100;"), ("if choices.is", "if !choices.is")]);
    let line = dev.line("dev: plugin my_votes refused: ").await;
    assert!(line.contains("`choices` is empty"), "{line}");
    assert_eq!(vote(&mut ann).await, 31);

    edit(&source, &[("if !choices.is", "if choices.is")]);
    dev.line("dev: generation").await;
    assert_eq!(vote(&mut ann).await, 131);
    dev.interrupt().await;
}

#[tokio::test]
async fn make_builds_a_new_plugin_in_c_without_a_warning() {
    let folder = Folder::new("make");
    let created = folder.run(PROGRAM, &["plugin", "new", "my-count", "--lang", "c"]).await;
    assert!(created.status.success(), "{created:?}");
    let made = folder.run("make", &["-C", "my-count", "CC=cc -Wpedantic -Werror"]).await;
    assert!(made.status.success(), "{made:?}");
    assert!(folder.0.join("my-count/libmy_count.so").exists());
}

#[tokio::test]
async fn a_new_plugin_in_c_is_served_and_each_saved_change_keeps_the_state() {
    let folder = Folder::new("c");
    let created = folder.run(PROGRAM, &["plugin", "new", "my-count", "--lang", "c"]).await;
    assert!(created.status.success(), "{created:?}");
    let plugin = folder.0.join("my-count");
    let mut dev = Dev::start(&plugin).await;
    let mut ann = dev.connect("/my-count").await;
    let mut count = async || ann.call(&json!("count")).await.packets[0]["count"].clone();
    assert_eq!(count().await, 1);
    edit(&plugin.join("my-count.c"), &[("count += 1;", "count += 10;")]);
    let line = dev.line("after a build").await;
    assert!(line.contains(" µs, 8 bytes of state; "), "{line}");
    assert_eq!(count().await, 11);
    edit(&plugin.join("my-count.c"), &[("count += 10;", "count += ;")]);
    dev.line("dev: not built; the running generation keeps serving").await;
    assert_eq!(count().await, 21);
    dev.interrupt().await;
}

#[tokio::test]
async fn a_name_or_a_folder_that_is_not_right_is_refused_and_nothing_is_created() {
    let folder = Folder::new("refused");
    for (arguments, expected) in [
        (&["my app"][..], "\"my app\" is not a name of a plugin; begin with a letter"),
        (&["../votes"], "is not a name of a plugin"),
        (&["serde"], "a crate cannot have the name serde; choose another one, e.g. my-serde"),
        (&["votes", "--lang", "c", "--api", "."], "--api is for plugins in Rust"),
        (
            &["votes", "--api", "."],
            ". is not the crate plugsocket-plugin; give the folder plugin-api",
        ),
    ] {
        let error = folder.refused(arguments).await;
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
    std::fs::create_dir(folder.0.join("votes")).unwrap();
    let api = root().join("plugin-api");
    let error = folder.refused(&["votes", "--api", api.to_str().unwrap()]).await;
    assert!(error.contains("votes exists already; choose another name"), "{error}");
}

#[tokio::test]
async fn dev_explains_where_it_can_run() {
    let folder = Folder::new("where");
    let output = folder.run(PROGRAM, &["dev"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("plugins.toml does not exist; change to the folder of a plugin"),
        "{error}"
    );
    std::fs::write(folder.0.join("plugins.toml"), "").unwrap();
    let output = folder.run(PROGRAM, &["dev"]).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("has no Cargo.toml and no Makefile"), "{error}");
}
