//! Reads `[resources."/path".config]`, with the same error texts for all applications.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::StartError;

/// Reads the configuration that [`Plugin::start`](crate::Plugin::start) receives.
///
/// `C` derives `serde::Deserialize` with `#[serde(deny_unknown_fields, default)]`: an unknown key
/// is an error, and every key is optional. The application itself validates ranges.
///
/// ```
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields, default)]
/// struct Config {
///     seats: u32,
/// }
///
/// impl Default for Config {
///     fn default() -> Self {
///         Self { seats: 12 }
///     }
/// }
///
/// let config: Config = plugsocket_plugin::read_config(r#"{"seats":8}"#).unwrap();
/// assert_eq!(config.seats, 8);
/// let error = plugsocket_plugin::read_config::<Config>(r#"{"seats":"many"}"#).err().unwrap();
/// assert_eq!(error.0, r#"`seats`: invalid type: string "many", expected u32"#);
/// ```
///
/// # Errors
/// The text names the key and what its value should be.
pub fn read_config<C: DeserializeOwned>(text: &str) -> Result<C, StartError> {
    let table: Map<String, Value> = serde_json::from_str(text)?;
    // Each key alone first: serde's error does not name the key whose value is wrong.
    for (key, value) in &table {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = C::deserialize(Value::Object(alone)) {
            let text = error.to_string();
            let is_named = text.contains(&format!("`{key}`"));
            return Err(StartError(if is_named { text } else { format!("`{key}`: {text}") }));
        }
    }
    Ok(C::deserialize(Value::Object(table))?)
}

#[cfg(test)]
mod tests {
    use super::read_config;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        seats: u32,
        words: BTreeMap<String, String>,
    }

    #[test]
    fn an_error_names_its_key() {
        for (text, expected) in [
            (r#"{"seat":1}"#, "unknown field `seat`, expected `seats` or `words`"),
            (r#"{"seats":-1}"#, "`seats`: invalid value: integer `-1`, expected u32"),
            (
                r#"{"seats":1,"words":{"a":true}}"#,
                "`words`: invalid type: boolean `true`, expected a string",
            ),
        ] {
            assert_eq!(read_config::<Config>(text).unwrap_err().0, expected, "{text}");
        }
        assert!(read_config::<Config>("[]").unwrap_err().0.contains("expected a map"));
    }

    #[test]
    fn missing_keys_have_their_defaults() {
        assert_eq!(read_config::<Config>("{}"), Ok(Config::default()));
        assert_eq!(read_config::<Config>(r#"{"seats":3}"#).unwrap().seats, 3);
    }
}
