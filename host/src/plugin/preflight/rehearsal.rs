//! The rehearsal: does with a library what the host is going to do, in a process that may crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::{Brief, Part, Step, line, read_brief, state_file};
use crate::config::LaneKind;
use crate::error::chain;
use crate::plugin::dylib::{Generation, open_module};
use crate::plugin::{Failure, Instance, Snapshot};
use crate::routing::resource::{Outage, Resource, Service, ServiceState};
use crate::routing::router::Router;

/// Tells the subcommand that this process is the rehearsal.
pub(super) const OPTION: &str = "--rehearse";

/// A line for the guard.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Written before the step, during which the process may end.
    Begins(Step),
    Refused(String),
}

/// Runs as the rehearsal. A failure is reported to the guard.
///
/// # Errors
/// The guard cannot be reached.
pub(crate) fn rehearse(library: &Path) -> io::Result<()> {
    // Without it, the guard's time limits still apply.
    set_parent_process_death_signal(Some(Signal::KILL)).ok();
    let brief = read_brief()?;
    // The library may print to standard output.
    let guard = File::from(rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?);
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let mut reports = Reports(guard);
    match play(library, &brief, &mut reports) {
        Ok(()) => reports.begin(Step::Exit),
        Err(Ended::Refused(text)) => reports.write(&Report::Refused(text)),
        Err(Ended::Io(error)) => Err(error),
    }
}

struct Reports(File);

impl Reports {
    fn write(&mut self, report: &Report) -> io::Result<()> {
        self.0.write_all(&line(report)?)
    }

    fn begin(&mut self, step: Step) -> io::Result<()> {
        self.write(&Report::Begins(step))
    }
}

enum Ended {
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Performs all steps in the order of the host. As there, the thread that opens the library never
/// ends, and the other steps have a thread each: code of the library also runs when one ends.
fn play(library: &Path, brief: &Brief, reports: &mut Reports) -> Result<(), Ended> {
    let refused = |error: &dyn std::error::Error| Ended::Refused(chain(error));
    reports.begin(Step::Open)?;
    open_module(library).map_err(|error| refused(&error))?;
    reports.begin(Step::Attach)?;
    let opened = Generation::open("preflight", 0, library);
    let generation = Arc::new(opened.map_err(|error| refused(&error))?);
    let mut instances = Vec::new();
    for part in &brief.candidates {
        reports.begin(Step::Start(part.resource.clone()))?;
        instances.push((part, start(&generation, part)?));
    }
    for (index, (part, instance)) in instances.iter_mut().enumerate() {
        let Some(version) = part.state else { continue };
        let bytes = Bytes::from(fs::read(state_file(library, index))?);
        reports.begin(Step::Restore(part.resource.clone()))?;
        restore(&mut **instance, Snapshot { version, bytes }, brief.snapshot_limit)?;
    }
    for (part, instance) in instances {
        reports.begin(Step::Drop(part.resource.clone()))?;
        on_thread("drop:0", move || drop(instance))?;
    }
    Ok(())
}

fn start(generation: &Arc<Generation>, part: &Part) -> Result<Box<dyn Instance>, Ended> {
    let service = Service {
        dialog: true,
        subprotocols: Vec::new(),
        lane: LaneKind::Thread,
        state: ServiceState::Unavailable(Outage::of_plugin("preflight")),
    };
    let resource = Arc::new(Resource::new(part.resource.clone(), service));
    let router = Arc::new(Router::new(Arc::default(), Arc::default()));
    let (generation, settings) = (generation.clone(), part.settings.clone());
    let name = format!("start:{}", part.resource);
    let started = on_thread(&name, move || generation.start(resource, router, &settings))?;
    let text = |failure: Failure| format!("it did not start: {}", failure.into_text());
    started.map_err(|failure| Ended::Refused(text(failure)))
}

fn restore(instance: &mut dyn Instance, state: Snapshot, limit: usize) -> Result<(), Ended> {
    let (bytes, version) = (state.bytes.len(), state.version);
    if bytes > limit {
        let text = format!("its state is {bytes} bytes, and reload.snapshot_limit is {limit}");
        return Err(Ended::Refused(text));
    }
    let thread = std::thread::Builder::new().name("restore".to_owned());
    let restored = std::thread::scope(|scope| {
        let restore = move || instance.restore(Some(&state));
        thread.spawn_scoped(scope, restore).map(std::thread::ScopedJoinHandle::join)
    })?;
    let of = format!("the state of {bytes} bytes, version {version}");
    match restored {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => {
            let text = failure.into_text();
            Err(Ended::Refused(format!("it does not take over {of}: {text}")))
        }
        Err(_) => Err(Ended::Refused("its `restore` has ended the thread".to_owned())),
    }
}

fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("a thread of the preflight has panicked"))
}
