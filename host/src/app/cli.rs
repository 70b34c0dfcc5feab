//! The command line: parses it, runs the command, and prints the result.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::dev::{Dev, DevArguments};
use super::generate::GeneratedFile;
use super::{allocator, check, run};
use crate::config::{self, Listen, Overrides};
use crate::error::chain;
use crate::ops::control::ask_plugin::AskPlugin;
use crate::ops::control::client::{self, Ask, AskError, CommandOutput, HostAddress};
use crate::ops::control::live::Live;
use crate::ops::logging::{self, LogFormat};
use crate::ops::systemd::Inherited;
use crate::plugin::{preflight, validate};

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
    /// Print the man page or the completions of a shell, for packages and installations by hand.
    #[arg(long, value_name = "FILE", value_enum, hide_short_help = true)]
    generate: Option<GeneratedFile>,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// Configuration file; relative paths in it are relative to the file. Default: plugins.toml, or
    /// /etc/plugsocket/plugins.toml where the current folder has none.
    #[arg(long, short, value_name = "FILE", env = "PLUGSOCKET_CONFIG", hide_env_values = true)]
    #[arg(global = true)]
    config: Option<PathBuf>,
    /// Control socket of the running host; with `run` and `dev`, the one to open. Default: server.control of
    /// the configuration.
    #[arg(long, value_name = "PATH", value_parser = config::control_path, global = true)]
    control: Option<PathBuf>,
    /// With `run` and `dev`: listen on this address instead of those of server.listen. Repeat it for more.
    #[arg(long, value_name = "ADDRESS", global = true)]
    listen: Vec<Listen>,
    /// Format of the log on standard error.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    log_format: LogFormat,
}

impl Options {
    fn config(&self) -> PathBuf {
        let (local, installed) = ("plugins.toml", "/etc/plugsocket/plugins.toml");
        self.config.clone().unwrap_or_else(|| first_of(local.as_ref(), installed.as_ref()))
    }

    /// Returns the file of a plugin's folder, never that of an installed host.
    fn dev(&self, arguments: DevArguments) -> Dev {
        let file = self.config.clone().unwrap_or_else(|| "plugins.toml".into());
        let host = match &self.control {
            Some(socket) => HostAddress::Socket(socket.clone()),
            None => HostAddress::Config(file.clone()),
        };
        Dev { file, overrides: self.overrides(), host, arguments }
    }

    fn host(&self) -> HostAddress {
        match &self.control {
            Some(socket) => HostAddress::Socket(socket.clone()),
            None => HostAddress::Config(self.config()),
        }
    }

    fn overrides(&self) -> Overrides {
        Overrides { listen: self.listen.clone(), control: self.control.clone() }
    }
}

#[derive(Clone, Debug, Subcommand)]
enum CliCommand {
    /// Serve (the default command).
    Run,
    /// Build and serve the plugin in the current folder, and each change of its sources.
    Dev(DevArguments),
    /// Check the configuration: load and start every plugin that it maps, without serving.
    Check {
        /// Show what applying the files would change in the running host.
        #[arg(long)]
        diff: bool,
        /// With --diff: print one JSON value.
        #[arg(long, requires = "diff")]
        json: bool,
    },
    /// Print the JSON schema of plugins.toml, for editors.
    Schema,
    #[command(flatten)]
    Ask(Ask),
    #[command(flatten)]
    Live(Live),
    /// Run a library in a child process, before the host opens it.
    #[command(name = preflight::COMMAND, hide = true)]
    Preflight {
        library: PathBuf,
        /// Run as the child of that child, which opens the library.
        #[arg(long)]
        rehearse: bool,
    },
    /// Run one check of `plugin validate`.
    #[command(name = validate::COMMAND, hide = true)]
    PluginValidation,
}

/// Returns the second path if only that exists, else the first.
fn first_of(local: &Path, installed: &Path) -> PathBuf {
    if !local.exists() && installed.exists() { installed } else { local }.to_owned()
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { command, generate, options } = Arguments::parse();
    if let Some(file) = generate {
        return print_file(file, command.as_ref());
    }
    let command = command.unwrap_or(CliCommand::Run);
    let serves = matches!(command, CliCommand::Run | CliCommand::Dev(_));
    if !options.listen.is_empty() && !serves {
        exit_with_conflict("--listen is an option of `plugsocket run` and `plugsocket dev` only");
    }
    match command {
        CliCommand::Preflight { library, rehearse } => {
            let run = if rehearse { preflight::rehearse } else { preflight::guard };
            run(&library).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        CliCommand::PluginValidation => {
            allocator::return_large_blocks();
            validate::run_child().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        CliCommand::Ask(Ask::Plugin(AskPlugin::Validate(validation))) => {
            match validation.run(&options.config()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => fail(&chain(&error), ExitCode::FAILURE),
            }
        }
        CliCommand::Schema => {
            print_line(&format!("{:#}", config::schema()));
            ExitCode::SUCCESS
        }
        CliCommand::Ask(Ask::Plugin(AskPlugin::New(new))) => match new.create() {
            Ok(created) => {
                print_line(&created);
                ExitCode::SUCCESS
            }
            Err(error) => fail(&chain(&error), ExitCode::FAILURE),
        },
        CliCommand::Ask(ask) if !matches!(ask, Ask::Plugin(AskPlugin::Check(_))) => {
            repeat(ask.repeats(), || print_outcome(ask.clone().run(&options.host())))
        }
        CliCommand::Live(live) => match live.run(&options.host()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&chain(&error), error.code()),
        },
        CliCommand::Check { diff: true, json } => {
            print_outcome(client::difference(&options.host(), json))
        }
        command => {
            let failure = with_runtime(command, &options).err();
            let failure = failure.map(|error| format!("plugsocket: {}", chain(&*error)));
            logging::finish(failure.as_deref());
            if failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn print_file(file: GeneratedFile, command: Option<&CliCommand>) -> ExitCode {
    if command.is_some() {
        exit_with_conflict("--generate cannot be used with a command");
    }
    match file.write(&Arguments::command(), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&chain(&error), ExitCode::FAILURE),
    }
}

fn exit_with_conflict(text: &str) -> ! {
    Arguments::command().error(ErrorKind::ArgumentConflict, text).exit()
}

/// Runs a command once, or every two seconds on a cleared screen until there is no host or no
/// reader.
#[expect(clippy::disallowed_methods, reason = "it repeats by the clock")]
fn repeat(repeats: bool, run: impl Fn() -> ExitCode) -> ExitCode {
    const INTERVAL: Duration = Duration::from_secs(2);
    if !repeats {
        return run();
    }
    loop {
        if io::stdout().is_terminal() {
            drop(write!(io::stdout(), "\x1b[H\x1b[2J"));
        }
        let code = run();
        // A list may be empty for a while.
        let may_continue = [ExitCode::SUCCESS, ExitCode::FAILURE].contains(&code);
        if !may_continue || writeln!(io::stdout()).is_err() {
            return code;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Prints the answer of the running host.
fn print_outcome(asked: Result<CommandOutput, AskError>) -> ExitCode {
    if let Ok(CommandOutput { notice: Some(notice), .. }) = &asked {
        fail(&format!("warning: {notice}"), ExitCode::SUCCESS);
    }
    match asked {
        Ok(CommandOutput { text, is_done: true, .. }) => {
            print_line(&text);
            ExitCode::SUCCESS
        }
        Ok(CommandOutput { text, is_done: false, .. }) => fail(&text, ExitCode::FAILURE),
        Err(error) => fail(&chain(&error), error.code()),
    }
}

fn with_runtime(command: CliCommand, options: &Options) -> Result<(), Box<dyn Error>> {
    allocator::return_large_blocks();
    logging::start(options.log_format)
        .map_err(|error| format!("cannot parse RUST_LOG: {error}"))?;
    // Before any thread starts, because it changes the environment. Only a host uses the sockets.
    let serves = matches!(command, CliCommand::Run | CliCommand::Dev(_));
    let inherited = serves.then(Inherited::take);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start threads: {error}"))?;
    let result = runtime.block_on(async {
        match (inherited, command) {
            (Some(inherited), CliCommand::Dev(arguments)) => {
                options.dev(arguments).run(inherited).await.map_err(Into::into)
            }
            (Some(inherited), _) => {
                run(&options.config(), options.overrides(), inherited).await.map_err(Into::into)
            }
            (None, CliCommand::Ask(Ask::Plugin(AskPlugin::Check(trial)))) => {
                trial.run(&options.config()).await.map(|fine| print_line(&fine)).map_err(Into::into)
            }
            (None, _) => {
                check(&options.config()).await.map(|fine| print_line(&fine)).map_err(Into::into)
            }
        }
    });
    // A stuck thread of a plugin must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

pub(super) fn print_line(line: &str) {
    // The reader may have closed the pipe.
    drop(writeln!(io::stdout(), "{line}"));
}

/// Prints an error; returns `code`.
fn fail(error: &str, code: ExitCode) -> ExitCode {
    drop(writeln!(io::stderr(), "plugsocket: {error}"));
    code
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn the_installed_configuration_is_used_where_the_folder_has_none() {
        let folder = std::env::temp_dir().join(format!("plugsocket-cli-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (local, installed) = (folder.join("local"), folder.join("installed"));
        assert_eq!(first_of(&local, &installed), local);
        std::fs::write(&installed, "").unwrap();
        assert_eq!(first_of(&local, &installed), installed);
        std::fs::write(&local, "").unwrap();
        assert_eq!(first_of(&local, &installed), local);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn generated_files_contain_every_command_except_internal_ones() {
        for file in GeneratedFile::value_variants() {
            let mut text = Vec::new();
            file.write(&Arguments::command(), &mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let commands = Arguments::command();
            for command in commands.get_subcommands() {
                let is_there = text.contains(command.get_name());
                assert_eq!(is_there, !command.is_hide_set(), "{file:?}: {command}");
            }
            assert!(text.contains("rollback"), "{file:?}");
        }
    }
}
