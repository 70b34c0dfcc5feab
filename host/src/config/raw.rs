//! TOML with line numbers: tables whose unknown keys, absent keys and wrong values are noted down where they stand.
//!
//! Walks the document tree rather than serde structs: serde ends at the first mistake and knows no key path.
//! Knows no key of `plugins.toml` by name, but for the sentence about two resources on one path.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::value::{self, Count, Seconds, Wrong, nearest, quoted, wrong_kind};

/// The mistakes of one file, gathered while it is read.
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

    /// Notes a mistake; `at` is the offset of what is wrong. Control characters of the file do not come through: one mistake is one line.
    pub(super) fn add(&mut self, at: usize, key: impl Into<String>, Wrong(problem): Wrong) {
        let (path, line) = (self.path.clone(), self.line(at));
        let problem = problem.replace(char::is_control, " ");
        self.found.push(Problem { path, line, key: key.into(), problem });
    }

    pub(super) fn line(&self, at: usize) -> usize {
        self.line_feeds.partition_point(|line_feed| *line_feed < at) + 1
    }

    /// An error if there was a mistake.
    pub(super) fn result(mut self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|problem| problem.line);
        Err(ConfigError::Invalid { path: self.path, problems: self.found })
    }
}

/// The text of a file; `path` names it in the error.
pub(super) fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        let problem = "this is not UTF-8 text; save the file as UTF-8".to_owned();
        let problem = Problem { path: path.into(), line, key: String::new(), problem };
        ConfigError::Invalid { path: path.into(), problems: vec![problem] }
    })
}

/// The tree of a text. Mistakes of TOML itself end the reading: what the parser makes of the rest is a guess.
pub(super) fn document<'i>(text: &'i str, path: &Path) -> Result<DeTable<'i>, ConfigError> {
    let mut mistakes = Mistakes::new(path.into(), text);
    let (root, mut errors) = DeTable::parse_recoverable(text);
    let root = root.into_inner();
    errors.sort_by_key(start);
    let mut repeated_header = None;
    for error in &errors {
        let line = Line::around(text, start(error));
        let again = error.message() == DUPLICATE;
        // The keys below a repeated header are repetitions as well: one line is enough.
        if again && repeated_header.is_some_and(|from| !text[from..line.end].contains("\n[")) {
            continue;
        }
        if again && line.is_header() {
            repeated_header = Some(line.start);
        }
        let (key, wrong) = syntax(error, text, &root);
        mistakes.add(start(error), key, wrong);
    }
    mistakes.result().map(|()| root)
}

const DUPLICATE: &str = "duplicate key";

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// A parser's sentence in the operator's words, and the key it is about where that is known.
fn syntax(error: &toml::de::Error, text: &str, root: &DeTable<'_>) -> (String, Wrong) {
    let message = error.message();
    let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    let line = Line::around(text, start(error));
    if message == DUPLICATE {
        return duplicate(found, &line, text, root);
    }
    let problem = if message.starts_with("string values must be quoted") && found.is_empty() {
        "the value is missing after the equals sign".to_owned()
    } else if ["string values", "invalid boolean"].iter().any(|what| message.starts_with(what)) {
        let text = quoted(found);
        let found = text.trim_matches('"');
        format!(
            "{found} is no value; write a text in quotes, {text}, or a boolean as true or false"
        )
    } else if message.starts_with("invalid unquoted key") && line.is_header() {
        "a path stands in quotes; write [resources.\"/path\"]".to_owned()
    } else {
        format!("this is not TOML: {message}")
    };
    (String::new(), Wrong(problem))
}

fn duplicate(found: &str, line: &Line, text: &str, root: &DeTable<'_>) -> (String, Wrong) {
    let key = found.trim_matches(['"', '\'']);
    let resources = root.get("resources").and_then(|resources| resources.get_ref().as_table());
    if key.starts_with('/') && resources.is_some_and(|resources| resources.contains_key(key)) {
        let problem = "two resources on one path; keep one of them".to_owned();
        return (join("resources", key), Wrong(problem));
    }
    let problem = if line.is_header() {
        format!("the table {} is there twice; join the two", line.text(text))
    } else {
        "this key is there twice; keep one of them".to_owned()
    };
    let key = if line.is_header() { String::new() } else { join("", key) };
    (key, Wrong(problem))
}

/// Where the line of an offset begins and ends.
struct Line {
    start: usize,
    end: usize,
    header: bool,
}

impl Line {
    fn around(text: &str, at: usize) -> Self {
        let start = text[..at].rfind('\n').map_or(0, |line_feed| line_feed + 1);
        let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
        Self { start, end, header: text[start..end].trim_start().starts_with('[') }
    }

    fn is_header(&self) -> bool {
        self.header
    }

    fn text<'a>(&self, text: &'a str) -> &'a str {
        text[self.start..self.end].trim()
    }
}

/// The keys that a kind of table may have, and how such a table is written in a sentence.
pub(super) struct Keys {
    pub(super) table: &'static str,
    pub(super) keys: &'static [&'static str],
}

/// A table that is being read.
pub(super) struct Section<'t, 'm> {
    /// Its key path; empty for the whole file.
    name: String,
    /// Offset of its header.
    at: usize,
    table: &'t DeTable<'t>,
    keys: &'static Keys,
    mistakes: &'m mut Mistakes,
}

impl<'t, 'm> Section<'t, 'm> {
    /// Begins to read a table. Keys that are not in `keys` are mistakes; `all` tells where they may belong.
    pub(super) fn new(
        (name, at): (String, usize),
        table: &'t DeTable<'t>,
        keys: &'static Keys,
        all: &[&Keys],
        mistakes: &'m mut Mistakes,
    ) -> Self {
        for key in table.keys().filter(|key| !keys.keys.contains(&&**key.get_ref())) {
            let path = join(&name, key.get_ref());
            mistakes.add(key.span().start, path, unknown(key.get_ref(), keys, all));
        }
        Self { name, at, table, keys, mistakes }
    }

    /// The tree below a key that is a table. `example` is the header that the operator meant.
    pub(super) fn table(&mut self, key: &str, example: &str) -> Option<(&'t DeTable<'t>, usize)> {
        debug_assert!(self.keys.keys.contains(&key), "{key}");
        let value = self.table.get(key)?;
        let at = value.span().start;
        if let DeValue::Table(table) = value.get_ref() {
            return Some((table, at));
        }
        self.wrong(at, key, wrong_kind(value.get_ref(), &format!("write a table, {example}")));
        None
    }

    /// A value that must be there. `absent` says what is missing.
    pub(super) fn required<T>(
        &mut self,
        key: &str,
        absent: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.wrong(self.at, key, Wrong(absent.to_owned()));
        }
        self.value(key, read)
    }

    /// A value; `None` if it is absent or wrong.
    pub(super) fn value<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        debug_assert!(self.keys.keys.contains(&key), "{key}");
        let value = self.table.get(key)?;
        read(value.get_ref()).map_err(|wrong| self.wrong(value.span().start, key, wrong)).ok()
    }

    /// A number of something, or the default, which is also the example in a mistake.
    pub(super) fn count(&mut self, key: &str, rule: &Count, default: usize) -> usize {
        self.value(key, |value| value::count(value, rule, default)).unwrap_or(default)
    }

    /// A duration, or the default, which is also the example in a mistake.
    pub(super) fn seconds(&mut self, key: &str, rule: &Seconds, default: Duration) -> Duration {
        self.value(key, |value| value::seconds(value, rule, default)).unwrap_or(default)
    }

    /// A list of texts, each wrong one reported on its own line; `None` if there is no list.
    pub(super) fn texts<T>(
        &mut self,
        key: &str,
        example: &str,
        mut read: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let example = format!("give a list of texts, e.g. {key} = {example}");
        let value = self.table.get(key)?;
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong(value.span().start, key, wrong_kind(value.get_ref(), &example));
            return None;
        };
        let mut texts = Vec::with_capacity(list.len());
        for item in list.iter() {
            let text = item.get_ref().as_str().ok_or_else(|| wrong_kind(item.get_ref(), &example));
            match text.and_then(&mut read) {
                Ok(text) => texts.push(text),
                Err(wrong) => self.wrong(item.span().start, key, wrong),
            }
        }
        Some(texts)
    }

    /// A list of tables, each with its offset; `None` if something else is there, or nothing. `example` is a right line.
    pub(super) fn tables(
        &mut self,
        key: &str,
        example: &str,
    ) -> Option<Vec<(&'t DeTable<'t>, usize)>> {
        let value = self.table.get(key)?;
        let right = format!("give a list of tables, e.g. {example}");
        let DeValue::Array(list) = value.get_ref() else {
            self.wrong(value.span().start, key, wrong_kind(value.get_ref(), &right));
            return None;
        };
        if list.is_empty() {
            self.wrong(value.span().start, key, Wrong(format!("the list is empty; {right}")));
            return None;
        }
        let mut tables = Vec::with_capacity(list.len());
        for item in list.iter() {
            match item.get_ref() {
                DeValue::Table(table) => tables.push((table, item.span().start)),
                other => self.wrong(item.span().start, key, wrong_kind(other, &right)),
            }
        }
        (tables.len() == list.len()).then_some(tables)
    }

    /// The line of a key's value; that of the table where it is absent.
    pub(super) fn line(&self, key: &str) -> usize {
        self.mistakes.line(self.table.get(key).map_or(self.at, |value| value.span().start))
    }

    /// Whether the key is in the file, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn wrong(&mut self, at: usize, key: &str, wrong: Wrong) {
        self.mistakes.add(at, join(&self.name, key), wrong);
    }
}

/// A key path, its last part in quotes where TOML wants them.
pub(super) fn join(name: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let dot = if name.is_empty() { "" } else { "." };
    if !key.is_empty() && key.chars().all(bare) {
        format!("{name}{dot}{key}")
    } else {
        format!("{name}{dot}{}", quoted(key))
    }
}

fn unknown(key: &str, here: &Keys, all: &[&Keys]) -> Wrong {
    let near = nearest(key, here.keys);
    // `plugins` beside `plugin` is a slip, not a table in the wrong place.
    if near.is_none_or(|near| !key.starts_with(near))
        && let Some(place) = all.iter().find(|place| place.keys.contains(&key))
    {
        return Wrong(format!("this key belongs under {}", place.table));
    }
    let known = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys here are {}", here.keys.join(", ")),
    };
    Wrong(format!("unknown key; {known}"))
}
