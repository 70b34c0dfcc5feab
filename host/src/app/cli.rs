//! The command line: what is asked, and how it is answered.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::{AppError, check, run};
use crate::error::chain;
use crate::ops::control::client::{self, Ask, AskError, AskPlugin, Outcome};
use crate::ops::logging::{self, LogFormat};
use crate::ops::systemd::Inherited;
use crate::plugin::trial::{Trial, TrialError};
use crate::plugin::{dylib, preflight};

/// A WebSocket application host: each resource path is served by a shared library, which is replaced
/// while it runs, without closing a connection or losing a message.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 refused or could not do it, 2 wrong command line, 3 no host answers on the control socket.\n\
    RUST_LOG says what is logged, e.g. RUST_LOG=debug (default: info). SIGHUP reads plugins.toml again; \
    SIGTERM and SIGINT drain and end."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<CliCommand>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// The configuration; paths in it are relative to it.
    #[arg(long, short, value_name = "FILE", default_value = "plugins.toml", global = true)]
    config: PathBuf,
    /// How the log on standard error looks.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

#[derive(Clone, Debug, Subcommand)]
enum CliCommand {
    /// Serve (the default).
    Run,
    /// Check the configuration, and load and start every plugin that it maps, without serving.
    Check {
        /// Say instead what the files would change for the host that runs.
        #[arg(long)]
        diff: bool,
        /// With --diff: one JSON value.
        #[arg(long, requires = "diff")]
        json: bool,
    },
    #[command(flatten)]
    Ask(Ask),
    /// Open one library and say whether it is a plugin for this host; with settings or a state, whether it would serve.
    #[command(name = preflight::COMMAND, hide = true)]
    Preflight {
        library: PathBuf,
        #[arg(long)]
        settings: Option<String>,
        #[arg(long)]
        with_state: Option<PathBuf>,
    },
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { command, options } = Arguments::parse();
    match command.unwrap_or(CliCommand::Run) {
        CliCommand::Preflight { library, settings: None, .. } => {
            be_child(|| dylib::try_open(&library))
        }
        CliCommand::Preflight { library, settings: Some(settings), with_state } => {
            be_child(|| Trial { library, with_state, settings, timeout: 0 }.check())
        }
        command @ CliCommand::Ask(Ask::Plugin(AskPlugin::Check(_))) => {
            with_runtime(command, options)
        }
        CliCommand::Ask(ask) => tell(ask.run(&options.config)),
        CliCommand::Check { diff: true, json } => tell(client::difference(&options.config, json)),
        command => with_runtime(command, options),
    }
}

/// Prints what a running host answered.
fn tell(asked: Result<Outcome, AskError>) -> ExitCode {
    match asked {
        Ok(Outcome { text, is_done: true }) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Ok(Outcome { text, is_done: false }) => {
            complain(&text);
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&chain(&error));
            error.code()
        }
    }
}

/// The preflight child: no runtime, no log, one line.
fn be_child<E: std::error::Error>(work: impl FnOnce() -> Result<(), E>) -> ExitCode {
    preflight::end_with_parent();
    let found = work();
    let (said, code) = match found {
        Ok(()) => (preflight::FINE.to_owned(), ExitCode::SUCCESS),
        Err(error) => (chain(&error), ExitCode::FAILURE),
    };
    say(&said);
    code
}

fn with_runtime(command: CliCommand, options: Options) -> ExitCode {
    if let Err(error) = logging::start(options.log_format) {
        complain(&format!("RUST_LOG cannot be read: {error}"));
        return ExitCode::FAILURE;
    }
    // Before there are threads. Only what serves takes them.
    let inherited = matches!(command, CliCommand::Run).then(Inherited::take);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the system gives no threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match (inherited, command) {
            (Some(inherited), _) => Ok(run(&options.config, inherited).await?),
            (None, CliCommand::Ask(Ask::Plugin(AskPlugin::Check(trial)))) => {
                trial.run().await.map(|fine| say(&fine)).map_err(CommandError::Trial)
            }
            (None, _) => {
                say(&check(&options.config).await?);
                Ok(())
            }
        }
    });
    // A plugin's thread that is stuck must not keep the program.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Life(#[from] AppError),
    #[error(transparent)]
    Trial(TrialError),
}

fn say(line: &str) {
    // Nobody may be reading.
    drop(writeln!(io::stdout(), "{line}"));
}

fn complain(line: &str) {
    drop(writeln!(io::stderr(), "plugsocket: {line}"));
}
