//! Why and how a connection ends, and how that is written on the wire.

use std::time::Duration;

use plugsocket_plugin::{CloseCode, ClosedBy};

use super::dialog;

/// How long a rejected client should wait before it retries, where a retry can succeed.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why the host drops what it buffers for a connection.
pub(crate) const BUFFERS_FULL: &str =
    "the host buffers too much for all clients together (max_buffered_bytes)";

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: CloseCode,
    pub(crate) by: ClosedBy,
    pub(crate) text: String,
    /// When the peer may reconnect; sent in the `close` packet.
    pub(crate) retry_after: Option<Duration>,
}

impl CloseReason {
    pub(crate) fn new(code: CloseCode, by: ClosedBy, text: impl Into<String>) -> Self {
        Self { code, by, text: text.into(), retry_after: None }
    }

    /// Returns the reason of a connection that the host closes.
    pub(crate) fn host(code: CloseCode, text: impl Into<String>) -> Self {
        Self::new(code, ClosedBy::Host, text)
    }

    /// Returns the reason of a connection that is evicted.
    pub(crate) fn buffers_full() -> Self {
        let retry_after = Some(RETRY_AFTER);
        Self { retry_after, ..Self::host(CloseCode::TRY_AGAIN, BUFFERS_FULL) }
    }

    /// Returns the reason of a connection that the peer closed.
    pub(crate) fn peer(code: CloseCode, text: impl Into<String>) -> Self {
        Self::new(code, ClosedBy::Peer, text)
    }

    /// Returns whether the peer first receives the answers to the messages that the application
    /// already has: the host ends, or removes the application, and neither side has failed.
    pub(crate) fn waits_for_answers(&self) -> bool {
        self.by == ClosedBy::Host && self.code == CloseCode::AWAY
    }

    /// Returns whether the host closes a slow consumer. Every other 1013 says when to retry.
    pub(crate) fn is_slow_consumer(&self) -> bool {
        let is_1013 = self.by == ClosedBy::Host && self.code == CloseCode::TRY_AGAIN;
        is_1013 && self.retry_after.is_none()
    }

    /// Returns whether something failed. A close frame from the peer is never a failure, whatever
    /// its code: a browser's plain `close()` yields 1005.
    pub(crate) fn is_fault(&self) -> bool {
        match self.by {
            ClosedBy::Peer => self.code == CloseCode::ABNORMAL,
            ClosedBy::Plugin => false,
            _ => !matches!(self.code, CloseCode::NORMAL | CloseCode::AWAY),
        }
    }
}

/// Returns the `close` packet for a reason.
pub(crate) fn close_packet(reason: &CloseReason) -> String {
    match reason.retry_after {
        Some(after) => dialog::close_retry(&reason.text, after),
        None => dialog::close(&reason.text),
    }
}

/// Returns the code to send in a close frame; codes that may not be sent become 1008.
pub(crate) fn sendable(code: CloseCode) -> CloseCode {
    if is_sendable(code.0) { code } else { CloseCode::POLICY }
}

/// Returns whether a close frame may carry this code (RFC 6455, section 7.4, and IANA's registry).
pub(crate) fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
