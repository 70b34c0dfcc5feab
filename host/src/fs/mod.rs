//! Files: non-blocking open, owner-only writes, change detection, work off the runtime.
//!
//! Does not know what the files mean.

pub(crate) mod blocking;
pub(crate) mod owner_only;
pub(crate) mod read;
pub(crate) mod replace;
pub(crate) mod stamp;
