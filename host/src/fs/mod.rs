//! Files: reading without blocking on pipes, owner-only writing, work off the runtime.
//!
//! Does not know what the files mean.

pub(crate) mod blocking;
pub(crate) mod owner_only;
pub(crate) mod read;
pub(crate) mod stamp;
