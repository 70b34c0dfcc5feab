//! Fault injection: a full disk, too few threads or too little memory, a killed process, signals,
//! and plugins that misbehave. docs/explanation/reliability.md lists each fault with its outcome.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod plugins;
mod processes;
mod system;

use std::fs;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use plugsocket_tests::{Address, Client, Request, Setup, skip, within};
use tokio::process::{Child, Command};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn counter() -> Setup {
    Setup::new(PROGRAM).library("counter", "counter_v1").resource("/count", "counter")
}

/// Sends a message; returns the number of messages on this connection.
async fn count(client: &mut Client) -> u64 {
    client.send("x").await;
    client.until_next().await.packets[0]["seq"].as_u64().unwrap()
}

async fn echoes(client: &mut Client) {
    client.send("hello").await;
    assert_eq!(client.receive_text().await, "hello");
    client.expect_next().await;
}

/// A host started by a shell script that redirects its log or sets resource limits.
struct ShellHost {
    folder: PathBuf,
    child: Child,
}

impl ShellHost {
    /// Starts the host by `script`, which gets the program and its arguments as `"$@"`.
    fn start(folder: PathBuf, script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PROGRAM, "run", "--config"]);
        command.arg(folder.join("plugins.toml")).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.current_dir(&folder).stderr(Stdio::null()).spawn().unwrap();
        Self { folder, child }
    }

    /// Connects to the host's Unix socket once it listens.
    async fn connect(&self, path: &str) -> Client {
        let socket = self.folder.join("host.sock");
        within("the host to listen", async {
            while std::os::unix::net::UnixStream::connect(&socket).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Client::open(&Address::Unix(socket), Request::to(path)).await.ready().await
    }

    async fn exited(&mut self) -> ExitStatus {
        within("the host to end", self.child.wait()).await.unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        let killed = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(killed.unwrap().success());
    }
}

impl Drop for ShellHost {
    fn drop(&mut self) {
        drop(self.child.start_kill());
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn on_unix(setup: Setup) -> Setup {
    setup.server("listen", r#"["unix:host.sock"]"#)
}
