//! A host from its start to its end: what is opened in which order, what has to go on, and what is done before the process is over.
//!
//! Decides nothing of what is served; that is `supervisor`'s.

mod cli;

pub use self::cli::main;

use crate::connection::{establish, keep_alive};
use crate::supervisor::ReloadPhase;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::sync::watch::channel;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::auth;
use crate::config::{Config, ConfigError, Listen, Reload};
use crate::hub::Hub;
use crate::net::accept;
use crate::net::connection_limits::ConnectionLimits;
use crate::net::listener::{Layer, Listener};
use crate::net::tls::{self, Served, Tls};
use crate::ops::control::{self, Control, ControlContext, ControlError};
use crate::ops::drain;
use crate::ops::systemd::{self, Inherited};
use crate::plugin::{snapshot_file, staging, watch};
use crate::protocol::identity::IdentityIssuer;
use crate::routing::registry::Registry;
use crate::routing::router::Router;
use crate::supervisor::snapshots::{self, SnapshotWriter};
use crate::supervisor::{self, Change, Supervisor, watchdog};

/// Why a host does not serve, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}")]
    Listen {
        address: Listen,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the sockets that the service manager opened (LISTEN_FDS)")]
    Inherited(#[source] io::Error),
    #[error("cannot use {} for the copies of the libraries (server.staging_dir)", path.display())]
    Staging {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("no thread for the watchdog")]
    Watchdog(#[source] io::Error),
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error("the {0} has ended, without which the host cannot go on; the lines before say why")]
    Lost(&'static str),
    #[error("{0} of the plugins or resources cannot be served")]
    Unserved(usize),
}

/// Serves until it is told to end, or a part of it has.
///
/// # Errors
/// It cannot begin, or a part without which it is none has ended.
pub(crate) async fn run(path: &Path, inherited: Inherited) -> Result<(), AppError> {
    let config = Config::load(path)?;
    let certificates = Served::load(&config, None)?;
    let mut signals = Signals::heard()?;
    info!(version = env!("CARGO_PKG_VERSION"), config = %config.path.display(), "plugsocket starts");
    // First: a second host by mistake ends here, before it touches anything.
    let control = open_control(&config)?;
    let _alone = control::claim_state(&config.server.state_dir)?;
    let listeners = open_listeners(&config, inherited).await?;
    certificates.iter().for_each(Served::tell);
    let before = watch::survey(&scope(&config));
    snapshot_file::sweep(&config.server.state_dir);
    let (hub, mut supervisor) = assemble(config, certificates);
    let snapshot_writer = Arc::new(SnapshotWriter::default());
    // Applications may take their time to start, one after the other; the end need not wait for them.
    let is_started = tokio::select! {
        started = start(&hub, &mut supervisor) => started.map(|_| true)?,
        () = signals.end.come() => false,
    };
    let served = if is_started {
        let entrances = Entrances { listeners, control, before };
        serve(&hub, (supervisor, &snapshot_writer), entrances, signals).await
    } else {
        Ok(())
    };
    drop(timeout(LAST_SNAPSHOTS, snapshots::write_last(&hub, &snapshot_writer)).await);
    stop_lanes(&hub).await;
    info!("plugsocket ends");
    served
}

/// Starts all that the configuration maps, serves nobody, and ends. What there is to say of it.
///
/// # Errors
/// Something cannot be served; the log says what and why.
pub(crate) async fn check(path: &Path) -> Result<String, AppError> {
    let mut config = Config::load(path)?;
    let certificates = Served::load(&config, None)?;
    let (resources, file) = (config.resources.len(), config.path.clone());
    // Only a host that serves has good generations.
    config.server.reload.keep_generations = 0;
    config.resources.values_mut().for_each(|resource| resource.snapshot_every = None);
    let (hub, mut supervisor) = assemble(config, certificates);
    let failures = start(&hub, &mut supervisor).await?;
    stop_lanes(&hub).await;
    if !failures.is_empty() {
        return Err(AppError::Unserved(failures.len()));
    }
    Ok(format!("{}: fine, {resources} resources", file.display()))
}

/// Through what a host is reached, and how its files were before they were read.
struct Entrances {
    listeners: Vec<Listener>,
    control: Option<Control>,
    before: watch::Survey,
}

/// Serves until it is asked to end, or until a part of it has ended without which it would only seem to serve.
async fn serve(
    hub: &Arc<Hub>,
    (supervisor, snapshot_writer): (Supervisor, &Arc<SnapshotWriter>),
    entrances: Entrances,
    mut signals: Signals,
) -> Result<(), AppError> {
    let (stop, stopped) = channel(());
    let (changes, queue) = mpsc::channel(CHANGES);
    let mut accepting = JoinSet::new();
    for listener in entrances.listeners {
        let (hub, stopped) = (hub.clone(), stopped.clone());
        let begin =
            move |accepted, connections: &mut _| establish::begin(accepted, &hub, connections);
        accepting.spawn(accept::accept(listener, begin, stopped));
    }
    let (drain_asked, mut asked_to_drain) = mpsc::channel(1);
    let desk = ControlContext { hub: hub.clone(), changes: changes.clone(), drain: drain_asked };
    let mut background = background(hub, snapshot_writer, (entrances.before, changes.clone()));
    if let Some(control) = entrances.control {
        background.spawn(control.serve(desk));
    }
    let watching = watchdog::start(hub.clone(), changes.clone()).map_err(AppError::Watchdog)?;
    let mut supervising = JoinSet::new();
    supervising.spawn(supervisor.run(queue, stopped));
    info!("ready");
    systemd::ready("serving");
    let served = loop {
        tokio::select! {
            () = signals.end.come() => break Ok(()),
            Some(()) = asked_to_drain.recv() => break Ok(()),
            // A full queue is read to its end, and the file with it.
            _ = signals.hangup.recv() => drop(changes.try_send(Change::Configuration)),
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
    // An accept loop that has ended needs no word.
    stop.send(()).ok();
    drain::drain(hub, accepting).await;
    while supervising.join_next().await.is_some() {}
    served
}

/// What goes on beside the connections for as long as the host serves.
fn background(
    hub: &Arc<Hub>,
    snapshot_writer: &Arc<SnapshotWriter>,
    (before, changes): (watch::Survey, mpsc::Sender<Change>),
) -> JoinSet<()> {
    let mut background = JoinSet::new();
    background.spawn(watch_files(hub.clone(), before, changes.clone()));
    background.spawn(keep_alive::keep_alive(hub.clone()));
    background.spawn(snapshots::keep_states(hub.clone(), snapshot_writer.clone()));
    let (guarded, secured) = (hub.clone(), hub.clone());
    background.spawn(async move { auth::keep(&guarded.guards).await });
    background.spawn(async move { tls::keep(&secured.config, &secured.tls).await });
    background.spawn(async move {
        systemd::heartbeat(changes).await;
        // Nobody wants to hear it.
        pending().await
    });
    background
}

/// What the system tells the host.
struct Signals {
    end: StopSignals,
    hangup: Signal,
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on none of them ends the process by itself.
    fn heard() -> Result<Self, AppError> {
        // Nobody waits for it: that it is heard makes it an error of the write instead of the end of the host.
        drop(wait_for(FILE_TOO_LARGE)?);
        let (terminate, interrupt) =
            (wait_for(SignalKind::terminate())?, wait_for(SignalKind::interrupt())?);
        let hangup = wait_for(SignalKind::hangup())?;
        Ok(Self { end: StopSignals { terminate, interrupt }, hangup })
    }
}

impl StopSignals {
    /// One of the two has come.
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends all instances, and takes away what only this process needed.
async fn stop_lanes(hub: &Arc<Hub>) {
    drop(timeout(STOP_LANES, supervisor::stop_lanes(hub)).await);
    staging::clear(&hub.config.load().server.staging_dir);
}

/// None where the default path is too long: the folder of plugins.toml may lie as deep as it likes.
fn open_control(config: &Config) -> Result<Option<Control>, ControlError> {
    match Control::open(&config.server.control) {
        Err(ControlError::Socket { path, .. }) if path.as_os_str().len() > 107 => {
            warn!(path = %path.display(), "no control socket, its path is too long; set server.control");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// SIGXFSZ: a file, such as the copy of a library, would outgrow the limit of the process.
const FILE_TOO_LARGE: SignalKind = SignalKind::from_raw(25);
/// Changes that may wait.
const CHANGES: usize = 64;
/// How long the last snapshots may take.
const LAST_SNAPSHOTS: Duration = Duration::from_secs(10);
/// How long instances may take to be dropped.
const STOP_LANES: Duration = Duration::from_secs(2);

fn assemble(config: Config, certificates: Option<Served>) -> (Arc<Hub>, Supervisor) {
    let resources = Arc::new(ArcSwap::default());
    let registry = Arc::new(Registry::default());
    let router = Arc::new(Router::new(registry.clone(), resources.clone()));
    let hub = Arc::new(Hub {
        config: ArcSwap::from_pointee(config),
        resources,
        guards: ArcSwap::default(),
        registry,
        identity_issuer: IdentityIssuer::new(),
        connection_limits: Arc::new(ConnectionLimits::default()),
        tls: Tls::new(certificates),
        plugin_statuses: ArcSwap::default(),
        started: std::time::Instant::now(),
    });
    let supervisor = Supervisor::new(hub.clone(), router, announce_reload);
    (hub, supervisor)
}

async fn start(hub: &Hub, supervisor: &mut Supervisor) -> Result<Vec<String>, AppError> {
    let guards = auth::guards(&hub.config.load(), &hub.guards.load())?;
    hub.guards.store(Arc::new(guards));
    let path = hub.config.load().server.staging_dir.clone();
    supervisor.start().await.map_err(|source| AppError::Staging { path, source })
}

fn wait_for(kind: SignalKind) -> Result<Signal, AppError> {
    signal(kind).map_err(AppError::Signals)
}

/// The sockets that were handed over take the place of `listen`.
async fn open_listeners(config: &Config, inherited: Inherited) -> Result<Vec<Listener>, AppError> {
    let listeners = inherited.listeners().map_err(AppError::Inherited)?;
    if listeners.is_empty() {
        return listen(config).await;
    }
    for listener in &listeners {
        let address = listener.address().map_err(AppError::Inherited)?;
        if listener.is_tls() && config.server.tls.is_none() {
            let text = format!(
                "the socket {address} is named tls, but plugins.toml has no [server.tls] with certificates"
            );
            return Err(AppError::Inherited(io::Error::other(text)));
        }
        info!(address, tls = listener.is_tls(), "listening");
        debug!("the service manager opened it; the key listen is not used");
    }
    Ok(listeners)
}

async fn listen(config: &Config) -> Result<Vec<Listener>, AppError> {
    let mut listeners = Vec::new();
    let plain = config.server.listen.iter().map(|address| (address, Layer::Plain));
    let secured = config.server.tls.iter().flat_map(|tls| &tls.listen);
    for (address, layer) in plain.chain(secured.map(|address| (address, Layer::Tls))) {
        let failed = |source| AppError::Listen { address: address.clone(), source };
        let listener = match address {
            Listen::Tcp { host, port } => Listener::bind_tcp(host, *port, layer).await,
            Listen::Unix(path) => Listener::bind_unix(path).await,
        };
        let listener = listener.map_err(failed)?;
        let local = listener.address().map_err(failed)?;
        match listener {
            Listener::Tcp(..) => info!(address = %local, tls = listener.is_tls(), "listening"),
            Listener::Unix(_) => info!(address = %local, "listening"),
        }
        if config.server.page
            && listeners.is_empty()
            && let Listener::Tcp(_, layer) = listener
        {
            let scheme = if layer == Layer::Tls { "https" } else { "http" };
            info!("try it: {scheme}://{local}{}", crate::connection::page::FOLDER);
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn scope(config: &Config) -> watch::WatchedPaths {
    let Reload { quiet, rescan, .. } = config.server.reload;
    let (plugin_dir, file) = (config.server.plugin_dir.clone(), config.path.clone());
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

/// Tells the service manager of a reload.
fn announce_reload(phase: ReloadPhase<'_>) {
    match phase {
        ReloadPhase::Begun => systemd::reloading(),
        ReloadPhase::Finished(status) => systemd::ready(status),
    }
}
