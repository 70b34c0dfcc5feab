//! Rules of single values: string or number in, legal value or error text out. Pure; knows no key.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use toml::de::{DeInteger, DeValue};

/// What is wrong with a value and what would be right. Not an enum: the host treats all mistakes
/// alike.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) String);

macro_rules! wrong {
    ($($part:tt)*) => { Err($crate::config::value::Wrong(format!($($part)*))) };
}
pub(super) use wrong;

/// Returns the mistake of a value of another type; `right` says what would be right.
pub(super) fn wrong_kind(value: &DeValue<'_>, right: &str) -> Wrong {
    let what = match value {
        DeValue::String(text) => format!("{} is a string", quoted(text)),
        DeValue::Integer(number) => format!("{number} is an integer"),
        DeValue::Float(number) => format!("{number} is a float"),
        DeValue::Boolean(boolean) => format!("{boolean} is a boolean"),
        DeValue::Datetime(date) => format!("{date} is a date-time"),
        DeValue::Array(_) => "this is an array".to_owned(),
        DeValue::Table(_) => "this is a table".to_owned(),
    };
    Wrong(format!("{what}; {right}"))
}

/// Where a string is in the file, and what a right one looks like.
pub(super) struct At<'a> {
    /// What relative paths are relative to.
    pub(super) base: &'a Path,
    pub(super) line: usize,
    pub(super) example: &'a str,
}

/// Quotes a string for an error: on one line, shortened, and without the secrets of a URL.
pub(super) fn quoted(text: &str) -> String {
    if text.contains("://") { quoted_url(text) } else { in_quotes(text) }
}

/// Quotes a string that should be a URL, whether or not it looks like one.
pub(super) fn quoted_url(text: &str) -> String {
    in_quotes(&without_secrets(text))
}

/// Hides user information and query of a URL, as in `http://…@host/path?…`: errors are logged.
fn without_secrets(text: &str) -> Cow<'_, str> {
    let is_scheme =
        |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let begin = text.find("://").filter(|end| is_scheme(&text[..*end])).map_or(0, |end| end + 3);
    let (scheme, rest) = text.split_at(begin);
    let Some(shown) = shown(rest) else { return format!("{scheme}…").into() };
    if shown == rest {
        return text.into();
    }
    let user = if rest.contains('@') { "…@" } else { "" };
    let query = rest.find(QUERY).map_or_else(String::new, |at| format!("{}…", &rest[at..=at]));
    format!("{scheme}{user}{shown}{query}").into()
}

/// Returns host and path of a URL without its scheme; `None` where they cannot be told from the
/// secrets.
pub(super) fn shown(rest: &str) -> Option<&str> {
    let end = rest.find(QUERY).unwrap_or(rest.len());
    match rest.rfind('@') {
        // Either a password with such a character, or a query with an `@`.
        Some(at) if at > end => None,
        Some(at) => Some(&rest[at + 1..end]),
        None => Some(&rest[..end]),
    }
}

/// Characters that end the path of a URL.
const QUERY: [char; 2] = ['?', '#'];

fn in_quotes(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// Returns the one of `known` that was probably meant: up to two letters are wrong, or it begins
/// with `word`.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['_', '-'], "");
    let word = plain(word);
    let length = word.chars().count();
    let near = |known: &&'k str| (strsim::levenshtein(&word, &plain(known)), *known);
    let (distance, near) = known.iter().map(near).min_by_key(|(distance, _)| *distance)?;
    if distance <= 2 && distance * 2 < length {
        return Some(near);
    }
    known.iter().find(|known| length >= 4 && plain(known).starts_with(&word)).copied()
}

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Checks a string that must not be empty.
pub(super) fn text(text: &str, at: &At<'_>) -> Result<String, Wrong> {
    match text {
        "" => wrong!("the string is empty; give e.g. {:?}", at.example),
        text => Ok(text.to_owned()),
    }
}

/// Checks the path of a file or directory, and makes it absolute.
pub(super) fn file(text: &str, at: &At<'_>) -> Result<PathBuf, Wrong> {
    let example = at.example;
    if text.is_empty() {
        return wrong!("the path is empty; give a path, e.g. {example:?}");
    }
    if text.chars().any(char::is_control) {
        let said = quoted(text);
        return wrong!("{said} contains a control character; give a path, e.g. {example:?}");
    }
    Ok(at.base.join(text))
}

/// Returns whether a string is a name: of a plugin, or of a key that TOML takes without quotes.
pub(super) fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !text.is_empty() && text.chars().all(legal)
}

/// Checks the name of a plugin: `lib<plugin>.so` is a file in the plugin folder.
pub(super) fn plugin(text: &str) -> Result<String, Wrong> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    let said = quoted(text);
    let file = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let library = file.strip_suffix(".so").map(|name| name.strip_prefix("lib").unwrap_or(name));
    let name = library.unwrap_or(file);
    if is_name(name) {
        return wrong!(
            "{said} is a file; write only the name, \"{name}\", for lib{name}.so in plugin_dir"
        );
    }
    wrong!(
        "{said} is not the name of a plugin; use letters, digits, _ and - only: \"NAME\" for libNAME.so in plugin_dir"
    )
}

/// Checks a SHA-256 digest in hexadecimal, as `sha256sum` prints it.
pub(super) fn digest(text: &str) -> Result<[u8; 32], Wrong> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong!(
            "{} is not a SHA-256 digest; give the 64 hexadecimal digits that `sha256sum libNAME.so` prints",
            quoted(text)
        );
    }
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..][..2], 16).unwrap_or_default();
    Ok(std::array::from_fn(byte))
}

/// Returns whether a string is a token (RFC 9110 section 5.6.2): a subprotocol, or the name of a
/// header.
pub(super) fn is_token(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(legal)
}

/// Checks the key of a resource, a path or a pattern; returns it without percent-encoding, for
/// comparison only.
pub(super) fn resource_path(path: &str) -> Result<Vec<u8>, Wrong> {
    let said = quoted(path);
    if !path.starts_with('/') {
        let of_url = path.split_once("://").and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
        let right = of_url.map_or_else(|| format!("/{path}"), str::to_owned);
        return wrong!("{said} does not begin with a slash; write [resources.{}]", quoted(&right));
    }
    if let Some(end) = path.find(['?', '#']) {
        let what = if path[end..].starts_with('?') { "query" } else { "fragment" };
        let right = quoted(&path[..end]);
        return wrong!("{said} has a {what}, which never selects a resource; write {right}");
    }
    let Some(plain) = percent_decoded(path) else {
        return wrong!("{said} has a % without two hexadecimal digits; write %25 for a %");
    };
    if path.chars().any(char::is_control) || plain.iter().any(u8::is_ascii_control) {
        return wrong!("{said} contains a control character; use letters, digits and - . _ ~ only");
    }
    if path.contains('\\') {
        let right = quoted(&path.replace('\\', "/"));
        return wrong!(
            "{said} has a backslash, which a browser replaces by a slash; write {right}"
        );
    }
    check_pattern(path)?;
    let encoded = percent_encoded(path);
    if encoded != path {
        return wrong!("{said} must be written as a browser sends it, {}", quoted(&encoded));
    }
    let segments = || path[1..].split('/');
    let dots = |segment| matches!(percent_decoded(segment).as_deref(), Some(b"." | b".."));
    if segments().any(dots) {
        return wrong!(
            "{said} has a segment \".\" or \"..\", which a browser resolves; write the resolved path"
        );
    }
    if path != "/" && segments().any(str::is_empty) {
        let what = if path.contains("//") { "two slashes in a row" } else { "a slash at its end" };
        let right: Vec<_> = segments().filter(|segment| !segment.is_empty()).collect();
        return wrong!("{said} has {what}; write {}", quoted(&format!("/{}", right.join("/"))));
    }
    Ok(plain)
}

/// Checks the segments `{name}` and `*`.
fn check_pattern(path: &str) -> Result<(), Wrong> {
    let (said, mut names) = (quoted(path), Vec::new());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == "*" && segments.peek().is_some() {
            return wrong!(
                "{said} has a segment * that is not the last one; write {{name}} for it"
            );
        }
        if !segment.contains(['{', '}']) {
            continue;
        }
        let name = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
        let Some(name) = name.filter(|name| is_name(name)) else {
            return wrong!(
                "{said} has a brace; write {{name}} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"
            );
        };
        if names.contains(&name) {
            return wrong!("{said} has two segments {{{name}}}; give them different names");
        }
        names.push(name);
    }
    Ok(())
}

pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        plain.push(u8::from_str_radix(hex, 16).ok()?);
        plain.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(plain)
}

/// Encodes the path percent-encode set of the URL standard, except for the braces of a pattern.
fn percent_encoded(path: &str) -> String {
    let encode = |byte: u8| match byte.is_ascii_graphic() && !b"\"<>^`".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    path.bytes().map(encode).collect()
}
