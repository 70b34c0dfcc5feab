//! The tables `[plugins.NAME]`.

use std::collections::BTreeMap;

use serde_json::json;

use super::keys::{Settings, settings};
use super::raw::Node;
use super::rules::{Rule, choice, strings};
use super::value::{self, Wrong};

settings! {
    /// Settings of a library, whichever resources it serves.
    pub struct PluginSettings: Default in "" {
        /// SHA-256 digests, in hexadecimal, of the only libraries that the host loads under this
        /// name; without the key: any. A change applies when the host next reads the library.
        "sha256" => sha256: Vec<[u8; 32]> = digests();
        /// What the preflight does in a child process before the host does it: `"full"` opens the
        /// library, starts an instance for each of its resources, restores the present state and
        /// drops the instance; `"open"` only opens it, for an application whose `start` has effects
        /// outside of the process that must not occur twice.
        "preflight" => preflight: Preflight =
            choice(&[("full", Preflight::Full), ("open", Preflight::Open)]);
    }
}

/// What the preflight does with a library.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preflight {
    /// `"full"`: opens it, starts and drops instances.
    #[default]
    Full,
    /// `"open"`: opens it.
    Open,
}

/// One string, or an array of them.
fn digests() -> Rule<Vec<[u8; 32]>> {
    let list = strings(|text, _| value::digest(text), &[], &["5891b5b5…"]);
    let digest = json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" });
    Rule::new("string, or array of strings", "", Vec::new(), move |node, none| {
        match node.value.as_str() {
            Some(text) => value::digest(text).map(|digest| vec![digest]),
            None => (list.read)(node, none),
        }
    })
    .schema(json!({ "anyOf": [digest, { "type": "array", "minItems": 1, "items": digest }] }))
}

/// Reads all such tables.
pub(super) fn read(node: &mut Node<'_, '_>) -> Result<BTreeMap<String, PluginSettings>, Wrong> {
    let mut plugins = BTreeMap::new();
    node.each_named("write a table, [plugins.NAME]", |name, node| {
        let right = format!("write a table, [{}]", node.name);
        node.table(&PluginSettings::groups(), &right)?;
        let settings = PluginSettings::read_alone(node);
        if settings.sha256.is_empty() && node.has_right("sha256") {
            let problem = "the array is empty and pins nothing; give a digest, or remove the key";
            node.wrong("sha256", problem);
        }
        plugins.insert(value::plugin(name)?, settings);
        Ok(())
    })?;
    Ok(plugins)
}
