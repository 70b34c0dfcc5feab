//! The checks, each with a name and the sentence that documents it.
//!
//! A check calls the library through [`Bench`] and returns the first thing that it finds. Panics,
//! crashes and hangs are found in every check.

mod loading;
mod messages;
mod random;
mod resources;
mod sessions;
mod speed;
mod state;

use std::fmt::Write;

use super::driver::Bench;
use super::report::Checked;

/// A named check.
pub(super) struct Check {
    pub(super) name: &'static str,
    /// What it expects of a library.
    about: &'static str,
    pub(super) run: fn(&Bench) -> Checked,
}

impl Check {
    const fn new(name: &'static str, about: &'static str, run: fn(&Bench) -> Checked) -> Self {
        Self { name, about, run }
    }

    /// Returns whether the other checks make no sense after this one has failed.
    pub(super) fn is_first(&self) -> bool {
        ["opens", "unwinds", "starts"].contains(&self.name)
    }
}

/// The check whose result depends on what the parent has read.
pub(super) const WRITES_NOTHING: &str = "writes-nothing-to-stdout";

pub(super) fn all() -> impl Iterator<Item = &'static Check> {
    let parts = [
        loading::CHECKS,
        sessions::CHECKS,
        messages::CHECKS,
        state::CHECKS,
        random::CHECKS,
        speed::CHECKS,
        resources::CHECKS,
    ];
    parts.into_iter().flatten()
}

pub(super) fn named(name: &str) -> Option<&'static Check> {
    all().find(|check| check.name == name)
}

/// Returns the rows of the table in `docs/reference/command-line.md`.
pub(super) fn table() -> String {
    let mut table = "| Check | Expectation |\n|---|---|".to_owned();
    for Check { name, about, .. } in all() {
        // Writing to a string does not fail.
        write!(table, "\n| `{name}` | {about} |").ok();
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_of_one_form() {
        let names: Vec<&str> = all().map(|check| check.name).collect();
        assert!(names.len() >= 30, "{}", names.len());
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for name in names {
            let is_kebab = |byte: u8| byte == b'-' || byte.is_ascii_lowercase();
            assert!(name.bytes().all(is_kebab), "{name}");
        }
        assert!(named(WRITES_NOTHING).is_some());
    }
}
