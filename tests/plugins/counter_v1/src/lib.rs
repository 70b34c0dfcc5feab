//! The first version of the counter; `counter_v2` includes the same source and says another name.

mod counter;

/// What `by` is where the configuration says nothing else.
const NAME: &str = "v1";

plugsocket_plugin::export_plugin!(counter::Counter);
