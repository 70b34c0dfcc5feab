//! Addresses of a host, and sockets connected to them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};

use crate::within;

/// The address of a host.
#[derive(Clone, Debug)]
pub enum Address {
    /// IPv4 or IPv6.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// TLS over TCP; see [`Authority::tls_address`](crate::Authority::tls_address).
    Tls(SocketAddr, TlsClient),
}

/// The TLS configuration of a client.
#[derive(Clone, Debug)]
pub struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    /// A PROXY protocol header, sent before the TLS handshake.
    pub(crate) proxy_header: &'static str,
}

impl Address {
    /// Parses an address from the host's log.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.parse().unwrap()),
        }
    }

    /// Returns the same TLS address, with a PROXY protocol header before the TLS handshake.
    ///
    /// # Panics
    /// If the address is not TLS.
    #[must_use]
    pub fn with_proxy_header(self, proxy_header: &'static str) -> Self {
        let Self::Tls(address, client) = self else { panic!("not TLS: {self:?}") };
        Self::Tls(address, TlsClient { proxy_header, ..client })
    }

    /// Connects a socket.
    ///
    /// # Panics
    /// If the connection or the TLS handshake fails.
    pub async fn connect(&self) -> Stream {
        self.try_connect().await.unwrap()
    }

    /// Like [`connect`](Self::connect), but returns an error.
    ///
    /// # Errors
    /// If the connection or the TLS handshake fails.
    pub async fn try_connect(&self) -> io::Result<Stream> {
        self.open(None).await
    }

    /// Connects a socket whose receive buffer does not grow; Linux doubles `bytes`. A Unix socket
    /// has no receive buffer.
    ///
    /// # Panics
    /// If the connection or the TLS handshake fails.
    pub async fn connect_with_buffer(&self, bytes: u32) -> Stream {
        self.open(Some(bytes)).await.unwrap()
    }

    async fn open(&self, receive_buffer: Option<u32>) -> io::Result<Stream> {
        within("to be accepted", async {
            Ok::<Stream, _>(match self {
                Self::Tcp(address) => Box::new(connect(*address, receive_buffer).await?),
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Self::Tls(address, client) => {
                    Box::new(client.handshake(*address, receive_buffer).await?)
                }
            })
        })
        .await
    }

    /// Returns the host's certificate in DER.
    ///
    /// # Panics
    /// If it is not trusted, or the address is not TLS.
    pub async fn certificate(&self) -> Vec<u8> {
        let Self::Tls(address, client) = self else { panic!("not TLS: {self:?}") };
        let stream = within("TLS", client.handshake(*address, None)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// Connects and returns whether the TLS session was resumed from an earlier connection through
    /// the same `Address`.
    ///
    /// # Panics
    /// If it is not trusted, or the address is not TLS.
    pub async fn resumes(&self) -> bool {
        let Self::Tls(address, client) = self else { panic!("not TLS: {self:?}") };
        let stream = within("TLS", client.handshake(*address, None)).await.unwrap();
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl TlsClient {
    async fn handshake(
        &self,
        address: SocketAddr,
        receive_buffer: Option<u32>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = connect(address, receive_buffer).await?;
        stream.write_all(self.proxy_header.as_bytes()).await?;
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

async fn connect(address: SocketAddr, receive_buffer: Option<u32>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The traits of a [`Stream`].
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A connected socket of any type.
pub type Stream = Box<dyn Socket>;
