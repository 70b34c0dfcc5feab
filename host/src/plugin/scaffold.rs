//! `plugsocket plugin new`: creates the folder of a plugin that builds, is tested and serves as it
//! is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

/// The arguments of `plugin new`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NewPlugin {
    /// Name of the plugin and of the folder: letters, digits, _ and -, beginning with a letter.
    pub(crate) name: String,
    /// Language of the plugin.
    #[arg(long, value_name = "LANGUAGE", value_enum, default_value_t)]
    pub(crate) lang: Language,
    /// With Rust: folder of the crate plugsocket-plugin. Default: plugin-api in a folder above this one or above
    /// this program, or else version 1 from the registry.
    #[arg(long, value_name = "PATH")]
    pub(crate) api: Option<PathBuf>,
}

/// The language of a new plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// A crate, built by cargo.
    #[default]
    Rust,
    /// A source with a Makefile and the header plugsocket.h.
    C,
}

/// Why no folder was created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScaffoldError {
    #[error(
        "{0:?} is not a name of a plugin; begin with a letter and use letters, digits, _ and - only, at most 64, e.g. my-app"
    )]
    Name(String),
    #[error("a crate cannot have the name {0}; choose another one, e.g. my-{0}")]
    Reserved(String),
    #[error("{} exists already; choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    #[error(
        "{} is not the crate plugsocket-plugin; give the folder plugin-api of the repository",
        .0.display()
    )]
    NotApi(PathBuf),
    #[error("--api is for plugins in Rust; one in C gets a copy of plugsocket.h")]
    ApiOfC,
    #[error("cannot create {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The files of a template, by their path in the new folder.
type Template = &'static [(&'static str, &'static str)];

const RUST: Template = &[
    ("Cargo.toml", include_str!("../../templates/rust/manifest.toml")),
    ("src/lib.rs", include_str!("../../templates/rust/lib.rs")),
    ("plugins.toml", include_str!("../../templates/rust/plugins.toml")),
    ("README.md", include_str!("../../templates/rust/README.md")),
    (".gitignore", include_str!("../../templates/rust/gitignore")),
];

const C: Template = &[
    ("@NAME@.c", include_str!("../../templates/c/plugin.c")),
    ("plugsocket.h", include_str!("../../templates/c/plugsocket.h")),
    ("Makefile", include_str!("../../templates/c/Makefile")),
    ("plugins.toml", include_str!("../../templates/c/plugins.toml")),
    ("README.md", include_str!("../../templates/c/README.md")),
    (".gitignore", include_str!("../../templates/c/gitignore")),
];

impl NewPlugin {
    /// Creates the folder in the current one; returns what was created and how to continue.
    ///
    /// # Errors
    /// The name or the folder of the crate is not right, or the folder cannot be created. Nothing
    /// remains then.
    pub(crate) fn create(&self) -> Result<String, ScaffoldError> {
        check_name(&self.name)?;
        let folder = PathBuf::from(&self.name);
        let origin = match (self.lang, &self.api) {
            (Language::C, None) => {
                self.write(&folder, C, "")?;
                "with a copy of plugsocket.h".to_owned()
            }
            (Language::C, Some(_)) => return Err(ScaffoldError::ApiOfC),
            (Language::Rust, _) => {
                let (dependency, origin) = self.dependency()?;
                self.write(&folder, RUST, &dependency)?;
                origin
            }
        };
        let name = &self.name;
        Ok(format!(
            "{name}: created {origin}\nbuild it, serve it, and serve each change: cd {name} && plugsocket dev"
        ))
    }

    fn write(&self, folder: &Path, files: Template, api: &str) -> Result<(), ScaffoldError> {
        let failed = |path: &Path, source| ScaffoldError::Create { path: path.to_owned(), source };
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(ScaffoldError::Exists(folder.to_owned()));
            }
            created => created.map_err(|error| failed(folder, error))?,
        }
        // The name of the library: cargo replaces each - by _.
        let plugin = self.name.replace('-', "_");
        let write = |(name, text): &(&str, &str)| {
            let path = folder.join(name.replace("@NAME@", &self.name));
            let text = text.replace("@NAME@", &self.name).replace("@PLUGIN@", &plugin);
            let text = text.replace("@API@", api);
            let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
            parent.and_then(|()| fs::write(&path, text)).map_err(|error| failed(&path, error))
        };
        files.iter().try_for_each(write).inspect_err(|_| {
            // The first error is the one to report.
            drop(fs::remove_dir_all(folder));
        })
    }

    /// Returns the dependency on the crate as in `Cargo.toml`, and in words.
    fn dependency(&self) -> Result<(String, String), ScaffoldError> {
        Ok(match self.api()? {
            Some(path) => (
                format!("{{ path = {} }}", toml::Value::from(path.as_str())),
                format!("with the crate plugsocket-plugin in {path}"),
            ),
            None => ("\"1\"".to_owned(), "with plugsocket-plugin 1 from the registry".to_owned()),
        })
    }

    /// Returns the folder of the crate; `None` if there is none on this machine.
    fn api(&self) -> Result<Option<String>, ScaffoldError> {
        if let Some(path) = &self.api {
            let found = api_at(path).ok_or_else(|| ScaffoldError::NotApi(path.clone()))?;
            return Ok(Some(found));
        }
        let places = [std::env::current_dir(), std::env::current_exe()];
        let above = places.iter().flatten().flat_map(|place| place.ancestors());
        Ok(above.map(|folder| folder.join("plugin-api")).find_map(|path| api_at(&path)))
    }
}

/// Returns the absolute path of a folder that has the crate.
fn api_at(folder: &Path) -> Option<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
    let is_api = manifest.lines().any(|line| line.trim() == "name = \"plugsocket-plugin\"");
    let path = folder.canonicalize().ok().filter(|_| is_api)?;
    path.to_str().map(ToOwned::to_owned)
}

fn check_name(name: &str) -> Result<(), ScaffoldError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if !begins || name.len() > 64 || !name.chars().all(legal) {
        return Err(ScaffoldError::Name(name.to_owned()));
    }
    let word = name.replace('-', "_");
    match RESERVED.split_whitespace().any(|reserved| reserved == word) {
        true => Err(ScaffoldError::Reserved(name.to_owned())),
        false => Ok(()),
    }
}

/// Keywords of Rust, its own crates, and the dependencies of the template.
const RESERVED: &str = "abstract alloc as async await become box break build const continue core \
    crate deps do dyn else enum examples extern false final fn for gen if impl in incremental let \
    loop macro match mod move mut override plugsocket plugsocket_plugin priv proc_macro pub ref \
    return self serde serde_json static std struct super test trait tracing true try type typeof \
    unsafe unsized use virtual where while yield";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_plugins_are_names_of_crates_and_of_paths() {
        for name in ["votes", "my-app", "a", "A_1", "x".repeat(64).as_str()] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "1a", "_a", "a b", "a/b", "..", "ä", "x".repeat(65).as_str()] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.contains("e.g. my-app"), "{error}");
        }
        for name in ["fn", "core", "serde-json", "plugsocket-plugin", "test"] {
            let error = check_name(name).unwrap_err().to_string();
            assert!(error.ends_with(&format!("e.g. my-{name}")), "{error}");
        }
    }
}
