//! Tests of an application without a socket or a host.
//!
//! [`Harness`] simulates the host: it makes callbacks in the guaranteed order, offers the host's
//! functions with their limits, and records what the application sends. Time passes when the test
//! says so, and events wait until the test delivers them.
//!
//! | to test | use |
//! |---|---|
//! | messages | [`open`](Harness::open), [`message`](Harness::message), [`messages`](Harness::messages), [`received`](Harness::received) |
//! | acknowledgements, also deferred ones | [`acknowledged`](Harness::acknowledged), [`deferred`](Harness::deferred) |
//! | the ends of connections | [`close`](Harness::close), [`fail`](Harness::fail), [`closed`](Harness::closed) |
//! | slow clients | [`Peer::slow`], [`slow`](Harness::slow) |
//! | posted events, own threads | [`run`](Harness::run), [`run_until`](Harness::run_until), [`run_events`](Harness::run_events) |
//! | timers and ticks | [`advance`](Harness::advance), [`stall`](Harness::stall), [`tick`](Harness::tick) |
//! | HTTP | [`request`](Harness::request) |
//! | rooms, data, metrics, log lines | [`rooms`](Harness::rooms), [`data`](Harness::data), [`metric`](Harness::metric), [`logged`](Harness::logged) |
//! | a hot reload | [`reload`](Harness::reload), [`try_reload`](Harness::try_reload) |
//! | another application, the end | [`replace`](Harness::replace), [`stop`](Harness::stop), [`remove`](Harness::remove) |
//! | the configuration | [`configure`](Harness::configure); [`Plugin::CONFIG_SCHEMA`] is a constant |
//! | limits | [`Limits`] |
//! | panics | [`expect_panics`](Harness::expect_panics) |
//! | an older host | [`start_on_step`](Harness::start_on_step) |
//!
//! Differences from a host:
//!
//! - A client takes each message at once, unless the test makes it slow. The messages of a
//!   client are handled at once, also if many of its acknowledgements are deferred.
//! - Time passes only in [`advance`](Harness::advance) and [`stall`](Harness::stall). Limits on the
//!   time of a callback are not enforced; tickets and responders expire.
//! - There is one resource: a broadcast to all resources reaches its clients.
//! - Every client may announce an ident, not only the operator's scripts.
//! - `start`, `restore` and all callbacks but `retiring` run on the thread of the test.
//! - A panic of the application fails the test, unless the test [expects it](Harness::expect_panics).
//!   The instance is not replaced after `max_panics`.
//! - A POST that the application leaves to the host is not turned into a message.
//! - `CONFIG_SCHEMA` is not applied.
//! - What the macros of `tracing` and `log` write is not recorded.
//! - On an older host a function of a later step is there and fails as an absent one does.
//!
//! ```
//! use plugsocket_plugin::testing::{Harness, Peer};
//! # use plugsocket_plugin::*;
//! # struct Echo(Host);
//! # impl Plugin for Echo {
//! #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
//! #   fn message(&mut self, s: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
//! #       self.0.send(s.id(), m)?;
//! #       if m.to_text() == Some("quit") { self.0.close(s.id(), CloseCode::NORMAL, "bye")?; }
//! #       Ok(())
//! #   }
//! # }
//!
//! let mut app = Harness::<Echo>::start("{}").unwrap();
//! let ann = app.open(Peer::websocket()).unwrap();
//! app.message(ann, "hello").unwrap();
//! assert_eq!(app.received(ann), ["hello"]);
//! assert_eq!(app.acknowledged(ann), [""]);
//! app.message(ann, "quit").unwrap();
//! assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, "bye".to_owned())));
//! ```

mod clients;
mod clock;
mod events;
mod limits;
mod observe;
mod peer;
mod reload;
mod request;
mod simulated_host;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::limits::{Limits, OutboxPolicy};
pub use self::observe::{Metric, Received};
pub use self::peer::Peer;
pub use self::reload::ReloadError;
pub use self::request::{Answer, TestRequest, TestResponse};
use self::simulated_host::{End, Lease, Phase, Shared, raw_session};
use crate::abi::ABI_VERSION;
use crate::export::{discard, panic_text};
use crate::types::{CloseReason, Snapshot, StartError};
use crate::{Host, Plugin, Session};

/// An instance of the application `P`, with simulated clients.
///
/// If a callback closes a connection by [`Host::close`], or the host closes one meanwhile,
/// [`Plugin::close`] follows after that callback; if a thread does, with the next call of the
/// harness. When the harness is dropped, the instance retires and is dropped, without callbacks:
/// [`stop`](Self::stop) makes them.
pub struct Harness<P: Plugin> {
    /// Before `plugin`: the instance retires before it is dropped.
    lease: Lease,
    plugin: P,
    begun: SystemTime,
    next_tick: Option<Duration>,
    catches_panics: bool,
    panics: Vec<String>,
}

/// A callback has panicked, as the test expects.
#[derive(Debug)]
struct Panicked;

impl<P: Plugin> Harness<P> {
    /// Starts the application with this configuration, a JSON object.
    ///
    /// # Errors
    /// The error of [`Plugin::start`].
    pub fn start(config: &str) -> Result<Self, StartError> {
        Self::start_with(Limits::default(), config)
    }

    /// Starts the application on a host with these limits.
    ///
    /// # Errors
    /// The error of [`Plugin::start`].
    pub fn start_with(limits: Limits, config: &str) -> Result<Self, StartError> {
        Self::serving(Shared::new(ABI_VERSION, limits), config)
    }

    /// Starts the application on an older host, whose newest ABI step is `step`: 1 or 2. Functions
    /// of later steps fail or fall back as documented, and callbacks of later steps are not made.
    ///
    /// ```
    /// use plugsocket_plugin::{HostError, testing::Harness};
    /// # use plugsocket_plugin::*;
    /// # struct App(Host);
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    ///
    /// let mut app = Harness::<App>::start_on_step(2, "{}").unwrap();
    /// let host = app.plugin().0.clone();
    /// assert_eq!(host.abi_step(), 2);
    /// assert_eq!(host.post(b"loaded"), Err(HostError::Unsupported));
    /// ```
    ///
    /// # Errors
    /// The error of [`Plugin::start`].
    ///
    /// # Panics
    /// If there is no such step.
    pub fn start_on_step(step: u32, config: &str) -> Result<Self, StartError> {
        assert!((1..=ABI_VERSION).contains(&step), "there is no ABI step {step}");
        Self::serving(Shared::new(step, Limits::default()), config)
    }

    /// Starts the application from a copy on disk (`snapshot_every`): calls [`Plugin::restore`],
    /// without any connection.
    ///
    /// # Errors
    /// The error of [`Plugin::start`] or [`Plugin::restore`].
    pub fn start_from(snapshot: Snapshot, config: &str) -> Result<Self, StartError> {
        let host = Shared::new(ABI_VERSION, Limits::default());
        let mut app = Self::candidate(&host, config)?;
        app.lease.set_phase(Phase::Restoring);
        app.plugin.restore(snapshot).map_err(|error| StartError(error.0))?;
        app.lease.succeed(None);
        Ok(app)
    }

    fn serving(host: Arc<Shared>, config: &str) -> Result<Self, StartError> {
        let app = Self::candidate(&host, config)?;
        app.lease.succeed(None);
        Ok(app)
    }

    /// Starts an instance that does not serve yet.
    fn candidate(host: &Arc<Shared>, config: &str) -> Result<Self, StartError> {
        let lease = Lease::new(host.clone());
        let plugin = P::start(Host::new(lease.raw), config)?;
        Ok(Self {
            lease,
            plugin,
            begun: SystemTime::now(),
            next_tick: None,
            catches_panics: false,
            panics: Vec::new(),
        })
    }

    /// Changes the limits of the host from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.lease.host.lock().limits = limits;
    }

    /// Sets whether panics of callbacks are caught, as the host does, instead of failing the test.
    ///
    /// The connection that the callback was about is closed with 1011, and the instance continues.
    /// [`panics`](Self::panics) returns what was caught.
    ///
    /// ```
    /// use plugsocket_plugin::{CloseCode, testing::{Harness, Peer}};
    /// # use plugsocket_plugin::*;
    /// # struct App;
    /// # impl Plugin for App {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self) }
    /// #   fn message(&mut self, _: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
    /// #       m.to_text().expect("text");
    /// #       Ok(())
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// app.expect_panics(true);
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// app.message(ann, &[0xff][..]).unwrap_err();
    /// assert_eq!(app.closed(ann).unwrap().0, CloseCode::ERROR);
    /// assert_eq!(app.panics(), ["text"]);
    /// ```
    pub fn expect_panics(&mut self, expected: bool) {
        self.catches_panics = expected;
    }

    /// Returns the texts of the panics since the last call, if they are
    /// [expected](Self::expect_panics).
    #[must_use]
    pub fn panics(&mut self) -> Vec<String> {
        std::mem::take(&mut self.panics)
    }

    /// Returns the application.
    pub fn plugin(&mut self) -> &mut P {
        &mut self.plugin
    }

    fn step(&self) -> u32 {
        self.lease.host.lock().step
    }

    /// Makes the callbacks of connections that have ended.
    fn settle(&mut self) {
        loop {
            let ended = self.lease.host.lock().next_closing();
            let Some((id, end)) = ended else { break };
            // A panic here concerns a connection that has ended.
            if end.is_fault() {
                self.call_with(id, |plugin, session| plugin.error(session, &end.text)).ok();
            }
            self.call_close(id, &end);
        }
    }

    fn call_close(&mut self, id: u64, end: &End) {
        let reason = CloseReason { code: end.code, by: end.by, text: &end.text };
        self.call_with(id, |plugin, session| plugin.close(session, &reason)).ok();
    }

    fn call_with<T>(
        &mut self,
        id: u64,
        call: impl FnOnce(&mut P, &Session<'_>) -> T,
    ) -> Result<T, Panicked> {
        let record = self.client(id, |client| client.record);
        let session = Session::new(raw_session(record), self.lease.raw.table);
        self.call(|plugin| call(plugin, &session))
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut P) -> T) -> Result<T, Panicked> {
        let Self { plugin, catches_panics, panics, .. } = self;
        guard(*catches_panics, panics, || call(plugin))
    }
}

/// Calls the application; catches a panic if the test expects it.
fn guard<T>(
    catches: bool,
    panics: &mut Vec<String>,
    call: impl FnOnce() -> T,
) -> Result<T, Panicked> {
    if !catches {
        return Ok(call());
    }
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
        panics.push(panic_text(payload.as_ref()).to_owned());
        discard(payload);
        Panicked
    })
}

impl<P: Plugin> std::fmt::Debug for Harness<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Harness<{}>", std::any::type_name::<P>())
    }
}

#[cfg(test)]
mod tests;
