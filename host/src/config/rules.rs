//! Rules of values: what a key takes, its default, and how the reference page describes both.
//!
//! Knows no key by name. Rules of a single string are in `value` and `address`.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};
use toml::de::DeValue;

use super::keys::{Applies, Group, Key, Settings};
use super::raw::Node;
use super::schema;
use super::value::{At, Wrong, integer, quoted, wrong, wrong_kind};

/// What a key takes. Read-only after construction, and built anew for each use.
pub(super) struct Rule<T> {
    pub(super) description: Description,
    /// What to write where the key is missing; `None` where it may be.
    pub(super) required: Option<&'static str>,
    /// Returns the value of a file without the key. Relative paths are relative to the argument.
    pub(super) default: Box<dyn Fn(&Path) -> T>,
    /// Checks a value of the file; the second argument is the value that applies without the key.
    pub(super) read: Read<T>,
    /// Adds the key to the list if the old and the new value differ, and keeps the old value if the
    /// key needs a restart.
    pub(super) merge: Merge<T>,
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
    /// The JSON schema of legal values, as far as JSON Schema can express the rule.
    pub(super) schema: Json,
}

impl<T: Clone + PartialEq + 'static> Rule<T> {
    /// Creates a rule with a `default`, which is `shown` as in the file.
    pub(super) fn new(
        takes: impl Into<String>,
        shown: impl Display,
        default: T,
        read: impl Fn(&mut Node<'_, '_>, &T) -> Result<T, Wrong> + 'static,
    ) -> Self {
        Self::relative(takes, shown, move |_| default.clone(), read)
    }

    /// Creates a rule whose default depends on the directory of the file.
    fn relative(
        takes: impl Into<String>,
        shown: impl Display,
        default: impl Fn(&Path) -> T + 'static,
        read: impl Fn(&mut Node<'_, '_>, &T) -> Result<T, Wrong> + 'static,
    ) -> Self {
        let shown = shown.to_string();
        let otherwise = if shown.is_empty() { "none" } else { "" };
        let (takes, schema) = (takes.into(), Json::Null);
        let description = Description { takes, default: shown, otherwise, schema };
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

    /// Sets the JSON schema of legal values.
    pub(super) fn schema(mut self, schema: Json) -> Self {
        self.description.schema = schema;
        self
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
        let Self { description, default, read, merge, .. } = self;
        let read = move |node: &mut Node<'_, '_>, _: &Option<T>| {
            let default = default(node.mistakes.base());
            read(node, &default).map(Some)
        };
        let mut rule = Rule::new(description.takes, "", None, read).schema(description.schema);
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
    Rule::new("boolean", default, default, |node, _| {
        let right = "write true or false, without quotes";
        node.value.as_bool().ok_or_else(|| wrong_kind(node.value, right))
    })
    .schema(json!({ "type": "boolean" }))
}

/// One of a few strings; the first is the default.
pub(super) fn choice<T: Copy + PartialEq>(choices: &'static [(&'static str, T)]) -> Rule<T> {
    let words: Vec<_> = choices.iter().map(|(word, _)| quoted(word)).collect();
    let (takes, (word, default)) = (words.join(" or "), choices[0]);
    let right = format!("write {takes}");
    let words = choices.iter().map(|(word, _)| *word).collect::<Vec<_>>();
    Rule::new(takes, quoted(word), default, move |node, _| {
        let text = node.text(&right)?;
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => wrong!("{} is not known; {right}", quoted(text)),
        }
    })
    .schema(json!({ "enum": words }))
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
    Rule::new(takes, default, default, move |node, example| {
        let right = format!("give an integer from {least} to {most} ({unit}), e.g. {example}");
        let DeValue::Integer(number) = node.value else {
            return Err(wrong_kind(node.value, &right));
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
    })
    .schema(json!({ "type": "integer", "minimum": least, "maximum": most }))
}

/// A number of `unit`, of which 0 is no limit.
pub(super) fn limit(unit: &'static str, most: u64, default: usize) -> Rule<Option<NonZeroUsize>> {
    let Rule { description, read, .. } = count(unit, 0..=most, default, "");
    Rule::new(description.takes, default, NonZeroUsize::new(default), move |node, default| {
        read(node, &default.map_or(0, NonZeroUsize::get)).map(NonZeroUsize::new)
    })
    .schema(description.schema)
}

const DAY: u64 = 24 * 60 * 60;

/// A duration of at least `least` seconds; `less` is what a shorter one would do.
pub(super) fn seconds(default: f64, least: f64, less: &'static str) -> Rule<Duration> {
    let takes = format!("number of seconds, {least} to {DAY}");
    Rule::new(takes, default, Duration::from_secs_f64(default), move |node, default| {
        let example = default.as_secs_f64();
        let right = format!("give a number of seconds from {least} to {DAY}, e.g. {example}");
        duration(node.value, least, less, &right)
    })
    .schema(json!({ "type": "number", "minimum": least, "maximum": DAY }))
}

/// A duration of at least `least` seconds, or 0 for none. A default of 0 needs another `example`.
pub(super) fn seconds_or_none(
    default: f64,
    least: f64,
    less: &'static str,
    example: f64,
) -> Rule<Option<Duration>> {
    let takes = format!("number of seconds, 0 or {least} to {DAY}");
    let right = format!("give 0, or a number of seconds from {least} to {DAY}, e.g. {example}");
    let value = (default > 0.0).then(|| Duration::from_secs_f64(default));
    Rule::new(takes, default, value, move |node, _| match duration(node.value, 0.0, "", &right)? {
        Duration::ZERO => Ok(None),
        _ => duration(node.value, least, less, &right).map(Some),
    })
    .schema(json!({ "anyOf": [
        { "type": "number", "minimum": least, "maximum": DAY },
        { "const": 0 },
    ] }))
}

fn duration(value: &DeValue<'_>, least: f64, less: &str, right: &str) -> Result<Duration, Wrong> {
    let (text, seconds) = match value {
        DeValue::Integer(number) => (number.to_string(), integer(number).map(|n| n as f64)),
        DeValue::Float(number) => (number.to_string(), number.to_string().parse().ok()),
        other => return Err(wrong_kind(other, right)),
    };
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(found) if found.as_secs_f64() > DAY as f64 => {
            wrong!("{text} seconds is more than a day; {right}")
        }
        Some(found) if found.as_secs_f64() < least => wrong!("{text} seconds {less}; {right}"),
        Some(found) => Ok(found),
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
    Rule::relative(takes, quoted(default), value, move |node, _| {
        let right = format!("give {what} in quotes, e.g. {default:?}");
        parse(node.text(&right)?, &node.at(default))
    })
    .schema(json!({ "type": "string", "minLength": 1 }))
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
    Rule::relative("array of strings", format!("{default:?}"), values, move |node, _| {
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
    .schema(json!({ "type": "array", "items": { "type": "string" } }))
}

/// An inner table, compared key by key.
pub(super) fn table<T: Settings>() -> Rule<T> {
    let rule = Rule::relative("table", "", T::defaults, |node, default| {
        let right = format!("write a table, [{}]", node.name);
        node.table(&T::groups(), &right).map(|()| T::read(node, default))
    });
    let merge = Box::new(|old: &T, new: &mut T, _, changed: &mut Vec<Key>| old.merge(new, changed));
    Rule { merge, ..rule }.schema(schema::table(&T::groups()))
}

/// An array of at least one table, each of which `read` takes; it returns `None` after a mistake.
/// `example` is a right table.
pub(super) fn tables<T: Clone + PartialEq + 'static>(
    groups: fn() -> Vec<Group>,
    read: fn(&mut Node<'_, '_>) -> Option<T>,
    example: &'static str,
) -> Rule<Vec<T>> {
    Rule::new("array of tables", "", Vec::new(), move |node, _| {
        let right = format!("give an array of tables, e.g. [{example}]");
        let (mut tables, mut count) = (Vec::new(), 0);
        node.each(&right, |item| {
            item.name = format!("{}[{count}]", item.name);
            count += 1;
            item.table(&groups(), &right)?;
            tables.extend(read(item));
            Ok(())
        })?;
        if count == 0 {
            return wrong!("the array is empty; {right}");
        }
        Ok(tables)
    })
    .schema(json!({ "type": "array", "minItems": 1, "items": schema::table(&groups()) }))
}
