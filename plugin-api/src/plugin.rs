//! The trait that an application implements.

use std::time::{Duration, Instant, SystemTime};

use crate::types::{
    CloseReason, ConfigChange, Message, Refused, RestoreError, RetireReason, Snapshot,
    SnapshotReason, StartError,
};
use crate::{Event, Host, Request, Response, Session};

/// An application: the callbacks that the host makes for one resource.
///
/// Each resource has its own *instance* of the implementing type. The host makes one call at a time
/// to an instance, so `&mut self` needs no lock. The calls may come from different threads.
///
/// **Blocking.** Unless [`NEVER_BLOCKS`](Self::NEVER_BLOCKS) is set, an instance has its own
/// thread: a slow callback delays this resource only, and its clients through TCP backpressure.
///
/// **Panics** are caught and logged with their location. The host closes the connection that the
/// callback was about with 1011 and keeps the instance, so a callback that may panic must not leave
/// the state half-changed. Stack overflow, a panic while unwinding and `process::exit` end the
/// host.
pub trait Plugin: Send + Sized + 'static {
    /// Whether every callback returns without blocking: no file or network access, no waiting for a
    /// lock, no long computation.
    ///
    /// With `true` the instance runs on the host's runtime threads and answers about 20 µs sooner.
    /// `lane = "thread" | "shared"` in `plugins.toml` overrides it. Default: `false`.
    const NEVER_BLOCKS: bool = false;

    /// Whether the host calls [`messages`](Self::messages) instead of [`message`](Self::message).
    /// Default: `false`. ABI step 3; an older host calls `message`.
    const BATCHES: bool = false;

    /// Whether the host passes plain HTTP requests to [`request`](Self::request). Default: `false`.
    /// ABI step 3; an older host answers them itself.
    const HTTP: bool = false;

    /// A JSON schema of the configuration, or an empty text (the default) for none.
    ///
    /// `plugsocket check` and the host report each violation with its place before they call
    /// [`start`](Self::start). ABI step 3; an older host ignores it.
    const CONFIG_SCHEMA: &'static str = "";

    /// Creates an instance.
    ///
    /// `config` is the table `[resources."/path".config]` as a JSON object, `{}` if there is none.
    /// Validate all of it here, with [`read_config`](crate::read_config): nothing has changed yet
    /// when this fails.
    ///
    /// Runs on a thread of its own and may block, up to `start_timeout` (10 s by default). An older
    /// instance may still be serving: leave its resources (port, file) alone until
    /// [`restore`](Self::restore). Until the handover every function of `host` returns
    /// [`HostError::Retired`](crate::HostError::Retired), except [`Host::log`] and metrics. Posts and
    /// timers are kept until then.
    ///
    /// # Errors
    /// The operator reads the text. An older instance continues to serve.
    fn start(host: Host, config: &str) -> Result<Self, StartError>;

    /// Accepts or refuses a new connection.
    ///
    /// Messages sent to it here arrive after `ready`. Default: accepts.
    ///
    /// # Errors
    /// The host closes the connection with this code and reason; no other callback is made for it.
    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let _ = session;
        Ok(())
    }

    /// Handles one complete message.
    ///
    /// It has at most `max_message` bytes (16 MiB by default). When this returns, the host sends
    /// `next` to the client (on a resource with a dialog), after everything that was sent to the
    /// client meanwhile.
    ///
    /// # Errors
    /// The host closes the connection with this code and reason, then calls [`close`](Self::close).
    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused>;

    /// Handles the complete messages that one read of a connection brought, if
    /// [`BATCHES`](Self::BATCHES) is set; at least one.
    ///
    /// When this returns, the host sends one `next` for each message, after everything that was
    /// sent to the client meanwhile. Default: calls [`message`](Self::message) for each one. ABI
    /// step 3.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Log { host: Host, lines: Vec<String> }
    /// # impl Plugin for Log {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> {
    /// #       Ok(Self { host, lines: Vec::new() })
    /// #   }
    /// const BATCHES: bool = true;
    ///
    /// fn messages(&mut self, session: &Session<'_>, batch: &[Message<'_>]) -> Result<(), Refused> {
    ///     self.lines.extend(batch.iter().filter_map(|message| message.to_text().map(str::to_owned)));
    ///     // One answer for the whole batch.
    ///     let _ = self.host.send(session.id(), &self.lines.len().to_string());
    ///     Ok(())
    /// }
    ///
    /// fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
    ///     // An older host.
    ///     self.messages(session, &[message])
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`message`](Self::message); the rest of the batch counts as handled.
    fn messages(&mut self, session: &Session<'_>, messages: &[Message<'_>]) -> Result<(), Refused> {
        messages.iter().enumerate().try_for_each(|(index, message)| {
            session.at(index);
            self.message(session, *message)
        })
    }

    /// Handles what this instance, or one of its threads, has [posted](Host::post).
    ///
    /// Called between messages, in the order of the posts. Default: drops it. ABI step 3.
    fn event(&mut self, event: Event) {
        drop(event);
    }

    /// Reports that the timer with this key has expired: see [`Host::after`] and [`Host::every`].
    ///
    /// Called between messages, never early. Default: does nothing. ABI step 3.
    fn timer(&mut self, key: &str) {
        let _ = key;
    }

    /// Answers a plain HTTP request on the path of the resource, or below it if the resource is a
    /// pattern (`/path/*`), if [`HTTP`](Self::HTTP) is set. ABI step 3.
    ///
    /// The host has checked `auth` and `allowed_origins` of the resource. Without `auth`, any client
    /// may send requests: check [`Request::kind`] for what only scripts of the operator may do.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Shop { seats: u32 }
    /// # impl Plugin for Shop {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self { seats: 12 }) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// const HTTP: bool = true;
    ///
    /// fn request(&mut self, request: &Request<'_>) -> Response {
    ///     match request.method() {
    ///         "GET" => Response::text(200, &format!("{} seats are free", self.seats)),
    ///         // A POST is one message of a script, as without this function.
    ///         "POST" => Response::unhandled(),
    ///         _ => Response::text(405, "use GET").header("Allow", "GET, POST"),
    ///     }
    /// }
    /// # }
    /// ```
    fn request(&mut self, request: &Request<'_>) -> Response {
        let _ = request;
        Response::unhandled()
    }

    /// Reports the end of a connection. Nothing can be sent to it any more.
    ///
    /// Called exactly once for each connection that `open` accepted.
    fn close(&mut self, session: &Session<'_>, reason: &CloseReason<'_>) {
        let _ = (session, reason);
    }

    /// Reports that a connection failed: it broke, violated the protocol or exceeded a limit.
    ///
    /// [`close`](Self::close) follows. Default: does nothing.
    fn error(&mut self, session: &Session<'_>, reason: &str) {
        let _ = (session, reason);
    }

    /// Returns the interval between calls of [`tick`](Self::tick), or `None` for no ticks.
    ///
    /// The host asks again after each tick and after every few other callbacks, so the answer may
    /// depend on whether there is work to do. The minimum is one millisecond. Default: `None`.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Runs periodic work, at the interval of [`tick_every`](Self::tick_every).
    ///
    /// Called between messages, never early; missed ticks are not repeated. `now` is the wall
    /// clock.
    fn tick(&mut self, now: SystemTime) {
        let _ = now;
    }

    /// Returns the state for a successor, or `None` (the default) if there is none to keep.
    ///
    /// The host calls this when the library or the configuration is replaced, and for copies on
    /// disk (`snapshot_every`). Messages wait meanwhile. The limit is `snapshot_limit` (256 MiB by
    /// default). Leave the state intact: this instance continues if the successor refuses.
    /// Connections, their rooms and uuids belong to the host and survive without a snapshot.
    fn snapshot(&mut self) -> Option<Snapshot> {
        None
    }

    /// Returns the state as [`snapshot`](Self::snapshot) does, which the default calls, and learns
    /// why it is requested. ABI step 3; an older host calls `snapshot`.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Cache { entries: Vec<u8> }
    /// # impl Plugin for Cache {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self { entries: vec![] }) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// fn snapshot_for(&mut self, reason: SnapshotReason) -> Option<Snapshot> {
    ///     // A cache is worth handing over, not writing to disk.
    ///     let is_handed_over =
    ///         matches!(reason, SnapshotReason::Replaced | SnapshotReason::Reconfigured);
    ///     is_handed_over.then(|| Snapshot { version: 1, bytes: self.entries.clone() })
    /// }
    /// # }
    /// ```
    fn snapshot_for(&mut self, reason: SnapshotReason) -> Option<Snapshot> {
        let _ = reason;
        self.snapshot()
    }

    /// Applies a changed configuration to the running instance. ABI step 3.
    ///
    /// Called when only `[resources."/path".config]` has changed. The default asks for a new
    /// instance, which gets the state, as older hosts do.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Quiz { seats: u32 }
    /// # #[derive(serde::Deserialize)]
    /// # struct Config { seats: u32 }
    /// # impl Plugin for Quiz {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self { seats: 12 }) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// fn config_changed(&mut self, config: &str) -> Result<ConfigChange, StartError> {
    ///     // Validates everything before it changes anything.
    ///     self.seats = read_config::<Config>(config)?.seats;
    ///     Ok(ConfigChange::Applied)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The operator reads the text; the whole changed file is not applied, and this instance keeps
    /// its configuration.
    fn config_changed(&mut self, config: &str) -> Result<ConfigChange, StartError> {
        let _ = config;
        Ok(ConfigChange::Restart)
    }

    /// Finishes what only this instance can finish: it receives nothing more. ABI step 3.
    ///
    /// Called once, after a successor has taken over or the resource has ended, on another thread
    /// than the lane's. Until this returns, or until `deadline`, the functions of [`Host`] that
    /// name one connection or one client (`send`, `feedback`, `close`, `set_fyi`, `set_data`) work;
    /// then they return [`Retired`](crate::HostError::Retired). The instance is dropped next.
    /// Default: does nothing.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # use std::time::Instant;
    /// # struct Bank { writer: Option<std::thread::JoinHandle<()>> }
    /// # impl Plugin for Bank {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self { writer: None }) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// fn retiring(&mut self, _: RetireReason, _deadline: Instant) {
    ///     // The thread still answers the clients whose payments it is writing.
    ///     if let Some(writer) = self.writer.take() {
    ///         let _ = writer.join();
    ///     }
    /// }
    /// # }
    /// ```
    fn retiring(&mut self, reason: RetireReason, deadline: Instant) {
        let _ = (reason, deadline);
    }

    /// Reports that a connection broke and that its client may resume it. Reserved: this version of
    /// the host resumes no connections and never calls it. ABI step 3.
    fn suspended(&mut self, session: &Session<'_>) {
        let _ = session;
    }

    /// Reports that a client has resumed a suspended connection. Reserved, as
    /// [`suspended`](Self::suspended).
    fn resumed(&mut self, session: &Session<'_>) {
        let _ = session;
    }

    /// Takes over the state of a predecessor, before the first event.
    ///
    /// The predecessor's connections are not opened again: [`Host::sessions`] lists those that are
    /// still open. After a start from a copy on disk there are none. Runs on a thread of its own,
    /// up to `restore_timeout` (10 s by default).
    ///
    /// # Errors
    /// The predecessor continues to serve. What this instance has sent, joined or stored with
    /// sessions by then stays, so validate the snapshot first. The default refuses every snapshot, so
    /// that no state is lost by accident.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        Err(RestoreError::new(format!(
            "this application does not restore state (offered: {} bytes of version {})",
            snapshot.bytes.len(),
            snapshot.version
        )))
    }
}
