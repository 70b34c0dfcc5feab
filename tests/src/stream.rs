//! Where a host listens, and a socket to it of whichever kind.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::within;

/// Where a host listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl Address {
    /// Reads what the log says.
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.parse().unwrap()),
        }
    }

    /// A connected socket.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(&self) -> Stream {
        within("to be accepted", async {
            let stream: Box<dyn Socket> = match self {
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    Box::new(stream)
                }
                Self::Unix(path) => Box::new(UnixStream::connect(path).await.unwrap()),
            };
            stream
        })
        .await
    }
}

/// What a [`Stream`] can do.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A socket of any kind.
pub type Stream = Box<dyn Socket>;
