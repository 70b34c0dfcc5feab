//! Listening sockets (TCP, TLS, Unix) and the connections they accept.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use rustix::net::sockopt::set_ipv6_v6only;
use socket2::SockRef;
use tokio::net::{
    TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream, lookup_host,
};

/// Protocol directly above TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// HTTP, or JSON lines.
    Plain,
    Tls,
}

/// Whether a socket for any IPv6 address also accepts IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    /// Another socket accepts IPv4 on this port.
    Ipv6Only,
}

/// Listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener, Layer),
    Unix(UnixListener),
}

impl Listener {
    /// Binds the first address of `host` that is available.
    ///
    /// # Errors
    /// The name has no address, or none is available; the last reason.
    pub(crate) async fn bind_tcp(
        host: &str,
        port: u16,
        layer: Layer,
        families: Families,
    ) -> io::Result<Self> {
        let mut reason = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host((host, port)).await? {
            match bind(address, families) {
                Ok(listener) => return Self::new(listener, layer),
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// Takes a TCP socket that listens.
    ///
    /// # Errors
    /// The system refuses a socket option.
    pub(crate) fn new(listener: TcpListener, layer: Layer) -> io::Result<Self> {
        SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_BYTES)?;
        Ok(Self::Tcp(listener, layer))
    }

    /// Binds a socket file, and replaces one that a killed host left.
    ///
    /// # Errors
    /// Another process listens on the file, or it cannot be created.
    pub(crate) async fn bind_unix(path: &Path) -> io::Result<Self> {
        remove_stale_socket(path).await;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        socket.listen(BACKLOG).map(Self::Unix)
    }

    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, layer) => {
                let (stream, address) = listener.accept().await?;
                // Fails on a connection that was already reset, which ends by itself.
                drop(stream.set_nodelay(true));
                Ok(Accepted::Tcp(stream, address.ip().to_canonical(), *layer))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp(_, Layer::Tls))
    }

    /// Returns the address in the notation of the key `listen`.
    pub(crate) fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener, _) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => match listener.local_addr()?.as_pathname() {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix:".to_owned(),
            },
        })
    }
}

/// Backlog; the system lowers it to `net.core.somaxconn`. When it is full, clients retry after one
/// and three seconds, which is too slow for ten thousand that reconnect after a restart.
const BACKLOG: u32 = 4096;

/// `TCP_NOTSENT_LOWAT`, which accepted sockets inherit: what the system buffers beyond the client's
/// window. Without it a socket takes megabytes and then nothing until a third of them is read, so
/// that a client which reads steadily seems to have stopped (`write_timeout`).
const UNSENT_BYTES: u32 = 64 * 1024;

fn bind(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        // Not left to net.ipv6.bindv6only.
        set_ipv6_v6only(&socket, families == Families::Ipv6Only)?;
    }
    // Connections of a previous host may still be in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn remove_stale_socket(path: &Path) {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    // Any other error can come from a live listener, such as one with a full backlog.
    let is_stale = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).await.is_err_and(is_stale) {
        drop(std::fs::remove_file(path));
    }
}

/// Accepted connection, before its first byte.
pub(crate) enum Accepted {
    Tcp(TcpStream, IpAddr, Layer),
    Unix(UnixStream),
}

impl Accepted {
    pub(crate) fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(stream, ..) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_replaced() {
        let path = std::env::temp_dir().join(format!("plugsocket-listen-{}", std::process::id()));
        drop(Listener::bind_unix(&path).await.unwrap());
        assert!(path.exists(), "a killed host leaves it");
        // A full backlog, as of a host that is stopped or busy.
        remove_stale_socket(&path).await;
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = UnixStream::connect(&path).await {
            waiting.push(stream);
        }
        let refused = Listener::bind_unix(&path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        Listener::bind_unix(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
