//! One connection that exchanges numbered messages with the counter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Client;

/// How a connection talks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talk {
    /// Messages under way at once.
    pub(super) in_flight: u64,
    /// After each answer.
    pub(super) pace: Duration,
}

/// What came of it on one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) closed: u64,
    /// The application's count of all messages when it last answered here.
    pub(super) total: u64,
}

/// What all connections find out together.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) front: watch::Sender<Front>,
    /// A permit for each connection that had its first answer.
    pub(super) spoken: Semaphore,
}

impl Default for Findings {
    fn default() -> Self {
        Self { front: watch::Sender::default(), spoken: Semaphore::new(0) }
    }
}

/// Which version serves, as the answers tell.
#[derive(Clone, Debug)]
pub(super) struct Front {
    pub(super) by: String,
    /// When its first answer came.
    pub(super) since: Instant,
    /// The application's count in that answer.
    total: u64,
}

impl Default for Front {
    fn default() -> Self {
        Self { by: String::new(), since: Instant::now(), total: 0 }
    }
}

impl Front {
    /// An answer of the version before it may still be read later; its count is lower.
    fn advance(&mut self, by: &str, total: u64) -> bool {
        let is_next = total > self.total && by != self.by;
        if is_next {
            *self = Self { by: by.to_owned(), since: Instant::now(), total };
        }
        is_next
    }
}

/// Talks until it is told to stop; then sends one last message, awaits all answers and closes.
pub(super) async fn exchange(
    mut client: Client,
    talk: Talk,
    findings: Arc<Findings>,
    mut stop: watch::Receiver<bool>,
) -> Part {
    let mut part = Part::default();
    // The number of the answer that is due.
    let mut due = 1;
    let mut was_last = false;
    loop {
        while part.sent < due + talk.in_flight - 1 && !*stop.borrow() {
            part.sent += 1;
            if client.try_send(Message::text(part.sent.to_string())).await.is_err() {
                break;
            }
        }
        if due > part.sent {
            if was_last {
                client.close().await;
                return part;
            }
            was_last = true;
            part.sent += 1;
            // A connection that has ended is noticed below.
            drop(client.try_send(Message::text(part.sent.to_string())).await);
        }
        let counted = match timeout(PATIENCE, answer(&mut client)).await {
            Ok(Some(counted)) => counted,
            ended => {
                part.closed += u64::from(ended.is_ok());
                part.lost += part.sent + 1 - due;
                return part;
            }
        };
        let total = counted["total"].as_u64().unwrap_or_default();
        part.total = part.total.max(total);
        let by = counted["by"].as_str().unwrap_or_default();
        findings.front.send_if_modified(|front| front.advance(by, total));
        if due == 1 {
            findings.spoken.add_permits(1);
        }
        let number = counted["message"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        match number {
            _ if number == due && counted["seq"] == number => part.answered += 1,
            _ if number == due => part.duplicated += 1,
            _ if number < due => {
                part.reordered += 1;
                continue;
            }
            _ => part.lost += number - due,
        }
        due = number + 1;
        pause(talk.pace, &mut stop).await;
    }
}

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(15);

async fn pause(length: Duration, stop: &mut watch::Receiver<bool>) {
    if length.is_zero() || *stop.borrow() {
        return;
    }
    tokio::select! {
        () = sleep(length) => {}
        _ = stop.wait_for(|stop| *stop) => {}
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
