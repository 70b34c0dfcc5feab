//! [`Limits`] of the simulated host.

use std::time::Duration;

/// The limits of a simulated host, by default those of a host without configuration.
///
/// The names are keys of `plugins.toml`, except `retiring`.
///
/// ```
/// use plugsocket_plugin::{HostError, testing::Limits};
/// # use plugsocket_plugin::{testing::{Harness, Peer}, *};
/// # struct App(Host);
/// # impl Plugin for App {
/// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
/// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
/// # }
///
/// let limits = Limits { max_rooms: 1, ..Limits::default() };
/// let mut app = Harness::<App>::start_with(limits, "{}").unwrap();
/// let ann = app.open(Peer::websocket()).unwrap();
/// let host = app.plugin().0.clone();
/// assert_eq!(host.join(ann, "lobby"), Ok(()));
/// assert_eq!(host.join(ann, "cellar"), Err(HostError::TooMany));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message of a client, of a posted event and of the body of a request: 16 MiB. A
    /// message to a client may have 4 MiB more.
    pub max_message: usize,
    /// Rooms of one connection: 100.
    pub max_rooms: usize,
    /// Messages that may wait for one client: 1024.
    pub outbox_messages: usize,
    /// Bytes that may wait for one client, with one larger message beside them: 1 MiB.
    pub outbox_bytes: usize,
    /// What happens to a message for a client whose outbox is full.
    pub outbox_policy: OutboxPolicy,
    /// Posted events that may wait: 256.
    pub inbox_messages: usize,
    /// Time until a ticket or a responder expires: 30 s.
    pub callback_limit: Duration,
    /// Time from the call of [`Plugin::retiring`](crate::Plugin::retiring) to its deadline: 10 s.
    /// The harness waits until it returns.
    pub retiring: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message: 16 << 20,
            max_rooms: 100,
            outbox_messages: 1024,
            outbox_bytes: 1 << 20,
            outbox_policy: OutboxPolicy::Close,
            inbox_messages: 256,
            callback_limit: Duration::from_secs(30),
            retiring: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// What an application may add to a message.
    const ENVELOPE: usize = 4 << 20;

    /// Returns the maximum size of a message to a client.
    pub(super) fn max_sent(&self) -> usize {
        self.outbox_bytes.max(self.max_answer())
    }

    /// Returns the maximum size of the body of a response.
    pub(super) fn max_answer(&self) -> usize {
        self.max_message.saturating_add(Self::ENVELOPE)
    }
}

/// What happens to a message for a client whose outbox is full: `outbox_policy` in `plugins.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboxPolicy {
    /// The connection is closed with 1013.
    Close,
    /// The oldest waiting messages are dropped, down to seven eighths of the limits.
    DropOldest,
    /// A message with a key replaces the waiting one with the same key. Without space the
    /// connection is closed with 1013.
    Conflate,
}
