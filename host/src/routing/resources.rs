//! All resources, and which of them a path selects.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use super::resource::Resource;
use crate::config::pattern::{PathTree, is_pattern};

/// All resources by key. Replaced as a whole: a changed plugins.toml takes effect at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    by_key: BTreeMap<String, Arc<Resource>>,
    /// The same resources, if a key is a pattern.
    tree: Option<PathTree<Arc<Resource>>>,
}

impl Resources {
    /// Returns the resource that serves a path.
    ///
    /// Everything else about a request follows from this resource and its key, authentication in
    /// particular: two lookups could find different ones.
    pub(crate) fn find(&self, path: &str) -> Option<&Arc<Resource>> {
        match &self.tree {
            None => self.by_key.get(path),
            Some(tree) => tree.find(path),
        }
    }
}

impl From<BTreeMap<String, Arc<Resource>>> for Resources {
    fn from(by_key: BTreeMap<String, Arc<Resource>>) -> Self {
        let tree = by_key.keys().any(|key| is_pattern(key)).then(|| {
            let mut tree = PathTree::default();
            for (key, resource) in &by_key {
                // Fails for no two keys of a valid configuration.
                tree.insert(key, resource.clone()).ok();
            }
            tree
        });
        Self { by_key, tree }
    }
}

impl FromIterator<(String, Arc<Resource>)> for Resources {
    fn from_iter<I: IntoIterator<Item = (String, Arc<Resource>)>>(resources: I) -> Self {
        resources.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl Deref for Resources {
    type Target = BTreeMap<String, Arc<Resource>>;

    fn deref(&self) -> &Self::Target {
        &self.by_key
    }
}
