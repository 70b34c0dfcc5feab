//! Checks a configuration against the JSON schema that a plugin declares.

use serde_json::Value;

/// Checks a configuration, a JSON object; an empty schema accepts everything.
///
/// # Errors
/// One sentence for each violation, with the path of the value, or what is wrong with the schema.
pub(super) fn check(schema: &str, config: &str) -> Result<(), String> {
    if schema.is_empty() {
        return Ok(());
    }
    let invalid = |error: &dyn std::fmt::Display| {
        format!("its CONFIG_SCHEMA is not a valid JSON schema: {error}")
    };
    let schema: Value = serde_json::from_str(schema).map_err(|error| invalid(&error))?;
    let validator = jsonschema::validator_for(&schema).map_err(|error| invalid(&error))?;
    let config: Value = serde_json::from_str(config).map_err(|error| error.to_string())?;
    let violations: Vec<String> = validator
        .iter_errors(&config)
        .map(|error| match error.instance_path().as_str().strip_prefix('/') {
            Some(path) => format!("`{}`: {error}", path.replace('/', ".")),
            None => error.to_string(),
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::check;

    const SCHEMA: &str = r#"{
        "type": "object",
        "properties": {
            "seats": {"type": "integer", "minimum": 1},
            "rows": {"type": "array", "items": {"type": "string"}}
        },
        "additionalProperties": false
    }"#;

    #[test]
    fn a_violation_names_its_path() {
        for (config, expected) in [
            ("{}", None),
            (r#"{"seats":3,"rows":["a"]}"#, None),
            (r#"{"seats":0}"#, Some("`seats`: 0 is less than the minimum of 1")),
            (r#"{"rows":["a",1]}"#, Some("`rows.1`: 1 is not of type \"string\"")),
            (
                r#"{"seat":3}"#,
                Some("Additional properties are not allowed ('seat' was unexpected)"),
            ),
        ] {
            assert_eq!(check(SCHEMA, config).err().as_deref(), expected, "{config}");
        }
        assert_eq!(check("", "{}"), Ok(()));
        assert!(check("{", "{}").unwrap_err().contains("not a valid JSON schema"));
        assert!(check(r#"{"type":"x"}"#, "{}").unwrap_err().contains("not a valid JSON schema"));
        let remote = r#"{"$ref":"https://example.com/schema.json"}"#;
        assert!(check(remote, "{}").unwrap_err().contains("not a valid JSON schema"));
    }
}
