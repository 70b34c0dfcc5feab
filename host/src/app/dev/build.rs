//! Builds a plugin with cargo or make, and finds the libraries that it made.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::plugin::watch;

/// The sources of a plugin.
pub(super) struct Project {
    pub(super) folder: PathBuf,
    pub(super) tool: Tool,
}

/// What builds a plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Cargo,
    Make,
}

/// Reasons for which a build produces no library.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("cannot run {tool}; install it, or add its folder to PATH")]
    Run {
        tool: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the build failed")]
    Failed,
}

impl Project {
    /// Returns the project in a folder; `None` if there is none.
    pub(super) fn at(folder: &Path) -> Option<Self> {
        let tools = [("Cargo.toml", Tool::Cargo), ("Makefile", Tool::Make)];
        let found = tools.into_iter().find(|(file, _)| folder.join(file).is_file());
        found.map(|(_, tool)| Self { folder: folder.to_owned(), tool })
    }

    /// Builds, and returns the libraries that are there. The tool prints what it does.
    ///
    /// # Errors
    /// The tool cannot run, or has failed and printed why.
    pub(super) async fn build(&self, arguments: &[OsString]) -> Result<Vec<PathBuf>, BuildError> {
        let (tool, fixed, stdout): (_, &[&str], _) = match self.tool {
            // Messages for programs on standard output, and those for people as usual.
            Tool::Cargo => {
                ("cargo", &["build", "--message-format=json-render-diagnostics"], Stdio::piped())
            }
            Tool::Make => ("make", &[], Stdio::inherit()),
        };
        let failed = |source| BuildError::Run { tool, source };
        let child = Command::new(tool)
            .args(fixed)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(stdout)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let built = child.wait_with_output().await.map_err(failed)?;
        if !built.status.success() {
            return Err(BuildError::Failed);
        }
        Ok(match self.tool {
            Tool::Cargo => libraries(&built.stdout),
            Tool::Make => watch::libraries(&self.folder),
        })
    }
}

/// Returns the libraries that cargo reports, one message per line.
fn libraries(messages: &[u8]) -> Vec<PathBuf> {
    let lines = messages.split(|byte| *byte == b'\n');
    let mut found = Vec::new();
    for message in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let kinds = message["target"]["crate_types"].as_array();
        let is_plugin = kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"));
        if message["reason"] == "compiler-artifact" && is_plugin {
            let files = message["filenames"].as_array().into_iter().flatten();
            found.extend(files.filter_map(Value::as_str).map(PathBuf::from));
        }
    }
    found.retain(|path| watch::plugin_name(path).is_some());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_of_plugins_are_found_among_the_messages_of_cargo() {
        let messages = br#"
{"reason":"compiler-artifact","target":{"crate_types":["lib"]},"filenames":["/t/libserde.rlib"]}
{"reason":"compiler-artifact","target":{"crate_types":["proc-macro"]},"filenames":["/t/libserde_derive.so"]}
{"reason":"compiler-artifact","target":{"crate_types":["cdylib","rlib"]},"filenames":["/t/libvotes.so","/t/libvotes.rlib"]}
{"reason":"build-finished","success":true}
not JSON"#;
        assert_eq!(libraries(messages), [PathBuf::from("/t/libvotes.so")]);
    }
}
