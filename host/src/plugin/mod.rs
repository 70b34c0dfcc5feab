//! Applications behind the ABI: how a library becomes an instance, and how it is called and
//! replaced.
//!
//! **watch** reports that a library changed → **staging** makes a private, complete copy → the
//! **preflight** child opens it first → **dylib** opens and checks it here → an [`Instance`] starts
//! for each resource → a *swap* enters the inbox of the resource's **lane**. Everything that can
//! fail comes before the swap. Items before it are handled by the old instance and items behind it
//! by the new one, so that each message reaches exactly one of them.
//!
//! The lane is the single owner of an instance. This folder must not know sockets.

pub(crate) mod archive;
pub(crate) mod dylib;
pub(crate) mod lane;
pub(crate) mod preflight;
pub(crate) mod scaffold;
pub(crate) mod snapshot_file;
pub(crate) mod staging;
pub(crate) mod trial;
pub(crate) mod validate;
pub(crate) mod watch;

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ConfigChange, RetireReason, SnapshotReason};

use self::lane::health::Revocation;
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Payload;
use crate::routing::callback::CallbackKind;
use crate::routing::peer::Peer;
use crate::routing::requests::HttpRequest;

/// A call to an application, as plain data.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Open(&'a Peer),
    Message(&'a Peer, &'a Payload),
    /// Only for an instance that [takes batches](Instance::takes_batches).
    Messages(&'a Peer, &'a [&'a Payload]),
    Error(&'a Peer, &'a str),
    Close(&'a Peer, &'a CloseReason),
    Tick(SystemTime),
    /// Boxed: an event is passed on for each message.
    Posted(Box<Posted>),
    Timer(&'a str),
    Request(&'a HttpRequest),
}

/// What an instance or one of its threads has posted.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) bytes: Bytes,
    /// A value instead of bytes, which only the instance that posted it can use.
    pub(crate) value: Option<Box<dyn Any + Send>>,
}

/// What an instance has requested before it served.
#[derive(Debug, Default)]
pub(crate) struct EarlyRequests {
    pub(crate) posted: Vec<Posted>,
    pub(crate) timers: Vec<TimerRequest>,
}

#[derive(Debug)]
pub(crate) struct TimerRequest {
    pub(crate) key: String,
    pub(crate) delay: Duration,
    pub(crate) repeats: bool,
}

/// Why an instance retires, and how long it may still address connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retirement {
    pub(crate) reason: RetireReason,
    pub(crate) limit: Duration,
}

/// Why a callback failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The application refused, with a close code and a reason for the peer.
    Refused(CloseCode, String),
    /// The application panicked; message and location are in the log.
    Panicked(String),
}

impl Event<'_> {
    fn callback(&self) -> CallbackKind {
        match self {
            Self::Open(_) => CallbackKind::Open,
            Self::Message(..) | Self::Messages(..) => CallbackKind::Message,
            Self::Error(..) => CallbackKind::Error,
            Self::Close(..) => CallbackKind::Close,
            Self::Tick(_) => CallbackKind::Tick,
            Self::Posted(_) => CallbackKind::Event,
            Self::Timer(_) => CallbackKind::Timer,
            Self::Request(_) => CallbackKind::Request,
        }
    }
}

impl Failure {
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Refused(_, text) => text,
            Self::Panicked(text) => format!("it panicked: {text}"),
        }
    }
}

/// The state of an application, in the memory of the library that created it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) version: u32,
    pub(crate) bytes: Bytes,
}

/// A live object of a generation that serves one resource. Owned by a lane.
pub(crate) trait Instance: Send {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure>;
    /// Returns the state; `None` if the application has none.
    fn snapshot(&mut self, reason: SnapshotReason) -> Result<Option<Snapshot>, Failure>;
    /// Grants the host functions and restores a state, if there is one.
    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure>;
    /// Applies a changed configuration, unless that needs a new instance.
    fn change_config(&mut self, config: &str) -> Result<ConfigChange, Failure> {
        let _ = config;
        Ok(ConfigChange::Restart)
    }
    /// Returns whether it takes the messages of one read at once.
    fn takes_batches(&self) -> bool {
        false
    }
    /// Returns what it has requested before it served.
    fn take_early_requests(&mut self) -> EarlyRequests {
        EarlyRequests::default()
    }
    /// Leaves it, for `limit`, only the host functions that name one connection.
    fn begin_retiring(&mut self, limit: Duration) {
        let _ = limit;
        self.retire();
    }
    /// Lets it finish; called after [`begin_retiring`](Self::begin_retiring), outside of the lane.
    fn finish_retiring(&mut self, retirement: Retirement) {
        let _ = retirement;
    }
    /// Revokes the host functions.
    fn retire(&mut self);
    /// Returns what revokes the host functions from outside the lane.
    fn revocation(&self) -> Option<Revocation>;
    fn tick_every(&mut self) -> Option<Duration>;
    /// Returns whether it answers plain HTTP requests.
    fn takes_requests(&self) -> bool {
        false
    }
    /// Returns the count of calls that the host has refused because it was not serving.
    fn refused_calls(&self) -> Option<&'static AtomicU64> {
        None
    }
    /// Returns the name of its library.
    fn plugin(&self) -> &str;
    fn generation(&self) -> u64;
}
