//! Counts the instructions that the host executes for one message: `instructions [CASE…]`. The
//! script `tests/bench/instructions` builds and runs it.
//!
//! The release build runs under callgrind, with N messages and with 2N; the difference is the cost
//! of N messages. Unlike times, it hardly depends on the machine and its load. System calls count
//! with their instructions in user space only.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use plugsocket_bench::{
    HOST, HOST_DIALOG, HOST_WEB, Link, Server, Setup, Subject, bench_folder, build_folder, frame,
    pin,
};

/// A kind of message whose instructions are counted.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    subject: Subject,
    traffic: Traffic,
    /// N, see above.
    messages: usize,
}

#[derive(Clone, Copy)]
enum Traffic {
    /// Echo with this number of messages in flight.
    Echo(usize),
    Feedback,
    /// Broadcast to this number of other clients.
    Broadcast(usize),
}

const CASES: [Case; 5] = [
    Case { name: "echo", subject: HOST, traffic: Traffic::Echo(1), messages: 4000 },
    Case { name: "echo-16", subject: HOST, traffic: Traffic::Echo(16), messages: 32_000 },
    Case { name: "dialog", subject: HOST_DIALOG, traffic: Traffic::Echo(1), messages: 4000 },
    Case { name: "feedback", subject: HOST_WEB, traffic: Traffic::Feedback, messages: 2000 },
    Case { name: "broadcast", subject: HOST_WEB, traffic: Traffic::Broadcast(10), messages: 1000 },
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let unknown = wanted.iter().find(|name| CASES.iter().all(|case| case.name != **name));
    if let Some(unknown) = unknown {
        let names = CASES.map(|case| case.name).join(" ");
        eprintln!("instructions: unknown case {unknown}; the cases are {names}");
        return ExitCode::from(2);
    }
    println!("instructions of the host for one message, in two runs\n");
    println!("| case      |  run 1 |  run 2 | difference |\n|---|--:|--:|--:|");
    for case in
        CASES.iter().filter(|case| wanted.is_empty() || wanted.iter().any(|w| w == case.name))
    {
        match case.count_twice().await {
            Ok([first, second]) => {
                let difference = 100.0 * (first - second).abs() / first.min(second);
                println!("| {:9} | {first:6.0} | {second:6.0} | {difference:.1} % |", case.name);
            }
            Err(error) => {
                eprintln!("instructions: {}: {error}", case.name);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

impl Case {
    async fn count_twice(&self) -> io::Result<[f64; 2]> {
        Ok([self.count().await?, self.count().await?])
    }

    /// Returns the instructions of one message.
    async fn count(&self) -> io::Result<f64> {
        let [once, twice] =
            [self.total(self.messages).await?, self.total(2 * self.messages).await?];
        Ok((twice as f64 - once as f64) / self.messages as f64)
    }

    /// Returns the instructions of a host that starts, handles `messages` messages and stops.
    async fn total(&self, messages: usize) -> io::Result<u64> {
        let counts = bench_folder()?.join(format!("callgrind-{}", std::process::id()));
        let launcher = callgrind(&counts)?;
        let setup = Setup { launcher, keys: "drain = 0".to_owned(), ..Setup::default() };
        // On the host's core, so that one read of the host contains one whole burst.
        pin(0)?;
        let mut server = Server::start(&self.subject, &setup).await?;
        self.exchange(&server, messages).await?;
        server.terminate()?;
        let text = fs::read_to_string(&counts)?;
        drop(fs::remove_file(&counts));
        let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
        total
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| io::Error::other("the output of callgrind contains no totals"))
    }

    async fn exchange(&self, server: &Server, messages: usize) -> io::Result<()> {
        let (mut first, greeting) = server.open(&self.subject, 0).await?;
        let text = [b'x'; 64];
        match self.traffic {
            Traffic::Echo(in_flight) => {
                let burst = frame(&text).repeat(in_flight);
                for _ in 0..messages / in_flight {
                    first.send(&burst).await?;
                    first.expect(in_flight * self.subject.answers).await?;
                }
            }
            Traffic::Feedback => {
                let uuid = greeting.split('"').nth(7).unwrap_or_default();
                let packet = format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":"12 %"}}"#);
                let headers = "Client-Type: backend\r\n";
                let mut backend = Link::open(server.address, "/php", headers, 0).await?;
                backend.expect(1).await?;
                deliver(
                    &mut backend,
                    packet.as_bytes(),
                    std::slice::from_mut(&mut first),
                    messages,
                )
                .await?;
            }
            Traffic::Broadcast(others) => {
                let mut links = Vec::new();
                for _ in 0..others {
                    links.push(server.open(&self.subject, 0).await?.0);
                }
                let packet = br#"{"opcode":"broadcast","message":"12 % of it is done"}"#;
                deliver(&mut first, packet, &mut links, messages).await?;
            }
        }
        Ok(())
    }
}

/// Returns the command that runs a program under callgrind.
///
/// The host starts its preflight child as `/proc/self/exe`, which is valgrind's tool here. The tool
/// therefore gets a launcher for children that starts the real host, without valgrind.
fn callgrind(counts: &Path) -> io::Result<Vec<String>> {
    const FOLDERS: [&str; 5] = [
        "/usr/libexec/valgrind",
        "/usr/lib/valgrind",
        "/usr/lib64/valgrind",
        "/usr/lib/x86_64-linux-gnu/valgrind",
        "/usr/lib/aarch64-linux-gnu/valgrind",
    ];
    let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let name = format!("callgrind-{machine}-linux");
    let folder = FOLDERS.into_iter().find(|folder| Path::new(folder).join(&name).is_file());
    let folder = folder.ok_or_else(|| {
        io::Error::other(format!(
            "{name} not found in {}; is valgrind installed?",
            FOLDERS.join(" ")
        ))
    })?;
    let children = bench_folder()?.join("callgrind-launcher");
    let host = build_folder()?.join("plugsocket");
    let text = format!(
        "#!/bin/sh\n# Arguments are those of valgrind: options, program, arguments of the program.\n\
         while [ \"${{1#--}}\" != \"$1\" ]; do shift; done\nshift\n\
         unset LD_PRELOAD\nexec '{}' \"$@\"\n",
        host.display()
    );
    fs::write(&children, text)?;
    fs::set_permissions(&children, fs::Permissions::from_mode(0o755))?;
    Ok(vec![
        "env".to_owned(),
        format!("VALGRIND_LAUNCHER={}", children.display()),
        format!("VALGRIND_LIB={folder}"),
        format!("{folder}/{name}"),
        "--tool=callgrind".to_owned(),
        "--trace-children=yes".to_owned(),
        format!("--callgrind-out-file={}", counts.display()),
    ])
}

/// Sends messages one by one, and waits for the acknowledgement and all receivers each time.
async fn deliver(
    sender: &mut Link,
    packet: &[u8],
    receivers: &mut [Link],
    messages: usize,
) -> io::Result<()> {
    let message = frame(packet);
    for _ in 0..messages {
        sender.send(&message).await?;
        sender.expect(1).await?;
        for receiver in &mut *receivers {
            receiver.expect(1).await?;
        }
    }
    Ok(())
}
