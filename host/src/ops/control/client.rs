//! The client side of the control socket: sends one request and prints the answer.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::protocol::{
    ConnectionReport, ControlAnswer, ControlRequest, DifferenceReport, GenerationReport,
    PluginReport, StatusReport,
};
use super::table::{age, table};
use crate::config::{Config, ConfigError};
use crate::ops::logging::escaped;
use crate::plugin::trial::Trial;

/// Commands that the running host answers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Ask {
    /// Show what the running host serves.
    Status(OutputFormat),
    /// Show or change the plugins of the running host.
    #[command(subcommand)]
    Plugin(AskPlugin),
    /// Make the running host read the configuration again.
    Reload,
    /// List or close connections of the running host.
    Connections(AskConnections),
    /// Drain the connections of the running host and stop it, as SIGTERM does.
    Drain,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AskPlugin {
    /// List all plugins: in the folder and running.
    List(OutputFormat),
    /// Load the library again, even if unchanged, and hand the state over.
    Reload { name: String },
    /// Replace the library by one that served before, with the state. `plugin list` shows those
    /// kept.
    Rollback {
        name: String,
        /// Generation number; default: the one before the active generation.
        generation: Option<u64>,
        /// Discard the state; connections stay open and the application sees them open again.
        #[arg(long)]
        fresh: bool,
    },
    /// Close the resources of a plugin until it is enabled or the host restarts.
    Disable { name: String },
    /// Serve the resources of a disabled plugin again.
    Enable { name: String },
    /// Try a library in a child process: open it, start it, restore a state. Needs no running host.
    Check(Trial),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AskConnections {
    #[command(subcommand)]
    action: Option<AskConnection>,
    /// List only connections of this resource.
    #[arg(long, value_name = "PATH")]
    resource: Option<String>,
    #[command(flatten)]
    form: OutputFormat,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AskConnection {
    /// Close one connection, by the uuid that the list shows.
    Close { uuid: String },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputFormat {
    /// Print one JSON value instead of a table.
    #[arg(long)]
    json: bool,
}

/// Reasons for which the host was not asked, or its answer is unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no host answers on {}; check that it runs with this --config", path.display())]
    NoHost {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot parse the answer of the host")]
    Answer(#[source] serde_json::Error),
}

impl AskError {
    /// Returns the exit code: 3 if no host answers, else 1.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::NoHost { .. } => ExitCode::from(3),
            Self::Config(_) | Self::Answer(_) => ExitCode::FAILURE,
        }
    }
}

/// The text to print, and whether the command succeeded.
pub(crate) struct CommandOutput {
    pub(crate) text: String,
    pub(crate) is_done: bool,
}

impl Ask {
    /// Sends the command to the host that runs with this configuration.
    ///
    /// # Errors
    /// No host answers, or the answer cannot be parsed.
    pub(crate) fn run(self, config: &Path) -> Result<CommandOutput, AskError> {
        let (request, form) = self.request();
        let answer = ask(config, &request)?;
        Ok(print(answer, form))
    }

    fn request(self) -> (ControlRequest, OutputFormat) {
        let request = match self {
            Self::Status(form) => return (ControlRequest::Status {}, form),
            Self::Connections(AskConnections { action, resource, form }) => match action {
                Some(AskConnection::Close { uuid }) => ControlRequest::Close { uuid },
                None => return (ControlRequest::Connections { resource }, form),
            },
            Self::Plugin(ask) => match ask {
                AskPlugin::List(form) => return (ControlRequest::Plugins {}, form),
                AskPlugin::Reload { name: plugin } => ControlRequest::PluginReload { plugin },
                AskPlugin::Rollback { name: plugin, generation, fresh } => {
                    ControlRequest::PluginRollback { plugin, generation, fresh }
                }
                AskPlugin::Disable { name: plugin } => ControlRequest::PluginDisable { plugin },
                AskPlugin::Enable { name: plugin } => ControlRequest::PluginEnable { plugin },
                AskPlugin::Check(_) => unreachable!("needs no running host"),
            },
            Self::Reload => ControlRequest::Reload {},
            Self::Drain => ControlRequest::Drain {},
        };
        (request, OutputFormat { json: false })
    }
}

/// Asks what applying the files would change in the running host.
///
/// # Errors
/// See [`Ask::run`].
pub(crate) fn difference(config: &Path, json: bool) -> Result<CommandOutput, AskError> {
    let answer = ask(config, &ControlRequest::Diff {})?;
    Ok(print(answer, OutputFormat { json }))
}

fn ask(config: &Path, request: &ControlRequest) -> Result<ControlAnswer, AskError> {
    let path = Config::load(config)?.server.folders.control;
    let failed = |source| AskError::NoHost { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(AskError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed)?;
    serde_json::from_str(&answer).map_err(AskError::Answer)
}

fn print(answer: ControlAnswer, form: OutputFormat) -> CommandOutput {
    let is_done = !matches!(answer, ControlAnswer::Refused(_));
    let text = match answer {
        ControlAnswer::Done(text) | ControlAnswer::Refused(text) => escaped(&text),
        answer if form.json => {
            let value = serde_json::to_value(answer).unwrap_or_default();
            value["data"].to_string()
        }
        ControlAnswer::Status(status) => print_status(&status),
        ControlAnswer::Plugins(plugins) => print_plugins(&plugins),
        ControlAnswer::Connections(connections) => print_connections(&connections),
        ControlAnswer::Diff(difference) => print_difference(&difference),
    };
    CommandOutput { text: text.trim_end().to_owned(), is_done }
}

fn print_status(status: &StatusReport) -> String {
    let StatusReport { version, pid, config, connections, certificates, .. } = status;
    let up = age(status.uptime_seconds);
    let resources = table(
        &status.resources,
        &[
            ("RESOURCE", |resource| resource.path.clone()),
            ("PLUGIN", |resource| resource.plugin.clone()),
            ("GEN", |resource| resource.generation.map_or("-".to_owned(), |n| n.to_string())),
            ("LANE", |resource| resource.lane.clone()),
            ("SESSIONS", |resource| resource.counts.sessions.to_string()),
            ("MESSAGES", |resource| resource.counts.messages.to_string()),
            ("REFUSED", |resource| resource.counts.refused_messages.to_string()),
            ("PANICS", |resource| resource.counts.panics.to_string()),
            ("SLOW", |resource| resource.counts.slow_calls.to_string()),
            ("SWAPS", |resource| resource.swaps.to_string()),
            ("LAST PAUSE", |resource| match resource.swaps {
                0 => "-".to_owned(),
                _ => format!("{} µs", resource.last_pause_micros),
            }),
            ("CLOSED", |resource| resource.closed.clone().unwrap_or_default()),
        ],
    );
    let mut text = format!(
        "plugsocket {version}, process {pid}, up {up}, {connections} connections, {config}\n\n{resources}"
    );
    if !certificates.is_empty() {
        text.push('\n');
        text.push_str(&table(
            certificates,
            &[
                ("CERTIFICATE", |certificate| match certificate.names.as_slice() {
                    [] => certificate.key.clone(),
                    names => names.join(" "),
                }),
                ("EXPIRES", |certificate| certificate.expires.clone()),
                ("DAYS", |certificate| certificate.days_left.to_string()),
                ("FILE", |certificate| certificate.file.clone()),
                ("PROBLEM", |certificate| certificate.problem.clone().unwrap_or_default()),
            ],
        ));
    }
    text
}

fn print_plugins(plugins: &[PluginReport]) -> String {
    fn of(plugin: &PluginReport, text: fn(&GenerationReport) -> String) -> String {
        plugin.generation.as_ref().map_or("-".to_owned(), text)
    }
    let mut text = table(
        plugins,
        &[
            ("PLUGIN", |plugin| plugin.name.clone()),
            ("STATE", |plugin| plugin.state.clone()),
            ("GEN", |plugin| of(plugin, |generation| generation.number.to_string())),
            ("HASH", |plugin| of(plugin, |generation| generation.hash.chars().take(12).collect())),
            ("BUILD", |plugin| of(plugin, |it| format!("{} {}", it.version, it.build))),
            ("AGE", |plugin| of(plugin, |generation| age(generation.age_seconds))),
            ("RETIRED", |plugin| plugin.retired.to_string()),
            ("KEPT", |plugin| {
                let numbers = plugin.kept.iter().map(|archived| archived.number.to_string());
                numbers.collect::<Vec<_>>().join(" ")
            }),
            ("SESSIONS", |plugin| plugin.counts.sessions.to_string()),
            ("MESSAGES", |plugin| plugin.counts.messages.to_string()),
            ("PANICS", |plugin| plugin.counts.panics.to_string()),
            ("SLOW", |plugin| plugin.counts.slow_calls.to_string()),
            ("RESOURCES", |plugin| plugin.resources.join(" ")),
        ],
    );
    for plugin in plugins.iter().filter(|plugin| !plugin.kept.is_empty()) {
        let kept = table(
            &plugin.kept,
            &[
                ("KEPT", |kept| kept.number.to_string()),
                ("SINCE", |kept| kept.since.clone()),
                ("HASH", |kept| kept.hash.chars().take(12).collect()),
                ("VERSION", |kept| kept.version.clone()),
            ],
        );
        text.push_str(&format!(
            "\n{}: generations for plugin rollback\n{kept}",
            escaped(&plugin.name)
        ));
    }
    for plugin in plugins {
        let name = escaped(&plugin.name);
        if !plugin.pinned.is_empty() {
            text.push_str(&format!("\n{name}: pinned to SHA-256 {}\n", plugin.pinned.join(", ")));
        }
        if let Some(reason) = &plugin.refused {
            text.push_str(&format!("\n{name}: {}\n", escaped(reason)));
        }
    }
    text
}

fn print_connections(connections: &[ConnectionReport]) -> String {
    table(
        connections,
        &[
            ("UUID", |connection| connection.uuid.clone()),
            ("KIND", |connection| connection.kind.clone()),
            ("RESOURCE", |connection| connection.resource.clone()),
            ("ADDRESS", |connection| connection.address.clone()),
            ("IDENT", |connection| connection.ident.clone().unwrap_or_default()),
        ],
    )
}

fn print_difference(difference: &DifferenceReport) -> String {
    if *difference == DifferenceReport::default() {
        return "nothing would change".to_owned();
    }
    let lines = [
        ("added", &difference.added),
        ("removed", &difference.removed),
        ("remapped", &difference.remapped),
        ("reconfigured", &difference.reconfigured),
        ("reshaped", &difference.reshaped),
        ("guarded", &difference.guarded),
        ("plugins", &difference.plugins),
        ("swapped", &difference.swapped),
        ("refused", &difference.refused),
        ("deleted", &difference.deleted),
        ("server", &difference.server_keys),
        ("needs a restart", &difference.needs_restart),
    ];
    let shown = lines.into_iter().filter(|(_, names)| !names.is_empty());
    let separator = |what| if what == "refused" { "; " } else { ", " };
    let line = |(what, names): (_, &Vec<String>)| {
        format!("{what}: {}\n", escaped(&names.join(separator(what))))
    };
    shown.map(line).collect()
}
