//! The host as a binary of this crate, so that cargo builds it before the tests that start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    plugsocket::main()
}
