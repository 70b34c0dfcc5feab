//! A connection that exchanges numbered messages with the counter application.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;

/// The rate at which a connection sends messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    /// Unanswered messages at a time.
    pub(super) in_flight: u64,
    /// The pause after each answer.
    pub(super) pause: Duration,
}

/// The results of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionReport {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) closed: u64,
    /// The application's count of all messages, in its last answer on this connection.
    pub(super) total: u64,
}

/// State that all connections update.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) version: watch::Sender<Version>,
    /// Gains a permit for each connection that received its first answer.
    pub(super) answered_once: Semaphore,
}

impl Default for Progress {
    fn default() -> Self {
        Self { version: watch::Sender::default(), answered_once: Semaphore::new(0) }
    }
}

/// The version of the application that answers.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) by: String,
    /// When the first answer of this version arrived.
    pub(super) since: Instant,
    /// The application's count in the first answer.
    total: u64,
}

impl Default for Version {
    fn default() -> Self {
        Self { by: String::new(), since: Instant::now(), total: 0 }
    }
}

impl Version {
    /// Switches to a new version. A late answer of the previous version has a lower count.
    fn advance(&mut self, by: &str, total: u64) -> bool {
        let is_next = total > self.total && by != self.by;
        if is_next {
            *self = Self { by: by.to_owned(), since: Instant::now(), total };
        }
        is_next
    }
}

/// Exchanges messages until stopped; then sends a last message, awaits all answers and closes.
pub(super) async fn exchange(
    mut client: Client,
    pacing: Pacing,
    progress: Arc<Progress>,
    mut stop: watch::Receiver<bool>,
) -> ConnectionReport {
    let mut report = ConnectionReport::default();
    // The number of the next answer.
    let mut due = 1;
    let mut was_last = false;
    loop {
        while report.sent < due + pacing.in_flight - 1 && !*stop.borrow() {
            report.sent += 1;
            if client.try_send(Message::text(report.sent.to_string())).await.is_err() {
                break;
            }
        }
        if due > report.sent {
            if was_last {
                client.close().await;
                return report;
            }
            was_last = true;
            report.sent += 1;
            // The end of the connection is detected below.
            drop(client.try_send(Message::text(report.sent.to_string())).await);
        }
        let counted = match timeout(ANSWER_TIMEOUT, answer(&mut client)).await {
            Ok(Some(counted)) => counted,
            ended => {
                report.closed += u64::from(ended.is_ok());
                report.lost += report.sent + 1 - due;
                return report;
            }
        };
        let total = counted["total"].as_u64().unwrap_or_default();
        report.total = report.total.max(total);
        let by = counted["by"].as_str().unwrap_or_default();
        progress.version.send_if_modified(|version| version.advance(by, total));
        if due == 1 {
            progress.answered_once.add_permits(1);
        }
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
        pause(pacing.pause, &mut stop).await;
    }
}

/// The time after which an answer counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

async fn pause(length: Duration, stop: &mut watch::Receiver<bool>) {
    if length.is_zero() || *stop.borrow() {
        return;
    }
    tokio::select! {
        () = sleep(length) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Returns the next answer after its `next` arrived; None if the connection has ended.
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
