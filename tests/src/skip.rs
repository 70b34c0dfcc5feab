//! Tests that need a program which may be missing.

use std::io::Write as _;

/// Reports a skipped test, and the command with which it would run; an empty one: none helps. With
/// `CI=true` a test that could run fails instead.
///
/// Writes to standard error directly, because the test harness hides the output of passing tests.
///
/// # Panics
/// With `CI=true` and a command.
pub fn skip(test: &str, why: &str, install: &str) {
    let is_ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!is_ci || install.is_empty(), "{test}: {why}; {install}");
    let remedy = if install.is_empty() { String::new() } else { format!("; to run it: {install}") };
    drop(writeln!(std::io::stderr(), "skipped: {test}: {why}{remedy}"));
}
