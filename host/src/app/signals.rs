//! Receives the signals of the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::AppError;

/// The signals that the host handles.
pub(super) struct Signals {
    pub(super) stop: StopSignals,
    /// SIGHUP: read the configuration again.
    pub(super) hangup: Signal,
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers; from then on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn install() -> Result<Self, AppError> {
        let handler = |kind| signal(kind).map_err(AppError::Signals);
        // With a handler, a file over the size limit of the process is a write error of that file.
        drop(handler(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?);
        Ok(Self {
            stop: StopSignals {
                terminate: handler(SignalKind::terminate())?,
                interrupt: handler(SignalKind::interrupt())?,
            },
            hangup: handler(SignalKind::hangup())?,
        })
    }
}

impl StopSignals {
    /// Waits for one of the two.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
