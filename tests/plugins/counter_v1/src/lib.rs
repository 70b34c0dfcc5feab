//! First version of the counter. `counter_v2` compiles the same source with another name.

mod counter;

/// Default of `by`.
const NAME: &str = "v1";

plugsocket_plugin::export_plugin!(counter::Counter);
