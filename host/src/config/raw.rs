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
use super::value::{At, Wrong, quoted, wrong_kind};

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

/// A table that is being read.
pub(super) struct Section<'t, 'm> {
    /// Its key path; empty for the top of the file.
    name: String,
    /// Offset of its header.
    at: usize,
    table: &'t DeTable<'t>,
    mistakes: &'m mut Mistakes,
}

impl<'t, 'm> Section<'t, 'm> {
    /// Starts with the top of the file.
    pub(super) fn top(table: &'t DeTable<'t>, mistakes: &'m mut Mistakes) -> Self {
        let mut section = Section { name: String::new(), at: 0, table, mistakes };
        section.note_unknown(&keys::TOP);
        section
    }

    fn note_unknown(&mut self, known: &[&str]) {
        for key in self.table.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            let path = join(&self.name, key.get_ref());
            self.mistakes.add(key.span().start, path, keys::unknown(key.get_ref(), known));
        }
    }

    /// Reads a key; returns `default` where it is absent or wrong.
    pub(super) fn read<T>(&mut self, key: &str, rule: &Rule<T>, default: &T) -> T
    where
        T: Clone + PartialEq + 'static,
    {
        let Some(mut node) = self.node(key) else {
            if let Some(right) = rule.required {
                self.wrong(key, Wrong(format!("this key is missing; write {right}")));
            }
            return default.clone();
        };
        node.noting(|node| rule.read(node, default)).unwrap_or_else(|| default.clone())
    }

    /// Reads a key that has no rule.
    pub(super) fn read_with<T: Default>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Node<'t, '_>) -> Result<T, Wrong>,
    ) -> T {
        self.node(key).and_then(|mut node| node.noting(read)).unwrap_or_default()
    }

    fn node(&mut self, key: &str) -> Option<Node<'t, '_>> {
        let value = self.table.get(key)?;
        let (name, at) = (join(&self.name, key), value.span().start);
        Some(Node { name, at, value: value.get_ref(), mistakes: self.mistakes })
    }

    /// Returns whether the key is in the file, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns whether the key is in the file and no mistake was found in it.
    pub(super) fn has_right(&self, key: &str) -> bool {
        let path = join(&self.name, key);
        self.has(key) && !self.mistakes.found.iter().any(|problem| problem.key == path)
    }

    /// Notes a mistake in a key, or in the table where it lacks the key.
    pub(super) fn wrong(&mut self, key: &str, wrong: Wrong) {
        let at = self.table.get(key).map_or(self.at, |value| value.span().start);
        self.mistakes.add(at, join(&self.name, key), wrong);
    }

    /// Returns what relative paths are relative to.
    pub(super) fn base(&self) -> &Path {
        self.mistakes.base()
    }
}

/// A value that is being read.
pub(super) struct Node<'t, 'm> {
    /// Its key path.
    pub(super) name: String,
    at: usize,
    value: &'t DeValue<'t>,
    mistakes: &'m mut Mistakes,
}

impl<'t> Node<'t, '_> {
    pub(super) fn value(&self) -> &'t DeValue<'t> {
        self.value
    }

    pub(super) fn wrong(&mut self, wrong: Wrong) {
        self.mistakes.add(self.at, self.name.clone(), wrong);
    }

    /// Notes the mistake in its value that `read` may find.
    fn noting<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Option<T> {
        read(self).map_err(|wrong| self.wrong(wrong)).ok()
    }

    /// Returns the value as a string; `right` is said where it is not one.
    pub(super) fn text(&self, right: &str) -> Result<&'t str, Wrong> {
        self.value.as_str().ok_or_else(|| wrong_kind(self.value, right))
    }

    pub(super) fn base(&self) -> &Path {
        self.mistakes.base()
    }

    pub(super) fn line(&self) -> usize {
        self.mistakes.line(self.at)
    }

    pub(super) fn at<'a>(&'a self, example: &'a str) -> At<'a> {
        At { base: self.base(), line: self.line(), example }
    }

    /// Starts to read a table with the keys of `groups`; `right` is said where it is not a table.
    pub(super) fn section(
        &mut self,
        groups: &[Group],
        right: &str,
    ) -> Result<Section<'t, '_>, Wrong> {
        let DeValue::Table(table) = self.value else { return Err(wrong_kind(self.value, right)) };
        let name = self.name.clone();
        let mut section = Section { name, at: self.at, table, mistakes: self.mistakes };
        section.note_unknown(&keys::names(groups).collect::<Vec<_>>());
        Ok(section)
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
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let dot = if name.is_empty() { "" } else { "." };
    if !key.is_empty() && key.chars().all(bare) {
        format!("{name}{dot}{key}")
    } else {
        format!("{name}{dot}{}", quoted(key))
    }
}
