//! The compared servers. Each is a process that ends with this one.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::process;
use crate::traffic::Link;

/// A server and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Name in the tables.
    pub name: &'static str,
    /// The program that is started.
    pub program: Program,
    /// Path of the request; some servers ignore it.
    pub path: &'static str,
    /// Frames that answer one message: two with a dialog, the echo and `next`.
    pub answers: usize,
    /// Whether the server sends a frame first.
    pub greets: bool,
}

/// The program of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// A server of the program `baseline`, by its kind.
    Baseline(&'static str),
    /// A server of the npm package `ws`.
    Node,
    /// The release build of the host, with the plugins in its folder.
    Host,
}

impl Subject {
    const fn new(name: &'static str, program: Program, path: &'static str) -> Self {
        Self { name, program, path, answers: 1, greets: false }
    }

    const fn baseline(kind: &'static str) -> Self {
        Self::new(kind, Program::Baseline(kind), "/")
    }

    const fn greeting(self) -> Self {
        Self { greets: true, ..self }
    }

    /// Opens a connection; returns it with the greeting, empty if there is none. `number` is that
    /// of [`Link::open`].
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub async fn open(&self, address: SocketAddr, number: usize) -> io::Result<(Link, String)> {
        let mut link = Link::open(address, self.path, "", number).await?;
        let greeting = match self.greets {
            true => link.inbound.greeting().await?,
            false => String::new(),
        };
        Ok((link, greeting))
    }
}

/// mio with one thread; answers bytes with bytes.
pub const RAW: Subject = Subject::baseline("raw");
/// [`RAW`] as a tokio task.
pub const RAW_TOKIO: Subject = Subject::baseline("raw-tokio");
/// mio; sends each message to all other clients, from encoded frames.
pub const FAN: Subject = Subject::baseline("fan");
/// tokio-tungstenite with small buffers and one flush for a batch.
pub const BATCHED: Subject = Subject::baseline("batched");
/// tokio-tungstenite as in its examples: default buffers, one flush for each message.
pub const BARE: Subject = Subject::baseline("bare");
/// [`BATCHED`] with a queue for each connection.
pub const RELAY: Subject = Subject::baseline("relay").greeting();
/// [`BARE`] with a queue for each connection.
pub const CHAT: Subject = Subject::baseline("chat").greeting();
/// The npm package `ws` as an echo server.
pub const NODE: Subject = Subject::new("node ws", Program::Node, "/");
/// The npm package `ws` as a relay.
pub const NODE_RELAY: Subject = Subject::new("node ws", Program::Node, "/relay").greeting();
/// The host: echo on a resource without a dialog.
pub const HOST: Subject = Subject::new("plugsocket", Program::Host, "/echo");
/// The host: echo on a resource with a dialog.
pub const HOST_DIALOG: Subject = Subject {
    answers: 2,
    ..Subject::new("plugsocket dialog", Program::Host, "/dialog").greeting()
};
/// The host: feedback on a resource with a dialog.
pub const HOST_WEB: Subject = Subject::new("plugsocket", Program::Host, "/web").greeting();

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Cores of the server, for `taskset -c`.
    pub cores: &'static str,
    /// Bytes of a message, for `raw`, `raw-tokio` and `fan`.
    pub size: usize,
    /// Lines for the host's `[server]` table.
    pub keys: String,
    /// Number of additional resources without a dialog: `/echo/0` and so on.
    pub echoes: usize,
    /// Folder of the host's plugins; by default that of this program.
    pub plugin_dir: Option<PathBuf>,
    /// Command that runs the server, for example a profiler.
    pub launcher: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cores: "0",
            size: 64,
            keys: String::new(),
            echoes: 0,
            plugin_dir: None,
            launcher: Vec::new(),
        }
    }
}

/// A running server. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: PathBuf,
    /// Address on which it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it serves the subject's path.
    ///
    /// # Errors
    /// It does not start, or does not serve within a minute. The text contains its log.
    pub async fn start(subject: &Subject, setup: &Setup) -> io::Result<Self> {
        let folder = new_folder()?;
        let address = free_address()?;
        let program = match subject.program {
            Program::Baseline(kind) => baseline(kind, address, setup)?,
            Program::Node => node(address)?,
            Program::Host => host(&folder, address, setup)?,
        };
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", setup.cores])
            .args(&setup.launcher)
            .args(program)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut server = Self { child, folder, address };
        let begun = Instant::now();
        while let Err(error) = server.open(subject, 0).await {
            let ended = server.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > Duration::from_secs(60) {
                let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{} does not serve: {error}\n{log}",
                    subject.name
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    /// Calls [`Subject::open`] for this server.
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub async fn open(&self, subject: &Subject, number: usize) -> io::Result<(Link, String)> {
        subject.open(self.address, number).await
    }

    /// Opens idle connections, which only answer pings.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub async fn crowd(
        &self,
        subject: &Subject,
        numbers: std::ops::Range<usize>,
    ) -> io::Result<JoinSet<io::Result<()>>> {
        let mut crowd = JoinSet::new();
        for number in numbers {
            crowd.spawn(self.open(subject, number).await?.0.idle());
        }
        Ok(crowd)
    }

    /// Returns the CPU time that the server has used.
    ///
    /// # Errors
    /// The server has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        process::cpu_time(self.child.id())
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the folder of the configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends SIGTERM and waits for the end of the process.
    ///
    /// # Errors
    /// The process has already ended.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Returns the folder of this program, which also contains the host and the plugins.
///
/// # Errors
/// The path of this program is unknown.
pub fn build_folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new(".")).to_owned())
}

/// Returns `target/bench`, the folder for installed packages and results.
///
/// # Errors
/// It cannot be created.
pub fn bench_folder() -> io::Result<PathBuf> {
    let folder = build_folder()?.join("../bench");
    fs::create_dir_all(&folder)?;
    folder.canonicalize()
}

fn new_folder() -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = bench_folder()?.join(format!("run-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Returns a free address. The other servers cannot report which port they got.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn baseline(kind: &str, address: SocketAddr, setup: &Setup) -> io::Result<Vec<String>> {
    let program = build_folder()?.join("baseline").display().to_string();
    Ok(vec![program, kind.to_owned(), address.port().to_string(), setup.size.to_string()])
}

fn host(folder: &Path, address: SocketAddr, setup: &Setup) -> io::Result<Vec<String>> {
    let config = folder.join("plugins.toml");
    let build = build_folder()?;
    let plugins = folder.join("plugins");
    fs::create_dir_all(&plugins)?;
    // Only these two: the build folder contains more, which would prolong the start.
    for name in ["libecho.so", "libfeedback.so"] {
        std::os::unix::fs::symlink(build.join(name), plugins.join(name))?;
    }
    let plugin_dir = setup.plugin_dir.as_deref().unwrap_or(&plugins);
    fs::write(&config, config_text(address, setup, plugin_dir))?;
    let program = build.join("plugsocket").display().to_string();
    Ok(vec![program, "run".to_owned(), "--config".to_owned(), config.display().to_string()])
}

fn config_text(address: SocketAddr, setup: &Setup, plugin_dir: &Path) -> String {
    let plugin_dir = plugin_dir.display();
    let mut text = format!(
        "[server]\nlisten = [\"{address}\"]\nplugin_dir = \"{plugin_dir}\"\n{}\n\
         [resources.\"/echo\"]\nplugin = \"echo\"\ndialog = false\n\
         [resources.\"/dialog\"]\nplugin = \"echo\"\n\
         [resources.\"/web\"]\nplugin = \"feedback\"\n\
         [resources.\"/php\"]\nplugin = \"feedback\"\n",
        setup.keys,
    );
    for number in 0..setup.echoes {
        let _ = writeln!(text, "[resources.\"/echo/{number}\"]\nplugin = \"echo\"\ndialog = false");
    }
    text
}

/// Returns the command of the Node server. Installs the package into `target/bench/node` if it is
/// missing or its lock file has changed.
fn node(address: SocketAddr) -> io::Result<Vec<String>> {
    let folder = bench_folder()?.join("node");
    let mut is_new = !folder.join("node_modules/ws").is_dir();
    fs::create_dir_all(&folder)?;
    for (name, text) in [
        ("package.json", include_str!("../peers/node/package.json")),
        ("package-lock.json", include_str!("../peers/node/package-lock.json")),
        ("server.mjs", include_str!("../peers/node/server.mjs")),
    ] {
        let file = folder.join(name);
        if fs::read_to_string(&file).is_ok_and(|present| present == text) {
            continue;
        }
        fs::write(file, text)?;
        is_new = is_new || name != "server.mjs";
    }
    if is_new {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(&folder);
        if !npm.stdin(Stdio::null()).status()?.success() {
            return Err(io::Error::other("`npm ci` failed in target/bench/node"));
        }
    }
    let program = folder.join("server.mjs").display().to_string();
    Ok(vec!["node".to_owned(), program, address.port().to_string()])
}

/// Returns whether `node` and `npm` are installed. Without them the tables omit these rows.
#[must_use]
pub fn has_node() -> bool {
    ["node", "npm"].iter().all(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}
