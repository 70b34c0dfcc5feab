//! The host as a running process.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tokio::process::Child;

use crate::client::{Client, Request};
use crate::follower::Follower;
use crate::line::LineClient;
use crate::log::{Line, Log};
use crate::raw::RawClient;
use crate::setup::{CommandOutput, Setup};
use crate::stream::Address;
use crate::{plugin_path, within};

/// A running host in a temporary folder. Dropping it kills the process.
#[derive(Debug)]
pub struct TestHost {
    setup: Setup,
    folder: PathBuf,
    child: Child,
    log: Arc<Log>,
    addresses: Vec<Address>,
}

impl TestHost {
    pub(crate) async fn start(setup: Setup, folder: PathBuf) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = setup
            .command()
            .args(["run", "--log-format", &setup.log_format, "--config"])
            .arg(folder.join("plugins.toml"))
            .args(&setup.options)
            .stdin(Stdio::null())
            .stderr(writer)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Log::read(reader);
        let mut host = Self { setup, folder, child, log, addresses: Vec::new() };
        // In text, fields follow the message.
        let is_ready = |line: &Line| {
            line.message().ends_with("ready") || line.message().contains("ready served=")
        };
        host.wait_for_log("the host to be ready", is_ready).await;
        let address = |line: Line| match line.message() {
            "listening" => Some(Address::parse(&line.field("address"))),
            text => {
                let (_, fields) = text.split_once("listening address=")?;
                fields.split_whitespace().next().map(Address::parse)
            }
        };
        host.addresses = host.log.lines().into_iter().filter_map(address).collect();
        host
    }

    /// Returns the first address.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Returns all addresses in the order of `listen`.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns its folder, which contains `plugins.toml` and `plugins/`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a plugin's library, whether or not it exists.
    pub fn library(&self, plugin: &str) -> PathBuf {
        self.folder.join(format!("plugins/lib{plugin}.so"))
    }

    /// Connects a WebSocket client to a resource with a dialog and awaits `ready`.
    pub async fn connect(&self, path: &str) -> Client {
        self.open(Request::to(path)).await.ready().await
    }

    /// Connects a WebSocket client as a backend and awaits `ready`.
    pub async fn connect_backend(&self, path: &str) -> Client {
        self.open(Request::to(path).header("Client-Type", "backend")).await.ready().await
    }

    /// Connects a WebSocket client and performs the handshake.
    pub async fn open(&self, request: Request) -> Client {
        Client::open(self.address(), request).await
    }

    /// Connects a socket without writing to it.
    pub async fn raw(&self) -> RawClient {
        RawClient::connect(self.address()).await
    }

    /// Connects clients that send `bytes` after the handshake and read nothing.
    pub async fn non_readers(&self, path: &str, bytes: &[u8], count: usize) -> Vec<RawClient> {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.raw().await.upgraded(path).await;
            client.write(bytes).await;
            clients.push(client);
        }
        clients
    }

    /// Connects a plain TCP client and awaits `ready`.
    pub async fn connect_lines(&self, path: &str) -> LineClient {
        let opening = format!("backend\nGET {path} HTTP/1.1\n\n");
        LineClient::open(self.address(), &opening).await.ready().await
    }

    /// Returns the log lines so far.
    pub fn log(&self) -> Vec<Line> {
        self.log.lines()
    }

    /// Stops reading the log, so that the pipe of standard error fills, or continues to read.
    pub fn pause_log(&self, is_paused: bool) {
        self.log.pause(is_paused);
    }

    /// Returns the position for [`wait_for_log_since`](Self::wait_for_log_since).
    pub fn log_position(&self) -> usize {
        self.log.len()
    }

    /// Waits for a log line, searching from the beginning.
    pub async fn wait_for_log(&self, what: &str, is_match: impl Fn(&Line) -> bool) -> Line {
        self.wait_for_log_since(0, what, is_match).await
    }

    /// Waits for a log line, searching from a position.
    ///
    /// # Panics
    /// If the deadline passes or the host ends.
    pub async fn wait_for_log_since(
        &self,
        position: usize,
        what: &str,
        is_match: impl Fn(&Line) -> bool,
    ) -> Line {
        let line = within(what, self.log.wait(position, is_match)).await;
        line.unwrap_or_else(|| panic!("the host ended without: {what}"))
    }

    /// Runs a command of the program against this host. Returns the exit code and the standard
    /// output, or the standard error if the command fails.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = self.setup.command();
        command.args(arguments).arg("--config").arg(self.folder.join("plugins.toml"));
        let output = within("the command to end", command.output()).await.unwrap();
        let printed = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code().unwrap(), String::from_utf8(printed).unwrap())
    }

    /// Starts a command of the program that runs until it is interrupted.
    pub fn follow(&self, arguments: &[&str]) -> Follower {
        let mut command = self.setup.command();
        command.args(arguments).arg("--config").arg(self.folder.join("plugins.toml"));
        Follower::start(command)
    }

    /// Runs a command of the program in the root folder, with these environment variables and
    /// without `--config`.
    pub async fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
        let mut command = self.setup.command();
        command.args(arguments).envs(environment.iter().copied()).current_dir("/");
        command.stdin(Stdio::null()).kill_on_drop(true);
        CommandOutput::of(within("the command to end", command.output()).await.unwrap())
    }

    /// Returns the current configuration.
    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// Like [`write_setup`](Self::write_setup), and waits until the configuration is applied.
    pub async fn apply(&mut self, setup: Setup) -> Line {
        let position = self.log_position();
        self.write_setup(setup);
        let is_match = |line: &Line| line.starts_with("configuration ");
        let line = self.wait_for_log_since(position, "the configuration", is_match).await;
        assert_eq!(line.message(), "configuration applied", "{line}");
        line
    }

    /// Writes a new `plugins.toml` and copies missing libraries.
    pub fn write_setup(&mut self, setup: Setup) {
        setup.copy_libraries(&self.folder);
        self.write_config(&setup.toml());
        self.setup = setup;
    }

    /// Writes `text` to `plugins.toml`.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.folder.join("plugins.toml"), text).unwrap();
    }

    /// Replaces a file beside `plugins.toml` by rename.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let next = self.folder.join("next");
        std::fs::write(&next, content).unwrap();
        std::fs::rename(next, self.folder.join(name)).unwrap();
    }

    /// Replaces the library of a plugin by a built library.
    pub fn replace_library(&self, plugin: &str, library: &str) {
        self.put_library(plugin, &std::fs::read(plugin_path(library)).unwrap());
    }

    /// Replaces the library of a plugin by rename; returns the time of the rename.
    pub fn put_library(&self, plugin: &str, content: &[u8]) -> Instant {
        let next = self.folder.join("next");
        std::fs::write(&next, content).unwrap();
        let moved = Instant::now();
        std::fs::rename(next, self.library(plugin)).unwrap();
        moved
    }

    /// Replaces the library of a plugin and waits until it is loaded.
    pub async fn reload(&self, plugin: &str, library: &str) -> Line {
        let position = self.log_position();
        self.replace_library(plugin, library);
        self.wait_for_reload(position).await
    }

    /// Replaces the library of a plugin by the same code in a file that differs, and waits until it
    /// is loaded.
    pub async fn reload_same(&self, plugin: &str, library: &str) -> Line {
        let position = self.log_position();
        let mut content = std::fs::read(plugin_path(library)).unwrap();
        content.push(0);
        self.put_library(plugin, &content);
        self.wait_for_reload(position).await
    }

    /// Waits until a plugin is loaded.
    pub async fn wait_for_reload(&self, position: usize) -> Line {
        let is_match = |line: &Line| line.message() == "plugin loaded";
        self.wait_for_log_since(position, "a plugin to be loaded", is_match).await
    }

    /// Waits for an error in the log that contains `part`.
    pub async fn wait_for_error(&self, position: usize, part: &str) -> Line {
        let is_match = |line: &Line| line.level() == "ERROR" && line.text().contains(part);
        self.wait_for_log_since(position, &format!("an error about {part:?}"), is_match).await
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        let status = std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// Waits until the process has ended.
    pub async fn exited(&mut self) -> ExitStatus {
        within("the host to end", self.child.wait()).await.unwrap()
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Returns the resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // The process may already have ended.
        drop(self.child.start_kill());
        drop(std::fs::remove_dir_all(&self.folder));
        if std::thread::panicking() {
            eprintln!("--- the host's log ---");
            for line in self.log.lines() {
                eprintln!("{line}");
            }
        }
    }
}
