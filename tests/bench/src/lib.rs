//! Shared parts of the benchmarks. `docs/explanation/performance.md` explains what they measure.

mod load;
mod measure;
mod process;
mod server;
mod table;
mod traffic;

pub use load::{Load, Talk};
pub use measure::{Effort, Latencies, Row, Sample};
pub use process::{allow_files, forget_peak, peak_bytes, pin, resident_bytes};
pub use server::{
    BARE, BATCHED, CHAT, FAN, HOST, HOST_DIALOG, HOST_WEB, NODE, NODE_RELAY, Program, RAW,
    RAW_TOKIO, RELAY, Server, Setup, Subject, bench_folder, build_folder, has_node,
};
pub use table::Table;
pub use traffic::{Inbound, Link, frame};
