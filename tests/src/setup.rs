//! The configuration of a host: `plugins.toml`, a plugin folder, environment and other files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::host::TestHost;
use crate::tls::Issued;
use crate::{plugin_path, unique_name, within};

/// The configuration of a host. Values are TOML: `server("page", "false")`,
/// `config("/x", "by", r#""me""#)`.
#[derive(Clone, Debug)]
pub struct Setup {
    program: PathBuf,
    /// A command through which the program is started.
    launcher: Vec<String>,
    pub(crate) log_format: String,
    /// Further arguments of `run`.
    pub(crate) options: Vec<String>,
    environment: BTreeMap<String, String>,
    server: BTreeMap<String, String>,
    tls: BTreeMap<String, String>,
    reload: BTreeMap<String, String>,
    /// The whole `plugins.toml`, instead of the keys.
    text: Option<String>,
    /// Other files in the folder, by name.
    files: BTreeMap<String, Vec<u8>>,
    resources: BTreeMap<String, Resource>,
    plugins: BTreeMap<String, BTreeMap<String, String>>,
    /// The library of each plugin, by plugin name.
    libraries: BTreeMap<String, Library>,
}

#[derive(Clone, Debug)]
enum Library {
    CopyOf(String),
    Bytes(Vec<u8>),
    Absent,
}

#[derive(Clone, Debug, Default)]
struct Resource {
    keys: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
    auth: BTreeMap<String, String>,
}

/// The result of running a command of the program.
#[derive(Debug)]
pub struct CommandOutput {
    /// The exit code; None if a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl CommandOutput {
    pub(crate) fn of(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }
}

impl Setup {
    /// Creates a configuration with a free port on 127.0.0.1. `program` is
    /// `env!("CARGO_BIN_EXE_plugsocket-under-test")`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let setup = Self {
            program: program.into(),
            launcher: Vec::new(),
            log_format: "json".to_owned(),
            options: Vec::new(),
            environment: BTreeMap::from([(
                "RUST_LOG".to_owned(),
                "info,plugsocket=debug".to_owned(),
            )]),
            server: BTreeMap::new(),
            tls: BTreeMap::new(),
            reload: BTreeMap::new(),
            text: None,
            files: BTreeMap::new(),
            resources: BTreeMap::new(),
            plugins: BTreeMap::new(),
            libraries: BTreeMap::new(),
        };
        // A rescan must not hide a missed file event.
        setup
            .server("listen", r#"["127.0.0.1:0"]"#)
            .server("plugin_dir", r#""plugins""#)
            .reload("quiet", "0.05")
            .reload("rescan", "600")
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the log format, `json` or `text`.
    #[must_use]
    pub fn log_format(mut self, format: &str) -> Self {
        format.clone_into(&mut self.log_format);
        self
    }

    /// Starts the host with these arguments.
    #[must_use]
    pub fn options(mut self, arguments: &[&str]) -> Self {
        self.options = arguments.iter().copied().map(ToOwned::to_owned).collect();
        self
    }

    /// Starts the host through a command that gets the program and its arguments and must exec it.
    #[must_use]
    pub fn launcher(mut self, command: &[&str]) -> Self {
        self.launcher = command.iter().copied().map(ToOwned::to_owned).collect();
        self
    }

    /// Sets a key of `[server]`.
    #[must_use]
    pub fn server(mut self, key: &str, value: &str) -> Self {
        self.server.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key of `[server.tls]`.
    #[must_use]
    pub fn tls(mut self, key: &str, value: &str) -> Self {
        self.tls.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Uses `text` as `plugins.toml`; `library` names the libraries. Other keys have no effect.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Adds a file beside `plugins.toml`, or in a folder there.
    #[must_use]
    pub fn put(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.files.insert(name.to_owned(), content.as_ref().to_owned());
        self
    }

    /// Adds a TLS port after the first address, with this certificate in `own.pem` and `own.key`.
    #[must_use]
    pub fn with_tls(self, issued: &Issued) -> Self {
        self.put("own.pem", &issued.certificate)
            .put("own.key", &issued.key)
            .tls("listen", r#"["127.0.0.1:0"]"#)
            .tls("certificates", r#"[{ certificate = "own.pem", key = "own.key" }]"#)
    }

    /// Sets a key of `[server.reload]`.
    #[must_use]
    pub fn reload(mut self, key: &str, value: &str) -> Self {
        self.reload.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Maps a resource to a plugin; copies the library of that name unless another one is
    /// configured.
    #[must_use]
    pub fn resource(self, path: &str, plugin: &str) -> Self {
        self.key(path, "plugin", &format!("{plugin:?}"))
    }

    /// Maps a resource without a dialog.
    #[must_use]
    pub fn plain(self, path: &str, plugin: &str) -> Self {
        self.resource(path, plugin).key(path, "dialog", "false")
    }

    /// Removes a resource.
    #[must_use]
    pub fn remove(mut self, path: &str) -> Self {
        self.resources.remove(path);
        self
    }

    /// Sets a key of a resource.
    #[must_use]
    pub fn key(mut self, path: &str, key: &str, value: &str) -> Self {
        let resource = self.resources.entry(path.to_owned()).or_default();
        resource.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key in a resource's `config`.
    #[must_use]
    pub fn config(mut self, path: &str, key: &str, value: &str) -> Self {
        let resource = self.resources.entry(path.to_owned()).or_default();
        resource.config.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key in a resource's `auth`.
    #[must_use]
    pub fn auth(mut self, path: &str, key: &str, value: &str) -> Self {
        let resource = self.resources.entry(path.to_owned()).or_default();
        resource.auth.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key of `[plugins.NAME]`.
    #[must_use]
    pub fn plugin_key(mut self, plugin: &str, key: &str, value: &str) -> Self {
        let keys = self.plugins.entry(plugin.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Uses a copy of `library` as the library of `plugin`.
    #[must_use]
    pub fn library(mut self, plugin: &str, library: &str) -> Self {
        self.libraries.insert(plugin.to_owned(), Library::CopyOf(library.to_owned()));
        self
    }

    /// Uses a file with this content as the library of `plugin`.
    #[must_use]
    pub fn file(mut self, plugin: &str, content: &[u8]) -> Self {
        self.libraries.insert(plugin.to_owned(), Library::Bytes(content.to_owned()));
        self
    }

    /// Leaves out the library of `plugin`.
    #[must_use]
    pub fn without_library(mut self, plugin: &str) -> Self {
        self.libraries.insert(plugin.to_owned(), Library::Absent);
        self
    }

    /// Returns the text of `plugins.toml`.
    pub fn toml(&self) -> String {
        if let Some(text) = &self.text {
            return text.clone();
        }
        let mut text = String::new();
        let mut table = |name: &str, keys: &BTreeMap<String, String>| {
            writeln!(text, "[{name}]").unwrap();
            for (key, value) in keys {
                writeln!(text, "{key} = {value}").unwrap();
            }
        };
        table("server", &self.server);
        if !self.tls.is_empty() {
            table("server.tls", &self.tls);
        }
        table("server.reload", &self.reload);
        for (name, keys) in &self.plugins {
            table(&format!("plugins.{name}"), keys);
        }
        for (path, resource) in &self.resources {
            table(&format!("resources.{path:?}"), &resource.keys);
            if !resource.config.is_empty() {
                table(&format!("resources.{path:?}.config"), &resource.config);
            }
            if !resource.auth.is_empty() {
                table(&format!("resources.{path:?}.auth"), &resource.auth);
            }
        }
        text
    }

    /// Starts the host and waits until it is ready.
    pub async fn start(self) -> TestHost {
        let folder = self.create_folder();
        TestHost::start(self, folder).await
    }

    /// Runs a command of the program, such as `check`, in a new folder.
    pub async fn run(&self, arguments: &[&str]) -> CommandOutput {
        let folder = self.create_folder();
        let mut command = tokio::process::Command::new(&self.program);
        command.args(arguments).current_dir(&folder).stdin(Stdio::null()).kill_on_drop(true);
        command.env_remove("RUST_LOG");
        let output = within("the command to end", command.output()).await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        CommandOutput::of(output)
    }

    /// Returns the command that starts the program, without arguments.
    pub(crate) fn command(&self) -> tokio::process::Command {
        let program = self.program.as_os_str();
        let words = self.launcher.iter().map(OsStr::new).chain([program]).collect::<Vec<_>>();
        let mut command = tokio::process::Command::new(words[0]);
        command.args(&words[1..]).envs(&self.environment);
        command
    }

    /// Creates the folder of the host, for tests that start the program themselves.
    pub fn create_folder(&self) -> PathBuf {
        // Not in the build folder, because the path of a Unix socket must be short.
        let folder = std::env::temp_dir().join(unique_name());
        std::fs::create_dir_all(folder.join("plugins")).unwrap();
        std::fs::write(folder.join("plugins.toml"), self.toml()).unwrap();
        for (name, content) in &self.files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        self.copy_libraries(&folder);
        folder
    }

    /// Copies the libraries that the folder does not contain.
    pub fn copy_libraries(&self, folder: &Path) {
        let mapped = self.resources.values().filter_map(|resource| resource.keys.get("plugin"));
        let mut libraries: BTreeMap<String, Library> = mapped
            .map(|name| name.trim_matches('"').to_owned())
            .map(|name| (name.clone(), Library::CopyOf(name)))
            .collect();
        libraries.extend(self.libraries.clone());
        for (name, library) in libraries {
            let file = folder.join(format!("plugins/lib{name}.so"));
            if file.exists() {
                continue;
            }
            match library {
                Library::CopyOf(of) => drop(std::fs::copy(plugin_path(&of), file).unwrap()),
                Library::Bytes(bytes) => std::fs::write(file, bytes).unwrap(),
                Library::Absent => {}
            }
        }
    }
}
