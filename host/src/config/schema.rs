//! The JSON schema of `plugins.toml`, docs/reference/plugins.schema.json, generated from the
//! declared keys. Editors complete and check the file by it.
//!
//! It knows types, ranges and names of keys. What else a key requires, such as the syntax of an
//! address, only the reader checks.

use serde_json::{Map, Value as Json, json};

use super::keys::{Declaration, Group, Settings};
use super::{PluginSettings, ResourceSettings, ServerSettings};

/// Returns the schema (draft 7, which editors know).
pub fn schema() -> Json {
    let named = |pattern: &str, groups: &[Group]| {
        json!({
            "type": "object",
            "patternProperties": { pattern: table(groups) },
            "additionalProperties": false,
        })
    };
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "plugins.toml of plugsocket",
        "type": "object",
        "properties": {
            "server": table(&ServerSettings::groups()),
            "resources": named("^/", &ResourceSettings::groups()),
            "plugins": named("^[A-Za-z0-9_-]+$", &PluginSettings::groups()),
        },
        "additionalProperties": false,
    })
}

/// Returns the schema of a table with these keys.
pub(super) fn table(groups: &[Group]) -> Json {
    let keys = groups.iter().flat_map(|group| group.keys);
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for key in keys {
        let (schema, is_required) = property(key);
        properties.insert(key.name.to_owned(), schema);
        if is_required {
            required.push(key.name);
        }
    }
    let mut table =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

/// Returns the schema of a key, and whether the key is required.
fn property(key: &Declaration) -> (Json, bool) {
    let description = (key.describe)();
    let mut schema = description.schema;
    schema["description"] = json!(key.meaning.trim());
    // A default in TOML that is also JSON, as all but those of tables are.
    if let Ok(default) = serde_json::from_str::<Json>(&description.default) {
        schema["default"] = default;
    }
    (schema, description.otherwise == "required")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jsonschema::Validator;

    use super::*;

    fn validator() -> Validator {
        jsonschema::validator_for(&schema()).unwrap()
    }

    /// The mistakes that the schema finds in a text that is TOML.
    fn mistakes(validator: &Validator, text: &str) -> Vec<String> {
        let value: Json = toml::from_str(text).unwrap();
        validator.iter_errors(&value).map(|error| error.to_string()).collect()
    }

    #[test]
    fn the_file_is_what_the_declared_keys_generate() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/plugins.schema.json");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, format!("{:#}\n", schema())).unwrap();
        }
        // As values: the order of keys depends on features of serde_json.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let found = serde_json::from_str::<Json>(&text).ok();
        assert!(
            found == Some(schema()),
            "docs/reference/plugins.schema.json is out of date; run: UPDATE_DOCS=1 cargo test -p plugsocket --lib config::schema"
        );
    }

    #[test]
    fn the_shipped_file_is_valid_also_with_every_key_that_it_shows() {
        let shipped = super::super::tests::shipped::SHIPPED;
        let validator = validator();
        assert_eq!(mistakes(&validator, shipped), <[String; 0]>::default());
        let is_kept = |line: &&str| !line.starts_with("# ") && !line.starts_with("#:");
        let shown = |line: &str| line.strip_prefix('#').unwrap_or(line).to_owned();
        let lines: Vec<_> = shipped.lines().filter(is_kept).map(shown).collect();
        assert_eq!(mistakes(&validator, &lines.join("\n")), <[String; 0]>::default());
    }

    #[test]
    fn every_configuration_of_the_documents_is_valid() {
        let (validator, mut checked) = (validator(), 0);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for folder in ["", "docs", "docs/guides", "docs/reference", "docs/explanation"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap().flatten() {
                let path = entry.path();
                if path.extension().is_none_or(|extension| extension != "md") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for block in text.split("\n```toml\n").skip(1) {
                    let block = block.split("\n```").next().unwrap();
                    if block.contains("[package]") {
                        continue;
                    }
                    // A fragment may leave out the plugin of a resource.
                    let found = mistakes(&validator, block);
                    let problems: Vec<_> = found
                        .iter()
                        .filter(|text| !text.contains("\"plugin\" is a required"))
                        .collect();
                    assert!(problems.is_empty(), "{}: {problems:?}\n{block}", path.display());
                    checked += 1;
                }
            }
        }
        assert!(checked >= 15, "{checked}");
    }

    #[test]
    fn typical_mistakes_are_not_valid() {
        let validator = validator();
        for text in [
            "[sever]",
            "[server]\nlistn = []",
            "[server]\nlisten = '127.0.0.1:8095'",
            "[server]\npage = 'yes'",
            "[server]\nhead_timeout = '5'",
            "[server]\nhead_timeout = 0",
            "[server]\nping_interval = -1",
            "[server]\nmax_chunks = 0.5",
            "[server]\nunknown_resource = '405'",
            "[server.reload]\nprobation_share = 101",
            "[server.rate]\npolicy = 'drop'",
            "[server.tls]\nlisten = []\ncertificates = []",
            "[resources.'/a']",
            "[resources.'/a']\nplugin = ''",
            "[resources.'/a']\nplugin = 'echo'\nlane = 'own'",
            "[resources.'/a']\nplugin = 'echo'\nconfig = 'prefix'",
            "[resources.a]\nplugin = 'echo'",
            "[resources.'/a']\nplugin = 'echo'\nauth = {}",
            "[resources.'/a']\nplugin = 'echo'\nauth = { url = 'http://a/', keys = [{ jwks = 'k' }] }",
            "[resources.'/a']\nplugin = 'echo'\nauth = { keys = [{ algorithm = 'none', file = 'k' }] }",
            "[resources.'/a']\nplugin = 'echo'\nauth = { keys = [{ file = 'k' }] }",
            "[plugins.a]\npreflight = 'none'",
            "[plugins.'a b']",
            "[plugins.a]\nsha256 = 'abc'",
        ] {
            assert!(!mistakes(&validator, text).is_empty(), "{text}");
        }
    }
}
