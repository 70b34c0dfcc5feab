//! The HTTP side of a connection: one request head in, one answer out.
//!
//! Owns the raw head for the life of its connection ([`Head`]), the rules by which a head is refused, and the bytes of every
//! HTTP answer. Stricter than the parser it uses ([`httparse`]), because what two parsers read differently is how requests
//! are smuggled past a proxy: RFC 9112 sections 2.2, 3, 5 and 6.3, each quoted where it is enforced.
//! Knows no sockets, no clock, no configuration and no resources: bytes in, values out. Work is linear in the bytes received,
//! however they were split.

mod fields;
mod head;
mod lists;
mod refusal;
mod target;
mod upgrade;

pub use fields::{
    ClientType, Forwarded, client_type, forwarded_for, ident, origin, post_length, wants_continue,
};
pub use head::{Head, HeadReader, MAX_HEADERS, Method};
pub use refusal::{CONTINUE, Refusal, dated, response};
pub use upgrade::{Upgrade, check_upgrade, choose_protocol, switching, wants_websocket};
