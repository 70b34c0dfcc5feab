//! Bytes and JSON on the wire: HTTP heads, WebSocket frames, lines, chunks and the dialog.
//!
//! Does not know who is connected, which applications exist or how messages are routed.

pub(crate) mod buffered;
pub mod chunk;
pub(crate) mod close;
pub mod dialog;
pub mod http;
pub mod identity;
pub(crate) mod io;
pub mod lines;
pub(crate) mod payload;
pub(crate) mod time_limit;
pub(crate) mod wire;
pub mod ws;
