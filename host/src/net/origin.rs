//! Origin of a connection, and the rights that follow from it.

use std::net::IpAddr;

use crate::config::Access;
use crate::protocol::http::{Forwarded, Head, forwarded_for};

/// Origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Ip(IpAddr),
    /// A client with a certificate of `client_ca`: a backend, whatever its address.
    Certified(IpAddr),
    /// A client behind the proxy at this address (`None`: on a Unix socket) whose own address the
    /// proxy does not give. Counts as the proxy, without the proxy's rights.
    Hidden(Option<IpAddr>),
    /// A Unix socket: the file's permissions decide who connects, so its clients are backends.
    Unix,
}

impl Origin {
    /// Returns `None` on a Unix socket.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) | Self::Certified(ip) => Some(ip),
            Self::Hidden(ip) => ip,
            Self::Unix => None,
        }
    }

    pub(crate) fn to_text(self) -> Box<str> {
        match self.ip() {
            Some(ip) => ip.to_canonical().to_string().into(),
            None => "unix".into(),
        }
    }

    pub(crate) fn may_be_backend(self, access: &Access) -> bool {
        match self {
            Self::Ip(ip) => access.allows_backend(ip),
            Self::Certified(_) | Self::Unix => true,
            Self::Hidden(_) => false,
        }
    }

    /// Returns the origin of the client that a trusted proxy forwards, else `self`. A proxy's
    /// certificate and socket give no rights to the clients behind it.
    pub(crate) fn resolve_forwarded(self, head: &Head, access: &Access) -> Self {
        match self {
            Self::Ip(_) | Self::Certified(_) => {}
            Self::Unix if access.trusts_unix() => {}
            Self::Unix | Self::Hidden(_) => return self,
        }
        match forwarded_for(head, self.ip(), |ip| access.is_trusted_proxy(ip)) {
            Forwarded::Direct => self,
            Forwarded::For(ip) => Self::Ip(ip),
            Forwarded::Unreadable(ip) => Self::Hidden(ip),
        }
    }
}
