//! The second version of the counter: `counter_v1`'s source under another name.

#[path = "../../counter_v1/src/counter.rs"]
mod counter;

/// What `by` is where the configuration says nothing else.
const NAME: &str = "v2";

plugsocket_plugin::export_plugin!(counter::Counter);
