//! What an operator uses to run the host: the control socket, the log, systemd and draining.
//!
//! Does not know sockets of clients or the code of plugins; it asks the supervisor for changes.

pub(crate) mod control;
pub(crate) mod drain;
pub(crate) mod events;
mod log_writer;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod systemd;
