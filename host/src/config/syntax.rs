//! TOML's own syntax: the tree of a text, or what is wrong with it in the operator's words.

use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::error::{ConfigError, Problem};
use super::raw::{Mistakes, join};
use super::value::{Wrong, quoted};

/// Returns the text of a file; `path` names it in the error.
pub(super) fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        let problem = "this is not UTF-8 text; save the file as UTF-8".to_owned();
        let problem = Problem { path: path.into(), line, key: String::new(), problem };
        ConfigError::Invalid { path: path.into(), problems: vec![problem] }
    })
}

/// Returns what the parser makes of a text with mistakes: the keys before them, and some after.
pub(super) fn readable(text: &str) -> DeTable<'_> {
    DeTable::parse_recoverable(text).0.into_inner()
}

/// Parses a text. Mistakes in TOML itself end the reading: what the parser makes of the rest is a
/// guess.
pub(super) fn document<'i>(text: &'i str, path: &Path) -> Result<DeTable<'i>, ConfigError> {
    let mut mistakes = Mistakes::new(path.into(), text);
    let (root, mut errors) = DeTable::parse_recoverable(text);
    let root = root.into_inner();
    errors.sort_by_key(start);
    let mut repeated_header = None;
    for error in &errors {
        let line = line_around(text, start(error));
        let again = error.message() == DUPLICATE;
        // The keys below a repeated header are duplicates, too: one line is enough.
        if again && repeated_header.is_some_and(|from| !text[from..line.end].contains("\n[")) {
            continue;
        }
        if again && is_header(&text[line.clone()]) {
            repeated_header = Some(line.start);
        }
        let (key, wrong) = syntax(error, text, &root);
        mistakes.add(start(error), key, wrong);
    }
    mistakes.result().map(|()| root)
}

/// Quotes that word processors write in place of straight ones.
const TYPOGRAPHIC: [char; 8] = ['“', '”', '„', '‟', '‘', '’', '«', '»'];
const DUPLICATE: &str = "duplicate key";

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// Returns the key that an error of the parser is about, where that is known, and what is wrong
/// with it.
fn syntax(error: &toml::de::Error, text: &str, root: &DeTable<'_>) -> (String, Wrong) {
    let message = error.message();
    let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
    let line = text[line_around(text, start(error))].trim();
    if message == DUPLICATE {
        return duplicate(found, line, root);
    }
    let problem = if message.starts_with("string values must be quoted") && found.is_empty() {
        "the value is missing after the equals sign".to_owned()
    } else if TYPOGRAPHIC.iter().any(|quote| found.contains(*quote))
        || (message.starts_with("invalid") && line.contains(TYPOGRAPHIC))
    {
        "this line has typographic quotes (“ ”); write straight ones, \"…\"".to_owned()
    } else if ["string values", "invalid boolean"].iter().any(|what| message.starts_with(what)) {
        let text = quoted(found);
        let found = text.trim_matches('"');
        format!(
            "{found} is not a value; write a string in quotes, {text}, or a boolean as true or false"
        )
    } else if message.starts_with("invalid unquoted key") && is_header(line) {
        "a path must be in quotes; write [resources.\"/path\"]".to_owned()
    } else {
        format!("this is not TOML: {message}")
    };
    (String::new(), Wrong(problem))
}

fn duplicate(found: &str, line: &str, root: &DeTable<'_>) -> (String, Wrong) {
    let key = found.trim_matches(['"', '\'']);
    let resources = root.get("resources").and_then(|resources| resources.get_ref().as_table());
    if key.starts_with('/') && resources.is_some_and(|resources| resources.contains_key(key)) {
        let problem = "two resources on one path; keep one of them".to_owned();
        return (join("resources", key), Wrong(problem));
    }
    if is_header(line) {
        return (String::new(), Wrong(format!("the table {line} is there twice; join the two")));
    }
    (join("", key), Wrong("this key is there twice; keep one of them".to_owned()))
}

/// Returns the line around an offset, without its line feed.
fn line_around(text: &str, at: usize) -> Range<usize> {
    let start = text[..at].rfind('\n').map_or(0, |line_feed| line_feed + 1);
    let end = text[at..].find('\n').map_or(text.len(), |length| at + length);
    start..end
}

fn is_header(line: &str) -> bool {
    line.trim_start().starts_with('[')
}
