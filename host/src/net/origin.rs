//! Where a connection comes from, and which rights that gives it.

use std::net::IpAddr;

use crate::config::Access;
use crate::protocol::http::{Forwarded, Head, forwarded_for};

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Ip(IpAddr),
    /// Somebody with a certificate of `client_ca`: an allowed backend, wherever it is.
    Certified(IpAddr),
    /// Somebody for whom the proxy at this address (none: on a Unix socket) speaks, and of whom it says nothing that can be read:
    /// counted as the proxy, but what that may is not for everybody behind it.
    Hidden(Option<IpAddr>),
    /// A Unix socket: who may open it is a matter of the file's permissions, so its peers are allowed backends.
    /// One that speaks for others, as a proxy may, is not for them what it is itself.
    Unix,
}

impl Origin {
    /// None on a Unix socket.
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

    /// Of whom a proxy speaks for, where it is one. A certificate is the proxy's, not theirs.
    pub(crate) fn behind(self, head: &Head, access: &Access) -> Self {
        match self {
            Self::Ip(_) | Self::Certified(_) => {}
            Self::Unix if access.trusts_unix => {}
            Self::Unix | Self::Hidden(_) => return self,
        }
        match forwarded_for(head, self.ip(), |ip| access.is_trusted_proxy(ip)) {
            Forwarded::Direct => self,
            Forwarded::For(ip) => Self::Ip(ip),
            Forwarded::Unreadable(ip) => Self::Hidden(ip),
        }
    }
}
