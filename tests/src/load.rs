//! Replacing a library again and again under connections that exchange numbered messages.
//!
//! Each connection keeps several messages under way and checks that each is answered once and in order, by an application that
//! has counted this connection's messages through every reload. What deviates is counted, not asserted, so that a command can
//! report it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::setup::Setup;
use crate::within;

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How often the library is replaced.
    pub reloads: usize,
    /// How many connections exchange messages meanwhile.
    pub connections: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages answered as they should be.
    pub answered: u64,
    /// Messages never answered.
    pub lost: u64,
    /// Messages answered more than once, or counted more than once.
    pub duplicated: u64,
    /// Answers out of order.
    pub reordered: u64,
    /// Connections that ended before their time.
    pub closed: u64,
    /// How long messages waited at each reload, as the host's log says, sorted.
    pub pauses: Vec<Duration>,
    /// Resident memory of the host in bytes, before the first reload.
    pub resident_before: u64,
    /// And after the last one.
    pub resident_after: u64,
    /// From the first message to the last.
    pub took: Duration,
}

impl Report {
    /// Whether nothing went wrong at all.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.closed == 0
            && self.sent == self.answered
    }

    /// The pause that a share of the reloads did not exceed; `share` in percent.
    pub fn pause(&self, share: usize) -> Duration {
        let rank = (self.pauses.len() * share).div_ceil(100);
        self.pauses.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Messages of one connection that are under way at once.
const IN_FLIGHT: u64 = 4;

/// Does it. `program` is the host.
///
/// # Panics
/// When the host does not start or a reload does not happen in time.
pub async fn reload_under_load(program: impl Into<PathBuf>, plan: Plan) -> Report {
    let setup = Setup::new(program).library("counter", "counter_v1").resource("/count", "counter");
    let host = setup.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..plan.connections {
        clients.spawn(exchange(host.connect("/count").await, stop.clone()));
    }
    let begun = Instant::now();
    let resident_before = host.resident_bytes();
    let mut pauses = Vec::new();
    for number in 0..plan.reloads {
        let position = host.log_position();
        host.reload("counter", if number % 2 == 0 { "counter_v2" } else { "counter_v1" }).await;
        let served = "resource is served by a new instance";
        let line = host.wait_for_log_since(position, served, |line| line.says(served)).await;
        pauses.push(duration(&line.field("pause")));
    }
    stop.store(true, Ordering::Relaxed);
    let mut report = Report { pauses, resident_before, ..Report::default() };
    let mut handled = 0;
    while let Some(part) = within("the connections to finish", clients.join_next()).await {
        let (part, total) = part.unwrap();
        handled = handled.max(total);
        report.sent += part.sent;
        report.answered += part.answered;
        report.lost += part.lost;
        report.duplicated += part.duplicated;
        report.reordered += part.reordered;
        report.closed += part.closed;
    }
    // The application's own count over all generations: what it handled twice without answering twice.
    report.duplicated += handled.saturating_sub(report.sent);
    report.took = begun.elapsed();
    report.resident_after = host.resident_bytes();
    report.pauses.sort();
    report
}

/// One connection: its part of the report, and the application's count of all messages when it last answered here.
async fn exchange(mut client: Client, stop: Arc<AtomicBool>) -> (Report, u64) {
    let mut report = Report::default();
    let mut total = 0;
    // The number of the answer that is due.
    let mut due = 1;
    loop {
        while report.sent < due + IN_FLIGHT - 1 && !stop.load(Ordering::Relaxed) {
            report.sent += 1;
            let message = tokio_tungstenite::tungstenite::Message::text(report.sent.to_string());
            if client.try_send(message).await.is_err() {
                break;
            }
        }
        if due > report.sent {
            client.close().await;
            return (report, total);
        }
        let Some(counted) = answer(&mut client).await else {
            report.closed += 1;
            report.lost += report.sent + 1 - due;
            return (report, total);
        };
        total = total.max(counted["total"].as_u64().unwrap_or_default());
        let number = counted["message"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        match number {
            _ if number == due && counted["seq"] == number => report.answered += 1,
            _ if number == due => report.duplicated += 1,
            _ if number < due => {
                report.reordered += 1;
                continue;
            }
            _ => report.lost += number - due,
        }
        due = number + 1;
    }
}

/// The next answer with its `next`; None if the connection has ended.
async fn answer(client: &mut Client) -> Option<Value> {
    let mut counted = None;
    loop {
        let message = client.receive().await?;
        if message.is_close() {
            return None;
        }
        let Ok(packet) = serde_json::from_str::<Value>(message.to_text().ok()?) else { continue };
        match packet["opcode"].as_str() {
            Some("counted") => counted = Some(packet),
            Some("next") if counted.is_some() => return counted,
            _ => {}
        }
    }
}

/// Reads what `Duration`'s `Debug` wrote.
fn duration(text: &str) -> Duration {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        _ => 1.0,
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap_or_default() * factor)
}
