//! The command line: parses it, runs the command, and prints the result.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::{allocator, check, run};
use crate::error::chain;
use crate::ops::control::client::{self, Ask, AskError, AskPlugin, CommandOutput};
use crate::ops::logging::{self, LogFormat};
use crate::ops::systemd::Inherited;
use crate::plugin::preflight;

/// A WebSocket application host: each resource path is served by a shared library, which the host
/// replaces while it runs, without closing a connection or losing a message.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 success, 1 refused or failed, 2 invalid command line, 3 no host answers on the control socket.\n\
    RUST_LOG sets the log level, for example RUST_LOG=debug (default: info).\n\
    SIGHUP reads plugins.toml again; SIGTERM and SIGINT drain connections and stop the host."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<CliCommand>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// Configuration file; relative paths in it are relative to the file.
    #[arg(long, short, value_name = "FILE", default_value = "plugins.toml", global = true)]
    config: PathBuf,
    /// Format of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Debug, Subcommand)]
enum CliCommand {
    /// Serve (the default command).
    Run,
    /// Check the configuration: load and start every plugin that it maps, without serving.
    Check {
        /// Show what applying the files would change in the running host.
        #[arg(long)]
        diff: bool,
        /// With --diff: print one JSON value.
        #[arg(long, requires = "diff")]
        json: bool,
    },
    #[command(flatten)]
    Ask(Ask),
    /// Run a library in a child process, before the host opens it.
    #[command(name = preflight::COMMAND, hide = true)]
    Preflight {
        library: PathBuf,
        /// Run as the child of that child, which opens the library.
        #[arg(long)]
        rehearse: bool,
    },
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { command, options } = Arguments::parse();
    match command.unwrap_or(CliCommand::Run) {
        CliCommand::Preflight { library, rehearse } => {
            let run = if rehearse { preflight::rehearse } else { preflight::guard };
            run(&library).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        CliCommand::Ask(ask) if !matches!(ask, Ask::Plugin(AskPlugin::Check(_))) => {
            print_outcome(ask.run(&options.config))
        }
        CliCommand::Check { diff: true, json } => {
            print_outcome(client::difference(&options.config, json))
        }
        command => {
            let failure = with_runtime(command, &options).err();
            let failure = failure.map(|error| format!("plugsocket: {}", chain(&*error)));
            logging::finish(failure.as_deref());
            if failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

/// Prints the answer of the running host.
fn print_outcome(asked: Result<CommandOutput, AskError>) -> ExitCode {
    match asked {
        Ok(CommandOutput { text, is_done: true }) => {
            print_line(&text);
            ExitCode::SUCCESS
        }
        Ok(CommandOutput { text, is_done: false }) => fail(&text, ExitCode::FAILURE),
        Err(error) => fail(&chain(&error), error.code()),
    }
}

fn with_runtime(command: CliCommand, options: &Options) -> Result<(), Box<dyn Error>> {
    allocator::return_large_blocks();
    logging::start(options.log_format)
        .map_err(|error| format!("cannot parse RUST_LOG: {error}"))?;
    // Before any thread starts, because it changes the environment. Only `run` uses the sockets.
    let inherited = matches!(command, CliCommand::Run).then(Inherited::take);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(async {
        match (inherited, command) {
            (Some(inherited), _) => run(&options.config, inherited).await.map_err(Into::into),
            (None, CliCommand::Ask(Ask::Plugin(AskPlugin::Check(trial)))) => {
                trial.run(&options.config).await.map(|fine| print_line(&fine)).map_err(Into::into)
            }
            (None, _) => {
                check(&options.config).await.map(|fine| print_line(&fine)).map_err(Into::into)
            }
        }
    });
    // A stuck thread of a plugin must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn print_line(line: &str) {
    // The reader may have closed the pipe.
    drop(writeln!(io::stdout(), "{line}"));
}

/// Prints an error; returns `code`.
fn fail(error: &str, code: ExitCode) -> ExitCode {
    drop(writeln!(io::stderr(), "plugsocket: {error}"));
    code
}
