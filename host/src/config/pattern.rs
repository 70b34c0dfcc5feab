//! Keys of resources that are patterns: `/app/{name}` and `/files/*`.
//!
//! A path is matched segment by segment, and a literal segment byte for byte: the host compares an
//! exact path in the same way. Pure; does not know what a key selects.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::Split;

use super::value::percent_decoded;

/// A segment of a key.
#[derive(Clone, Copy)]
enum Segment<'k> {
    Literal(&'k str),
    /// `{name}`: any segment that is not empty.
    Named(&'k str),
    /// `*`, the last one: everything below, and nothing.
    Rest,
}

/// Returns whether a valid key is a pattern; otherwise it is an exact path.
pub(crate) fn is_pattern(key: &str) -> bool {
    key.contains('{') || key.ends_with("/*")
}

fn split(path: &str) -> Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

fn segments(key: &str) -> impl Iterator<Item = Segment<'_>> {
    let has_rest = key.ends_with("/*");
    let mut rest = split(key).peekable();
    std::iter::from_fn(move || {
        let segment = rest.next()?;
        if has_rest && rest.peek().is_none() {
            return Some(Segment::Rest);
        }
        let name = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
        Some(name.map_or(Segment::Literal(segment), Segment::Named))
    })
}

/// Returns the names of a pattern's parameters, `*` for the open rest, each with the part of the
/// path that it stands for, not decoded. `path` must match `key`.
pub(crate) fn parameters<'a>(
    key: &'a str,
    path: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
    segments(key).filter_map(move |segment| {
        if let Segment::Rest = segment {
            return Some(("*", rest.unwrap_or_default()));
        }
        let (this, after) = match rest?.split_once('/') {
            Some((this, after)) => (this, Some(after)),
            None => (rest?, None),
        };
        rest = after;
        match segment {
            Segment::Named(name) => Some((name, this)),
            _ => None,
        }
    })
}

/// Decodes a part of a path; invalid UTF-8 becomes U+FFFD.
pub(crate) fn decode(part: &str) -> Cow<'_, str> {
    match decoded(part) {
        Cow::Borrowed(_) => Cow::Borrowed(part),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

fn decoded(part: &str) -> Cow<'_, [u8]> {
    let plain = part.contains('%').then(|| percent_decoded(part)).flatten();
    plain.map_or(Cow::Borrowed(part.as_bytes()), Cow::Owned)
}

/// Returns the path with its encoded slashes decoded and those beside each other merged; `None` if
/// it has none of them.
fn merged(path: &str) -> Option<String> {
    let is_encoded = path.contains("%2F") || path.contains("%2f");
    if !is_encoded && !path.contains("//") {
        return None;
    }
    let decoded = path.replace("%2F", "/").replace("%2f", "/");
    let mut merged = String::with_capacity(decoded.len());
    for character in decoded.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    Some(merged)
}

/// Finds the most specific of the keys that match a path.
///
/// From left to right, a literal segment is more specific than a named one, and that more specific
/// than `*`. So an exact path comes before every pattern.
#[derive(Clone, Debug)]
pub(crate) struct PathTree<T>(Node<T>);

#[derive(Clone, Debug)]
struct Node<T> {
    /// By their decoded segment.
    literals: BTreeMap<Vec<u8>, Self>,
    named: Option<Box<Self>>,
    /// What ends here, and what has its `*` here.
    end: Option<Leaf<T>>,
    rest: Option<Leaf<T>>,
}

#[derive(Clone, Debug)]
struct Leaf<T> {
    key: Box<str>,
    value: T,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), named: None, end: None, rest: None }
    }
}

impl<T> Default for PathTree<T> {
    fn default() -> Self {
        Self(Node::default())
    }
}

impl<T> PathTree<T> {
    /// Adds a valid key.
    ///
    /// # Errors
    /// Key and value that match the same paths; they stay.
    pub(crate) fn insert(&mut self, key: &str, value: T) -> Result<(), (&str, &T)> {
        let (mut node, mut has_rest) = (&mut self.0, false);
        for segment in segments(key) {
            match segment {
                Segment::Literal(text) => {
                    node = node.literals.entry(decoded(text).into_owned()).or_default();
                }
                Segment::Named(_) => node = node.named.get_or_insert_default(),
                Segment::Rest => has_rest = true,
            }
        }
        let place = if has_rest { &mut node.rest } else { &mut node.end };
        if let Some(leaf) = place {
            return Err((&leaf.key, &leaf.value));
        }
        *place = Some(Leaf { key: key.into(), value });
        Ok(())
    }

    /// Returns the value of the most specific key that matches a path, if the path spells the
    /// literal segments of the key as the key does.
    ///
    /// The tree compares decoded segments: `/a/%62` must not fall from the key `/a/b` to `/a/{x}`,
    /// which may have no authentication. For the same reason a segment `.`, which other programs
    /// resolve, matches no key. Nor does `*` match `/a//b` or `/a%2Fb`, which other programs read as
    /// `/a/b`, if that selects another key.
    pub(crate) fn find(&self, path: &str) -> Option<&T> {
        if split(path).any(|segment| *decoded(segment) == *b".") {
            return None;
        }
        let leaf = self.0.find(split(path))?;
        if leaf.key.ends_with("/*") {
            let merged = merged(path).and_then(|merged| self.0.find(split(&merged)));
            if merged.is_some_and(|other| other.key != leaf.key) {
                return None;
            }
        }
        let mut pairs = segments(&leaf.key).zip(split(path));
        let is_spelled_so = pairs.all(|pair| match pair {
            (Segment::Literal(literal), segment) => literal == segment,
            (Segment::Named(_) | Segment::Rest, _) => true,
        });
        is_spelled_so.then_some(&leaf.value)
    }
}

impl<T> Node<T> {
    /// Visits each node of a level once at most, however the path is built.
    fn find(&self, mut path: Split<'_, char>) -> Option<&Leaf<T>> {
        let Some(segment) = path.next() else {
            return self.end.as_ref().or(self.rest.as_ref());
        };
        let literal = self.literals.get(&*decoded(segment));
        let named = self.named.as_deref().filter(|_| !segment.is_empty());
        let below = literal.into_iter().chain(named);
        below.filter_map(|node| node.find(path.clone())).next().or(self.rest.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 12] = [
        "/",
        "/app/key",
        "/app/{key}",
        "/app/{key}/settings",
        "/app/{key}/{page}",
        "/app/{key}/log/*",
        "/app/new/*",
        "/files/*",
        "/files",
        "/files/read%20me",
        "/{lang}/news",
        "/x/{a}/y",
    ];

    fn tree(keys: &[&'static str]) -> PathTree<&'static str> {
        let mut tree = PathTree::default();
        keys.iter().for_each(|key| tree.insert(key, *key).unwrap());
        tree
    }

    #[test]
    fn the_most_specific_key_is_found() {
        let found = tree(&KEYS);
        for (path, expected) in [
            ("/", Some("/")),
            ("/app", None),
            ("/app/", None),
            ("/app/key", Some("/app/key")),
            ("/app/Key", Some("/app/{key}")),
            ("/app/key/", None),
            ("/app/x/settings", Some("/app/{key}/settings")),
            ("/app/x/other", Some("/app/{key}/{page}")),
            ("/app/x/log", Some("/app/{key}/log/*")),
            ("/app/x/log/", Some("/app/{key}/log/*")),
            ("/app/x/log/a/b", Some("/app/{key}/log/*")),
            ("/app/new", Some("/app/new/*")),
            ("/app/new/settings", Some("/app/new/*")),
            ("/app/x/y/z", None),
            ("/files", Some("/files")),
            ("/files/", Some("/files/*")),
            ("/files//a//", Some("/files/*")),
            ("/files/news", Some("/files/*")),
            ("/de/news", Some("/{lang}/news")),
            ("/x/1/y", Some("/x/{a}/y")),
            ("/x/news", Some("/{lang}/news")),
            ("//news", None),
            ("/x//y", None),
        ] {
            assert_eq!(found.find(path).copied(), expected, "{path}");
        }
        let all = tree(&["/*"]);
        for path in ["/", "/a", "//", "/a/b%2F"] {
            assert_eq!(all.find(path), Some(&"/*"), "{path}");
        }
    }

    #[test]
    fn another_spelling_does_not_find_a_less_specific_key() {
        let tree = tree(&KEYS);
        for (path, expected) in [
            ("/app/%6bey", None),
            ("/app/%6Bey/settings", Some("/app/{key}/settings")),
            ("/%61pp/x", None),
            ("/app/x/s%65ttings", None),
            ("/app/x%2Fsettings", Some("/app/{key}")),
            ("/app/x/log/a%2Fb", Some("/app/{key}/log/*")),
            ("/app/new%2f", Some("/app/{key}")),
            ("/files/%2Fread%20me", None),
            ("/app%2Fkey", None),
            ("/files/a%2Fb//c", Some("/files/*")),
            ("/files//read%20me", None),
            ("/files//news", Some("/files/*")),
            ("//app/key", None),
            ("/app/new/s%65ttings", Some("/app/new/*")),
            ("/files/read%20me", Some("/files/read%20me")),
            ("/files/re%61d%20me", None),
            ("/files/read+me", Some("/files/*")),
            ("/app/.", None),
            ("/app/%2e", None),
            ("/files/a/./b", None),
            ("/./app/key", None),
            ("/app/.x", Some("/app/{key}")),
        ] {
            assert_eq!(tree.find(path).copied(), expected, "{path}");
        }
    }

    #[test]
    fn keys_for_the_same_paths_conflict() {
        for (first, second, is_conflict) in [
            ("/a", "/%61", true),
            ("/{a}", "/{b}", true),
            ("/a/{b}/c", "/a/{x}/c", true),
            ("/a/*", "/%61/*", true),
            ("/a", "/a/*", false),
            ("/a/{b}", "/a/*", false),
            ("/a/{b}", "/{a}/b", false),
            ("/a%2Fb", "/a/b", false),
            ("/{a}", "/%7B%7D", false),
        ] {
            let mut tree = PathTree::default();
            tree.insert(first, 1).unwrap();
            let inserted = tree.insert(second, 2);
            assert_eq!(inserted.err(), is_conflict.then_some((first, &1)), "{first} {second}");
        }
    }

    #[test]
    fn parameters_are_the_parts_that_a_pattern_leaves_open() {
        for (key, path, expected) in [
            ("/a", "/a", &[][..]),
            ("/app/{key}", "/app/x", &[("key", "x")]),
            ("/{a}/b/{c}", "/1/b/2%2F3", &[("a", "1"), ("c", "2/3")]),
            ("/files/*", "/files", &[("*", "")]),
            ("/files/*", "/files/", &[("*", "")]),
            ("/files/*", "/files/a/b%20c/", &[("*", "a/b c/")]),
            ("/{a}/*", "/%ff/x", &[("a", "\u{fffd}"), ("*", "x")]),
            ("/*", "/", &[("*", "")]),
            ("/*", "//a", &[("*", "/a")]),
        ] {
            let found: Vec<_> =
                parameters(key, path).map(|(name, part)| (name, decode(part))).collect();
            let found: Vec<_> = found.iter().map(|(name, part)| (*name, &**part)).collect();
            assert_eq!(found, expected, "{key} {path}");
            assert_eq!(is_pattern(key), !expected.is_empty(), "{key}");
        }
    }
}
