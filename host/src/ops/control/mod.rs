//! The operator's way in: a Unix socket on which one line is asked and one is answered.
//!
//! Only who runs the host may use it, and root: the socket is theirs alone (0600), and the system says who is at the other end.
//! What only looks is answered from what everybody may see, so it is answered while a reload takes its time; what changes
//! something is an order to the supervisor, in the queue with all other changes.

pub(crate) mod client;
pub(crate) mod protocol;
mod report;
mod table;

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
use tokio::time::{interval, timeout};
use tracing::{info, warn};

use self::protocol::{ControlAnswer, ControlRequest};
use crate::error::chain;
use crate::fs::owner_only;
use crate::hub::Hub;
use crate::plugin::lane::handover::Succession;
use crate::protocol::close::CloseReason;
use crate::protocol::identity::Identity;
use crate::supervisor::{Change, OperatorCommand};

/// The control socket, and the lock that keeps other hosts away from it. The lock ends with the process, however it ends.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Who may ask, besides root.
    owner: u32,
    /// What lies at `path`, as long as nobody has removed it.
    socket: Mark,
    lock: File,
}

/// Device and inode of a file.
type Mark = (u64, u64);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("another host uses {} (server.control); two hosts need two", .0.display())]
    Taken(PathBuf),
    #[error("another host keeps its state in {} (server.state_dir); two hosts need two", .0.display())]
    StateTaken(PathBuf),
    #[error("{} (server.control) is no socket; remove it or name another path", .0.display())]
    NoSocket(PathBuf),
    #[error("cannot make the socket {} (server.control)", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Control {
    /// Opens the socket. One that a host left that does not run any more is replaced.
    ///
    /// # Errors
    /// Another host runs on it, or it cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Socket { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            // A socket of `listen` may lie there as well, so others may look in.
            DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        let lock = lock(&lock_file(path)).map_err(|error| match error {
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
        let (owner, socket) = (meta.uid(), mark(&meta));
        Ok(Self { listener, path: path.to_owned(), owner, socket, lock })
    }

    /// Answers until it is aborted.
    pub(crate) async fn serve(mut self, context: ControlContext) {
        let context = Arc::new(context);
        let mut asking = JoinSet::new();
        let mut look = interval(LOOK);
        let (mut was_refused, mut was_gone) = (false, false);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.admits(&stream) => {
                        was_refused = false;
                        asking.spawn(answer_one(stream, context.clone()));
                    }
                    Ok(_) => warn!("somebody else asked on the control socket and was not answered"),
                    Err(error) => {
                        if !std::mem::replace(&mut was_refused, true) {
                            warn!(%error, "cannot accept on the control socket; tried again and again");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = look.tick() => was_gone = self.come_back(was_gone),
                Some(_) = asking.join_next() => {}
            }
        }
    }

    /// Makes the socket anew if somebody has removed it; true if it is gone and cannot be made, which is said once.
    fn come_back(&mut self, was_gone: bool) -> bool {
        if marked(&self.path).is_some() {
            // Ours, or another host's by now: then somebody has removed the lock as well, and has said what he wants.
            return false;
        }
        match self.reopen() {
            Ok(()) => {
                warn!(path = %self.path.display(), "the control socket had been removed; it is there again");
                false
            }
            Err(error) => {
                if !was_gone {
                    warn!(error = chain(&error), "the control socket has been removed");
                }
                true
            }
        }
    }

    fn reopen(&mut self) -> Result<(), ControlError> {
        let own = self.lock.metadata().ok().map(|meta| mark(&meta));
        if own == marked(&lock_file(&self.path)) {
            // Let go for a moment, so that there is one way only to open it. Nothing else can be open that would notice.
            self.lock.unlock().ok();
        }
        let path = self.path.clone();
        *self = Self::open(&path)?;
        Ok(())
    }

    fn admits(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Another host's by now is not this one's to remove.
        if marked(&self.path) == Some(self.socket) {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Keeps other hosts away from `state_dir` for as long as this process holds it: two would write over each other's states, and have
/// different things under the same number. None where there can be no such folder; whoever wants to write there says so.
///
/// # Errors
/// Another host has it.
pub(crate) fn claim_state(state_dir: &Path) -> Result<Option<File>, ControlError> {
    drop(owner_only::folder(state_dir));
    match lock(&state_dir.join("lock")) {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(ControlError::StateTaken(state_dir.to_owned())),
        Err(TryLockError::Error(error)) => {
            warn!(%error, path = %state_dir.display(), "server.state_dir cannot be written: nothing outlives this host");
            Ok(None)
        }
    }
}

fn lock_file(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Others who could open the file could hold the lock, and keep every host from starting.
fn lock(path: &Path) -> Result<File, TryLockError> {
    let file = owner_only::file(path).map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

fn mark(meta: &fs::Metadata) -> Mark {
    (meta.dev(), meta.ino())
}

fn marked(path: &Path) -> Option<Mark> {
    fs::symlink_metadata(path).ok().map(|meta| mark(&meta))
}

/// How soon it is noticed that the socket has gone.
const LOOK: Duration = Duration::from_secs(1);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// From connecting to a whole request.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_REQUEST: u64 = 64 * 1024;

/// What answers need.
#[derive(Debug)]
pub(crate) struct ControlContext {
    pub(crate) hub: Arc<Hub>,
    pub(crate) changes: mpsc::Sender<Change>,
    /// Told when the host is to drain and end.
    pub(crate) drain: mpsc::Sender<()>,
}

async fn answer_one(stream: UnixStream, context: Arc<ControlContext>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let read = async { (&mut stream).take(MAX_REQUEST).read_until(b'\n', &mut line).await };
    if !matches!(timeout(PATIENCE, read).await, Ok(Ok(1..))) {
        return;
    }
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => context.answer(request).await,
        Err(error) => ControlAnswer::Refused(format!("the request cannot be read: {error}")),
    };
    let Ok(mut text) = serde_json::to_vec(&answer) else { return };
    text.push(b'\n');
    // Who does not wait for the answer goes without.
    drop(timeout(PATIENCE, stream.get_mut().write_all(&text)).await);
}

impl ControlContext {
    async fn answer(&self, request: ControlRequest) -> ControlAnswer {
        match request {
            ControlRequest::Status {} => ControlAnswer::Status(report::status(&self.hub)),
            ControlRequest::Plugins {} => ControlAnswer::Plugins(report::plugins(&self.hub)),
            ControlRequest::Connections { resource } => {
                ControlAnswer::Connections(report::connections(&self.hub, resource.as_deref()))
            }
            ControlRequest::Close { uuid } => self.close(&uuid),
            ControlRequest::Diff {} => report::difference(self.hub.clone()).await,
            ControlRequest::Reload {} => self.order(OperatorCommand::Configuration).await,
            ControlRequest::PluginReload { plugin } => {
                self.order(OperatorCommand::Reload(plugin)).await
            }
            ControlRequest::PluginDisable { plugin } => {
                self.order(OperatorCommand::Disable(plugin)).await
            }
            ControlRequest::PluginEnable { plugin } => {
                self.order(OperatorCommand::Enable(plugin)).await
            }
            ControlRequest::PluginRollback { plugin, generation, fresh } => {
                let succession = if fresh { Succession::Stranger } else { Succession::Heir };
                self.order(OperatorCommand::RollBack { plugin, generation, succession }).await
            }
            ControlRequest::Drain {} => {
                info!("asked to drain");
                // A second one changes nothing.
                self.drain.try_send(()).ok();
                ControlAnswer::Done("the host drains and ends".to_owned())
            }
        }
    }

    async fn order(&self, order: OperatorCommand) -> ControlAnswer {
        let (done, outcome) = oneshot::channel();
        if self.changes.send(Change::Order(order, done)).await.is_err() {
            return ControlAnswer::Refused("the host is going down".to_owned());
        }
        match outcome.await {
            Ok(Ok(text)) => ControlAnswer::Done(text),
            Ok(Err(text)) => ControlAnswer::Refused(text),
            Err(_) => ControlAnswer::Refused("the host is going down".to_owned()),
        }
    }

    fn close(&self, uuid: &str) -> ControlAnswer {
        let peer = Identity::key_of(uuid)
            .and_then(|key| self.hub.registry.find(plugsocket_plugin::ConnectionId(key)))
            .filter(|peer| peer.identity.matches(uuid));
        let reason = CloseReason::host(CloseCode::AWAY, "closed by the operator");
        match peer.map(|peer| peer.outbox.close(reason)) {
            Some(Ok(())) => ControlAnswer::Done(format!("{uuid} is being closed")),
            Some(Err(_)) => ControlAnswer::Refused(format!("{uuid} is closing already")),
            None => ControlAnswer::Refused(format!("nobody is connected as {uuid}")),
        }
    }
}
