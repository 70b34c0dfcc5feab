//! The rules of single values: text or number in, legal value or a sentence out. Pure; no file, no line, no key.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

/// What is wrong with a value and what would be right, as the sentence that the operator reads.
/// No enum: nobody but the operator tells these mistakes apart.
#[derive(Debug)]
pub(super) struct Wrong(pub(super) String);

macro_rules! wrong {
    ($($part:tt)*) => { Err($crate::config::value::Wrong(format!($($part)*))) };
}
pub(super) use wrong;

/// `value` is of another kind than it should be; `right` says what would be right.
pub(super) fn wrong_kind(value: &DeValue<'_>, right: &str) -> Wrong {
    let what = match value {
        DeValue::String(text) => format!("{} is a text", quoted(text)),
        DeValue::Integer(number) => format!("{number} is a whole number"),
        DeValue::Float(number) => format!("{number} is a number with a fraction"),
        DeValue::Boolean(boolean) => format!("{boolean} is a boolean"),
        DeValue::Datetime(date) => format!("{date} is a date or time"),
        DeValue::Array(_) => "this is a list".to_owned(),
        DeValue::Table(_) => "this is a table".to_owned(),
    };
    Wrong(format!("{what}; {right}"))
}

/// The text in quotes, on one line, and not longer than a line should be. What may be secret in a URL is left out.
pub(super) fn quoted(text: &str) -> String {
    let text = if text.contains("://") { without_secrets(text) } else { Cow::Borrowed(text) };
    in_quotes(&text)
}

/// The same for what was meant to be a URL, whether or not it looks like one.
pub(super) fn quoted_url(text: &str) -> String {
    in_quotes(&without_secrets(text))
}

/// `http://…@host/path?…`: user information and query hold passwords and tokens, and what is quoted here goes to the log.
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

/// What is no secret of a URL behind its scheme: host and path. None where they cannot be told from the rest.
pub(super) fn shown(rest: &str) -> Option<&str> {
    let end = rest.find(QUERY).unwrap_or(rest.len());
    match rest.rfind('@') {
        // A password with such a character in it, or a query with an address: one could be taken for the other.
        Some(at) if at > end => None,
        Some(at) => Some(&rest[at + 1..end]),
        None => Some(&rest[..end]),
    }
}

/// What begins with one of them ends the path.
const QUERY: [char; 2] = ['?', '#'];

fn in_quotes(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// The one of `known` that was probably meant: it begins like `word`, or a letter or two are wrong.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['_', '-'], "");
    let word = plain(word);
    let length = word.chars().count();
    let near = |known: &&'k str| (edit_distance(&word, &plain(known)), *known);
    let (distance, near) = known.iter().map(near).min_by_key(|(distance, _)| *distance)?;
    if distance <= 2 && distance * 2 < length {
        return Some(near);
    }
    known.iter().find(|known| length >= 4 && plain(known).starts_with(&word)).copied()
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

pub(super) fn switch(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| wrong_kind(value, "write true or false, without quotes"))
}

/// One of a few words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let words: Vec<_> = choices.iter().map(|(word, _)| quoted(word)).collect();
    let right = format!("write {}", words.join(" or "));
    let text = value.as_str().ok_or_else(|| wrong_kind(value, &right))?;
    let found = choices.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, choice)| *choice)
        .ok_or_else(|| Wrong(format!("{} is not known; {right}", quoted(text))))
}

/// What a key that counts something takes.
pub(super) struct Count {
    unit: &'static str,
    range: RangeInclusive<u64>,
    /// What zero would do, if it is out of range.
    zero: &'static str,
}

impl Count {
    pub(super) const fn new(
        unit: &'static str,
        range: RangeInclusive<u64>,
        zero: &'static str,
    ) -> Self {
        Self { unit, range, zero }
    }
}

/// A count; `example` is one that is right.
pub(super) fn count(value: &DeValue<'_>, rule: &Count, example: usize) -> Result<usize, Wrong> {
    let Count { unit, range, zero } = rule;
    let DeValue::Integer(number) = value else {
        return Err(wrong_kind(value, &format!("give a whole number of {unit}, e.g. {example}")));
    };
    let limit =
        |word, limit| format!("give a number of {unit} of at {word} {limit}, e.g. {example}");
    let (least, most) = (limit("least", range.start()), limit("most", range.end()));
    match integer(number).and_then(|number| u64::try_from(number).ok()) {
        Some(0) if !range.contains(&0) => wrong!("0 {unit} {zero}; {least}"),
        Some(count) if count < *range.start() => wrong!("{count} {unit} is too little; {least}"),
        Some(count) if range.contains(&count) => usize::try_from(count).map_err(|_| {
            Wrong(format!("{count} {unit} is more than this machine can address; {most}"))
        }),
        None if number.as_str().starts_with('-') => wrong!("{number} {unit} cannot be; {least}"),
        _ => wrong!("{number} {unit} is too much; {most}"),
    }
}

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// What a key that is a duration takes.
pub(super) struct Seconds {
    pub(super) least: Duration,
    /// What less would do.
    pub(super) less: &'static str,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration; `example` is one that is right.
pub(super) fn seconds(
    value: &DeValue<'_>,
    rule: &Seconds,
    example: Duration,
) -> Result<Duration, Wrong> {
    let (Seconds { least, less }, example) = (rule, example.as_secs_f64());
    let text = match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other => {
            return Err(wrong_kind(other, &format!("give a number of seconds, e.g. {example}")));
        }
    };
    let seconds = match value {
        DeValue::Integer(number) => {
            integer(number).and_then(|n| u64::try_from(n).ok()).map(Duration::from_secs)
        }
        _ => text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    };
    let range =
        format!("give a number of seconds from {} to 86400, e.g. {example}", least.as_secs_f64());
    match seconds {
        Some(seconds) if seconds > DAY => wrong!("{text} seconds is more than a day; {range}"),
        Some(seconds) if seconds < *least => wrong!("{text} seconds {less}; {range}"),
        Some(seconds) => Ok(seconds),
        None if text.starts_with('-') => wrong!("{text} seconds cannot be; {range}"),
        None => wrong!("{text} is not a length of time; {range}"),
    }
}

/// A path of the file system; `base` is what a relative one is relative to.
pub(super) fn file(text: &str, base: &Path, example: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() {
        return wrong!("the path is empty; give a path, e.g. {example}");
    }
    if text.chars().any(char::is_control) {
        return wrong!(
            "{} contains a control character; give a path, e.g. {example}",
            quoted(text)
        );
    }
    Ok(base.join(text))
}

/// The name of a plugin: `lib<plugin>.so` must be a file of the plugin folder.
pub(super) fn plugin(text: &str) -> Result<String, Wrong> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    let said = quoted(text);
    let file = text.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = match file.strip_suffix(".so") {
        Some(file) => file.strip_prefix("lib").unwrap_or(file),
        None => file,
    };
    if name != text && !name.is_empty() && name.chars().all(legal) {
        return wrong!(
            "{said} is a file; write only the name, \"{name}\", which stands for lib{name}.so in plugin_dir"
        );
    }
    wrong!(
        "{said} is no plugin; give letters, digits, _ and - only: \"NAME\" stands for libNAME.so in plugin_dir"
    )
}

/// A SHA-256 in hexadecimal, as `sha256sum` prints it.
pub(super) fn digest(text: &str) -> Result<[u8; 32], Wrong> {
    let mut digest = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return wrong!(
            "{} is no SHA-256; give the 64 hexadecimal digits that `sha256sum libNAME.so` prints",
            quoted(text)
        );
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap_or_default();
    }
    Ok(digest)
}

/// A subprotocol: a token (RFC 6455 section 4.1, RFC 7230 section 3.2.6).
pub(super) fn token(text: &str) -> Result<String, Wrong> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !text.is_empty() && text.chars().all(legal) {
        return Ok(text.to_owned());
    }
    let said = quoted(text);
    wrong!(
        "{said} cannot be a subprotocol; give letters, digits and !#$%&'*+-.^_`|~ only, e.g. \"chat.v1\""
    )
}

/// Checks the path of a resource and returns it with its percent-encoding undone, for comparison only.
pub(super) fn resource_path(path: &str) -> Result<Vec<u8>, Wrong> {
    let said = quoted(path);
    if !path.starts_with('/') {
        let of_url = path.split_once("://").and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
        let right = of_url.map_or_else(|| format!("/{path}"), str::to_owned);
        return wrong!("{said} does not begin with a slash; write [resources.{}]", quoted(&right));
    }
    if let Some(end) = path.find(['?', '#']) {
        let what = if path[end..].starts_with('?') { "query" } else { "fragment" };
        return wrong!(
            "{said} has a {what}, which never selects a resource; write {}",
            quoted(&path[..end])
        );
    }
    let Some(plain) = percent_decoded(path) else {
        return wrong!(
            "{said} has a % without two hexadecimal digits; write %25 for the character itself"
        );
    };
    if path.chars().any(char::is_control) || plain.iter().any(u8::is_ascii_control) {
        return wrong!("{said} contains a control character; use letters, digits and - . _ ~ only");
    }
    if path.contains('\\') {
        return wrong!(
            "{said} has a backslash, which a browser turns into a slash; write {}",
            quoted(&path.replace('\\', "/"))
        );
    }
    if let Cow::Owned(encoded) = percent_encoded(path) {
        return wrong!("{said} must be written as a browser sends it, {}", quoted(&encoded));
    }
    let segments = || path[1..].split('/');
    let dots = |segment| matches!(percent_decoded(segment).as_deref(), Some(b"." | b".."));
    if segments().any(dots) {
        return wrong!(
            "{said} has a segment \".\" or \"..\", which a browser resolves before it asks; write the resolved path"
        );
    }
    if path != "/" && segments().any(str::is_empty) {
        let what = if path.contains("//") { "two slashes in a row" } else { "a slash at its end" };
        let right: Vec<_> = segments().filter(|segment| !segment.is_empty()).collect();
        return wrong!("{said} has {what}; write {}", quoted(&format!("/{}", right.join("/"))));
    }
    Ok(plain)
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut plain = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
        plain.push(u8::from_str_radix(hex, 16).ok()?);
        plain.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(plain)
}

/// As the path percent-encode set of the URL standard has it.
fn percent_encoded(path: &str) -> Cow<'_, str> {
    let encode = |byte: u8| !byte.is_ascii_graphic() || b"\"<>^`{}".contains(&byte);
    if !path.bytes().any(encode) {
        return Cow::Borrowed(path);
    }
    let write =
        |byte: u8| if encode(byte) { format!("%{byte:02X}") } else { char::from(byte).to_string() };
    Cow::Owned(path.bytes().map(write).collect())
}

/// A number as JSON has it.
pub(super) fn number(value: &DeValue<'_>) -> Result<serde_json::Number, Wrong> {
    match value {
        DeValue::Integer(number) => integer(number).map(Into::into).ok_or_else(|| {
            Wrong(format!("{number} is too large a number; give one of 64 bits, or a text"))
        }),
        other => {
            let text = other.as_float().map(ToString::to_string).unwrap_or_default();
            let number = text.parse().ok().and_then(serde_json::Number::from_f64);
            number.ok_or_else(|| Wrong(format!("{text} cannot be handed to a plugin, JSON has no such number; give a finite one, or a text")))
        }
    }
}
