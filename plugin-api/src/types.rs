//! The vocabulary of the boundary: plain values that both sides understand. No pointers, no functions.

use std::fmt;
use std::time::Duration;

/// Names one connection for as long as it lasts.
///
/// Opaque: unique on this host, random, never reused in practice. It is *not* the uuid that the
/// peer knows (see [`Session::uuid`](crate::Session::uuid)) and it must not be sent to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// How a peer came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A browser or any other WebSocket client.
    WebSocket,
    /// A script of the operator's own: a WebSocket with `Client-Type: php|backend`, or an HTTP POST.
    /// Only addresses of `allowed_ips` get this far.
    Backend,
    /// A script on plain TCP. Only addresses of `allowed_ips` get this far.
    Tcp,
}

impl Kind {
    /// Whether this is one of the operator's own scripts ([`Kind::Backend`] or [`Kind::Tcp`]).
    #[must_use]
    pub fn is_backend(self) -> bool {
        self != Self::WebSocket
    }

    /// `websocket`, `backend` or `tcp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Backend => "backend",
            Self::Tcp => "tcp",
        }
    }
}

/// One whole message, text or binary.
///
/// Borrowed: what a callback receives is valid until the callback returns; what is passed to
/// [`Host`](crate::Host) is copied before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// UTF-8 text.
    Text(&'a str),
    /// Bytes as they came. A peer on plain TCP is sent them as text, replaced where they are no UTF-8.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The payload's bytes, whichever kind it is.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The payload as text: the text itself, or a binary message that is valid UTF-8.
    #[must_use]
    pub fn to_text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }
}

impl<'a> From<&'a str> for Message<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Message<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Message<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Binary(bytes)
    }
}

/// A WebSocket close code (RFC 6455, section 7.4.1; the registry is IANA's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: the purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server goes down, or the page was left.
    pub const AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: a kind of message that this application does not take.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1006: the connection ended without a close frame. Reported, never sent.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: a message whose content is not what it must be (text that is no UTF-8, broken JSON).
    pub const INVALID: Self = Self(1007);
    /// 1008: a message or connection that the application's rules refuse.
    pub const POLICY: Self = Self(1008);
    /// 1009: a message that is too large.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: the application failed.
    pub const ERROR: Self = Self(1011);
    /// 1013: try again later.
    pub const TRY_AGAIN: Self = Self(1013);
}

/// Whose doing the end of a connection was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedBy {
    /// The peer closed, or its connection broke.
    Peer,
    /// An application asked for it, or refused something.
    Plugin,
    /// The host: a limit, a violation of the protocol, a shutdown.
    Host,
}

/// Why a connection ended, as given to [`Plugin::close`](crate::Plugin::close).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason<'a> {
    /// The close code that was sent or received; 1006 where there was none.
    pub code: CloseCode,
    /// Whose doing it was.
    pub by: ClosedBy,
    /// The reason in words; may be empty.
    pub text: &'a str,
}

/// An application's *no* to a connection (from `open`) or to a message (from `message`).
///
/// The host tells the peer `{"opcode":"close","error":"<reason>"}` (on a resource with a dialog),
/// closes with the code, and counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Sent in the close frame; 1008 by default.
    pub code: CloseCode,
    /// Told to the peer: one sentence without secrets.
    pub reason: String,
}

impl Refused {
    /// A refusal with close code 1008.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { code: CloseCode::POLICY, reason: reason.into() }
    }

    /// A refusal with another close code, e.g. [`CloseCode::INVALID`] for a message that cannot be read.
    pub fn with_code(code: CloseCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

/// Why an instance cannot start. The text is read by the operator: say what in the configuration is
/// wrong and what would be right.
///
/// Any `std::error::Error` turns into it by `?`; so that this is possible it is none itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl StartError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl<E: std::error::Error> From<E> for StartError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Why a snapshot cannot be taken over. The old instance goes on serving.
///
/// Any `std::error::Error` turns into it by `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError(pub String);

impl RestoreError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl<E: std::error::Error> From<E> for RestoreError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// An instance's state on its way to its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The format's version: the author counts it up when the bytes change their meaning.
    pub version: u32,
    /// The state in any form that the successor can read; JSON is a good choice.
    pub bytes: Vec<u8>,
}

/// Who of all connections is meant by a [`broadcast`](crate::Host::broadcast).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience<'a> {
    /// How far it reaches.
    pub scope: Scope,
    /// Only peers of kind `websocket`, not the operator's scripts.
    pub websockets_only: bool,
    /// Left out, most often the sender.
    pub except: &'a [ConnectionId],
}

impl<'a> Audience<'a> {
    /// Everybody on this resource.
    #[must_use]
    pub fn resource() -> Self {
        Self { scope: Scope::Resource, websockets_only: false, except: &[] }
    }

    /// Everybody on every resource that has a dialog.
    #[must_use]
    pub fn all() -> Self {
        Self { scope: Scope::All, ..Self::resource() }
    }

    /// Only peers of kind `websocket`.
    #[must_use]
    pub fn websockets(self) -> Self {
        Self { websockets_only: true, ..self }
    }

    /// But these.
    #[must_use]
    pub fn except(self, except: &'a [ConnectionId]) -> Self {
        Self { except, ..self }
    }
}

/// How far a broadcast reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The resource that this instance serves.
    Resource,
    /// Every resource with `dialog = true`: plain WebSocket clients never get packets that they did not ask for.
    All,
}

/// Whom a [`feedback`](crate::Host::feedback) is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The `websocket` peer that was given this uuid in its `ready`.
    Uuid(&'a str),
    /// The peer of any kind that announced `Ident:` with this text, from an address that may be a backend; the newest if there are
    /// several.
    Ident(&'a str),
}

/// What became of a [`feedback`](crate::Host::feedback).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is in the outbox of the peer's connection.
    Delivered,
    /// Nobody has this uuid or ident, or not any more.
    Gone,
}

impl Verdict {
    /// `delivered` or `gone`, as the wire says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
        }
    }
}

/// Why the host did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostError {
    /// The connection has ended, or belongs to another resource.
    Gone,
    /// This instance has been replaced: a thread of it still speaks. It should end.
    Retired,
    /// The message or name is larger than a limit of the host allows.
    TooLarge,
    /// More of something than the host allows: rooms of one connection (`max_rooms` in `plugins.toml`). A library built before
    /// this was there sees [`HostError::Unsupported`] instead.
    TooMany,
    /// Something that this host does not know; it may be older than the plugin's `plugsocket-plugin`.
    Unsupported,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the connection is gone",
            Self::Retired => "this instance has been replaced",
            Self::TooLarge => "larger than the host's limit",
            Self::TooMany => "more than the host's limit",
            Self::Unsupported => "not supported by this host",
        })
    }
}

impl std::error::Error for HostError {}

/// How loud a line of [`Host::log`](crate::Host::log) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The application could not do its job.
    Error = 1,
    /// Somebody should look.
    Warn = 2,
    /// Worth a line in normal operation.
    Info = 3,
    /// For finding errors.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// How often [`Plugin::tick`](crate::Plugin::tick) is wanted, at most.
pub(crate) fn tick_millis(every: Option<Duration>) -> u64 {
    every.map_or(0, |every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1))
}
