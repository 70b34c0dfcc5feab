//! Starts the host, runs it until it has to stop, and drains it.
//!
//! Owns the order in which parts start and stop, and the exit code. Does not decide what is served;
//! `supervisor` does.

mod allocator;
mod cli;
mod dev;
mod generate;
mod listeners;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::process::Signal as Raw;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as watch_channel};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

pub use self::cli::main;
use crate::auth;
use crate::config::{Config, ConfigError, Listen, Overrides};
use crate::connection::{establish, keep_alive, memory_limit};
use crate::hub::Hub;
use crate::hub::counters::HostCounters;
use crate::hub::status::{FileState, SnapshotStates};
use crate::net::accept::{self, Accepting};
use crate::net::tls::{self, CurrentTls, ServedCertificates};
use crate::net::{connection_limits::ConnectionLimits, listener::Listener};
use crate::ops::control::stream::{StreamServer, Streams};
use crate::ops::control::{self, Control, ControlContext, ControlError};
use crate::ops::drain;
use crate::ops::metrics;
use crate::ops::systemd::{self, Inherited};
use crate::plugin::{archive, snapshot_file, staging, watch};
use crate::protocol::buffered;
use crate::protocol::identity::IdentityIssuer;
use crate::protocol::time_limit::{self, timeout};
use crate::routing::resource::{Resource, ServiceState};
use crate::routing::{registry::Registry, router::Router};
use crate::supervisor::snapshots::{self, SnapshotWriter};
use crate::supervisor::{self, Change, ReloadPhase, Supervisor, watchdog};

/// Reasons for which the host does not start, or stops by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address} ({key}){}", advice(source))]
    Listen {
        address: Listen,
        /// The key or option that names the address.
        key: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the sockets that systemd passed (LISTEN_FDS)")]
    Inherited(#[source] io::Error),
    #[error("cannot use {} for copies of the libraries (server.staging_dir)", path.display())]
    Staging {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot start the thread of the watchdog")]
    Watchdog(#[source] io::Error),
    #[error("cannot install signal handlers")]
    Signals(#[source] io::Error),
    #[error(
        "the {0} has ended and the host cannot run without it; see the log lines before this one"
    )]
    Lost(&'static str),
    #[error("{}", unserved(.0))]
    Unserved(Vec<String>),
}

/// Returns what an operator can do about an address that cannot be bound.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the program that listens there, change the key, or pass another address with --listen"
        }
        io::ErrorKind::PermissionDenied => {
            "; a port below 1024 needs CAP_NET_BIND_SERVICE, or a socket from systemd"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine does not have the address",
        _ => "",
    }
}

/// Serves until a signal, a `stop` command or the end of an essential part stops the host.
///
/// # Errors
/// The host cannot start, or an essential part has ended.
pub(crate) async fn run(
    path: &Path,
    overrides: Overrides,
    inherited: Inherited,
) -> Result<(), AppError> {
    let config = Config::load(path)?.with(overrides);
    let certificates = ServedCertificates::load(&config, None)?;
    let mut signals = Signals::install()?;
    info!(version = env!("CARGO_PKG_VERSION"), config = %config.path.display(), "host starting");
    // First, so that a second host with this configuration stops before it changes anything.
    let control = Control::open(&config.server.folders.control)?;
    let _state_lock = control::lock_state_dir(&config.server.folders.state_dir)?;
    let listeners = listeners::open(&config, inherited).await?;
    let for_metrics = listeners::open_metrics(&config).await?;
    certificates.iter().for_each(ServedCertificates::log_status);
    let before = watch::survey(&scope(&config));
    archive::sweep(&config.server.folders.state_dir);
    snapshot_file::sweep(&config.server.folders.state_dir);
    let (hub, mut supervisor) = assemble(config, certificates);
    // Until the end: without it, a time limit of the drain would see a standstill.
    let mut observing = JoinSet::new();
    observing.spawn(time_limit::observe());
    observing.spawn(memory_limit::enforce(hub.registry.clone()));
    observing.spawn(allocator::return_freed_memory());
    for_metrics.map(|listener| observing.spawn(metrics::server::serve(listener, hub.clone())));
    let snapshot_writer = Arc::new(SnapshotWriter::default());
    // Applications start one after the other, which may take long; a stop signal does not wait.
    let is_started = tokio::select! {
        started = start(&hub, &mut supervisor) => started.map(|_| true)?,
        _ = signals.terminate.recv() => false,
        _ = signals.interrupt.recv() => false,
    };
    let (streams, stream_server) = StreamServer::start();
    let inputs = Inputs { listeners, control, streams, signals, files: before };
    let served = match is_started {
        true => serve(&hub, supervisor, &snapshot_writer, inputs).await,
        false => Ok(()),
    };
    drop(timeout(LAST_SNAPSHOTS, snapshots::write_last(&hub, &snapshot_writer)).await);
    stop_lanes(&hub).await;
    info!("host stopped");
    stream_server.finish().await;
    served
}

/// Starts every mapped application, without serving. Returns the line to print.
///
/// # Errors
/// Something cannot be served; the log has the reason.
pub(crate) async fn check(path: &Path) -> Result<String, AppError> {
    let mut config = Config::load(path)?;
    let certificates = ServedCertificates::load(&config, None)?;
    let (resources, file) = (config.resources.len(), config.path.clone());
    // Generations that never served are not kept for rollback.
    config.server.reload.keep_generations = 0;
    config.resources.values_mut().for_each(|resource| resource.snapshot_every = None);
    let (hub, mut supervisor) = assemble(config, certificates);
    supervisor.only_check();
    let failures = start(&hub, &mut supervisor).await?;
    stop_lanes(&hub).await;
    if !failures.is_empty() {
        return Err(AppError::Unserved(failures));
    }
    Ok(format!("{}: fine, {resources} resources", file.display()))
}

fn unserved(failures: &[String]) -> String {
    match failures {
        [cause] => format!("1 plugin or resource cannot be served: {cause}"),
        causes => {
            let (count, causes) = (causes.len(), causes.join("\n  "));
            format!("{count} plugins or resources cannot be served:\n  {causes}")
        }
    }
}

/// The signals that the host handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP: read the configuration again.
    hangup: Signal,
    /// SIGUSR1, by which log rotation asks a program to reopen its log.
    reopen_log: Signal,
}

/// Signals which would end the process and mean nothing to it. With a handler for `XFSZ`, a file over
/// the size limit of the process is a write error of that file.
const IGNORED: [Raw; 8] =
    [Raw::USR2, Raw::ALARM, Raw::VTALARM, Raw::PROF, Raw::IO, Raw::POWER, Raw::STKFLT, Raw::XFSZ];

impl Signals {
    /// Installs the handlers; from then on none of these signals ends the process by itself.
    ///
    /// # Errors
    /// The system refuses a handler.
    fn install() -> Result<Self, AppError> {
        let handler = |kind| signal(kind).map_err(AppError::Signals);
        // A handler remains when its stream is dropped.
        for ignored in IGNORED {
            drop(handler(SignalKind::from_raw(ignored.as_raw()))?);
        }
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
            hangup: handler(SignalKind::hangup())?,
            reopen_log: handler(SignalKind::user_defined1())?,
        })
    }
}

/// Everything from outside that a running host reacts to.
struct Inputs {
    listeners: Vec<Listener>,
    control: Control,
    streams: Streams,
    signals: Signals,
    /// The watched files as they were before the configuration was read.
    files: watch::Survey,
}

/// Serves until a stop is requested, or an essential part ends: without it the host would only
/// seem to serve.
async fn serve(
    hub: &Arc<Hub>,
    supervisor: Supervisor,
    snapshot_writer: &Arc<SnapshotWriter>,
    inputs: Inputs,
) -> Result<(), AppError> {
    let Inputs { listeners, control, streams, mut signals, files } = inputs;
    let (stop, stopped) = watch_channel::channel(());
    let (changes, queue) = mpsc::channel(CHANGES);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let (hub, state) = (hub.clone(), hub.accepting.subscribe());
        let begin =
            move |accepted, connections: &mut _| establish::begin(accepted, &hub, connections);
        accepting.spawn(accept::accept(listener, begin, state));
    }
    let (stop_asked, mut asked_to_stop) = mpsc::channel(1);
    let (hub_of_control, changes_of_control) = (hub.clone(), changes.clone());
    let context = ControlContext {
        hub: hub_of_control,
        changes: changes_of_control,
        stop: stop_asked,
        streams,
    };
    let mut background = background(hub, snapshot_writer, &changes);
    background.spawn(watch_files(hub.clone(), files, changes.clone()));
    background.spawn(control.serve(context));
    let watching = watchdog::start(hub.clone(), changes.clone()).map_err(AppError::Watchdog)?;
    let mut supervising = JoinSet::new();
    supervising.spawn(supervisor.run(queue, stopped));
    announce_start(hub);
    let served = loop {
        tokio::select! {
            () = sleep(READY_CHECK), if !hub.is_ready.load(Ordering::Relaxed) => {
                if let (served @ 1.., resources) = served(hub) {
                    info!(served, resources, "the first resource is served");
                    report_ready(hub, "serving");
                }
            }
            _ = signals.terminate.recv() => break Ok(()),
            _ = signals.interrupt.recv() => break Ok(()),
            Some(()) = asked_to_stop.recv() => break Ok(()),
            // If the queue is full, an earlier entry already leads to reading the file.
            _ = signals.hangup.recv() => drop(changes.try_send(Change::Configuration)),
            _ = signals.reopen_log.recv() => {
                info!("SIGUSR1 has no effect: the log is standard error; rotate its file by copying and truncating it");
            }
            _ = supervising.join_next() => break Err(AppError::Lost("supervisor")),
            Some(_) = background.join_next() => break Err(AppError::Lost("background task")),
            Some(_) = accepting.join_next() => break Err(AppError::Lost("accept loop")),
        }
    };
    if let Err(error) = &served {
        error!("{error}");
    }
    systemd::stopping(hub.registry.len());
    drop(watching);
    drop(changes);
    background.shutdown().await;
    hub.accepting.send_replace(Accepting::Stopping);
    // Fails only if the supervisor has ended.
    stop.send(()).ok();
    drain::drain(hub, accepting).await;
    while supervising.join_next().await.is_some() {}
    served
}

/// Logs and reports to systemd how much the host serves. It is not ready while no resource is
/// served, unless it has none: a service manager must not take a useless host for a good one.
fn announce_start(hub: &Hub) {
    match served(hub) {
        (0, 0) => warn!("plugins.toml maps no resource; ready"),
        (0, resources) => {
            warn!(served = 0, resources, "no resource is served; not ready");
            return systemd::status(&format!("0 of {resources} resources are served; see the log"));
        }
        (served, resources) if served < resources => {
            warn!(served, resources, "some resources are not served; ready");
        }
        _ => info!("ready"),
    }
    report_ready(hub, "serving");
}

/// Returns how many resources are served, and how many there are.
fn served(hub: &Hub) -> (usize, usize) {
    let resources = hub.resources.load();
    let is_served =
        |resource: &&Arc<Resource>| matches!(resource.service().state, ServiceState::Serving(_));
    (resources.values().filter(is_served).count(), resources.len())
}

fn report_ready(hub: &Hub, status: &str) {
    hub.is_ready.store(true, Ordering::Relaxed);
    systemd::ready(status);
}

/// Starts the periodic tasks, which run for as long as the host serves.
fn background(
    hub: &Arc<Hub>,
    snapshot_writer: &Arc<SnapshotWriter>,
    changes: &mpsc::Sender<Change>,
) -> JoinSet<()> {
    let mut background = JoinSet::new();
    background.spawn(keep_alive::keep_alive(hub.clone()));
    background.spawn(snapshots::write_periodically(hub.clone(), snapshot_writer.clone()));
    let (guarded, secured) = (hub.clone(), hub.clone());
    background.spawn(async move { auth::watch_keys(&guarded.guards).await });
    background.spawn(async move { tls::watch_certificates(&secured.config, &secured.tls).await });
    let changes = changes.clone();
    background.spawn(async move {
        systemd::heartbeat(changes).await;
        // Returns where systemd asks for no heartbeat; the task must not end.
        std::future::pending().await
    });
    background
}

/// Drops all instances and removes the staged copies of this process.
async fn stop_lanes(hub: &Arc<Hub>) {
    drop(timeout(STOP_LANES, supervisor::stop_lanes(hub, STOP_LANES)).await);
    staging::clear();
}

/// How often a host that serves nothing looks whether it is ready.
const READY_CHECK: Duration = Duration::from_millis(100);
/// Length of the queue of changes.
const CHANGES: usize = 64;
/// Time limit for writing the last snapshots.
const LAST_SNAPSHOTS: Duration = Duration::from_secs(10);
/// Time limit for dropping all instances.
const STOP_LANES: Duration = Duration::from_secs(2);

fn assemble(config: Config, certificates: Option<ServedCertificates>) -> (Arc<Hub>, Supervisor) {
    buffered::set_limit(config.server.limits.flow.max_buffered_bytes);
    let resources = Arc::new(ArcSwap::default());
    let registry = Arc::new(Registry::default());
    let router = Arc::new(Router::new(registry.clone(), resources.clone()));
    let hub = Arc::new(Hub {
        config: ArcSwap::from_pointee(config),
        config_file: ArcSwap::from_pointee(FileState::applied(Vec::new())),
        snapshots: SnapshotStates::default(),
        resources,
        guards: ArcSwap::default(),
        registry,
        identity_issuer: IdentityIssuer::new(),
        connection_limits: Arc::new(ConnectionLimits::default()),
        tls: CurrentTls::from_pointee(certificates),
        counters: HostCounters::default(),
        plugin_statuses: ArcSwap::default(),
        accepting: watch_channel::Sender::default(),
        is_ready: AtomicBool::new(false),
        started: std::time::Instant::now(),
    });
    let supervisor = Supervisor::new(hub.clone(), router, announce_reload);
    (hub, supervisor)
}

async fn start(hub: &Hub, supervisor: &mut Supervisor) -> Result<Vec<String>, AppError> {
    let guards = auth::load_guards(&hub.config.load(), &hub.guards.load())?;
    hub.guards.store(Arc::new(guards));
    let path = hub.config.load().server.folders.staging_dir.clone();
    supervisor.start().await.map_err(|source| AppError::Staging { path, source })
}

fn scope(config: &Config) -> watch::WatchedPaths {
    let (quiet, rescan) = (config.server.reload.quiet, config.server.reload.rescan);
    let (plugin_dir, file) = (config.server.folders.plugin_dir.clone(), config.path.clone());
    watch::WatchedPaths { plugin_dir, file, quiet, rescan }
}

async fn watch_files(hub: Arc<Hub>, before: watch::Survey, changes: mpsc::Sender<Change>) {
    let scope = move || scope(&hub.config.load());
    let (changed, mut paths) = mpsc::channel(CHANGES);
    let forward = async {
        while let Some(path) = paths.recv().await {
            if changes.send(Change::File(path)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(watch::watch(scope, before, changed), forward);
}

/// Reports a reload to systemd, which expects none from a host that is not ready.
fn announce_reload(hub: &Hub, phase: ReloadPhase<'_>) {
    match (phase, hub.is_ready.load(Ordering::Relaxed)) {
        (ReloadPhase::Begun, true) => systemd::reloading(),
        (ReloadPhase::Begun, false) => {}
        (ReloadPhase::Finished(status), true) => systemd::ready(status),
        (ReloadPhase::Finished(status), false) => systemd::status(status),
    }
}
