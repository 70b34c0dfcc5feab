//! A listening socket of either kind, and what comes out of it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// As in `listen`.
    pub(crate) fn address(&self) -> io::Result<String> {
        Ok(match self {
            Self::Tcp(listener) => listener.local_addr()?.to_string(),
            Self::Unix(listener) => match listener.local_addr()?.as_pathname() {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix:".to_owned(),
            },
        })
    }
}

/// A connection, before its first byte.
pub(crate) enum Accepted {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

impl Accepted {
    pub(crate) fn descriptor(&self) -> RawFd {
        match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

pub(crate) async fn accept_one(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            // A connection that was reset has no options any more; it ends by itself.
            drop(stream.set_nodelay(true));
            Ok(Accepted::Tcp(stream, address.ip().to_canonical()))
        }
        Listener::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}
