//! The tables `[plugins.NAME]`.

use std::collections::BTreeMap;

use super::keys::{Settings, settings};
use super::raw::Node;
use super::rules::{Rule, strings};
use super::value::{self, Wrong};

settings! {
    /// Settings of a library, whichever resources it serves.
    pub struct PluginSettings: Default in "" {
        /// SHA-256 digests, in hexadecimal, of the only libraries that the host loads under this
        /// name; without the key: any. A change applies when the host next reads the library.
        "sha256" => sha256: Vec<[u8; 32]> = digests();
    }
}

/// One string, or an array of them.
fn digests() -> Rule<Vec<[u8; 32]>> {
    let list = strings(|text, _| value::digest(text), &[], &["5891b5b5…"]);
    Rule::new("string, or array of strings", "", Vec::new(), move |node, none| {
        match node.value.as_str() {
            Some(text) => value::digest(text).map(|digest| vec![digest]),
            None => (list.read)(node, none),
        }
    })
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
