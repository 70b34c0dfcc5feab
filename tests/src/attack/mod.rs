//! Attacks on a server under which honest clients go on: what they notice, and what the attack costs the server.
//!
//! Each attack is bounded in connections and time, has a fresh server to itself, and speaks to 127.0.0.1 only. The same is done to the
//! host and to a server of npm `ws` beside it.

mod figure;
mod flood;
mod honest;
mod odd;
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

pub use self::figure::{Figure, Row};
pub use self::honest::{Honest, Noticed};
pub use self::process::{Process, Watch};
use crate::setup::Setup;
use crate::stream::Address;
use crate::tls::Authority;
use crate::{TestHost, within};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Connections of the attacks that hold some.
    pub sockets: usize,
    /// How long floods last.
    pub length: Duration,
    /// How long honest clients are watched before.
    pub before: Duration,
    /// The host's `head_timeout` (and `tls_timeout`), and `message_timeout`; None: as they are where nothing is said of them.
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
    /// Where it speaks TLS; None: nowhere.
    secure: Option<SocketAddr>,
    process: Process,
    /// Whether it is the host: it knows plain TCP and the dialog.
    is_host: bool,
    scale: Scale,
}

/// One way to attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// For the command line.
    pub name: &'static str,
    /// What is done.
    pub what: &'static str,
    /// What the honest clients' p99 may be meanwhile.
    p99: Most,
    /// By how much the host's memory may grow, in MiB; 0: whatever it is.
    growth: u64,
    /// Whether there is such a thing at the other server.
    is_for_both: bool,
}

/// What is promised of a p99.
#[derive(Clone, Copy, Debug)]
enum Most {
    Anything,
    Milliseconds(u64),
    /// Of what it was before; a millisecond at least, as less cannot be told from what the machine does by itself.
    Twice,
}

/// All of them.
pub const ATTACKS: [Attack; 22] = [
    attack("stalled-hellos", "TLS hellos that are begun and left", Most::Twice, 16, false),
    attack("stalled-heads", "request heads that are begun and left", Most::Twice, 16, true),
    attack("slow-heads", "request heads of one byte a second", Most::Twice, 16, true),
    attack(
        "stalled-openings",
        "opening lines of plain TCP that are begun and left",
        Most::Twice,
        16,
        false,
    ),
    attack(
        "slow-openings",
        "plain TCP, its first message one byte a second",
        Most::Twice,
        16,
        false,
    ),
    attack("half-frames", "half a frame, then one byte a second", Most::Twice, 64, true),
    attack("open-buffers", "an open chunk buffer, then nothing", Most::Twice, 16, false),
    attack("half-closes", "writing side ended, reading side kept", Most::Milliseconds(5), 16, true),
    attack(
        "unanswered-closes",
        "no answer to the close frame for a violation",
        // As for the one before: all of it is the handshakes of a thousand, at once.
        Most::Milliseconds(5),
        16,
        true,
    ),
    attack("pings-unread", "5 clients ping and never read", Most::Anything, 8, true),
    attack(
        "slow-readers",
        "100 listeners of a broadcast do not read",
        Most::Milliseconds(10),
        100,
        true,
    ),
    attack(
        "small-messages",
        "20 clients flood with small messages",
        Most::Milliseconds(20),
        0,
        true,
    ),
    attack(
        "empty-messages",
        "20 clients flood with empty messages",
        Most::Milliseconds(20),
        0,
        true,
    ),
    attack(
        "empty-fragments",
        "20 clients flood with empty fragments",
        Most::Milliseconds(20),
        0,
        true,
    ),
    attack("pings", "20 clients flood with pings", Most::Milliseconds(20), 0, true),
    attack("buffers", "20 clients flood with bufferON", Most::Milliseconds(20), 0, false),
    attack("joins", "20 clients change rooms all the time", Most::Milliseconds(20), 0, false),
    attack(
        "descriptors",
        "400 sockets where 256 files may be open",
        Most::Milliseconds(20),
        0,
        true,
    ),
    attack("churn", "8 clients open and close, by FIN and RST", Most::Milliseconds(20), 0, true),
    attack("amplification", "bytes back for each byte sent", Most::Anything, 0, true),
    attack("lengths", "frames that claim 4 GiB to 2^64 bytes", Most::Anything, 1, true),
    attack("deep-json", "JSON 100,000 levels deep, and 10 MB of brackets", Most::Anything, 0, true),
];

const fn attack(
    name: &'static str,
    what: &'static str,
    p99: Most,
    growth: u64,
    is_for_both: bool,
) -> Attack {
    Attack { name, what, p99, growth, is_for_both }
}

impl Attack {
    /// Attacks the host; `program` is it.
    pub async fn on_host(&self, program: impl Into<PathBuf>, scale: Scale) -> Row {
        let host = start_host(program.into(), self, scale).await;
        let [Address::Tcp(address), Address::Tcp(secure)] = *host.addresses() else {
            panic!("not TCP")
        };
        let process = Process(host.pid());
        let secure = Some(secure);
        let row = self.on(Target { address, secure, process, is_host: true, scale }).await;
        drop(host);
        row
    }

    /// Attacks the server of npm `ws`; None where there is none, or no such attack.
    pub async fn on_other(&self, scale: Scale) -> Option<Row> {
        if !self.is_for_both {
            return None;
        }
        let (child, address) = start_other(self).await?;
        let process = Process(child.id()?);
        let row = self.on(Target { address, secure: None, process, is_host: false, scale }).await;
        drop(child);
        Some(row)
    }

    async fn on(&self, target: Target) -> Row {
        let honest = Honest::start(target.address, HONEST);
        let begun = Instant::now();
        sleep(target.scale.before).await;
        let before = target.process.resident();
        let watch = Watch::on(target.process);
        let attacked = Instant::now();
        let mut figures = self.run(&target).await;
        let ended = Instant::now();
        let peak = watch.peak();
        let noticed = honest.finish();
        if !target.process.lives() {
            figures.push(Figure::count("IT HAS ENDED", 1, 0));
        }
        let mut row = Row {
            attack: *self,
            is_host: target.is_host,
            before: noticed.between(begun, attacked),
            during: noticed.between(attacked, ended),
            resident: (before, peak),
            lost: noticed.lost,
            cut: noticed.cut,
            figures,
        };
        row.judge(self.p99, self.growth);
        row
    }

    async fn run(&self, target: &Target) -> Vec<Figure> {
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
            "descriptors" => odd::descriptors(target).await,
            "churn" => odd::churn(target).await,
            "amplification" => odd::amplification(target).await,
            "lengths" => odd::lengths(target).await,
            "deep-json" => odd::deep_json(target).await,
            other => panic!("no such attack: {other}"),
        }
    }

    /// Through which the server is started.
    fn launcher(&self) -> &'static [&'static str] {
        match self.name {
            "descriptors" => &["sh", "-c", r#"ulimit -n 256 && exec "$0" "$@""#],
            _ => &[],
        }
    }
}

/// How many clients behave.
const HONEST: usize = 10;

async fn start_host(program: PathBuf, attack: &Attack, scale: Scale) -> TestHost {
    let setup = Setup::new(program)
        .plain("/echo", "echo")
        .resource("/talk", "echo")
        .resource("/web", "feedback")
        .resource("/chat", "chat")
        .secured(&Authority::default().issue(&["localhost"]))
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

async fn start_other(attack: &Attack) -> Option<(Child, SocketAddr)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node_ws.mjs");
    let words: Vec<&str> = attack.launcher().iter().copied().chain(["node", script]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut said = BufReader::new(child.stdout.take()?).lines();
    let line = within("the other server", said.next_line()).await.ok()??;
    let Ok(port) = line.parse::<u16>() else {
        drop(timeout(Duration::from_secs(1), child.wait()).await);
        return None;
    };
    Some((child, SocketAddr::from(([127, 0, 0, 1], port))))
}
