//! Accepts connections: listeners, TLS, PROXY protocol, connection limits and rates.
//!
//! Does not know what a connection asks for; the first byte of its request belongs to `connection`.

pub(crate) mod accept;
pub(crate) mod connect_rate;
pub(crate) mod connection_limits;
pub(crate) mod fd_reserve;
pub(crate) mod listener;
pub(crate) mod origin;
pub(crate) mod proxy_protocol;
pub(crate) mod tls;
