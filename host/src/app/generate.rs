//! `--generate`: the man page and the shell completions, made from the declaration of the command
//! line, so that packages ship what the program accepts.

use std::io::{self, Write};

use clap::builder::StyledStr;
use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

/// A file that the program can print about its own command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum GeneratedFile {
    /// The man page (roff).
    Man,
    /// Completions for bash.
    CompleteBash,
    /// Completions for zsh.
    CompleteZsh,
    /// Completions for fish.
    CompleteFish,
}

impl GeneratedFile {
    /// Writes the file.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(super) fn write(self, command: &Command, out: &mut dyn Write) -> io::Result<()> {
        let shell = match self {
            Self::Man => return write_man_page(command, out),
            Self::CompleteBash => Shell::Bash,
            Self::CompleteZsh => Shell::Zsh,
            Self::CompleteFish => Shell::Fish,
        };
        let mut command = visible(command);
        let name = command.get_name().to_owned();
        // In memory first, because clap_complete panics if it cannot write.
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut text);
        out.write_all(&text)
    }
}

/// Writes one page with all commands. clap_mangen alone would make one page for each command, of
/// which most lines are the options of every command.
fn write_man_page(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let name = command.get_name().to_owned();
    let shown = command.clone().subcommand_value_name("COMMAND");
    let man = Man::new(shown.mut_arg("generate", |option| option.hide(true)));
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    heading("COMMANDS").to_writer(out)?;
    for inner in visible_commands(command) {
        write_command(inner, &name, out)?;
    }
    let mut notes = heading("NOTES");
    for line in lines(command.get_after_help()) {
        notes.text([roman(line)]).control("br", []);
    }
    notes.to_writer(out)
}

/// Writes a command and those below it.
fn write_command(command: &Command, parent: &str, out: &mut dyn Write) -> io::Result<()> {
    let name = format!("{parent} {}", command.get_name());
    // A copy that does not inherit the options of every command.
    let mut alone = command.clone().bin_name(&name).disable_help_flag(true);
    alone = alone.disable_help_subcommand(true);
    let usage = alone.render_usage().to_string();
    let mut roff = Roff::default();
    roff.control("SS", [usage.trim_start_matches("Usage: ")]);
    for line in lines(command.get_long_about().or(command.get_about())) {
        roff.text([roman(line)]);
    }
    roff.to_writer(out)?;
    if alone.get_arguments().next().is_some() {
        let mut options = Vec::new();
        Man::new(alone).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options);
        // Without the heading of the section.
        let start = options.find(".TP").unwrap_or(options.len());
        out.write_all(&options.as_bytes()[start..])?;
    }
    for inner in visible_commands(command) {
        write_command(inner, &name, out)?;
    }
    Ok(())
}

/// Returns a copy without hidden commands, which clap_complete would offer.
fn visible(command: &Command) -> Command {
    Command::new(command.get_name().to_owned())
        .version(command.get_version().unwrap_or_default().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .disable_help_subcommand(true)
        .disable_version_flag(command.get_version().is_none())
        .args(command.get_arguments().cloned())
        .subcommands(visible_commands(command).map(visible))
}

fn visible_commands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|inner| !inner.is_hide_set())
}

fn heading(text: &str) -> Roff {
    let mut roff = Roff::default();
    roff.control("SH", [text]);
    roff
}

fn lines(text: Option<&StyledStr>) -> impl Iterator<Item = String> {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect::<Vec<_>>().into_iter()
}
