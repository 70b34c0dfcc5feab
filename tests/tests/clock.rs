//! Jumps of the system clock, by days and in both directions, affect only what depends on the time
//! of day.
//!
//! Uses libfaketime (Debian package `faketime`) for the host process. Without it the tests are
//! skipped with a message; with `CI=true` they fail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use plugsocket_tests::{Client, Line, Request, Setup, TestHost, masked, opcode, skip, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const DAY: i64 = 24 * 60 * 60;
/// The successive offsets of the clock in days.
const JUMPS: [i64; 6] = [3, 40, -40, 0, -15_000, 0];

/// The system clock of a host.
struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Creates a clock; None if the library is missing.
    fn new(test: &str) -> Option<Self> {
        if library().is_none() {
            skip(test, "libfaketime is missing", "apt-get install faketime");
            return None;
        }
        let name = format!("plugsocket-clock-{}-{test}", std::process::id());
        let clock = Self { file: std::env::temp_dir().join(name) };
        clock.set(0);
        Some(clock)
    }

    /// Starts a host with this clock. The monotonic clock is not changed, as on a real machine.
    async fn start(&self, setup: Setup) -> TestHost {
        let library = library().unwrap();
        let host = setup
            .environment("LD_PRELOAD", library.to_str().unwrap())
            .environment("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap())
            .environment("FAKETIME_NO_CACHE", "1")
            .environment("DONT_FAKE_MONOTONIC", "1")
            .start()
            .await;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", host.pid())).unwrap();
        assert!(maps.contains("libfaketime"), "libfaketime is not loaded");
        host
    }

    fn set(&self, days: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{days:+}d\n")).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.file));
    }
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}

/// Creates a token that expires in `seconds`, by a clock that is `days` ahead.
fn token(days: i64, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let exp = i64::try_from(now).unwrap() + days * DAY + seconds;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"alg": "HS256", "typ": "JWT"}));
    let signed = format!("{head}.{}", part(&json!({"sub": "ann", "exp": exp})));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

async fn total(client: &mut Client) -> u64 {
    client.send("x").await;
    client.until_next().await.packets[0]["total"].as_u64().unwrap()
}

/// Waits until a snapshot file has been replaced twice.
async fn wait_for_two_snapshots(file: &Path) {
    let inode = || std::fs::metadata(file).ok().map(|meta| (meta.ino(), meta.mtime_nsec()));
    within("two snapshots", async {
        for _ in 0..2 {
            let before = inode();
            while inode() == before {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

async fn handshake(host: &TestHost, token: &str) -> u16 {
    host.raw().await.try_handshake(&format!("/guarded?token={token}")).await
}

#[tokio::test]
async fn connections_reloads_ticks_and_snapshots_continue_and_tokens_use_the_new_time() {
    let Some(clock) = Clock::new("connections") else { return };
    let setup = Setup::new(PROGRAM).resource("/count", "counter").library("counter", "counter_v1");
    let setup = setup.key("/count", "snapshot_every", "0.2").put("secret.key", SECRET);
    let setup = setup.resource("/speak", "speaker").config("/speak", "tick_ms", "50");
    let setup = setup.plain("/guarded", "echo").auth("/guarded", "from", r#"["query:token"]"#);
    let setup = setup.auth("/guarded", "keys", r#"[{ algorithm = "HS256", file = "secret.key" }]"#);
    let setup = setup.auth("/guarded", "leeway", "0").auth("/guarded", "close_on_expiry", "true");
    let host = clock.start(setup).await;
    let file = host.folder().join(".plugsocket/state/snapshots/%2Fcount.snapshot");
    let mut counting = host.connect("/count").await;
    let target = format!("/guarded?token={}", token(0, 600));
    let mut guarded = host.open(Request::to(&target)).await;
    let mut sent = 0;
    for (number, days) in JUMPS.into_iter().enumerate() {
        clock.set(days);
        assert_eq!(handshake(&host, &token(days, 600)).await, 101, "{days}");
        assert_eq!(handshake(&host, &token(days, -600)).await, 401, "{days}");
        // The remaining time of its token was computed when it connected.
        guarded.send("here").await;
        assert_eq!(guarded.receive_text().await, "here", "{days}");
        let mut listening = host.connect("/speak").await;
        for _ in 0..3 {
            assert!(listening.receive_json().await["tick"].is_number(), "{days}");
        }
        wait_for_two_snapshots(&file).await;
        sent += 1;
        assert_eq!(total(&mut counting).await, sent, "{days}");
        host.reload("counter", ["counter_v2", "counter_v1"][number % 2]).await;
        sent += 1;
        assert_eq!(total(&mut counting).await, sent, "{days}");
    }
    // Its secret has the mode of the umask.
    let is_expected = |line: &Line| line.starts_with("all users can read this secret");
    let is_problem = |line: &Line| matches!(line.level(), "WARN" | "ERROR") && !is_expected(line);
    assert!(!host.log().iter().any(is_problem), "the host logs no warning");
}

#[tokio::test]
async fn ping_interval_and_graceful_shutdown_are_not_affected() {
    let Some(clock) = Clock::new("pings") else { return };
    let setup = Setup::new(PROGRAM).plain("/echo", "echo").server("ping_interval", "1");
    let mut host: TestHost = clock.start(setup).await;
    let mut client = host.raw().await.upgraded("/echo").await;
    for days in JUMPS {
        clock.set(days);
        for _ in 0..2 {
            let ping = client.frame().await.unwrap();
            assert_eq!(ping.first, opcode::PING, "{days}");
            client.write(masked(opcode::PONG, &ping.payload)).await;
        }
    }
    clock.set(-100);
    host.signal("TERM");
    let closed = loop {
        match client.frame().await.unwrap() {
            frame if frame.first == opcode::PING => {}
            frame => break frame.close_code(),
        }
    };
    assert_eq!(closed, Some(1001));
    drop(client);
    assert_eq!(host.exited().await.code(), Some(0));
}
