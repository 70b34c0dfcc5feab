//! Rejects connections: sends the error response or close frame, then lingers until the client has
//! read it. Owns the socket of a connection that has no resource; `finish` closes the others.

use std::io;
use std::time::{Duration, SystemTime};

use plugsocket_plugin::{CloseCode, Kind};
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::handshake::{Handshake, HandshakeError, Intent};
use super::{Socket, http_post};
use crate::auth::Denial;
use crate::config::{Config, Timeouts};
use crate::net::connection_limits::{Handshaking, LimitReached, Rejecting};
use crate::net::origin::Origin;
use crate::protocol::close::{CloseReason, RETRY_AFTER, close_packet};
use crate::protocol::dialog;
use crate::protocol::http::{self, Method, Refusal};
use crate::protocol::io::{STEP, WriteDeadline, linger};
use crate::protocol::time_limit::timeout;
use crate::protocol::wire::Wire;

/// Why a connection is rejected, and in which form.
pub(crate) enum Rejection {
    /// As an HTTP response.
    Http(CloseReason, Refusal),
    /// As a `close` packet, because a browser cannot read an HTTP error; with the subprotocol that
    /// the handshake needs.
    Dialog(CloseReason, Option<Box<str>>),
}

impl From<LimitReached> for Rejection {
    /// The client may retry.
    fn from(LimitReached(text): LimitReached) -> Self {
        let reason = CloseReason::host(CloseCode::TRY_AGAIN, text);
        Self::http(CloseReason { retry_after: Some(RETRY_AFTER), ..reason })
    }
}

impl Rejection {
    pub(crate) fn http(reason: CloseReason) -> Self {
        let refusal = refusal(&reason);
        Self::Http(reason, refusal)
    }
}

/// Returns the close reason for an unauthenticated client.
pub(crate) fn denied(denial: &Denial) -> CloseReason {
    let code = match denial.retry_after {
        None => CloseCode::POLICY,
        Some(_) => CloseCode::TRY_AGAIN,
    };
    let reason = CloseReason::host(code, denial.refusal.reason());
    CloseReason { retry_after: denial.retry_after, ..reason }
}

/// Time limits for a rejected client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseTimeouts {
    /// For reading the answer.
    write: Duration,
    /// For closing its side.
    close: Duration,
}

impl CloseTimeouts {
    /// The configured limits.
    pub(crate) fn full(timeouts: &Timeouts) -> Self {
        Self { write: timeouts.write, close: timeouts.close }
    }

    /// No waiting: write what the system takes, read what has arrived.
    const NONE: Self = Self { write: Duration::ZERO, close: Duration::ZERO };
}

/// Rejects one connection, which no longer counts for `max_handshakes`.
pub(crate) struct Rejector<'a> {
    config: &'a Config,
    close_timeouts: CloseTimeouts,
    /// Counts the rejected connection until it has ended.
    _leaving: Rejecting,
}

impl<'a> Rejector<'a> {
    pub(crate) fn new(handshaking: Handshaking, config: &'a Config) -> Self {
        let rejecting = handshaking.reject();
        let close_timeouts = match rejecting.may_linger(&config.server.limits.connections) {
            true => CloseTimeouts::full(&config.server.timeouts),
            false => CloseTimeouts::NONE,
        };
        Self { config, close_timeouts, _leaving: rejecting }
    }

    /// Writes a response and closes the connection.
    pub(crate) async fn answer(self, stream: impl Socket, bytes: &[u8]) {
        answer(stream, bytes, &[], self.close_timeouts).await;
    }

    /// Answers a failed handshake.
    pub(crate) async fn refuse(
        self,
        mut stream: impl Socket,
        error: HandshakeError,
        origin: Origin,
    ) {
        let CloseTimeouts { write, close } = self.close_timeouts;
        if let HandshakeError::Refused(refusal) = &error {
            debug!(status = refusal.status(), reason = refusal.reason(), address = %origin.to_text(), "request refused");
        }
        match error {
            // It may have closed only its side; TLS needs a close_notify (RFC 8446 section 6.1).
            HandshakeError::Left => {
                debug!(address = %origin.to_text(), "connection ended before a complete request");
                drop(timeout(close, stream.shutdown()).await);
            }
            // Does not linger for a slow client: all it sent was read, so the answer arrives.
            HandshakeError::Refused(late) if late.status() == 408 => {
                let answer = async {
                    stream.write_all(&http::dated(&late.to_bytes(), SystemTime::now())).await?;
                    stream.shutdown().await
                };
                drop(timeout(write, answer).await);
            }
            HandshakeError::Refused(refusal) => self.answer(stream, &refusal.to_bytes()).await,
            HandshakeError::RefusedLines(reason) => {
                debug!(reason, address = %origin.to_text(), "request refused");
                self.answer(stream, format!("{}\n", dialog::close(reason)).as_bytes()).await;
            }
        }
    }

    /// Rejects a valid request in the form that the client can read.
    pub(crate) async fn reject(
        self,
        mut stream: impl Socket,
        handshake: Handshake,
        rejection: Rejection,
    ) {
        let (Rejection::Http(reason, _) | Rejection::Dialog(reason, _)) = &rejection;
        let address = handshake.origin.to_text();
        debug!(path = handshake.head.path(), reason = reason.text, %address, "connection rejected");
        let packet = close_packet(reason);
        match (handshake.intent, rejection) {
            (Intent::Lines { .. }, _) => {
                self.answer(stream, format!("{packet}\n").as_bytes()).await;
            }
            (Intent::WebSocket { accept, .. }, Rejection::Dialog(reason, protocol)) => {
                let goodbye = async {
                    stream.write_all(&http::switching(&accept, protocol.as_deref())).await?;
                    let limits = &self.config.server.limits.messages;
                    let mut wire = Wire::websocket(&mut stream, handshake.read, limits);
                    wire.send_close(&reason, Some(packet)).await?;
                    wire.linger().await;
                    io::Result::Ok(())
                };
                // Best effort within the time limit.
                drop(timeout(self.close_timeouts.close, goodbye).await);
                // TLS needs a close_notify, also where the client did not answer.
                drop(timeout(Duration::ZERO, stream.shutdown()).await);
            }
            (intent, rejection) => {
                let refusal = match rejection {
                    Rejection::Http(_, refusal) => refusal,
                    Rejection::Dialog(reason, _) => refusal(&reason),
                };
                let bytes = match (intent, handshake.head.method()) {
                    // A script reads packets, also where the application would have answered its POST.
                    (Intent::Post(_), _)
                    | (Intent::Request { kind: Kind::Backend, .. }, Method::Post) => {
                        refusal.with_body(http_post::JSON, format!("{packet}\n").as_bytes())
                    }
                    (_, Method::Head) => refusal.without_body().to_bytes(),
                    _ => refusal.to_bytes(),
                };
                self.answer(stream, &bytes).await;
            }
        }
    }
}

/// Returns 503 where a retry may help, else 404.
fn refusal(reason: &CloseReason) -> Refusal {
    match reason.retry_after {
        Some(after) => Refusal::unavailable(reason.text.clone(), after),
        None => Refusal::not_found(reason.text.clone()),
    }
}

/// Writes the last response of a connection and closes it. `body` may be a part of `head`.
pub(crate) async fn answer(
    mut stream: impl Socket,
    head: &[u8],
    body: &[u8],
    limits: CloseTimeouts,
) {
    if write_response(&mut stream, head, body, limits.write).await {
        drop(timeout(limits.close, linger(&mut stream)).await);
    }
}

/// Writes a response; returns whether the client took it in time, with `limit` for each step.
pub(crate) async fn write_response(
    stream: &mut impl Socket,
    head: &[u8],
    body: &[u8],
    limit: Duration,
) -> bool {
    let head = http::dated(head, SystemTime::now());
    // One write, unless that would copy much.
    let (first, rest) = match body.len() < STEP {
        true => ([&head, body].concat(), &[][..]),
        false => (head.into_owned(), body),
    };
    let mut deadline = WriteDeadline::default();
    deadline.write_all(stream, &first, limit).await.is_ok()
        && deadline.write_all(stream, rest, limit).await.is_ok()
        && deadline.flush(stream, limit).await.is_ok()
}
