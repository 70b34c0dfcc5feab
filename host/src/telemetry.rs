//! The log: where it goes, in which form, and how a plugin's lines enter it.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing::{debug, error, info, trace, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Starts the log, on standard error. `RUST_LOG` says what of it (`info` by default), e.g. `plugsocket=debug`.
///
/// # Errors
/// `RUST_LOG` cannot be read.
pub(crate) fn start(format: LogFormat) -> Result<(), ParseError> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives.parse()?,
        _ => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be written (a full disk, a pipe that nobody reads) is lost: to say so on the same standard error would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Writes a line that a plugin said. `place` is the resource of the instance, or the module that spoke.
pub(crate) fn plugin_line(level: u32, plugin: &str, generation: u64, place: &str, text: &str) {
    // Escaped: a line of a plugin may hold what a peer sent.
    let text = text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    match level {
        1 => error!(target: "plugin", plugin, generation, place, "{text}"),
        2 => warn!(target: "plugin", plugin, generation, place, "{text}"),
        3 => info!(target: "plugin", plugin, generation, place, "{text}"),
        4 => debug!(target: "plugin", plugin, generation, place, "{text}"),
        _ => trace!(target: "plugin", plugin, generation, place, "{text}"),
    }
}
