//! The client side of the control socket: sends one request and prints the answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::ask_plugin::AskPlugin;
use super::metrics;
use super::protocol::{
    AnswerLine, BufferedReport, ConnectionReport, ControlAnswer, ControlRequest, DifferenceReport,
    FileReport, GenerationReport, PluginReport, ResourceReport, SnapshotReport, StatusReport,
};
use super::table::{age, coloured_table, table};
use super::terminal::Style;
use crate::config::{Config, ConfigError};
use crate::error::counted;
use crate::ops::logging::escaped;

/// Commands that the running host answers.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Ask {
    /// Show what the running host serves.
    Status(AskStatus),
    /// Show or change the plugins of the running host.
    #[command(subcommand)]
    Plugin(AskPlugin),
    /// Make the running host read the configuration again.
    Reload,
    /// List or close connections of the running host.
    Connections(AskConnections),
    /// Accept no new connections; those that are open stay until their clients close them.
    Drain,
    /// Close all connections and end the host (graceful shutdown), as SIGTERM does.
    Stop {
        /// Return when the process of the host has ended.
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AskStatus {
    /// Fail if no resource is served, for health checks.
    #[arg(long, conflicts_with = "watch")]
    ready: bool,
    #[command(flatten)]
    form: OutputFormat,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AskConnections {
    #[command(subcommand)]
    action: Option<AskConnection>,
    /// List only connections of this resource.
    #[arg(long, value_name = "PATH")]
    resource: Option<String>,
    /// Print only the uuids, one per line.
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    form: OutputFormat,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum AskConnection {
    /// Close one connection.
    Close {
        /// Its uuid, or the beginning of it, such as the ID in the list.
        uuid: String,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputFormat {
    /// Print one JSON value instead of a table.
    #[arg(long)]
    json: bool,
    /// Print again every two seconds, until interrupted.
    #[arg(long)]
    watch: bool,
}

/// How to print an answer.
#[derive(Clone, Copy, Debug, Default)]
struct View {
    json: bool,
    quiet: bool,
    /// Print a status only if a resource is served.
    ready: bool,
}

impl From<OutputFormat> for View {
    fn from(OutputFormat { json, .. }: OutputFormat) -> Self {
        Self { json, ..Self::default() }
    }
}

/// Reasons for which the host was not asked, or its answer is unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "no host answers on {}; start it, or name its configuration with --config or its socket with --control",
        path.display()
    )]
    NoHost {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "no host answers on {}; the configuration has mistakes, so its socket may be another one: name it with --control\n{mistake}",
        path.display()
    )]
    Unsure { path: PathBuf, mistake: ConfigError },
    #[error("cannot parse the answer of the host")]
    Answer(#[source] serde_json::Error),
    /// The reason of the host.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Ended(String),
    #[error("cannot handle signals")]
    Signals(#[source] io::Error),
}

impl AskError {
    /// Returns the exit code: 3 if no host answers, else 1.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::NoHost { .. } | Self::Unsure { .. } | Self::Ended(_) => ExitCode::from(3),
            Self::Config(_) | Self::Answer(_) | Self::Refused(_) | Self::Signals(_) => {
                ExitCode::FAILURE
            }
        }
    }
}

/// The text to print, and whether the command succeeded.
pub(crate) struct CommandOutput {
    pub(crate) text: String,
    /// A warning beside it.
    pub(crate) notice: Option<String>,
    pub(crate) is_done: bool,
}

/// Where the control socket of the host is.
#[derive(Clone, Debug)]
pub(crate) enum HostAddress {
    Socket(PathBuf),
    /// The socket that this configuration file names; the file may have mistakes.
    Config(PathBuf),
}

impl Ask {
    /// Sends the command to the host.
    ///
    /// # Errors
    /// No host answers, or the answer cannot be parsed.
    pub(crate) fn run(self, host: &HostAddress) -> Result<CommandOutput, AskError> {
        let (request, view) = self.request();
        let answer = ask(host, &request)?;
        Ok(match (&request, &answer.answer) {
            (ControlRequest::Connections { resource }, ControlAnswer::Connections(list))
                if list.is_empty() && !view.json =>
            {
                let at = resource.as_ref().map_or_else(String::new, |path| format!(" at {path}"));
                let text = format!("no connection is open{at}");
                print(AnswerLine { answer: ControlAnswer::Refused(text), ..answer }, view)
            }
            (_, ControlAnswer::Status(status)) if view.ready && !status.serves() => {
                let text = "no resource is served; see the log of the host".to_owned();
                print(AnswerLine { answer: ControlAnswer::Refused(text), ..answer }, view)
            }
            _ => print(answer, view),
        })
    }

    /// Returns whether the command is to be repeated.
    pub(crate) fn repeats(&self) -> bool {
        match self {
            Self::Status(AskStatus { form, .. }) | Self::Plugin(AskPlugin::List(form)) => {
                form.watch
            }
            Self::Connections(AskConnections { action: None, form, .. }) => form.watch,
            _ => false,
        }
    }

    fn request(self) -> (ControlRequest, View) {
        let request = match self {
            Self::Status(AskStatus { ready, form }) => {
                return (ControlRequest::Status { metrics: true }, View { ready, ..form.into() });
            }
            Self::Connections(AskConnections { action, resource, quiet, form }) => match action {
                Some(AskConnection::Close { uuid }) => ControlRequest::Close { uuid },
                None => {
                    let view = View { quiet, ..form.into() };
                    return (ControlRequest::Connections { resource }, view);
                }
            },
            Self::Plugin(ask) => match ask {
                AskPlugin::List(form) => return (ControlRequest::Plugins {}, form.into()),
                ask => ask.into_request(),
            },
            Self::Reload => ControlRequest::Reload {},
            Self::Drain => ControlRequest::Drain {},
            Self::Stop { wait } => ControlRequest::Stop { wait },
        };
        (request, View::default())
    }
}

/// Asks what applying the files would change in the running host.
///
/// # Errors
/// See [`Ask::run`].
pub(crate) fn difference(host: &HostAddress, json: bool) -> Result<CommandOutput, AskError> {
    let answer = ask(host, &ControlRequest::Diff {})?;
    Ok(print(answer, View { json, ..View::default() }))
}

/// Sends a request; returns where the answer is read, and the path of the socket.
pub(super) fn send(
    host: &HostAddress,
    request: &ControlRequest,
) -> Result<(BufReader<UnixStream>, PathBuf), AskError> {
    let (path, mistake) = match host {
        HostAddress::Socket(path) => (path.clone(), None),
        HostAddress::Config(file) => Config::control_of(file),
    };
    let failed = |source| AskError::NoHost { path: path.clone(), source };
    let mut stream = match (UnixStream::connect(&path), mistake) {
        (Ok(stream), _) => stream,
        (Err(_), Some(mistake @ ConfigError::Invalid { .. })) => {
            return Err(AskError::Unsure { path, mistake });
        }
        (Err(_), Some(missing)) => return Err(missing.into()),
        (Err(source), None) => return Err(failed(source)),
    };
    let mut line = serde_json::to_vec(request).map_err(AskError::Answer)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    Ok((BufReader::new(stream), path))
}

/// Sends a request and waits for the answer. Fails as [`Ask::run`] does.
pub(crate) fn ask(host: &HostAddress, request: &ControlRequest) -> Result<AnswerLine, AskError> {
    let (mut stream, path) = send(host, request)?;
    let failed = |source| AskError::NoHost { path: path.clone(), source };
    let mut answer = String::new();
    stream.read_line(&mut answer).map_err(failed)?;
    let answer: AnswerLine = serde_json::from_str(&answer).map_err(AskError::Answer)?;
    let is_done = matches!(answer.answer, ControlAnswer::Done(_));
    if is_done && matches!(request, ControlRequest::Stop { wait: true }) {
        // The host keeps the connection open until its process ends.
        stream.read_to_end(&mut Vec::new()).map_err(failed)?;
        let stopped = ControlAnswer::Done("the host has stopped".to_owned());
        return Ok(AnswerLine { answer: stopped, ..answer });
    }
    Ok(answer)
}

fn print(AnswerLine { answer, notice }: AnswerLine, view: View) -> CommandOutput {
    let is_done = !matches!(answer, ControlAnswer::Refused(_));
    let text = match answer {
        ControlAnswer::Done(text) | ControlAnswer::Refused(text) => escaped(&text),
        answer if view.json => {
            let value = serde_json::to_value(answer).unwrap_or_default();
            value["data"].to_string()
        }
        ControlAnswer::Status(status) => print_status(&status),
        ControlAnswer::Plugins(plugins) => print_plugins(&plugins),
        ControlAnswer::Connections(connections) if view.quiet => {
            connections.iter().map(|connection| format!("{}\n", connection.uuid)).collect()
        }
        ControlAnswer::Connections(connections) => print_connections(&connections),
        ControlAnswer::Diff(difference) => print_difference(&difference),
        // Only answers to requests of other modules.
        ControlAnswer::Stream => String::new(),
    };
    let notice = notice.map(|notice| escaped(&notice));
    CommandOutput { text: text.trim_end().to_owned(), notice, is_done }
}

fn print_status(status: &StatusReport) -> String {
    let StatusReport { version, pid, config, connections, certificates, .. } = status;
    let connections = counted(*connections, "connection");
    let up = age(status.uptime_seconds);
    let resources = print_resources(&status.resources);
    let drains = match status.draining {
        true => "\ndraining: the host accepts no new connections",
        false => "",
    };
    let file = print_file(&status.config_file);
    let buffered = print_buffered(&status.buffered);
    let mut text = format!(
        "plugsocket {version}, process {pid}, up {up}, {connections}, {config}\nconfiguration {file}{drains}\n{buffered}\n\n{resources}"
    );
    text.push_str(&print_failed_snapshots(&status.resources));
    text.push_str(&metrics::print(&status.resources));
    if !certificates.is_empty() {
        text.push('\n');
        text.push_str(&coloured_table(
            certificates,
            |certificate| certificate.problem.as_ref().map(|_| Style::Red),
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

fn print_buffered(buffered: &BufferedReport) -> String {
    let bytes = counted(buffered.bytes, "byte");
    match buffered.max_bytes {
        Some(max) => format!("buffered for clients: {bytes} of {max} (max_buffered_bytes)"),
        None => format!("buffered for clients: {bytes}"),
    }
}

fn print_resources(resources: &[ResourceReport]) -> String {
    coloured_table(
        resources,
        ResourceReport::style,
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
            ("SNAPSHOT", |resource| match &resource.snapshot {
                None => "-".to_owned(),
                Some(SnapshotReport { error: Some(_), .. }) => "failed".to_owned(),
                Some(SnapshotReport { age_seconds: Some(seconds), bytes, .. }) => {
                    format!("{}, {} B", age(*seconds), bytes.unwrap_or_default())
                }
                Some(_) => "none".to_owned(),
            }),
            ("CLOSED", |resource| resource.closed.clone().unwrap_or_default()),
        ],
    )
}

/// Returns a line for each resource whose snapshots fail.
fn print_failed_snapshots(resources: &[ResourceReport]) -> String {
    let mut text = String::new();
    for resource in resources {
        if let Some(SnapshotReport { error: Some(error), failing_seconds, age_seconds, .. }) =
            &resource.snapshot
        {
            let since = age(failing_seconds.unwrap_or_default());
            let last = age_seconds.map_or("there is none".to_owned(), |seconds| {
                format!("the last one is {} old", age(seconds))
            });
            let path = &resource.path;
            text.push_str(&escaped(&format!(
                "{path}: snapshots have failed for {since}; {last}: {error}"
            )));
            text.push('\n');
        }
    }
    text
}

fn print_file(file: &FileReport) -> String {
    let age = age(file.age_seconds);
    let mut text = format!("{} {age} ago", file.state);
    if let Some(reason) = &file.refused {
        let lines = reason.lines().map(|line| format!("\n  {}", escaped(line)));
        text.push_str("; the host runs with the version before");
        text.extend(lines);
    }
    if !file.needs_restart.is_empty() {
        text.push_str(&format!("; these keys need a restart: {}", file.needs_restart.join(", ")));
    }
    text
}

fn print_plugins(plugins: &[PluginReport]) -> String {
    fn of(plugin: &PluginReport, text: fn(&GenerationReport) -> String) -> String {
        plugin.generation.as_ref().map_or("-".to_owned(), text)
    }
    let mut text = coloured_table(
        plugins,
        PluginReport::style,
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
    coloured_table(
        connections,
        |_| None,
        &[
            ("ID", |connection| connection.uuid.chars().take(8).collect()),
            ("AGE", |connection| age(connection.age_seconds)),
            ("USER", |connection| connection.user.clone().unwrap_or("-".to_owned())),
            ("READ", |connection| connection.bytes_read.to_string()),
            ("WRITTEN", |connection| connection.bytes_written.to_string()),
            ("QUEUE", |it| format!("{}/{} B", it.queued_messages, it.queued_bytes)),
            ("KIND", |connection| connection.kind.clone()),
            ("RESOURCE", |connection| connection.resource.clone()),
            ("ADDRESS", |connection| connection.address.clone()),
            ("IDENT", |connection| connection.ident.clone().unwrap_or("-".to_owned())),
            ("UUID", |connection| connection.uuid.clone()),
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
