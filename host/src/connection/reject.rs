//! The last words to those who are not served, and how long they are given to hear them.
//!
//! Owns a socket from the moment at which nothing more is wanted of it, as long as it has no resource; the end of those that have
//! one is `connection.rs`'.

use std::io;
use std::time::{Duration, SystemTime};

use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::handshake::{Handshake, HandshakeError, Intent};
use super::http_post;
use crate::auth::Denial;
use crate::config::{Config, Timeouts};
use crate::net::connection_limits::{Handshaking, LimitReached, Rejecting};
use crate::net::origin::Origin;
use crate::protocol::close::{CloseReason, RETRY_AFTER, close_packet};
use crate::protocol::dialog;
use crate::protocol::http::{self, Refusal};
use crate::protocol::io::linger;
use crate::protocol::wire::Wire;

/// Why a connection belongs nowhere, and how it is told.
pub(crate) enum Rejection {
    /// By an HTTP answer.
    Http(CloseReason, Refusal),
    /// By the dialog, because a browser cannot read an HTTP error; with the subprotocol that the handshake needs.
    Dialog(CloseReason, Option<Box<str>>),
}

impl From<LimitReached> for Rejection {
    /// It may come back.
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

    /// Not let in, told with the status that says so.
    pub(crate) fn denied(denial: Denial) -> Self {
        Self::Http(denied(&denial), denial.refusal)
    }
}

/// Not let in, for the dialog.
pub(crate) fn denied(denial: &Denial) -> CloseReason {
    let code = match denial.retry_after {
        None => CloseCode::POLICY,
        Some(_) => CloseCode::TRY_AGAIN,
    };
    let reason = CloseReason::host(code, denial.refusal.reason());
    CloseReason { retry_after: denial.retry_after, ..reason }
}

/// How long somebody may take to hear the last words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CloseTimeouts {
    /// To take them.
    write: Duration,
    /// To end, too.
    close: Duration,
}

impl CloseTimeouts {
    /// With those who have a place of their own.
    pub(crate) fn full(timeouts: &Timeouts) -> Self {
        Self { write: timeouts.write, close: timeouts.close }
    }

    /// What the system takes at once is said, what it has is read, and that is the end.
    const NONE: Self = Self { write: Duration::ZERO, close: Duration::ZERO };
}

/// The end of a connection that has no resource. Its place at the door is free for others meanwhile.
pub(crate) struct Rejector<'a> {
    config: &'a Config,
    close_timeouts: CloseTimeouts,
    /// Held to the end.
    _leaving: Rejecting,
}

impl<'a> Rejector<'a> {
    pub(crate) fn new(handshaking: Handshaking, config: &'a Config) -> Self {
        let rejecting = handshaking.reject();
        let close_timeouts = match rejecting.may_linger(&config.server.limits) {
            true => CloseTimeouts::full(&config.server.timeouts),
            false => CloseTimeouts::NONE,
        };
        Self { config, close_timeouts, _leaving: rejecting }
    }

    /// Writes an answer and ends the connection.
    pub(crate) async fn answer<S>(self, stream: S, bytes: &[u8])
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        answer(stream, bytes, self.close_timeouts).await;
    }

    /// To whom no handshake can be made.
    pub(crate) async fn refuse<S>(self, mut stream: S, no: HandshakeError, origin: Origin)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let CloseTimeouts { write, close } = self.close_timeouts;
        if let HandshakeError::Refused(refusal) = &no {
            debug!(status = refusal.status(), reason = refusal.reason(), address = %origin.to_text(), "refused");
        }
        match no {
            // It may only have ended its own side, and TLS has an end of its own to tell (RFC 8446, section 6.1).
            HandshakeError::Left => {
                debug!(address = %origin.to_text(), "left before its request was whole");
                drop(timeout(close, stream.shutdown()).await);
            }
            // Who has said nothing whole for so long is not waited for again; but what it did send was read, so the answer arrives.
            HandshakeError::Refused(late) if late.status() == 408 => {
                drop(timeout(write, tell(&mut stream, &late.to_bytes())).await);
            }
            HandshakeError::Refused(refusal) => {
                self.answer(stream, &refusal.to_bytes()).await;
            }
            HandshakeError::RefusedLines(reason) => {
                debug!(reason, address = %origin.to_text(), "refused");
                self.answer(stream, format!("{}\n", dialog::close(reason)).as_bytes()).await;
            }
        }
    }

    /// Tells a peer why there is nothing for it, in the way that it can read.
    pub(crate) async fn turn_away<S>(
        self,
        mut stream: S,
        handshake: Handshake,
        rejection: Rejection,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (Rejection::Http(reason, _) | Rejection::Dialog(reason, _)) = &rejection;
        let address = handshake.origin.to_text();
        debug!(path = handshake.head.path(), reason = reason.text, %address, "turned away");
        let packet = close_packet(reason);
        match (handshake.intent, &rejection) {
            (Intent::Lines { .. }, _) => {
                self.answer(stream, format!("{packet}\n").as_bytes()).await;
            }
            (Intent::Post { .. }, rejection) => {
                let refusal = match rejection {
                    Rejection::Http(_, refusal) => refusal.clone(),
                    Rejection::Dialog(reason, _) => refusal(reason),
                };
                let body = format!("{packet}\n");
                self.answer(stream, &refusal.with_body(http_post::JSON, body.as_bytes())).await;
            }
            (Intent::WebSocket { upgrade, .. }, Rejection::Dialog(reason, protocol)) => {
                let goodbye = async {
                    stream.write_all(&http::switching(&upgrade, protocol.as_deref())).await?;
                    let limits = &self.config.server.limits;
                    let mut wire = Wire::websocket(&mut stream, handshake.read, limits);
                    wire.send_close(reason, Some(close_packet(reason))).await?;
                    wire.linger().await;
                    io::Result::Ok(())
                };
                // A peer that does not take it goes without.
                drop(timeout(self.close_timeouts.close, goodbye).await);
                // Also to one that did not answer, TLS has its end to tell (RFC 8446, section 6.1); it is not waited for again.
                drop(timeout(Duration::ZERO, stream.shutdown()).await);
            }
            (Intent::WebSocket { .. }, Rejection::Http(_, refusal)) => {
                self.answer(stream, &refusal.to_bytes()).await;
            }
            (Intent::Page(_), _) => self.answer(stream, &refusal(reason).to_bytes()).await,
        }
    }
}

/// 503 where another try may help, else 404.
fn refusal(reason: &CloseReason) -> Refusal {
    match reason.retry_after {
        Some(after) => Refusal::unavailable(reason.text.clone(), after),
        None => Refusal::not_found(reason.text.clone()),
    }
}

/// Writes the one answer of a connection and ends it.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    bytes: &[u8],
    close_timeouts: CloseTimeouts,
) {
    let bytes = http::dated(bytes, SystemTime::now());
    let written = timeout(close_timeouts.write, stream.write_all(&bytes)).await;
    if matches!(written, Ok(Ok(()))) {
        drop(timeout(close_timeouts.close, linger(&mut stream)).await);
    }
}

async fn tell<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&http::dated(bytes, SystemTime::now())).await?;
    stream.shutdown().await
}
