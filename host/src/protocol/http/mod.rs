//! HTTP: parses request heads and writes responses.
//!
//! Owns the raw head for the life of its connection ([`Head`]), the rules by which a head is
//! rejected, and the bytes of every response. Stricter than its parser ([`httparse`]), because a
//! head that two parsers read differently permits request smuggling (RFC 9112, sections 2.2, 3, 5
//! and 6.3). Knows no sockets, clock, configuration or resources: bytes in, values out, in time
//! linear in the bytes received.

mod answer;
mod chunked;
mod fields;
mod head;
mod lists;
mod refusal;
mod target;
mod upgrade;

pub(crate) use answer::{Answer, may_send};
pub use chunked::ChunkedBody;
pub use fields::{
    BodyEnd, ClientType, Forwarded, client_type, forwarded_for, heartbeat, ident, origin,
    post_body, request_body, wants_continue, wants_keep_alive,
};
pub use head::{Head, HeadReader, MAX_HEADERS, Method};
pub(crate) use refusal::bad_request;
pub use refusal::{CONTINUE, Refusal, dated, response, without_body};
pub use upgrade::{check_upgrade, choose_protocol, switching, wants_websocket};
