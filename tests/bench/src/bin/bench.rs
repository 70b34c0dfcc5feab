//! Compares the whole host with bare servers: `bench [--quick] [case…]`. See docs/performance.md.
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

const SERVERS: [(&str, &str, usize, bool); 5] = [
    ("raw", "/", 1, false),
    ("batched", "/", 1, false),
    ("bare", "/", 1, false),
    ("plugsocket", "/echo", 1, false),
    ("plugsocket", "/dialog", 2, true),
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let (rounds, duration) =
        if quick { (3, Duration::from_millis(800)) } else { (7, Duration::from_secs(2)) };
    for in_flight in [1, 16] {
        let mut rates = vec![Vec::new(); SERVERS.len()];
        for round in 0..rounds {
            for (index, (name, path, answers, greets)) in SERVERS.iter().enumerate() {
                if !only.is_empty() && !only.iter().any(|o| o == name) {
                    continue;
                }
                let server = Server::start(name, 18000 + (round * 10 + index) as u16).await;
                let talk = Talk {
                    address: server.address.clone(),
                    path: (*path).to_owned(),
                    size: 64,
                    in_flight,
                    answers: *answers,
                    greets: *greets,
                };
                rates[index].push(rate(&server, &talk, 64, duration).await);
            }
        }
        let raw = if rates[0].is_empty() { 1.0 } else { median(&mut rates[0]) };
        let batched = if rates[1].is_empty() { 1.0 } else { median(&mut rates[1]) };
        for (index, (name, path, ..)) in SERVERS.iter().enumerate() {
            if rates[index].is_empty() {
                continue;
            }
            let m = median(&mut rates[index]);
            let v = &rates[index];
            println!(
                "in flight {in_flight:2}  {name:10} {path:8} {m:10.0}/cpu-s  of raw {:.3}  of batched {:.3}  spread {:.0}..{:.0}",
                m / raw,
                m / batched,
                v[0],
                v[v.len() - 1]
            );
        }
    }
    if only.is_empty() || only.iter().any(|o| o == "broadcast") {
        for in_flight in [1, 16] {
            for name in ["relay", "plugsocket"] {
                broadcast(name, in_flight, rounds, duration).await;
            }
        }
    }
    if only.is_empty() || only.iter().any(|o| o == "feedback") {
        for name in ["relay", "plugsocket"] {
            feedback(name, rounds, duration).await;
        }
    }
    if only.is_empty() || only.iter().any(|o| o == "idle") {
        idle().await;
    }
}

/// Deliveries per CPU-second of one sender's broadcasts of 64 bytes to 500.
async fn broadcast(name: &str, in_flight: usize, rounds: usize, duration: Duration) {
    let mut rates = Vec::new();
    for round in 0..rounds {
        let server = Server::start(name, 18300 + round as u16).await;
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
        tokio::time::sleep(duration / 5).await;
        let (count, cpu) = (received.load(Ordering::Relaxed), server.cpu_time());
        tokio::time::sleep(duration).await;
        let count = received.load(Ordering::Relaxed) - count;
        rates.push(count as f64 / (server.cpu_time() - cpu).as_secs_f64());
    }
    println!(
        "broadcast to 500, in flight {in_flight:2}  {name:10} {:10.0} deliveries/cpu-s",
        median(&mut rates)
    );
}

/// Feedbacks per CPU-second from 8 backends to 8 browsers.
async fn feedback(name: &str, rounds: usize, duration: Duration) {
    let mut rates = Vec::new();
    for round in 0..rounds {
        let server = Server::start(name, 18400 + round as u16).await;
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
                let uuid = ready.split('"').nth(7).unwrap().to_owned();
                format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":"12 %"}}"#)
            };
            tasks.spawn(speak(stream, text.into_bytes(), 1));
        }
        tokio::time::sleep(duration / 5).await;
        let (count, cpu) = (received.load(Ordering::Relaxed), server.cpu_time());
        tokio::time::sleep(duration).await;
        let count = received.load(Ordering::Relaxed) - count;
        rates.push(count as f64 / (server.cpu_time() - cpu).as_secs_f64());
    }
    println!("feedback, 8 backends  {name:10} {:10.0}/cpu-s", median(&mut rates));
}

async fn idle() {
    for (name, path) in [("batched", "/"), ("plugsocket", "/echo"), ("plugsocket", "/dialog")] {
        let server = Server::start(name, 18200).await;
        let mut open = Vec::new();
        for _ in 0..100 {
            open.push(connect(&server.address, path, "").await.unwrap());
        }
        let before = resident_bytes(server.child.id()).unwrap();
        for _ in 0..8000 {
            open.push(connect(&server.address, path, "").await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = resident_bytes(server.child.id()).unwrap();
        println!("idle {name} {path}: {} bytes per connection", (after - before) / 8000);
    }
}
