//! Where a host listens, and a socket to it of whichever kind.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};

use crate::within;

/// Where a host listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
    /// TLS: see [`Authority::reach`](crate::Authority::reach).
    Tls(SocketAddr, Secure),
}

/// How a client speaks TLS.
#[derive(Clone, Debug)]
pub struct Secure {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
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
        self.try_connect().await.unwrap()
    }

    /// The same where there may be nobody, or no agreement on TLS.
    ///
    /// # Errors
    /// There is.
    pub async fn try_connect(&self) -> io::Result<Stream> {
        within("to be accepted", async {
            Ok::<Stream, _>(match self {
                Self::Tcp(address) => Box::new(connect(*address).await?),
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Self::Tls(address, secure) => Box::new(secure.shake_hands(*address).await?),
            })
        })
        .await
    }

    /// The certificate that is served here, as it is on the wire.
    ///
    /// # Panics
    /// When it is not trusted, or there is no TLS.
    pub async fn certificate(&self) -> Vec<u8> {
        let Self::Tls(address, secure) = self else { panic!("no TLS: {self:?}") };
        let stream = within("TLS", secure.shake_hands(*address)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Whether a new connection goes on with the session of one before it, made by the same address.
    ///
    /// # Panics
    /// When it is not trusted, or there is no TLS.
    pub async fn resumes(&self) -> bool {
        let Self::Tls(address, secure) = self else { panic!("no TLS: {self:?}") };
        let stream = within("TLS", secure.shake_hands(*address)).await.unwrap();
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl Secure {
    async fn shake_hands(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = connect(address).await?;
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What a [`Stream`] can do.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A socket of any kind.
pub type Stream = Box<dyn Socket>;
