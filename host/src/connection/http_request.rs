//! Plain HTTP requests that the application of a resource answers (`Plugin::request`).
//!
//! The answer may come during or after the callback. Meanwhile the connection reads on, to learn
//! whether the client has left; what it reads belongs to the next request.

use std::future::pending;
use std::sync::Arc;

use plugsocket_plugin::CloseCode;
use tokio::io::AsyncReadExt;
use tokio::time::sleep;

use super::Socket;
use super::finish::find_lane;
use crate::config::ServerSettings;
use crate::net::connection_limits::ConnectionLimits;
use crate::plugin::lane::Item;
use crate::plugin::lane::inbox::Inbox;
use crate::protocol::close::{CloseReason, RETRY_AFTER};
use crate::protocol::http::{Answer, Refusal};
use crate::protocol::time_limit::timeout;
use crate::routing::requests::{HttpRequest, Wait};

/// How a request ended.
pub(super) enum Outcome {
    Answered(Answer),
    /// The application leaves the request to the host.
    Unhandled,
    Refused(Refusal),
    /// The client has left.
    Left,
}

/// A request on its way to the application.
pub(super) struct Exchange {
    pub(super) request: Arc<HttpRequest>,
    pub(super) wait: Wait,
    pub(super) inbox: Inbox,
}

/// Lets the application answer. `rest` is what was read behind the request.
pub(super) async fn ask(
    stream: &mut impl Socket,
    rest: &mut Vec<u8>,
    exchange: Exchange,
    limits: &ConnectionLimits,
    settings: &ServerSettings,
) -> Outcome {
    let stopping = async {
        limits.keep_alive_ended().await;
        sleep(settings.timeouts.drain / 2).await;
    };
    let is_script = exchange.request.kind.is_backend();
    tokio::select! {
        biased;
        answer = timeout(settings.watchdog.callback_limit, exchange.answer()) => match answer {
            Ok(Ok(Answer { status: Answer::UNHANDLED, .. })) => Outcome::Unhandled,
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(reason)) => refused(&reason),
            Err(_) => refused(&unavailable("the application did not answer in time")),
        },
        // A script may close its writing half behind the request.
        () = end_of(stream, rest), if !is_script => Outcome::Left,
        () = stopping => refused(&unavailable("server shutting down")),
    }
}

impl Exchange {
    /// Hands the request to the lane and waits for the answer.
    async fn answer(mut self) -> Result<Answer, CloseReason> {
        while self.inbox.send(Item::Request(self.request.clone())).await.is_err() {
            self.inbox = find_lane(&self.request.ticket.resource, &self.inbox)?;
        }
        let answer = tokio::select! {
            biased;
            answer = self.wait.answer() => answer,
            () = self.inbox.health().given_up() => None,
        };
        answer.ok_or_else(|| unavailable("the application has ended"))
    }
}

fn unavailable(text: &str) -> CloseReason {
    CloseReason::host(CloseCode::TRY_AGAIN, text)
}

fn refused(reason: &CloseReason) -> Outcome {
    let after = reason.retry_after.unwrap_or(RETRY_AFTER);
    Outcome::Refused(Refusal::unavailable(reason.text.clone(), after))
}

/// Completes when the client has closed the connection. Reads a bounded part of further requests.
async fn end_of(stream: &mut impl Socket, rest: &mut Vec<u8>) {
    while rest.len() < MAX_REST {
        rest.reserve(1024);
        if matches!(stream.read_buf(rest).await, Ok(0) | Err(_)) {
            return;
        }
    }
    pending().await
}

/// The most bytes of further requests that are read while the application works on one.
const MAX_REST: usize = 16 * 1024;
