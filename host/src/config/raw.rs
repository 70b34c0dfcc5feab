//! Reading of TOML tables: a key that is unknown, absent or wrong is noted with its line.
//!
//! Walks the document tree rather than serde structs: serde ends at the first mistake and knows no
//! key path. Knows no key of `plugins.toml` by name.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::keys::{self, Group};
use super::rules::Rule;
use super::value::{At, Wrong, is_name, quoted, wrong_kind};

/// The mistakes found so far in a file.
pub(super) struct Mistakes {
    path: PathBuf,
    /// Offsets of the line feeds.
    line_feeds: Vec<usize>,
    found: Vec<Problem>,
}

impl Mistakes {
    pub(super) fn new(path: PathBuf, text: &str) -> Self {
        let line_feeds = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at);
        Self { path, line_feeds: line_feeds.collect(), found: Vec::new() }
    }

    /// Notes a mistake; `at` is its offset. Control characters become blanks, so that a mistake is
    /// one line.
    pub(super) fn add(&mut self, at: usize, key: impl Into<String>, Wrong(problem): Wrong) {
        let (path, line) = (self.path.clone(), self.line(at));
        let problem = problem.replace(char::is_control, " ");
        self.found.push(Problem { path, line, key: key.into(), problem });
    }

    /// Returns the line of an offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_feeds.partition_point(|line_feed| *line_feed < at) + 1
    }

    /// Returns what relative paths are relative to: the directory of the file.
    pub(super) fn base(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Returns the mistakes as an error, if there are any.
    pub(super) fn result(mut self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|problem| problem.line);
        // The parser can find one fault in a line twice.
        let is_same =
            |a: &Problem, b: &Problem| (a.line, &a.key, &a.problem) == (b.line, &b.key, &b.problem);
        self.found.dedup_by(|a, b| is_same(a, b));
        Err(ConfigError::Invalid { path: self.path, problems: self.found })
    }
}

/// A value that is being read.
pub(super) struct Node<'t, 'm> {
    /// Its key path; empty for the top of the file.
    pub(super) name: String,
    at: usize,
    pub(super) value: &'t DeValue<'t>,
    pub(super) mistakes: &'m mut Mistakes,
}

impl<'t, 'm> Node<'t, 'm> {
    /// Starts with the top of the file, a table.
    pub(super) fn top(value: &'t DeValue<'t>, mistakes: &'m mut Mistakes) -> Self {
        let mut top = Self::inside(value, mistakes);
        top.note_unknown(&keys::TOP);
        top
    }

    /// Starts with the top of the file without a check of its keys.
    pub(super) fn inside(value: &'t DeValue<'t>, mistakes: &'m mut Mistakes) -> Self {
        Self { name: String::new(), at: 0, value, mistakes }
    }

    /// Checks that it is a table, or says what is `right`, and that its keys are in `groups`.
    pub(super) fn table(&mut self, groups: &[Group], right: &str) -> Result<(), Wrong> {
        if !self.value.is_table() {
            return Err(wrong_kind(self.value, right));
        }
        self.note_unknown(&keys::names(groups).collect::<Vec<_>>());
        Ok(())
    }

    fn note_unknown(&mut self, known: &[&str]) {
        let keys = self.value.as_table().into_iter().flat_map(DeTable::keys);
        for key in keys.filter(|key| !known.contains(&&**key.get_ref())) {
            let path = join(&self.name, key.get_ref());
            self.mistakes.add(key.span().start, path, keys::unknown(key.get_ref(), known));
        }
    }

    /// Reads a key of a table; returns `default` where it is absent or wrong.
    pub(super) fn read<T: Clone>(&mut self, key: &str, rule: &Rule<T>, default: &T) -> T {
        let Some(mut node) = self.member(key) else {
            if let Some(right) = rule.required {
                self.wrong(key, format!("this key is missing; write {right}"));
            }
            return default.clone();
        };
        node.noting(|node| (rule.read)(node, default)).unwrap_or_else(|| default.clone())
    }

    /// Reads a key of a table that has no rule.
    pub(super) fn read_with<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Node<'t, '_>) -> Result<T, Wrong>,
    ) -> T {
        self.member(key).and_then(|mut node| node.noting(read)).unwrap_or_default()
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.value.as_table()?.get(key)
    }

    fn member(&mut self, key: &str) -> Option<Node<'t, '_>> {
        self.get(key).map(|value| self.inner(join(&self.name, key), value))
    }

    /// Returns whether a table has the key, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Returns whether a table has the key and no mistake was found in it.
    pub(super) fn has_right(&self, key: &str) -> bool {
        let path = join(&self.name, key);
        self.has(key) && !self.mistakes.found.iter().any(|problem| problem.key == path)
    }

    /// Notes a mistake in a key of a table, or in the table where it lacks the key.
    pub(super) fn wrong(&mut self, key: &str, problem: impl Into<String>) {
        let at = self.get(key).map_or(self.at, |value| value.span().start);
        self.mistakes.add(at, join(&self.name, key), Wrong(problem.into()));
    }

    /// Notes the mistake that `read` may find.
    pub(super) fn noting<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Wrong>,
    ) -> Option<T> {
        read(self).map_err(|wrong| self.mistakes.add(self.at, self.name.clone(), wrong)).ok()
    }

    /// Returns the value as a string; `right` is said where it is not one.
    pub(super) fn text(&self, right: &str) -> Result<&'t str, Wrong> {
        self.value.as_str().ok_or_else(|| wrong_kind(self.value, right))
    }

    pub(super) fn line(&self) -> usize {
        self.mistakes.line(self.at)
    }

    pub(super) fn at<'a>(&'a self, example: &'a str) -> At<'a> {
        At { base: self.mistakes.base(), line: self.line(), example }
    }

    /// Reads the items of an array, each with its own mistakes.
    pub(super) fn each(
        &mut self,
        right: &str,
        mut read: impl FnMut(&mut Node<'t, '_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let DeValue::Array(items) = self.value else { return Err(wrong_kind(self.value, right)) };
        for item in items.iter() {
            self.inner(self.name.clone(), item).noting(&mut read);
        }
        Ok(())
    }

    /// Reads the values of a table whose keys the operator chooses, each with its own mistakes.
    pub(super) fn each_named(
        &mut self,
        right: &str,
        mut read: impl FnMut(&'t str, &mut Node<'t, '_>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let DeValue::Table(table) = self.value else { return Err(wrong_kind(self.value, right)) };
        for (key, value) in table.iter() {
            self.inner(join(&self.name, key.get_ref()), value)
                .noting(|node| read(key.get_ref(), node));
        }
        Ok(())
    }

    fn inner(&mut self, name: String, value: &'t Spanned<DeValue<'t>>) -> Node<'t, '_> {
        let at = value.span().start;
        Node { name, at, value: value.get_ref(), mistakes: self.mistakes }
    }
}

/// Appends a key to a key path, in quotes where TOML requires them.
pub(super) fn join(name: &str, key: &str) -> String {
    let dot = if name.is_empty() { "" } else { "." };
    let key = if is_name(key) { key.to_owned() } else { quoted(key) };
    format!("{name}{dot}{key}")
}
