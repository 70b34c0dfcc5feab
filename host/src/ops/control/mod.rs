//! The control socket: a Unix socket on which an operator sends a JSON request and gets an answer.
//!
//! Only the host's user and root may use it: the socket has mode 0600, and the peer's credentials
//! are checked. Queries are answered from published state, also during a long reload. Commands that
//! change something enter the supervisor's queue with all other changes.

pub(crate) mod ask_plugin;
pub(crate) mod client;
pub(crate) mod live;
mod metrics;
pub(crate) mod protocol;
mod report;
pub(crate) mod stream;
mod table;
mod terminal;
mod trace;

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::protocol::{AnswerLine, ControlAnswer, ControlRequest};
use self::stream::{Followed, Streams};
use crate::fs::owner_only;
use crate::hub::Hub;
use crate::net::accept::Accepting;
use crate::ops::systemd;
use crate::plugin::lane::handover::Succession;
use crate::protocol::close::CloseReason;
use crate::protocol::identity::Identity;
use crate::protocol::time_limit::timeout;
use crate::routing::peer::Peer;
use crate::routing::trace::{Payloads, TraceGuard};
use crate::supervisor::{Change, OperatorCommand};

/// The control socket, and the lock that reserves its path for this process.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// User id that may send requests, besides root.
    owner: u32,
    /// Device and inode of the socket.
    socket: (u64, u64),
    /// The system releases it when the process ends, however it ends.
    _lock: File,
}

/// Reasons for which the control socket or `state_dir` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("another host uses {} (server.control); give each host a path of its own", .0.display())]
    Taken(PathBuf),
    #[error("another host keeps its state in {} (server.state_dir); give each host a folder of its own", .0.display())]
    StateTaken(PathBuf),
    #[error("{} (server.control) exists and is not a socket; remove it or set another path", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot create the socket {} (server.control)", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Control {
    /// Opens the socket, and replaces one that a host left behind when it was killed.
    ///
    /// # Errors
    /// Another host uses it, or it cannot be created.
    pub(crate) fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Socket { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            // 0755: a socket of `listen` may be in the same folder.
            DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        let lock = lock(&path.with_extension("lock")).map_err(|error| match error {
            TryLockError::WouldBlock => ControlError::Taken(path.to_owned()),
            TryLockError::Error(error) => failed(error),
        })?;
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(ControlError::NoSocket(path.to_owned())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        let meta = fs::metadata(path).map_err(failed)?;
        let (owner, socket) = (meta.uid(), (meta.dev(), meta.ino()));
        Ok(Self { listener, path: path.to_owned(), owner, socket, _lock: lock })
    }

    /// Answers requests until the task is aborted.
    pub(crate) async fn serve(self, context: ControlContext) {
        let context = Arc::new(context);
        let mut requests = JoinSet::new();
        let mut has_failed = false;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.admits(&stream) => {
                        has_failed = false;
                        requests.spawn(answer_one(stream, context.clone()));
                    }
                    Ok(_) => warn!("control request rejected: peer is neither the host's user nor root"),
                    Err(error) => {
                        if !std::mem::replace(&mut has_failed, true) {
                            warn!(%error, "cannot accept on the control socket; retrying");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = requests.join_next() => {}
            }
        }
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The path may belong to another process by now.
        let is_own = |meta: fs::Metadata| (meta.dev(), meta.ino()) == self.socket;
        if fs::symlink_metadata(&self.path).is_ok_and(is_own) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Locks `state_dir` for as long as the returned file is open: two hosts would overwrite each
/// other's snapshots and use the same generation numbers. `None` if the folder is not writable.
///
/// # Errors
/// Another host holds the lock.
pub(crate) fn lock_state_dir(state_dir: &Path) -> Result<Option<File>, ControlError> {
    drop(owner_only::folder(state_dir));
    match lock(&state_dir.join("lock")) {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(ControlError::StateTaken(state_dir.to_owned())),
        Err(TryLockError::Error(error)) => {
            warn!(%error, path = %state_dir.display(), "server.state_dir is not writable; snapshots and rollback are disabled");
            Ok(None)
        }
    }
}

/// Creates the file for the host's user alone: anyone who can open it can hold the lock.
fn lock(path: &Path) -> Result<File, TryLockError> {
    let file = owner_only::file(path).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time limit for a request, and for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;

/// The parts of the host that answers need.
pub(crate) struct ControlContext {
    pub(crate) hub: Arc<Hub>,
    pub(crate) changes: mpsc::Sender<Change>,
    /// Requests that the host stops.
    pub(crate) stop: mpsc::Sender<()>,
    /// Clients that follow a stream; they may outlive the control socket.
    pub(crate) streams: Streams,
}

async fn answer_one(stream: UnixStream, context: Arc<ControlContext>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let read = async { (&mut stream).take(MAX_REQUEST).read_until(b'\n', &mut line).await };
    if !matches!(timeout(REQUEST_TIMEOUT, read).await, Ok(Ok(1..))) {
        return;
    }
    let request = serde_json::from_slice(&line);
    let stop = match request {
        Ok(ControlRequest::Stop { wait }) => Some(wait),
        _ => None,
    };
    let answer = match request {
        Ok(request) => match context.stream(&request) {
            Some(Ok(followed)) => {
                let notice = report::notice(&context.hub, &ControlAnswer::Stream);
                return context.streams.begin(stream.into_inner(), followed, notice).await;
            }
            Some(Err(reason)) => ControlAnswer::Refused(reason),
            None => context.answer(request).await,
        },
        Err(error) => ControlAnswer::Refused(format!("invalid request: {error}")),
    };
    let notice = report::notice(&context.hub, &answer);
    let Ok(mut text) = serde_json::to_vec(&AnswerLine { answer, notice }) else { return };
    text.push(b'\n');
    // The peer may have left.
    drop(timeout(REQUEST_TIMEOUT, stream.get_mut().write_all(&text)).await);
    if let Some(wait) = stop {
        if wait {
            // The system closes it when the process ends, which is what the peer waits for.
            Box::leak(Box::new(stream));
        }
        // After the answer, because the control socket is closed first. A second request changes
        // nothing.
        context.stop.try_send(()).ok();
    }
}

impl ControlContext {
    /// Returns what a request follows, or why it cannot; `None` for one with a single answer.
    fn stream(&self, request: &ControlRequest) -> Option<Result<Followed, String>> {
        match request {
            ControlRequest::Events { last, follow } => {
                let (last, follow) = (last.unwrap_or(usize::MAX), *follow);
                Some(Ok(Followed::Events { last, follow }))
            }
            ControlRequest::Trace { uuid, payloads } => Some(self.trace(uuid, *payloads)),
            _ => None,
        }
    }

    fn trace(&self, uuid: &str, payloads: bool) -> Result<Followed, String> {
        let peer = self.find(uuid)?;
        let id = peer.id();
        let payloads = if payloads { Payloads::Shown } else { Payloads::Redacted };
        let traced = TraceGuard::begin(peer, payloads);
        // A connection that ended before is not traced; one that ends now ends the trace.
        match self.hub.registry.find(id) {
            Some(_) => Ok(Followed::Connection(traced)),
            None => Err(unknown(uuid)),
        }
    }

    async fn answer(&self, request: ControlRequest) -> ControlAnswer {
        let command = match request {
            ControlRequest::Status { metrics } => {
                return ControlAnswer::Status(report::status(&self.hub, metrics));
            }
            ControlRequest::Plugins {} => {
                return ControlAnswer::Plugins(report::plugins(&self.hub));
            }
            ControlRequest::Connections { resource } => {
                let found = report::connections(&self.hub, resource.as_deref());
                return ControlAnswer::Connections(found);
            }
            ControlRequest::Close { uuid } => return self.close(&uuid),
            ControlRequest::Diff {} => return report::difference(self.hub.clone()).await,
            ControlRequest::Drain {} => return self.drain(),
            ControlRequest::Events { .. } | ControlRequest::Trace { .. } => {
                return ControlAnswer::Refused("the answer is a stream".to_owned());
            }
            ControlRequest::Stop { .. } => {
                info!("stop requested on the control socket");
                let text = "the host closes its connections and ends";
                return ControlAnswer::Done(text.to_owned());
            }
            ControlRequest::Reload {} => OperatorCommand::Configuration,
            ControlRequest::PluginReload { plugin, changed } => {
                OperatorCommand::Reload { plugin, changed }
            }
            ControlRequest::PluginDisable { plugin } => OperatorCommand::Disable(plugin),
            ControlRequest::PluginEnable { plugin } => OperatorCommand::Enable(plugin),
            ControlRequest::PluginRollback { plugin, generation, fresh } => {
                let succession = if fresh { Succession::Replacement } else { Succession::Update };
                OperatorCommand::RollBack { plugin, generation, succession }
            }
        };
        self.command(command).await
    }

    /// Closes the listening sockets.
    fn drain(&self) -> ControlAnswer {
        let is_first = self.hub.accepting.send_if_modified(|accepting| {
            let is_open = *accepting == Accepting::Open;
            if is_open {
                *accepting = Accepting::Draining;
            }
            is_open
        });
        let open = self.hub.registry.len();
        if is_first {
            self.hub.connection_limits.end_keep_alive();
            info!(connections = open, "draining: new connections are not accepted");
            systemd::status(&format!("draining; {open} connections were open"));
        }
        ControlAnswer::Done(format!(
            "the host accepts no new connections; {open} are open and stay until their clients close them; `plugsocket stop` ends the host"
        ))
    }

    async fn command(&self, command: OperatorCommand) -> ControlAnswer {
        let (done, outcome) = oneshot::channel();
        if self.changes.send(Change::Command(command, done)).await.is_err() {
            return ControlAnswer::Refused("the host is stopping".to_owned());
        }
        match outcome.await {
            Ok(Ok(text)) => ControlAnswer::Done(text),
            Ok(Err(text)) => ControlAnswer::Refused(text),
            Err(_) => ControlAnswer::Refused("the host is stopping".to_owned()),
        }
    }

    fn close(&self, uuid: &str) -> ControlAnswer {
        let reason = CloseReason::host(CloseCode::AWAY, "closed by the operator");
        match self.find(uuid).map(|peer| peer.outbox.close(reason)) {
            Ok(Ok(())) => ControlAnswer::Done(format!("{uuid} is being closed")),
            Ok(Err(_)) => ControlAnswer::Refused(format!("{uuid} is already closing")),
            Err(reason) => ControlAnswer::Refused(reason),
        }
    }

    /// Finds a connection by its uuid or a unique beginning of it. The error is a sentence.
    fn find(&self, uuid: &str) -> Result<Arc<Peer>, String> {
        let mut found = Vec::new();
        match Identity::key_of(uuid) {
            Some(key) => {
                let peer = self.hub.registry.find(plugsocket_plugin::ConnectionId(key));
                found.extend(peer.filter(|peer| peer.identity.matches(uuid)));
            }
            // An empty one would match the only connection: a variable of a script without a value.
            None if uuid.is_empty() => {}
            None => self.hub.registry.for_each(|peer| {
                if peer.identity.as_str().starts_with(uuid) {
                    found.push(peer.clone());
                }
            }),
        }
        match found.as_slice() {
            [] => Err(unknown(uuid)),
            [peer] => Ok(peer.clone()),
            several => Err(format!(
                "{} connections have a uuid that begins with {uuid}; give more of it",
                several.len()
            )),
        }
    }
}

fn unknown(uuid: &str) -> String {
    format!("no connection has the uuid {uuid:?}")
}
