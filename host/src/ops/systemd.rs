//! What the service manager is told, and what it hands over: notifications, the heartbeat, sockets that it opened.
//!
//! Without systemd (`NOTIFY_SOCKET`, `LISTEN_FDS` are not set) all of this does nothing. A failure here never keeps the host
//! from serving. What the words mean: `sd_notify(3)`, `sd_listen_fds(3)`.

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

use crate::net::listener::{Layer, Listener};
use crate::supervisor::Change;

/// Serving.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reading the configuration again; ends with [`ready`].
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reading the configuration again"),
        ]),
        // Without the time systemd would wait for it in vain.
        Err(error) => debug!(%error, "no clock for the service manager"),
    }
}

/// Draining.
pub(crate) fn stopping(connections: usize) {
    let status = format!("stopping; {connections} connections are being closed");
    notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Tells twice per `WATCHDOG_USEC` that the host lives, and only if the supervisor has just answered: it has a place in its
/// queue like everybody else. A supervisor that is stuck ends the heartbeat, and systemd the host.
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

fn notify(words: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text: String = words.iter().map(|word| format!("{word}\n")).collect();
    if let Err(error) = send(&socket, text.as_bytes()) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// One datagram, to a socket file or to an abstract socket (`@name`), which the crate's own sender takes for a file.
fn send(socket: &OsStr, text: &[u8]) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    // Rather untold than a host that waits for its manager.
    sender.set_nonblocking(true)?;
    sender.send_to_addr(text, &address).map(drop)
}

/// Sockets that were open when the program began.
pub(crate) struct Inherited {
    sockets: ListenFd,
    /// `FileDescriptorName` of each; may be fewer.
    names: Vec<String>,
}

impl Inherited {
    /// Takes them out of the environment, so that no child process believes that they are its own. Before there are threads.
    pub(crate) fn take() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').map(ToOwned::to_owned).collect();
        Self { sockets: ListenFd::from_env(), names }
    }

    /// Makes listeners of them, for TLS of those that are named `tls`; none without socket activation.
    ///
    /// # Errors
    /// One of them is no listening stream socket, TCP or Unix. `Display` says which.
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
    TcpListener::from_std(tcp).map(|tcp| Listener::Tcp(tcp, layer))
}
