//! The servers that are compared, each a process of its own that ends with this one.

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

/// A server and how it is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What the tables call it.
    pub name: &'static str,
    /// What is started.
    pub program: Program,
    /// The path, which only some look at.
    pub path: &'static str,
    /// Frames that answer one message: with a dialog, the echo and `next`.
    pub answers: usize,
    /// Whether it sends a frame first.
    pub greets: bool,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// One of `baseline`, by its kind.
    Baseline(&'static str),
    /// The npm package `ws`.
    Node,
    /// The release build of the host, with the libraries beside it.
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

    /// Opens a connection and takes the greeting, which is returned; empty where there is none. `number` as for [`Link::open`].
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

/// mio, one thread, bytes for bytes.
pub const RAW: Subject = Subject::baseline("raw");
/// The same as a tokio task.
pub const RAW_TOKIO: Subject = Subject::baseline("raw-tokio");
/// mio: what one sends, all others get, preencoded.
pub const FAN: Subject = Subject::baseline("fan");
/// tokio-tungstenite as it should be used.
pub const BATCHED: Subject = Subject::baseline("batched");
/// tokio-tungstenite as its examples use it.
pub const BARE: Subject = Subject::baseline("bare");
/// `BATCHED` with a queue for each connection.
pub const RELAY: Subject = Subject::baseline("relay").greeting();
/// `BARE` with a queue for each connection.
pub const CHAT: Subject = Subject::baseline("chat").greeting();
/// The npm package `ws`, echoing.
pub const NODE: Subject = Subject::new("node ws", Program::Node, "/");
/// The npm package `ws`, relaying.
pub const NODE_RELAY: Subject = Subject::new("node ws", Program::Node, "/relay").greeting();
/// The host, a resource without a dialog.
pub const HOST: Subject = Subject::new("plugsocket", Program::Host, "/echo");
/// The host, a resource with a dialog, echoing.
pub const HOST_DIALOG: Subject = Subject {
    answers: 2,
    ..Subject::new("plugsocket dialog", Program::Host, "/dialog").greeting()
};
/// The host, a resource with a dialog, carrying packets.
pub const HOST_WEB: Subject = Subject::new("plugsocket", Program::Host, "/web").greeting();

/// What is different from one case to the next.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The cores of the server, for `taskset -c`.
    pub cores: &'static str,
    /// Bytes of a message: `raw`, `raw-tokio` and `fan` must know.
    pub size: usize,
    /// Lines for `[server]` of the host.
    pub keys: String,
    /// Further resources without a dialog: `/echo/0` and so on.
    pub echoes: usize,
    /// The host's libraries, if not those beside this program.
    pub plugin_dir: Option<PathBuf>,
    /// What runs the server, instead of this program itself.
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

/// A server that runs. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server and waits until it serves the subject's path.
    ///
    /// # Errors
    /// It cannot be started, or does not serve within a minute; the text has what it said.
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
                let said = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "{} does not serve: {error}\n{said}",
                    subject.name
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    /// [`Subject::open`] on this server.
    ///
    /// # Errors
    /// The connection cannot be opened.
    pub async fn open(&self, subject: &Subject, number: usize) -> io::Result<(Link, String)> {
        subject.open(self.address, number).await
    }

    /// Opens connections that say nothing and answer pings.
    ///
    /// # Errors
    /// One of them cannot be opened.
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

    /// What it has used of the processor so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        process::cpu_time(self.child.id())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its configuration lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It has ended already.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The folder of this program: where the host and its libraries lie, too.
///
/// # Errors
/// The system does not tell.
pub fn build_folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new(".")).to_owned())
}

/// `target/bench`: what the benchmarks install and write.
///
/// # Errors
/// It cannot be made.
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

/// An address that nobody listens on now. The servers to compare with cannot say which one they got.
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
    // Links to these two alone: with all that lies in the build folder, a start would take longer and count more.
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

/// Installs the package where it is missing or its lock has changed, into `target/bench/node`.
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
        if fs::read_to_string(&file).is_ok_and(|there| there == text) {
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

/// Whether `node` and `npm` are there; without them the tables have no such row.
#[must_use]
pub fn has_node() -> bool {
    ["node", "npm"].iter().all(|program| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}
