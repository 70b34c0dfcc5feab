//! systemd integration: readiness notifications, watchdog heartbeat and socket activation.
//!
//! Does nothing where `NOTIFY_SOCKET` and `LISTEN_FDS` are not set. A failure here never stops the
//! host from serving. See `sd_notify(3)` and `sd_listen_fds(3)`.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::error::counted;
use crate::net::listener::{Layer, Listener};
use crate::supervisor::Change;

/// Reports that the host serves.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports a state that is not a change of readiness.
pub(crate) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Reports that a reload has begun; [`ready`] ends it.
pub(crate) fn reloading() {
    let status = NotifyState::Status("reloading the configuration");
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, status]),
        // systemd rejects a reload notification without a timestamp.
        Err(error) => {
            debug!(%error, "cannot read the monotonic clock; reload not reported to systemd")
        }
    }
}

/// Reports that the host closes its connections.
pub(crate) fn stopping(connections: usize) {
    let verb = if connections == 1 { "is" } else { "are" };
    let connections = counted(connections, "connection");
    let status = format!("stopping; {connections} {verb} being closed");
    notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Sends the heartbeat twice per `WATCHDOG_USEC`, each time after the supervisor has answered an
/// inquiry. If the supervisor hangs, the heartbeat stops and systemd restarts the host.
pub(crate) async fn heartbeat(changes: mpsc::Sender<Change>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let mut due = interval((limit / 2).max(Duration::from_millis(1)));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let (answer, answered) = oneshot::channel();
        if changes.send(Change::Inquiry(answer)).await.is_err() {
            return;
        }
        if answered.await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send(&socket, text.as_bytes()) {
        warn!(%error, "sd_notify failed");
    }
}

/// Sends one datagram to a socket file or an abstract socket (`@name`), unlike the crate's sender.
fn send(socket: &OsStr, text: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // A lost notification is better than a host that blocks on systemd.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(text, &address).map(drop)
}

/// Sockets that systemd passed to the process.
pub(crate) struct Inherited {
    sockets: ListenFd,
    /// `FileDescriptorName` of each socket; may be shorter.
    names: Vec<String>,
}

impl Inherited {
    /// Takes the sockets and removes them from the environment, so that child processes do not use
    /// them. Must run before other threads start.
    pub(crate) fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(ToOwned::to_owned).collect();
        Self { sockets: ListenFd::from_env(), names }
    }

    /// Turns the sockets into listeners, with TLS for those with the name `tls`. Empty without
    /// socket activation.
    ///
    /// # Errors
    /// One of the sockets is not a listening TCP or Unix stream socket.
    pub(crate) fn listeners(mut self) -> io::Result<Vec<Listener>> {
        let count = self.sockets.len();
        let layer = |index: usize| match self.names.get(index) {
            Some(name) if name == "tls" => Layer::Tls,
            _ => Layer::Plain,
        };
        (0..count).map(|index| listener(&mut self.sockets, index, layer(index))).collect()
    }
}

fn listener(sockets: &mut ListenFd, index: usize, layer: Layer) -> io::Result<Listener> {
    const TAKEN: &str = "each index is taken once";
    if layer == Layer::Plain
        && let Ok(unix) = sockets.take_unix_listener(index)
    {
        let unix = unix.expect(TAKEN);
        unix.set_nonblocking(true)?;
        return UnixListener::from_std(unix).map(Listener::Unix);
    }
    let tcp = sockets.take_tcp_listener(index)?.expect(TAKEN);
    tcp.set_nonblocking(true)?;
    Listener::new(TcpListener::from_std(tcp)?, layer)
}
