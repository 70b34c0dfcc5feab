//! Applications: how a library becomes an instance, and how an instance is called and replaced.
//!
//! A library on its way: **watch** (it changed, and is quiet) → **stage** (a private, complete copy) → **preflight** (a
//! throw-away child opens it first) → **loader** (opened here, checked, a [`loader::Generation`]) → an [`Instance`] for each
//! resource that it serves → a *swap* in the queue of the resource's **lane**. Everything that can fail happens before the
//! swap; what is in the queue before it is handled by the old instance, what comes after by the new one. So a reload
//! needs no further thought about order, and no message can meet both or neither.
//!
//! The lane is the single owner of an instance. Nothing here knows sockets.

pub(crate) mod archive;
pub(crate) mod dylib;
pub(crate) mod lane;
mod log;
pub(crate) mod preflight;
pub(crate) mod snapshot_file;
pub(crate) mod staging;
pub(crate) mod trial;
pub(crate) mod watch;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plugsocket_plugin::CloseCode;

use crate::protocol::close::CloseReason;
use crate::protocol::payload::Payload;
use crate::routing::registry::Peer;

/// What the host tells an application: plain data.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Open(&'a Peer),
    Message(&'a Peer, &'a Payload),
    Error(&'a Peer, &'a str),
    Close(&'a Peer, &'a CloseReason),
    Tick(SystemTime),
}

/// Why an application did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It said no, with a close code and a reason for the peer.
    Refused(CloseCode, String),
    /// It panicked; message and place are in the log.
    Panicked(String),
}

impl Event<'_> {
    fn callback(&self) -> lane::health::Callback {
        match self {
            Self::Open(_) => lane::health::Callback::Open,
            Self::Message(..) => lane::health::Callback::Message,
            Self::Error(..) => lane::health::Callback::Error,
            Self::Close(..) => lane::health::Callback::Close,
            Self::Tick(_) => lane::health::Callback::Tick,
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

/// The state of an application on its way to a successor, in the memory of the one that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) version: u32,
    pub(crate) bytes: Bytes,
}

/// A live object of a generation, serving one resource. Owned by a lane.
pub(crate) trait Instance: Send {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure>;
    /// The state for a successor; None where there is none.
    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure>;
    /// From here on its voice is heard.
    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure>;
    /// Its voice is heard no more.
    fn retire(&mut self);
    /// What silences it from outside its lane: the state of its voice, and the value to put there.
    fn revocation(&self) -> Option<(lane::health::Revocation, u8)>;
    fn tick_every(&mut self) -> Option<Duration>;
    /// The name of its library.
    fn plugin(&self) -> &str;
    fn generation(&self) -> u64;
}
