//! Why and how a connection ends, and how that is written on the wire.

use std::time::Duration;

use plugsocket_plugin::{CloseCode, ClosedBy};

use super::dialog;
use super::ws::frame;

/// How long a refused client is told to wait where waiting helps.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: CloseCode,
    pub(crate) by: ClosedBy,
    pub(crate) text: String,
    /// After which the peer may come back, told in the `close` packet.
    pub(crate) retry_after: Option<Duration>,
}

impl CloseReason {
    pub(crate) fn new(code: CloseCode, by: ClosedBy, text: impl Into<String>) -> Self {
        Self { code, by, text: text.into(), retry_after: None }
    }

    /// Whether something went wrong, as opposed to somebody leaving. A peer that says goodbye has left, whatever its code: that of
    /// a browser's plain `close()` is 1005.
    pub(crate) fn is_fault(&self) -> bool {
        match self.by {
            ClosedBy::Peer => self.code == CloseCode::ABNORMAL,
            ClosedBy::Plugin => false,
            _ => !matches!(self.code, CloseCode::NORMAL | CloseCode::AWAY),
        }
    }

    pub(crate) fn host(code: CloseCode, text: impl Into<String>) -> Self {
        Self::new(code, ClosedBy::Host, text)
    }
}

/// The `close` packet for a reason.
pub(crate) fn close_packet(reason: &CloseReason) -> String {
    match reason.retry_after {
        Some(after) => dialog::close_retry(&reason.text, after),
        None => dialog::close(&reason.text),
    }
}

/// A code that may stand in a close frame (RFC 6455, section 7.4); any other becomes 1008.
pub(crate) fn sendable(code: CloseCode) -> CloseCode {
    if frame::is_close_code(code.0) { code } else { CloseCode::POLICY }
}
