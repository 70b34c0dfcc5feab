//! An application with a Tokio runtime of its own: it looks up the addresses of host names.
//!
//! A client sends a name, `example.org` or `localhost:80`, and receives the addresses. Its `next`
//! comes with them, so it may send many names without waiting: each is acknowledged in its order.
//!
//! Build it with `cargo build --release -p plugsocket-plugin --example async_lookup`; the library is
//! `target/release/examples/libasync_lookup.so`.

use std::time::{Duration, Instant};

use plugsocket_plugin::{
    CloseCode, Host, Message, Plugin, Refused, RetireReason, Session, StartError, export_plugin,
    read_config,
};
use serde::Deserialize;
use tokio::net::lookup_host;
use tokio::runtime::{Builder, Runtime};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Time limit of a lookup, in seconds.
    timeout: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { timeout: 5.0 }
    }
}

struct Lookup {
    host: Host,
    timeout: Duration,
    /// `None` once the instance has retired.
    runtime: Option<Runtime>,
}

impl Plugin for Lookup {
    // The work is done in tasks.
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { timeout } = read_config(config)?;
        let timeout = Duration::try_from_secs_f64(timeout)
            .map_err(|_| StartError::new("`timeout` must be a number of seconds, such as 5"))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lookup")
            .enable_all()
            .build()?;
        Ok(Self { host, timeout, runtime: Some(runtime) })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let invalid = || Refused::with_code(CloseCode::INVALID, "send a host name");
        let name = message.to_text().filter(|name| !name.is_empty()).ok_or_else(invalid)?;
        let name = if name.contains(':') { name.to_owned() } else { format!("{name}:0") };
        let (host, to, timeout) = (self.host.clone(), session.id(), self.timeout);
        let ticket = host.defer(session)?;
        let Some(runtime) = &self.runtime else { return Ok(()) };
        drop(runtime.spawn(async move {
            let answer = match tokio::time::timeout(timeout, lookup_host(&name)).await {
                Ok(Ok(found)) => {
                    let found: Vec<String> = found.map(|at| at.ip().to_string()).collect();
                    serde_json::json!({"name": name, "addresses": found})
                }
                Ok(Err(error)) => serde_json::json!({"name": name, "error": error.to_string()}),
                Err(_) => serde_json::json!({"name": name, "error": "timed out"}),
            };
            // Fails only if the client has left.
            let _ = host.send_json(to, &answer);
            let _ = ticket.complete();
        }));
        Ok(())
    }

    fn retiring(&mut self, _: RetireReason, deadline: Instant) {
        // Lookups that are under way still answer; their tickets fail where they do not end.
        if let Some(runtime) = self.runtime.take() {
            while runtime.metrics().num_alive_tasks() > 0 && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            runtime.shutdown_background();
        }
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

export_plugin!(Lookup);
