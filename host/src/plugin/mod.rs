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
pub(crate) mod snapshot_file;
pub(crate) mod staging;
pub(crate) mod trial;
pub(crate) mod watch;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plugsocket_plugin::CloseCode;

use self::lane::health::{CallbackKind, Revocation};
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Payload;
use crate::routing::peer::Peer;
use crate::routing::requests::HttpRequest;

/// A call to an application, as plain data.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Open(&'a Peer),
    Message(&'a Peer, &'a Payload),
    Error(&'a Peer, &'a str),
    Close(&'a Peer, &'a CloseReason),
    Tick(SystemTime),
    Request(&'a HttpRequest),
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
            Self::Message(..) => CallbackKind::Message,
            Self::Error(..) => CallbackKind::Error,
            Self::Close(..) => CallbackKind::Close,
            Self::Tick(_) => CallbackKind::Tick,
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
    /// Returns the state for a successor; `None` if the application has none.
    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure>;
    /// Grants the host functions and restores a state, if there is one.
    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure>;
    /// Revokes the host functions.
    fn retire(&mut self);
    /// Returns what revokes the host functions from outside the lane.
    fn revocation(&self) -> Option<Revocation>;
    fn tick_every(&mut self) -> Option<Duration>;
    /// Returns whether it answers plain HTTP requests.
    fn takes_requests(&self) -> bool {
        false
    }
    /// Returns the name of its library.
    fn plugin(&self) -> &str;
    fn generation(&self) -> u64;
}
