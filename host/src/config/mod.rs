//! Configuration: reading, checking and comparing `plugins.toml`.
//!
//! A [`Config`] holds legal values only. One reading finds all mistakes of a file; each is one line
//! that says what would be right. `keys` shows how a key is declared and added; the modules from
//! `server` on declare the keys of the tables.
//!
//! Pure but for the read in [`Config::load`]. Must not know sockets, the runtime or libraries, or
//! whether a directory exists: the user of a value finds out.

mod address;
mod auth;
mod diff;
mod endpoint;
mod error;
mod keys;
mod limits;
mod metrics;
pub(crate) mod pattern;
mod plugin;
mod policies;
mod raw;
mod reference;
mod reload;
mod resource;
mod rules;
mod schema;
mod server;
mod syntax;
mod tls;
mod value;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use keys::Settings;
use raw::{Mistakes, Node};

pub use address::{Listen, control_path};
pub use auth::{
    Algorithm, Auth, Backends, CallMethod, CallbackRules, KeyFile, KeyForm, Proof, Source,
    TokenRules,
};
pub use diff::Diff;
pub use endpoint::{Endpoint, EndpointPlace};
pub use error::{ConfigError, Problem};
pub use limits::{ConnectionSettings, FlowLimits, Limits, MessageLimits, Timeouts};
pub use metrics::MetricsSettings;
pub use plugin::{PluginSettings, Preflight};
pub use policies::{OutboxPolicy, OutboxSettings, RatePolicy, RateSettings};
pub use reference::reference;
pub use reload::{HandoverSettings, ProbationSettings, ReloadSettings, WatchdogSettings};
pub use resource::{ApplicationSettings, LaneKind, ResourceSettings};
pub use schema::schema;
pub use server::{Access, Folders, ServerSettings, TrustedProxy, UnknownResource};
pub use tls::{Certificate, FileSetting, TlsSettings};

/// A whole `plugins.toml`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file, absolute. Relative paths in it are relative to its directory, never to the working
    /// directory.
    pub path: PathBuf,
    /// The table `[server]`.
    pub server: ServerSettings,
    /// The tables `[resources."/path"]`, by path or pattern, spelled as in the file, which is how
    /// a browser sends it.
    pub resources: BTreeMap<String, ResourceSettings>,
    /// The tables `[plugins.NAME]`, by name.
    pub plugins: BTreeMap<String, PluginSettings>,
    /// Values that replace keys of the file.
    pub overrides: Overrides,
}

/// Values of the command line that replace keys of the file, also when the file is read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Replaces `server.listen`, unless it is empty.
    pub listen: Vec<Listen>,
    /// Replaces `server.control`.
    pub control: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Unreadable`], or [`ConfigError::Invalid`] with every
    /// mistake found.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = absolute(path.as_ref())?;
        match crate::fs::read::read(&path, MOST_BYTES) {
            Ok(bytes) => read(&syntax::utf8(bytes, &path)?, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ConfigError::Missing { path })
            }
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// Replaces keys by values of the command line.
    #[must_use]
    pub fn with(mut self, overrides: Overrides) -> Self {
        if !overrides.listen.is_empty() {
            self.server.listen.clone_from(&overrides.listen);
        }
        if let Some(control) = &overrides.control {
            self.server.folders.control.clone_from(control);
        }
        Self { overrides, ..self }
    }

    /// Reads its file again, with the same overrides.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        Self::load(&self.path).map(|config| config.with(self.overrides.clone()))
    }

    /// Returns `server.control` of a file that may have mistakes elsewhere: a host that runs with an
    /// earlier version of the file can still be reached. The second value is why the path is only
    /// the default, or may not be the one that the host uses.
    #[must_use]
    pub fn control_of(path: &Path) -> (PathBuf, Option<ConfigError>) {
        let error = match Self::load(path) {
            Ok(config) => return (config.server.folders.control, None),
            Err(error) => error,
        };
        let Ok(path) = absolute(path) else { return (PathBuf::new(), Some(error)) };
        let bytes = crate::fs::read::read(&path, MOST_BYTES).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let root = DeValue::Table(syntax::readable(&text));
        (server(&root, &mut Mistakes::new(path, &text)).folders.control, Some(error))
    }

    /// Checks a text. `path` names it in errors and is what relative paths are relative to; it is
    /// not opened.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with every mistake found; [`ConfigError::Unreadable`] if `path` is
    /// relative and there is no working directory.
    pub fn parse(text: &str, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        read(text, absolute(path.as_ref())?)
    }

    /// Returns the resources that are mapped to this plugin, by path.
    pub fn mapped_to(&self, plugin: &str) -> impl Iterator<Item = (&String, &ResourceSettings)> {
        self.resources.iter().filter(move |(_, settings)| settings.plugin == plugin)
    }

    /// Returns whether any resource is mapped to this plugin.
    pub fn maps(&self, plugin: &str) -> bool {
        self.mapped_to(plugin).next().is_some()
    }

    /// Checks whether a running host may replace `self` by `new`. A file that maps no resource
    /// would close every connection; a full disk leaves such a file.
    ///
    /// # Errors
    /// One sentence.
    pub fn must_not_end(&self, new: &Self) -> Result<(), String> {
        if new.resources.is_empty() && !self.resources.is_empty() {
            let (path, served) = (new.path.display(), self.resources.len());
            return Err(format!(
                "{path}: it maps no resource any more, which would close all {served} that are served; to stop the host, run plugsocket stop"
            ));
        }
        Ok(())
    }
}

/// Size limit of a file; ten thousand resources take two million bytes.
const MOST_BYTES: u64 = 16 << 20;

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|source| ConfigError::Unreadable { path: path.into(), source })
}

/// Checks a whole text. `path` is absolute.
fn read(text: &str, path: PathBuf) -> Result<Config, ConfigError> {
    let root = DeValue::Table(syntax::document(text, &path)?);
    let mut mistakes = Mistakes::new(path.clone(), text);
    let server = server(&root, &mut mistakes);
    let mut top = Node::top(&root, &mut mistakes);
    let resources = top.read_with("resources", |node| resource::read(node, &server));
    let plugins = top.read_with("plugins", plugin::read);
    let overrides = Overrides::default();
    mistakes.result().map(|()| Config { path, server, resources, plugins, overrides })
}

fn server(root: &DeValue<'_>, mistakes: &mut Mistakes) -> ServerSettings {
    let default = ServerSettings::defaults(mistakes.base());
    let mut top = Node::inside(root, mistakes);
    top.read("server", &rules::table::<ServerSettings>(), &default)
}

#[cfg(test)]
mod tests;
