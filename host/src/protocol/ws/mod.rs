//! WebSocket: a fast path for messages in one frame, and tungstenite for all other frames.
//!
//! Nearly all traffic is whole messages in one frame. They are read into a buffer of the thread,
//! unmasked and checked there, so an idle connection owns no buffer. Fragments, pings and pongs go
//! through `TungstenitePath`, which exists only while it is needed. The close handshake is in
//! `close`. Does not know what a message means.

mod close;
mod fragments;
pub mod frame;
mod partial;
mod read;
#[cfg(test)]
mod tests;
pub mod utf8;
mod write;

pub(super) use self::read::FrameReader;
pub(super) use self::write::FrameWriter;
