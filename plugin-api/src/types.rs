//! Plain values that applications and host exchange.

use std::fmt;
use std::time::Duration;

/// Identifier of one connection, for as long as it is open.
///
/// Opaque and random; unique on this host. It is half of the client's
/// [uuid](crate::Session::uuid): never send it to a client.
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

/// How a client connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A browser or any other WebSocket client.
    WebSocket,
    /// A script of the operator: a WebSocket with the header `Client-Type: backend` (or `php`), or
    /// an HTTP POST. Only allowed addresses (`allowed_ips`) and holders of a client certificate.
    Backend,
    /// A script on plain TCP. Allowed as [`Kind::Backend`] is.
    Tcp,
}

impl Kind {
    /// Returns whether this is a script of the operator: [`Kind::Backend`] or [`Kind::Tcp`].
    #[must_use]
    pub fn is_backend(self) -> bool {
        self != Self::WebSocket
    }

    /// Returns `websocket`, `backend` or `tcp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Backend => "backend",
            Self::Tcp => "tcp",
        }
    }
}

/// One complete message, text or binary.
///
/// It borrows its payload: until the callback returns, or until the function of
/// [`Host`](crate::Host), which copies it, returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message. A client on plain TCP receives it as text, with invalid UTF-8 replaced by
    /// U+FFFD.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Returns the bytes of the payload.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Returns the payload as text, or `None` for a binary message that is not valid UTF-8.
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

/// WebSocket close code (RFC 6455 section 7.4.1, and IANA's registry).
///
/// An application may use 1000–1003, 1007–1014 and 3000–4999 (its own meaning). The host replaces
/// any other code with 1008.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// 1000: normal end.
    pub const NORMAL: Self = Self(1000);
    /// 1001: the server shuts down, or the user left the page.
    pub const AWAY: Self = Self(1001);
    /// 1002: protocol violation.
    pub const PROTOCOL: Self = Self(1002);
    /// 1003: unsupported kind of message, for example binary.
    pub const UNSUPPORTED: Self = Self(1003);
    /// 1006: the connection ended without a close frame. Reported only, never sent.
    pub const ABNORMAL: Self = Self(1006);
    /// 1007: invalid content, for example malformed JSON.
    pub const INVALID: Self = Self(1007);
    /// 1008: policy violation; the general refusal.
    pub const POLICY: Self = Self(1008);
    /// 1009: message too large.
    pub const TOO_BIG: Self = Self(1009);
    /// 1011: internal error of the application.
    pub const ERROR: Self = Self(1011);
    /// 1013: try again later.
    pub const TRY_AGAIN: Self = Self(1013);
}

/// Which side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClosedBy {
    /// The client: it closed the connection, or the connection broke.
    Peer,
    /// An application: it closed the connection or refused a message.
    Plugin,
    /// The host: a limit, a protocol violation, a shutdown.
    Host,
}

/// Why a connection ended, as passed to [`Plugin::close`](crate::Plugin::close).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason<'a> {
    /// The close code sent or received; 1005 if the client's close frame had none, 1006 without a
    /// close frame.
    pub code: CloseCode,
    /// Which side ended the connection.
    pub by: ClosedBy,
    /// The reason as text; may be empty.
    pub text: &'a str,
}

/// Refusal of a connection (from [`open`](crate::Plugin::open)) or of a message (from
/// [`message`](crate::Plugin::message)).
///
/// The host sends `{"opcode":"close","error":"<reason>"}` (on a resource with a dialog), closes the
/// connection with the code, and counts the refusal in its metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Code of the close frame.
    pub code: CloseCode,
    /// Reason that the client reads: one sentence without secrets. A close frame holds its first
    /// 123 bytes.
    pub reason: String,
}

impl Refused {
    /// Creates a refusal with close code 1008.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { code: CloseCode::POLICY, reason: reason.into() }
    }

    /// Creates a refusal with another close code, for example [`CloseCode::INVALID`] for malformed
    /// JSON.
    pub fn with_code(code: CloseCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl From<HostError> for Refused {
    /// With `?`: [`CloseCode::TRY_AGAIN`] for [`HostError::TooMany`], otherwise
    /// [`CloseCode::ERROR`].
    fn from(error: HostError) -> Self {
        let code =
            if error == HostError::TooMany { CloseCode::TRY_AGAIN } else { CloseCode::ERROR };
        Self { code, reason: error.to_string() }
    }
}

/// Why an instance cannot start, for the operator: what in the configuration is wrong, and what
/// would be right.
///
/// `?` converts any `std::error::Error` into it. It does not implement that trait itself, because
/// the conversion rules it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl StartError {
    /// Creates an error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl<E: std::error::Error> From<E> for StartError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Why an instance does not take over a snapshot. The old instance continues to serve.
///
/// `?` converts any `std::error::Error` into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError(pub String);

impl RestoreError {
    /// Creates an error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl<E: std::error::Error> From<E> for RestoreError {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// State of an instance, for its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the format. Increase it when the meaning of the bytes changes.
    pub version: u32,
    /// The state, in a format of the author's choice; JSON works well.
    pub bytes: Vec<u8>,
}

/// Why the host requests a snapshot: see [`Plugin::snapshot_for`](crate::Plugin::snapshot_for).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SnapshotReason {
    /// Another generation of the library takes over.
    Replaced,
    /// A new instance with another configuration takes over.
    Reconfigured,
    /// A copy for the disk (`snapshot_every`); the instance continues.
    Stored,
    /// The last copy for the disk: the host stops.
    Stopping,
    /// A check of a library: an instance in another process restores a copy.
    Checked,
}

/// Why an instance retires: see [`Plugin::retiring`](crate::Plugin::retiring).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetireReason {
    /// Another library serves the resource now.
    Replaced,
    /// A new instance with another configuration serves the resource now.
    Reconfigured,
    /// The resource was removed from `plugins.toml`.
    Removed,
    /// The operator has disabled the plugin.
    Disabled,
    /// The host stops.
    Stopping,
}

/// What an instance did with a changed configuration: see
/// [`Plugin::config_changed`](crate::Plugin::config_changed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigChange {
    /// The running instance uses the new configuration.
    Applied,
    /// The change needs a new instance, which takes over the state.
    Restart,
}

/// The receivers of a [`broadcast`](crate::Host::broadcast).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience<'a> {
    /// Which resources it reaches.
    pub scope: Scope,
    /// Whether only clients of [`Kind::WebSocket`] receive it, and not the operator's scripts.
    pub websockets_only: bool,
    /// Connections that do not receive it, for example the sender.
    pub except: &'a [ConnectionId],
}

impl<'a> Audience<'a> {
    /// Selects all connections of this resource.
    #[must_use]
    pub fn resource() -> Self {
        Self { scope: Scope::Resource, websockets_only: false, except: &[] }
    }

    /// Selects all connections of all resources with a dialog.
    #[must_use]
    pub fn all() -> Self {
        Self { scope: Scope::All, ..Self::resource() }
    }

    /// Excludes the operator's scripts.
    #[must_use]
    pub fn websockets(self) -> Self {
        Self { websockets_only: true, ..self }
    }

    /// Excludes these connections.
    #[must_use]
    pub fn except(self, except: &'a [ConnectionId]) -> Self {
        Self { except, ..self }
    }
}

/// Which resources a broadcast reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The resource that this instance serves.
    Resource,
    /// Every resource with `dialog = true`. Plain WebSocket clients receive only what their own
    /// application sends.
    All,
}

/// The receiver of a [`feedback`](crate::Host::feedback).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The client of [`Kind::WebSocket`] that received this uuid in `ready`.
    Uuid(&'a str),
    /// The backend that announced this name as its `Ident`; the newest one if there are several.
    Ident(&'a str),
}

/// Returns whether a text has the form of the uuids that the host issues: a version-4 UUID in lower
/// case, a dot, and 64 hexadecimal digits in lower case, together 101 characters.
///
/// A text of another form matches no client, also in the future, so it is a mistake of its sender.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    text.len() == 101
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b'),
            36 => byte == b'.',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Result of a [`feedback`](crate::Host::feedback).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The message is in the outbox of the client's connection.
    Delivered,
    /// No connected client has this uuid or ident.
    Gone,
}

impl Verdict {
    /// Returns `delivered` or `gone`, as sent to clients.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
        }
    }
}

/// Why a function of [`Host`](crate::Host) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HostError {
    /// The connection is closed, closing, or on another resource.
    Gone,
    /// This instance is not serving: it has been replaced, or it is still in
    /// [`start`](crate::Plugin::start). A thread of a replaced instance should end.
    Retired,
    /// The message or name exceeds a size limit of the host.
    TooLarge,
    /// The connection is in `max_rooms` rooms (100 by default). ABI step 2: a plugin built against
    /// step 1 receives [`HostError::Unsupported`] instead.
    TooMany,
    /// An argument is not valid; the documentation of the function says what is. ABI step 3.
    Invalid,
    /// The host does not know this function; it is older than the plugin's copy of this crate.
    Unsupported,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the connection is gone",
            Self::Retired => "this instance has been replaced",
            Self::TooLarge => "larger than the host's limit",
            Self::TooMany => "more than the host's limit",
            Self::Invalid => "an argument is not valid",
            Self::Unsupported => "not supported by this host",
        })
    }
}

impl std::error::Error for HostError {}

/// Severity of a line of [`Host::log`](crate::Host::log).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// The application failed to do its work.
    Error = 1,
    /// A problem that the operator should look at.
    Warn = 2,
    /// A notable event of normal operation.
    Info = 3,
    /// Details for debugging.
    Debug = 4,
    /// All details.
    Trace = 5,
}

/// Converts [`Plugin::tick_every`](crate::Plugin::tick_every) to milliseconds; 0 means no ticks.
pub(crate) fn tick_millis(every: Option<Duration>) -> u64 {
    every.map_or(0, |every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1))
}
