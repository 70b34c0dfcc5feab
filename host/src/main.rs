//! plugsocket
fn main() {}
