//! What the benchmarks share: the load, and how a server process is measured.

mod load;

pub use load::{
    FrameCounter, Load, Talk, connect, cpu_time, frame, greeting, listen, resident_bytes, speak,
};
