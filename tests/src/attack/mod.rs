//! Denial-of-service attacks on a server, measured by the latency of legitimate clients and by the
//! server's resource usage.
//!
//! Each attack has bounded connections and time, runs against a fresh server on 127.0.0.1, and is
//! run against both the host and a server of npm `ws`.

mod connections;
mod flood;
mod legitimate;
mod metric;
mod payloads;
mod peer;
mod process;
mod slow;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

pub use self::legitimate::{LegitimateClients, Observations};
pub use self::metric::{Metric, Row};
pub use self::process::{MemorySampler, Process};
use crate::setup::Setup;
use crate::stream::Address;
use crate::tls::Authority;
use crate::{TestHost, within};

/// The extent of an attack.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Connections of the attacks that hold connections open.
    pub sockets: usize,
    /// The duration of floods.
    pub length: Duration,
    /// The duration of the baseline measurement before the attack.
    pub before: Duration,
    /// The host's `head_timeout` (also used as `tls_timeout`) and `message_timeout`; None:
    /// defaults.
    pub timeouts: Option<(Duration, Duration)>,
}

impl Scale {
    fn head_timeout(&self) -> Duration {
        self.timeouts.map_or(Duration::from_secs(5), |(head, _)| head)
    }

    fn tls_timeout(&self) -> Duration {
        self.head_timeout()
    }

    fn message_timeout(&self) -> Duration {
        self.timeouts.map_or(Duration::from_secs(25), |(_, message)| message)
    }
}

/// A server under attack.
#[derive(Debug)]
pub struct Target {
    address: SocketAddr,
    /// The TLS address, if the server has one.
    secure: Option<SocketAddr>,
    process: Process,
    /// Whether it is the host, which also supports plain TCP and the dialog.
    is_host: bool,
    scale: Scale,
}

/// A kind of attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// The name on the command line.
    pub name: &'static str,
    /// A description for the table.
    pub what: &'static str,
    /// The limit of the legitimate clients' p99 latency during the attack.
    p99: LatencyLimit,
    /// The limit of the host's memory growth in MiB; 0: no limit.
    growth: u64,
    /// Whether it applies to the `ws` server too.
    applies_to_ws: bool,
}

/// A limit of the p99 latency.
#[derive(Clone, Copy, Debug)]
enum LatencyLimit {
    None,
    Milliseconds(u64),
    /// Twice the latency before the attack, but at least a millisecond: shorter delays cannot be
    /// distinguished from scheduling noise.
    TwiceBaseline,
}

/// All attacks.
pub const ATTACKS: [Attack; 22] = [
    attack("stalled-hellos", "half a TLS ClientHello", LatencyLimit::TwiceBaseline, 16, false),
    attack("stalled-heads", "half a request head", LatencyLimit::TwiceBaseline, 16, true),
    attack(
        "slow-heads",
        "request head at one byte per second",
        LatencyLimit::TwiceBaseline,
        16,
        true,
    ),
    attack(
        "stalled-openings",
        "half the opening of plain TCP",
        LatencyLimit::TwiceBaseline,
        16,
        false,
    ),
    attack(
        "slow-openings",
        "plain TCP, first message at one byte per second",
        LatencyLimit::TwiceBaseline,
        16,
        false,
    ),
    attack(
        "half-frames",
        "half a frame, then one byte per second",
        LatencyLimit::TwiceBaseline,
        64,
        true,
    ),
    attack(
        "open-buffers",
        "an open chunk buffer, then nothing",
        LatencyLimit::TwiceBaseline,
        16,
        false,
    ),
    attack(
        "half-closes",
        "writing side shut down, reading side open",
        LatencyLimit::Milliseconds(5),
        16,
        true,
    ),
    attack(
        "unanswered-closes",
        "no answer to the close frame for a violation",
        // Like half-closes: dominated by a thousand simultaneous handshakes.
        LatencyLimit::Milliseconds(5),
        16,
        true,
    ),
    attack("pings-unread", "5 clients ping and never read", LatencyLimit::None, 8, true),
    attack(
        "slow-readers",
        "100 receivers of a broadcast do not read",
        LatencyLimit::Milliseconds(10),
        100,
        true,
    ),
    attack(
        "small-messages",
        "20 clients flood with small messages",
        LatencyLimit::Milliseconds(20),
        0,
        true,
    ),
    attack(
        "empty-messages",
        "20 clients flood with empty messages",
        LatencyLimit::Milliseconds(20),
        0,
        true,
    ),
    attack(
        "empty-fragments",
        "20 clients flood with empty fragments",
        LatencyLimit::Milliseconds(20),
        0,
        true,
    ),
    attack("pings", "20 clients flood with pings", LatencyLimit::Milliseconds(20), 0, true),
    attack("buffers", "20 clients flood with bufferON", LatencyLimit::Milliseconds(20), 0, false),
    attack(
        "joins",
        "20 clients change rooms continuously",
        LatencyLimit::Milliseconds(20),
        0,
        false,
    ),
    attack(
        "descriptors",
        "400 connections, 256 file descriptors",
        LatencyLimit::Milliseconds(20),
        0,
        true,
    ),
    attack(
        "churn",
        "8 clients open and close, by FIN and RST",
        LatencyLimit::Milliseconds(20),
        0,
        true,
    ),
    attack("amplification", "bytes received per byte sent", LatencyLimit::None, 0, true),
    attack("lengths", "frame headers that claim 4 GiB to 2^64 bytes", LatencyLimit::None, 1, true),
    attack(
        "deep-json",
        "JSON 100,000 levels deep, and 10 MB of brackets",
        LatencyLimit::None,
        0,
        true,
    ),
];

const fn attack(
    name: &'static str,
    what: &'static str,
    p99: LatencyLimit,
    growth: u64,
    applies_to_ws: bool,
) -> Attack {
    Attack { name, what, p99, growth, applies_to_ws }
}

impl Attack {
    /// Attacks the host at the path `program`.
    pub async fn run_on_host(&self, program: impl Into<PathBuf>, scale: Scale) -> Row {
        let host = start_host(program.into(), self, scale).await;
        let [Address::Tcp(address), Address::Tcp(secure)] = *host.addresses() else {
            panic!("not TCP")
        };
        let process = Process(host.pid());
        let secure = Some(secure);
        let row = self.run(Target { address, secure, process, is_host: true, scale }).await;
        drop(host);
        row
    }

    /// Attacks the server of npm `ws`; None if it is not installed or the attack does not apply.
    pub async fn run_on_ws(&self, scale: Scale) -> Option<Row> {
        if !self.applies_to_ws {
            return None;
        }
        let (child, address) = start_ws(self).await?;
        let process = Process(child.id()?);
        let row = self.run(Target { address, secure: None, process, is_host: false, scale }).await;
        drop(child);
        Some(row)
    }

    async fn run(&self, target: Target) -> Row {
        let clients = LegitimateClients::start(target.address, LEGITIMATE_CLIENTS);
        let begun = Instant::now();
        sleep(target.scale.before).await;
        let before = target.process.resident_bytes();
        let memory = MemorySampler::start(target.process);
        let attacked = Instant::now();
        let mut metrics = self.attack(&target).await;
        let ended = Instant::now();
        let peak = memory.peak();
        let observed = clients.finish();
        if !target.process.is_running() {
            metrics.push(Metric::count("SERVER ENDED", 1, 0));
        }
        let mut row = Row {
            attack: *self,
            is_host: target.is_host,
            before: observed.between(begun, attacked),
            during: observed.between(attacked, ended),
            resident: (before, peak),
            lost: observed.lost,
            closed: observed.closed,
            metrics,
        };
        row.check_limits(self.p99, self.growth);
        row
    }

    async fn attack(&self, target: &Target) -> Vec<Metric> {
        match self.name {
            "stalled-hellos" => slow::stalled_hellos(target).await,
            "stalled-heads" => slow::stalled_heads(target).await,
            "slow-heads" => slow::slow_heads(target).await,
            "stalled-openings" => slow::stalled_openings(target).await,
            "slow-openings" => slow::slow_openings(target).await,
            "half-frames" => slow::half_frames(target).await,
            "open-buffers" => slow::open_buffers(target).await,
            "half-closes" => slow::half_closes(target).await,
            "unanswered-closes" => slow::unanswered_closes(target).await,
            "pings-unread" => flood::pings_unread(target).await,
            "slow-readers" => flood::slow_readers(target).await,
            "small-messages" => flood::small_messages(target).await,
            "empty-messages" => flood::empty_messages(target).await,
            "empty-fragments" => flood::empty_fragments(target).await,
            "pings" => flood::pings(target).await,
            "buffers" => flood::buffers(target).await,
            "joins" => flood::joins(target).await,
            "descriptors" => connections::descriptors(target).await,
            "churn" => connections::churn(target).await,
            "amplification" => payloads::amplification(target).await,
            "lengths" => payloads::lengths(target).await,
            "deep-json" => payloads::deep_json(target).await,
            other => panic!("no such attack: {other}"),
        }
    }

    /// The command through which the server is started.
    fn launcher(&self) -> &'static [&'static str] {
        match self.name {
            "descriptors" => &["sh", "-c", r#"ulimit -n 256 && exec "$0" "$@""#],
            _ => &[],
        }
    }
}

/// The number of legitimate clients.
const LEGITIMATE_CLIENTS: usize = 10;

async fn start_host(program: PathBuf, attack: &Attack, scale: Scale) -> TestHost {
    let setup = Setup::new(program)
        .plain("/echo", "echo")
        .resource("/talk", "echo")
        .resource("/web", "feedback")
        .resource("/chat", "chat")
        .with_tls(&Authority::default().issue(&["localhost"]))
        .environment("RUST_LOG", "warn,plugsocket=info")
        .launcher(attack.launcher());
    let seconds = |time: Duration| time.as_secs_f64().to_string();
    setup
        .server("head_timeout", &seconds(scale.head_timeout()))
        .server("message_timeout", &seconds(scale.message_timeout()))
        .tls("tls_timeout", &seconds(scale.tls_timeout()))
        .start()
        .await
}

async fn start_ws(attack: &Attack) -> Option<(Child, SocketAddr)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node_ws.mjs");
    let words: Vec<&str> = attack.launcher().iter().copied().chain(["node", script]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut stdout = BufReader::new(child.stdout.take()?).lines();
    let line = within("the ws server to listen", stdout.next_line()).await.ok()??;
    let Ok(port) = line.parse::<u16>() else {
        drop(timeout(Duration::from_secs(1), child.wait()).await);
        return None;
    };
    Some((child, SocketAddr::from(([127, 0, 0, 1], port))))
}
