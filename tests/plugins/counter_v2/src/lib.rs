//! Second version of the counter: the source of `counter_v1` with another name.

#[path = "../../counter_v1/src/counter.rs"]
mod counter;

/// Default of `by`.
const NAME: &str = "v2";

plugsocket_plugin::export_plugin!(counter::Counter);
