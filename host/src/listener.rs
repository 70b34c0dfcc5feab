//! A listening socket of either kind, and what comes out of it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// What is spoken on a TCP socket first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// HTTP, or lines.
    Plain,
    Tls,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener, Layer),
    Unix(UnixListener),
}

impl Listener {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp(_, Layer::Tls))
    }

    /// As in `listen`.
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

/// A connection, before its first byte.
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

pub(crate) async fn accept_one(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener, layer) => {
            let (stream, address) = listener.accept().await?;
            // A connection that was reset has no options any more; it ends by itself.
            drop(stream.set_nodelay(true));
            Ok(Accepted::Tcp(stream, address.ip().to_canonical(), *layer))
        }
        Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}
