//! Who receives a message: connected peers, resources and their rooms, and the outbox of each peer.
//!
//! Does not know sockets, frames or libraries. Nothing here waits.

pub(crate) mod callback;
pub(crate) mod closings;
pub(crate) mod counters;
pub(crate) mod histogram;
pub(crate) mod input;
pub(crate) mod metrics;
pub(crate) mod outbox;
pub(crate) mod peer;
pub(crate) mod registry;
pub(crate) mod requests;
pub(crate) mod resource;
pub(crate) mod resources;
mod rooms;
pub(crate) mod router;
pub(crate) mod sync;
pub(crate) mod tickets;
pub(crate) mod timer_queue;
pub(crate) mod trace;
