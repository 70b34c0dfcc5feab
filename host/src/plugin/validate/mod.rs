//! `plugsocket plugin validate`: looks for the usual mistakes in a library, for its author.
//!
//! Each check of [`checks`] is named and runs in a child process of its own (**child**), because it
//! may crash or hang: the parent (**runner**) follows it, limits it and reports how it ended. A
//! check calls the library as a host would, (**driver**), for a simulated resource (**site**) without
//! sockets. All children open one private copy of the library.
//!
//! A check must know neither the parent nor other checks.

mod checks;
mod child;
mod compare;
mod driver;
mod generator;
mod journal;
mod process;
mod report;
mod runner;
mod site;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

pub(crate) use self::child::{COMMAND, run as run_child};
use self::report::{Grade, Outcome};
use self::runner::{Brief, Runner};
use super::staging::{self, StageError, StagingChecks};
use super::trial::{TrialError, Workplace};
use super::watch;

/// The arguments of `plugin validate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Validation {
    /// Path of the library.
    #[arg(required_unless_present = "list")]
    library: Option<PathBuf>,
    /// Print the checks and what each expects, as a table.
    #[arg(long)]
    list: bool,
    /// Run only checks whose name contains this; repeat it for more.
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Seed of the random checks, to repeat them. Default: a random one, which is printed.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Configuration for `start`, as JSON.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    settings: String,
    /// A configuration that `start` must refuse.
    #[arg(long, value_name = "JSON")]
    bad_settings: Option<String>,
    /// A text message that the application understands, so that the checks of its state have
    /// something to restore; repeat it for more.
    #[arg(long, value_name = "TEXT")]
    message: Vec<String>,
    /// Query of the connections, such as `room=7`.
    #[arg(long, value_name = "TEXT", default_value = "")]
    query: String,
    /// Time limit of each callback in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print one JSON value.
    #[arg(long)]
    json: bool,
}

/// Why a library was not validated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValidationError {
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("no check has a name with {}; --list prints the names", .0.join(" or "))]
    NoCheck(Vec<String>),
    #[error("{option} is not a JSON object")]
    Settings { option: &'static str },
    #[error("cannot run a check")]
    Child(#[source] io::Error),
}

impl Validation {
    /// Runs the checks and prints their results; returns whether none has failed.
    ///
    /// # Errors
    /// The checks cannot be run.
    pub(crate) fn run(self, config: &Path) -> Result<bool, ValidationError> {
        let Some(library) = self.library.as_ref().filter(|_| !self.list) else {
            print(&checks::table());
            return Ok(true);
        };
        check_object("--settings", &self.settings)?;
        let workplace = Workplace::new(config).map_err(TrialError::from)?;
        let outcomes = self.run_checks(library, &workplace);
        drop(workplace);
        outcomes
    }

    fn run_checks(&self, library: &Path, workplace: &Workplace) -> Result<bool, ValidationError> {
        let selected: Vec<_> = checks::all().filter(|check| self.selects(check.name)).collect();
        if selected.is_empty() {
            return Err(ValidationError::NoCheck(self.filter.clone()));
        }
        let brief = Brief {
            library: stage(library, workplace)?,
            check: String::new(),
            settings: self.settings.clone(),
            bad_settings: self.bad_settings.clone(),
            messages: self.message.clone(),
            query: self.query.clone(),
            seed: self.seed.unwrap_or_else(generator::random_seed),
            limit: Duration::from_secs(self.timeout),
        };
        let seed = brief.seed;
        let (mut runner, mut outcomes) = (Runner::new(brief), Vec::new());
        for check in selected {
            let outcome = runner.run(check).map_err(ValidationError::Child)?;
            if !self.json {
                print(&outcome.line());
            }
            outcomes.push(outcome);
        }
        print(&match self.json {
            true => report(library, seed, &outcomes).to_string(),
            false => format!("\n{}; seed {seed}", summary(&outcomes)),
        });
        Ok(count(&outcomes, Grade::Fail) == 0)
    }

    fn selects(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part))
    }
}

fn check_object(option: &'static str, text: &str) -> Result<(), ValidationError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err(ValidationError::Settings { option }),
    }
}

/// Copies the library to the workplace; returns the path of the copy.
fn stage(library: &Path, workplace: &Workplace) -> Result<PathBuf, TrialError> {
    let unread = |source| TrialError::Read { path: library.to_owned(), source };
    let path = library.canonicalize().map_err(unread)?;
    workplace.prepare()?;
    let name = watch::plugin_name(&path).unwrap_or("library");
    let checks = StagingChecks { check_owner: false, sha256: Vec::new() };
    let origin = library.parent().unwrap_or(Path::new("/"));
    let staged: Result<_, StageError> = staging::stage(&path, origin, name, &checks);
    Ok(staged?.path)
}

fn report(library: &Path, seed: u64, outcomes: &[Outcome]) -> Value {
    let count = |grade| count(outcomes, grade);
    json!({
        "library": library.display().to_string(),
        "seed": seed,
        "checks": outcomes,
        "summary": {
            "pass": count(Grade::Pass),
            "warn": count(Grade::Warn),
            "fail": count(Grade::Fail),
            "skip": count(Grade::Skip),
        },
    })
}

fn summary(outcomes: &[Outcome]) -> String {
    let [pass, warn, fail, skip] =
        [Grade::Pass, Grade::Warn, Grade::Fail, Grade::Skip].map(|grade| count(outcomes, grade));
    format!("{pass} passed, {warn} with a warning, {fail} failed, {skip} skipped")
}

fn count(outcomes: &[Outcome], grade: Grade) -> usize {
    outcomes.iter().filter(|outcome| outcome.grade == grade).count()
}

fn print(text: &str) {
    // The reader may have closed the pipe.
    drop(writeln!(io::stdout(), "{text}"));
}
