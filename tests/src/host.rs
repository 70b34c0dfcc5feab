//! The real program, running in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tokio::process::Child;

use crate::client::{Client, Request};
use crate::line::LineClient;
use crate::log::{Line, Log};
use crate::raw::RawClient;
use crate::setup::Setup;
use crate::stream::Address;
use crate::{plugin_path, within};

/// A host that runs. Dropping it kills it.
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
            .stdin(Stdio::null())
            .stderr(writer)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Log::read(reader);
        let mut host = Self { setup, folder, child, log, addresses: Vec::new() };
        host.wait_for_log("the host to be ready", |line| line.message().ends_with("ready")).await;
        let address = |line: Line| match line.message() {
            "listening" => Some(Address::parse(&line.field("address"))),
            text => {
                let (_, fields) = text.split_once("listening address=")?;
                fields.split_whitespace().next().map(|text| Address::parse(text.trim_matches('"')))
            }
        };
        host.addresses = host.log.lines().into_iter().filter_map(address).collect();
        host
    }

    /// Where it listens first.
    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Where it listens, in the order of `listen`.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Its folder, with `plugins.toml` and `plugins/` in it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the library of a plugin lies, or would.
    pub fn library(&self, plugin: &str) -> PathBuf {
        self.folder.join(format!("plugins/lib{plugin}.so"))
    }

    /// A WebSocket client on a resource with a dialog, after its `ready`.
    pub async fn connect(&self, path: &str) -> Client {
        self.open(Request::to(path)).await.ready().await
    }

    /// A script with a WebSocket library, after its `ready`.
    pub async fn connect_backend(&self, path: &str) -> Client {
        self.open(Request::to(path).header("Client-Type", "backend")).await.ready().await
    }

    /// A WebSocket client after its handshake.
    pub async fn open(&self, request: Request) -> Client {
        Client::open(self.address(), request).await
    }

    /// A socket that nothing was written to.
    pub async fn raw(&self) -> RawClient {
        RawClient::connect(self.address()).await
    }

    /// A plain TCP client after its `ready`.
    pub async fn connect_lines(&self, path: &str) -> LineClient {
        let opening = format!("backend\nGET {path} HTTP/1.1\n\n");
        LineClient::open(self.address(), &opening).await.ready().await
    }

    /// The lines of the log so far.
    pub fn log(&self) -> Vec<Line> {
        self.log.lines()
    }

    /// The number of the next line: for [`wait_for_log_since`](Self::wait_for_log_since).
    pub fn log_position(&self) -> usize {
        self.log.len()
    }

    /// Waits for a line of the log, from the beginning.
    pub async fn wait_for_log(&self, what: &str, is_meant: impl Fn(&Line) -> bool) -> Line {
        self.wait_for_log_since(0, what, is_meant).await
    }

    /// Waits for a line of the log from a position on.
    ///
    /// # Panics
    /// When the deadline passes or the host ends.
    pub async fn wait_for_log_since(
        &self,
        position: usize,
        what: &str,
        is_meant: impl Fn(&Line) -> bool,
    ) -> Line {
        let line = within(what, self.log.wait(position, is_meant)).await;
        line.unwrap_or_else(|| panic!("the host ended; waited for: {what}"))
    }

    /// Runs a command of the program against this host: its exit code, and what it printed: standard output if it is done, else
    /// standard error.
    pub async fn command(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = self.setup.command();
        command.args(arguments).arg("--config").arg(self.folder.join("plugins.toml"));
        let output = within("the command to end", command.output()).await.unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    /// What it was given last.
    pub fn setup(&self) -> Setup {
        self.setup.clone()
    }

    /// Writes another `plugins.toml`, with libraries that are not there yet, and waits until it is in effect.
    pub async fn apply(&mut self, setup: Setup) -> Line {
        let position = self.log_position();
        self.offer(setup);
        let is_meant = |line: &Line| line.says("configuration ");
        let line = self.wait_for_log_since(position, "the configuration", is_meant).await;
        assert_eq!(line.message(), "configuration applied", "{line}");
        line
    }

    /// Writes another `plugins.toml`, with libraries that are not there yet.
    pub fn offer(&mut self, setup: Setup) {
        setup.lay_libraries(&self.folder);
        self.write_config(&setup.toml());
        self.setup = setup;
    }

    /// Writes any text as `plugins.toml`.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.folder.join("plugins.toml"), text).unwrap();
    }

    /// Moves a file with this content over one beside `plugins.toml`.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let next = self.folder.join("next");
        std::fs::write(&next, content).unwrap();
        std::fs::rename(next, self.folder.join(name)).unwrap();
    }

    /// Copies a built library over that of a plugin.
    pub fn replace_library(&self, plugin: &str, library: &str) {
        self.put_library(plugin, &std::fs::read(plugin_path(library)).unwrap());
    }

    /// Moves a file with this content over the library of a plugin. The moment at which it was moved.
    pub fn put_library(&self, plugin: &str, content: &[u8]) -> Instant {
        let next = self.folder.join("next");
        std::fs::write(&next, content).unwrap();
        let moved = Instant::now();
        std::fs::rename(next, self.library(plugin)).unwrap();
        moved
    }

    /// Replaces the library of a plugin and waits until the new one serves.
    pub async fn reload(&self, plugin: &str, library: &str) -> Line {
        let position = self.log_position();
        self.replace_library(plugin, library);
        self.wait_for_reload(position).await
    }

    /// Waits until a new generation serves.
    pub async fn wait_for_reload(&self, position: usize) -> Line {
        let is_meant = |line: &Line| line.message() == "plugin loaded";
        self.wait_for_log_since(position, "a new generation", is_meant).await
    }

    /// Waits until the log says why a library or configuration is refused.
    pub async fn wait_for_error(&self, position: usize, part: &str) -> Line {
        let is_meant = |line: &Line| line.level() == "ERROR" && line.text().contains(part);
        self.wait_for_log_since(position, &format!("an error about {part:?}"), is_meant).await
    }

    /// Sends it a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.pid());
        let status = std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success(), "{command}");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the host to end", self.child.wait()).await.unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Its resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
        kilobytes * 1024
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // It may have ended by itself.
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
