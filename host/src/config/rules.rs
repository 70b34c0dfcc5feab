//! Rules of values: what a key takes, its default, and how the reference page describes both.
//!
//! Knows no key by name. Rules of a single string are in `value` and `address`.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::keys::{Applies, Group, Key, Settings};
use super::raw::{Node, Section};
use super::value::{At, Wrong, integer, quoted, wrong, wrong_kind};

/// What a key takes. Read-only after construction, and built anew for each use.
pub(super) struct Rule<T> {
    pub(super) description: Description,
    /// What to write where the key is missing; `None` where it may be.
    pub(super) required: Option<&'static str>,
    default: Box<dyn Fn(&Path) -> T>,
    read: Read<T>,
    merge: Merge<T>,
}

type Read<T> = Box<dyn Fn(&mut Node<'_, '_>, &T) -> Result<T, Wrong>>;
type Merge<T> = Box<dyn Fn(&T, &mut T, Key, &mut Vec<Key>)>;

/// A rule in the words of the reference page.
pub(super) struct Description {
    /// Type, range and unit.
    pub(super) takes: String,
    /// The default as in the file; empty if there is none.
    pub(super) default: String,
    /// What replaces the default on the page.
    pub(super) otherwise: &'static str,
}

impl<T: Clone + PartialEq + 'static> Rule<T> {
    /// `shown` is the default as in the file. `read` also gets the value that applies without the
    /// key.
    pub(super) fn new(
        takes: impl Into<String>,
        shown: impl Display,
        default: impl Fn(&Path) -> T + 'static,
        read: impl Fn(&mut Node<'_, '_>, &T) -> Result<T, Wrong> + 'static,
    ) -> Self {
        let default_text = shown.to_string();
        let otherwise = if default_text.is_empty() { "none" } else { "" };
        let description = Description { takes: takes.into(), default: default_text, otherwise };
        let merge = |old: &T, new: &mut T, key: Key, changed: &mut Vec<Key>| {
            if old != new {
                changed.push(key);
                if key.applies == Applies::AtRestart {
                    new.clone_from(old);
                }
            }
        };
        let (default, read) = (Box::new(default), Box::new(read));
        Self { description, required: None, default, read, merge: Box::new(merge) }
    }

    /// Returns the value of a file without the key. Relative paths are relative to `base`.
    pub(super) fn default(&self, base: &Path) -> T {
        (self.default)(base)
    }

    /// Checks a value of the file. `default` applies without it.
    pub(super) fn read(&self, node: &mut Node<'_, '_>, default: &T) -> Result<T, Wrong> {
        (self.read)(node, default)
    }

    /// Adds the key to `changed` if the values differ, and keeps the old value if it needs a
    /// restart.
    pub(super) fn merge(&self, old: &T, new: &mut T, key: Key, changed: &mut Vec<Key>) {
        (self.merge)(old, new, key, changed);
    }

    /// A key that must be there, and what to write. The default is an example: without the key
    /// there is no configuration.
    pub(super) fn required(mut self, right: &'static str) -> Self {
        self.description.default.clear();
        self.description.otherwise = "required";
        Self { required: Some(right), ..self }
    }

    /// A key of a resource whose default is the value of the same key of `[server]`.
    pub(super) fn inherited(mut self) -> Self {
        self.description.otherwise = "as in `[server]`";
        self
    }

    /// A key without a default.
    pub(super) fn optional(self) -> Rule<Option<T>> {
        let Self { description: Description { takes, .. }, default, read, merge, .. } = self;
        let read = move |node: &mut Node<'_, '_>, _: &Option<T>| {
            let default = default(node.base());
            read(node, &default).map(Some)
        };
        let mut rule = Rule::new(takes, "", |_| None, read);
        let whole = rule.merge;
        rule.merge = Box::new(move |old, new, key, changed| match (old, &mut *new) {
            (Some(old), Some(new)) => merge(old, new, key, changed),
            _ => whole(old, new, key, changed),
        });
        rule
    }
}

/// A boolean.
pub(super) fn switch(default: bool) -> Rule<bool> {
    Rule::new(
        "boolean",
        default,
        move |_| default,
        |node, _| {
            let right = "write true or false, without quotes";
            node.value().as_bool().ok_or_else(|| wrong_kind(node.value(), right))
        },
    )
}

/// One of a few strings; the first is the default.
pub(super) fn choice<T: Copy + PartialEq>(choices: &'static [(&'static str, T)]) -> Rule<T> {
    let words: Vec<_> = choices.iter().map(|(word, _)| quoted(word)).collect();
    let takes = words.join(" or ");
    let right = format!("write {takes}");
    let (word, default) = choices[0];
    Rule::new(
        takes,
        quoted(word),
        move |_| default,
        move |node, _| {
            let text = node.text(&right)?;
            match choices.iter().find(|(word, _)| *word == text) {
                Some((_, value)) => Ok(*value),
                None => wrong!("{} is not known; {right}", quoted(text)),
            }
        },
    )
}

/// A number of `unit`; `zero` is what 0 would do, where it is out of range.
pub(super) fn count(
    unit: &'static str,
    range: RangeInclusive<u64>,
    default: usize,
    zero: &'static str,
) -> Rule<usize> {
    let (least, most) = (*range.start(), *range.end());
    let takes = format!("integer, {least} to {most} {unit}");
    Rule::new(
        takes,
        default,
        move |_| default,
        move |node, example| {
            let right = format!("give an integer from {least} to {most} ({unit}), e.g. {example}");
            let DeValue::Integer(number) = node.value() else {
                return Err(wrong_kind(node.value(), &right));
            };
            let count = i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX);
            match count {
                0 if least > 0 => wrong!("0 {unit} {zero}; {right}"),
                _ if count < i128::from(least) || number.as_str().starts_with('-') => {
                    wrong!("{number} {unit} is too little; {right}")
                }
                _ if count > i128::from(most) => wrong!("{number} {unit} is too much; {right}"),
                _ => usize::try_from(count).map_err(|_| {
                    Wrong(format!("{number} {unit} is too much for this machine; {right}"))
                }),
            }
        },
    )
}

/// A number of `unit`, of which 0 is no limit.
pub(super) fn limit(unit: &'static str, most: u64, default: usize) -> Rule<Option<NonZeroUsize>> {
    let count = count(unit, 0..=most, default, "");
    let (takes, shown) = (count.description.takes.clone(), default);
    Rule::new(
        takes,
        shown,
        move |_| NonZeroUsize::new(default),
        move |node, default| {
            count.read(node, &default.map_or(0, NonZeroUsize::get)).map(NonZeroUsize::new)
        },
    )
}

const DAY: u64 = 24 * 60 * 60;

/// A duration of at least `least` seconds; `less` is what a shorter one would do.
pub(super) fn seconds(default: f64, least: f64, less: &'static str) -> Rule<Duration> {
    let takes = format!("number of seconds, {least} to {DAY}");
    Rule::new(
        takes,
        default,
        move |_| Duration::from_secs_f64(default),
        move |node, default| {
            let example = default.as_secs_f64();
            let right = format!("give a number of seconds from {least} to {DAY}, e.g. {example}");
            duration(node.value(), least, less, &right)
        },
    )
}

/// A duration of at least `least` seconds, or 0 for none. A default of 0 needs another `example`.
pub(super) fn seconds_or_none(
    default: f64,
    least: f64,
    less: &'static str,
    example: f64,
) -> Rule<Option<Duration>> {
    let takes = format!("number of seconds, 0 or {least} to {DAY}");
    let value = (default > 0.0).then(|| Duration::from_secs_f64(default));
    Rule::new(
        takes,
        default,
        move |_| value,
        move |node, _| {
            let right =
                format!("give 0, or a number of seconds from {least} to {DAY}, e.g. {example}");
            match duration(node.value(), 0.0, "", &right)? {
                Duration::ZERO => Ok(None),
                _ => duration(node.value(), least, less, &right).map(Some),
            }
        },
    )
}

fn duration(value: &DeValue<'_>, least: f64, less: &str, right: &str) -> Result<Duration, Wrong> {
    let (text, seconds) = match value {
        DeValue::Integer(number) => {
            let seconds = integer(number).and_then(|seconds| u64::try_from(seconds).ok());
            (number.to_string(), seconds.map(Duration::from_secs))
        }
        DeValue::Float(number) => {
            let seconds = number.to_string().parse().ok();
            let seconds = seconds.and_then(|float| Duration::try_from_secs_f64(float).ok());
            (number.to_string(), seconds)
        }
        other => return Err(wrong_kind(other, right)),
    };
    match seconds.map(|seconds| (seconds, seconds.as_secs_f64())) {
        Some((_, float)) if float > DAY as f64 => {
            wrong!("{text} seconds is more than a day; {right}")
        }
        Some((_, float)) if float < least => wrong!("{text} seconds {less}; {right}"),
        Some((seconds, _)) => Ok(seconds),
        None if text.starts_with('-') => wrong!("{text} seconds is negative; {right}"),
        None => wrong!("{text} is not a duration; {right}"),
    }
}

/// Makes a value of a string.
pub(super) type Parse<T> = fn(&str, &At<'_>) -> Result<T, Wrong>;

const LEGAL: &str = "the default of a key is legal";

/// A string, which `what` describes with an article.
pub(super) fn text<T: Clone + PartialEq + 'static>(
    parse: Parse<T>,
    what: &'static str,
    default: &'static str,
) -> Rule<T> {
    let takes = if what == "a string" { "string".to_owned() } else { format!("string: {what}") };
    let value =
        move |base: &Path| parse(default, &At { base, line: 0, example: default }).expect(LEGAL);
    Rule::new(takes, quoted(default), value, move |node, _| {
        let right = format!("give {what} in quotes, e.g. {default:?}");
        parse(node.text(&right)?, &node.at(default))
    })
}

/// An array of strings.
pub(super) fn strings<T: Clone + PartialEq + 'static>(
    parse: Parse<T>,
    default: &'static [&'static str],
    example: &'static [&'static str],
) -> Rule<Vec<T>> {
    distinct_strings(parse, default, example, |_, _| false)
}

/// An array of strings, none of which is the `same` as an earlier one.
pub(super) fn distinct_strings<T: Clone + PartialEq + 'static>(
    parse: Parse<T>,
    default: &'static [&'static str],
    example: &'static [&'static str],
    same: fn(&T, &T) -> bool,
) -> Rule<Vec<T>> {
    let values = move |base: &Path| {
        let at = At { base, line: 0, example: "" };
        default.iter().map(|text| parse(text, &at).expect(LEGAL)).collect()
    };
    Rule::new("array of strings", format!("{default:?}"), values, move |node, _| {
        let right = format!("give an array of strings, e.g. {example:?}");
        let mut values = Vec::new();
        node.each(&right, |item| {
            let text = item.text(&right)?;
            let value = parse(text, &item.at(""))?;
            if values.iter().any(|earlier| same(earlier, &value)) {
                return wrong!("{} is there twice; keep one of them", quoted(text));
            }
            values.push(value);
            Ok(())
        })?;
        Ok(values)
    })
}

/// An inner table, compared key by key.
pub(super) fn table<T: Settings>() -> Rule<T> {
    let rule = Rule::new("table", "", T::defaults, |node, default| {
        let right = format!("write a table, [{}]", node.name);
        node.section(&T::groups(), &right).map(|mut section| T::read(&mut section, default))
    });
    Rule { merge: Box::new(|old: &T, new, _, changed| old.merge(new, changed)), ..rule }
}

/// An array of at least one table, each of which `read` takes; it returns `None` after a mistake.
/// `example` is a right table.
pub(super) fn tables<T: Clone + PartialEq + 'static>(
    groups: fn() -> Vec<Group>,
    read: fn(&mut Section<'_, '_>) -> Option<T>,
    example: &'static str,
) -> Rule<Vec<T>> {
    Rule::new(
        "array of tables",
        "",
        |_| Vec::new(),
        move |node, _| {
            let right = format!("give an array of tables, e.g. [{example}]");
            let (mut tables, mut count) = (Vec::new(), 0);
            node.each(&right, |item| {
                item.name = format!("{}[{count}]", item.name);
                count += 1;
                tables.extend(read(&mut item.section(&groups(), &right)?));
                Ok(())
            })?;
            if count == 0 {
                return wrong!("the array is empty; {right}");
            }
            Ok(tables)
        },
    )
}
