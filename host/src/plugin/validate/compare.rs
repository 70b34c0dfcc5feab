//! Compares two snapshots whose order, clocks and numbers may differ.

use serde_json::Value;

/// How a later state differs from an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// The same, except for the order of its parts.
    None,
    /// The same parts with other values, such as times.
    Values,
    /// Parts are missing.
    Lost,
}

/// Compares states: JSON by its structure, other bytes by how often each occurs.
pub(super) fn compare(before: &[u8], after: &[u8]) -> Difference {
    if before == after {
        return Difference::None;
    }
    match (serde_json::from_slice(before), serde_json::from_slice(after)) {
        (Ok(before), Ok(after)) => compare_json(before, after),
        _ => compare_bytes(before, after),
    }
}

fn compare_json(before: Value, after: Value) -> Difference {
    let (shape, later_shape) = (parts(&before), parts(&after));
    if sorted(before) == sorted(after) {
        return Difference::None;
    }
    if later_shape < shape { Difference::Lost } else { Difference::Values }
}

/// Counts keys, entries and values.
fn parts(value: &Value) -> usize {
    match value {
        Value::Array(entries) => 1 + entries.iter().map(parts).sum::<usize>(),
        Value::Object(entries) => 1 + entries.values().map(|value| 1 + parts(value)).sum::<usize>(),
        Value::Null => 0,
        Value::String(text) => 1 + usize::from(!text.is_empty()),
        Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// Sorts arrays, which may be lists of what a hash map contains.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(entries) => {
            let mut entries: Vec<Value> = entries.into_iter().map(sorted).collect();
            entries.sort_by_cached_key(ToString::to_string);
            entries.into()
        }
        Value::Object(entries) => {
            entries.into_iter().map(|(key, value)| (key, sorted(value))).collect()
        }
        other => other,
    }
}

fn compare_bytes(before: &[u8], after: &[u8]) -> Difference {
    let counts = |bytes: &[u8]| {
        let mut counts = [0_usize; 256];
        bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        counts
    };
    if counts(before) == counts(after) {
        Difference::None
    } else if after.len() < before.len() - before.len() / 10 {
        Difference::Lost
    } else {
        Difference::Values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_values_are_told_from_losses() {
        for (before, after, expected) in [
            (r#"{"a":[1,2],"b":3}"#, r#"{"b":3,"a":[2,1]}"#, Difference::None),
            (r#"{"a":[1,2]}"#, r#"{"a":[1,3]}"#, Difference::Values),
            (r#"{"a":[1,2]}"#, r#"{"a":[1,2,3]}"#, Difference::Values),
            (r#"{"a":[1,2]}"#, r#"{"a":[1]}"#, Difference::Lost),
            (r#"{"a":{"b":1}}"#, r#"{"a":{}}"#, Difference::Lost),
            (r#"{"a":"x"}"#, r#"{"a":""}"#, Difference::Lost),
            ("ab\u{1}", "\u{1}ab", Difference::None),
            ("abc", "abd", Difference::Values),
            ("0123456789abc", "0123456789", Difference::Lost),
        ] {
            assert_eq!(compare(before.as_bytes(), after.as_bytes()), expected, "{before} {after}");
        }
    }
}
