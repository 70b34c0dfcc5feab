//! Compares the whole host with bare servers on the same machine:
//!
//! ```text
//! cargo build --release --workspace && target/release/bench [--quick] [echo] [broadcast] [feedback] [idle]
//! ```
//!
//! Servers run on core 0, the load on what is left; each server in turn, several times. docs/performance.md explains the table.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool, not a server")]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use plugsocket_bench::{Load, Talk, connect, cpu_time, greeting, listen, resident_bytes, speak};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A server process; killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    async fn start(name: &str, port: u16) -> Self {
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        if name == "plugsocket" {
            let config = write_config(&folder, port);
            command.arg(folder.join("plugsocket")).arg("-c").arg(config);
        } else {
            command.arg(folder.join("baseline")).args([name, &port.to_string()]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = format!("127.0.0.1:{port}");
        let begun = Instant::now();
        while TcpStream::connect(&address).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{name} does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Its applications may still be starting.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Self { child, address }
    }

    fn cpu_time(&self) -> Duration {
        cpu_time(self.child.id()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn write_config(folder: &std::path::Path, port: u16) -> PathBuf {
    let path = std::env::temp_dir().join(format!("plugsocket-bench-{port}.toml"));
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:{port}\"]\nplugin_dir = \"{}\"\n\
         [resources.\"/echo\"]\nplugin = \"echo\"\ndialog = false\n\
         [resources.\"/dialog\"]\nplugin = \"echo\"\n\
         [resources.\"/web\"]\nplugin = \"feedback\"\n\
         [resources.\"/php\"]\nplugin = \"feedback\"\n",
        folder.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// Messages per CPU-second of the server.
async fn rate(server: &Server, talk: &Talk, connections: usize, duration: Duration) -> f64 {
    let load = Load::start(talk, connections).await.unwrap();
    tokio::time::sleep(duration / 5).await;
    let (count, cpu) = (load.answered(), server.cpu_time());
    tokio::time::sleep(duration).await;
    let rate = (load.answered() - count) as f64 / (server.cpu_time() - cpu).as_secs_f64();
    load.stop().await.unwrap();
    rate
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A server and how it is talked to.
struct Entry {
    name: &'static str,
    path: &'static str,
    /// Frames that answer one message: with a dialog, the echo and `next`.
    answers: usize,
    greets: bool,
}

const ECHO: [Entry; 5] = [
    Entry { name: "raw", path: "/", answers: 1, greets: false },
    Entry { name: "batched", path: "/", answers: 1, greets: false },
    Entry { name: "bare", path: "/", answers: 1, greets: false },
    Entry { name: "plugsocket", path: "/echo", answers: 1, greets: false },
    Entry { name: "plugsocket", path: "/dialog", answers: 2, greets: true },
];

/// How long and how often each is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u16,
    duration: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (options, cases): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let effort = if options.iter().any(|option| option == "--quick") {
        Effort { rounds: 3, duration: Duration::from_millis(800) }
    } else {
        Effort { rounds: 7, duration: Duration::from_secs(2) }
    };
    let wants = |case: &str| cases.is_empty() || cases.iter().any(|wanted| wanted == case);
    println!(
        "messages per CPU-second of the server: median (least, most); the load runs on the other core\n"
    );
    for in_flight in [1, 16] {
        if wants("echo") {
            echo(in_flight, effort).await;
        }
    }
    for in_flight in [1, 16] {
        if wants("broadcast") {
            let title = format!("broadcast of 64 bytes to 500, {in_flight} in flight, deliveries");
            compare(&title, effort, async |name, port| {
                broadcast(name, port, in_flight, effort.duration).await
            })
            .await;
        }
    }
    if wants("feedback") {
        let title = "feedback from 8 backends to 8 browsers";
        compare(title, effort, async |name, port| feedback(name, port, effort.duration).await)
            .await;
    }
    if wants("idle") {
        idle().await;
    }
}

/// Echoes of 64 bytes on 64 connections; the servers take turns, so that a noisy minute hits all of them.
async fn echo(in_flight: usize, effort: Effort) {
    let mut rates = vec![Vec::new(); ECHO.len()];
    for round in 0..effort.rounds {
        for (port, (entry, rates)) in (18_000 + round * 10..).zip(ECHO.iter().zip(&mut rates)) {
            let server = Server::start(entry.name, port).await;
            let talk = Talk {
                address: server.address.clone(),
                path: entry.path.to_owned(),
                size: 64,
                in_flight,
                answers: entry.answers,
                greets: entry.greets,
            };
            rates.push(rate(&server, &talk, 64, effort.duration).await);
        }
    }
    println!("echo of 64 bytes, 64 connections, {in_flight} in flight");
    let (raw, batched) = (median(&mut rates[0]), median(&mut rates[1]));
    for (entry, rates) in ECHO.iter().zip(&mut rates) {
        let middle = median(rates);
        let (of_raw, of_batched) = (middle / raw, middle / batched);
        println!(
            "  {:10} {:8} {middle:10.0} ({:.0}, {:.0})  of raw {of_raw:.2}  of batched {of_batched:.2}",
            entry.name,
            entry.path,
            rates[0],
            rates[rates.len() - 1]
        );
    }
}

/// The relay by hand and the host, in turn.
async fn compare(title: &str, effort: Effort, measure: impl AsyncFn(&str, u16) -> f64) {
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..effort.rounds {
        rates[0].push(measure("relay", 18_300 + round).await);
        rates[1].push(measure("plugsocket", 18_400 + round).await);
    }
    println!("{title}");
    let relay = median(&mut rates[0]);
    for (name, rates) in ["relay", "plugsocket"].into_iter().zip(&mut rates) {
        let middle = median(rates);
        let (least, most) = (rates[0], rates[rates.len() - 1]);
        println!(
            "  {name:10} {middle:10.0} ({least:.0}, {most:.0})  of relay {:.2}",
            middle / relay
        );
    }
}

/// Deliveries per CPU-second of one sender's broadcasts to 500.
async fn broadcast(name: &str, port: u16, in_flight: usize, duration: Duration) -> f64 {
    let server = Server::start(name, port).await;
    let received = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..500 {
        let (mut stream, rest) = connect(&server.address, "/web", "").await.unwrap();
        greeting(&mut stream, rest).await.unwrap();
        tasks.spawn(listen(stream, received.clone()));
    }
    let (mut stream, rest) = connect(&server.address, "/web", "").await.unwrap();
    greeting(&mut stream, rest).await.unwrap();
    let text = if name == "relay" {
        format!("* {}", "x".repeat(62))
    } else {
        format!(r#"{{"opcode":"broadcast","message":"{}"}}"#, "x".repeat(27))
    };
    tasks.spawn(speak(stream, text.into_bytes(), in_flight));
    counted(&server, &received, duration).await
}

/// Feedbacks per CPU-second from 8 backends to 8 browsers, each waiting for its acknowledgement.
async fn feedback(name: &str, port: u16, duration: Duration) -> f64 {
    let server = Server::start(name, port).await;
    let received = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (mut stream, rest) = connect(&server.address, "/web", "").await.unwrap();
        let ready = greeting(&mut stream, rest).await.unwrap();
        tasks.spawn(listen(stream, received.clone()));
        let (mut stream, rest) =
            connect(&server.address, "/php", "Client-Type: php\r\n").await.unwrap();
        greeting(&mut stream, rest).await.unwrap();
        let text = if name == "relay" {
            format!("{ready} {}", "x".repeat(150))
        } else {
            let uuid = ready.split('"').nth(7).unwrap();
            format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":"12 %"}}"#)
        };
        tasks.spawn(speak(stream, text.into_bytes(), 1));
    }
    counted(&server, &received, duration).await
}

async fn counted(server: &Server, received: &AtomicU64, duration: Duration) -> f64 {
    tokio::time::sleep(duration / 5).await;
    let (count, cpu) = (received.load(Ordering::Relaxed), server.cpu_time());
    tokio::time::sleep(duration).await;
    (received.load(Ordering::Relaxed) - count) as f64 / (server.cpu_time() - cpu).as_secs_f64()
}

/// What an idle connection keeps resident. Wants a file limit of 22,000 (`ulimit -n`).
async fn idle() {
    const CONNECTIONS: usize = 10_000;
    println!("{CONNECTIONS} idle connections, resident bytes each");
    for (port, (name, path)) in
        (18_500..).zip([("batched", "/"), ("plugsocket", "/echo"), ("plugsocket", "/dialog")])
    {
        let server = Server::start(name, port).await;
        let mut open = Vec::new();
        let mut before = 0;
        for number in 0..CONNECTIONS + 100 {
            if number == 100 {
                before = resident_bytes(server.child.id()).unwrap();
            }
            open.push(connect(&server.address, path, "").await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = resident_bytes(server.child.id()).unwrap();
        println!("  {name:10} {path:8} {:6}", (after - before) / CONNECTIONS as u64);
    }
}
