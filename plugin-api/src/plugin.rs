//! The trait that an application implements, and the [`Session`] that its callbacks receive.

use std::time::{Duration, SystemTime};

use crate::Host;
use crate::abi::{self, RawSession};
use crate::types::{
    CloseReason, ConnectionId, Kind, Message, Refused, RestoreError, Snapshot, StartError,
};

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

    /// Creates an instance.
    ///
    /// `config` is the table `[resources."/path".config]` as a JSON object, `{}` if there is none.
    /// Validate all of it here, with [`read_config`](crate::read_config): nothing has changed yet
    /// when this fails.
    ///
    /// Runs on a thread of its own and may block, up to `start_timeout` (10 s by default). An older
    /// instance may still be serving: leave its resources (port, file) alone until
    /// [`restore`](Self::restore). Until the handover every function of `host` except [`Host::log`]
    /// returns [`HostError::Retired`](crate::HostError::Retired).
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

    /// Takes over the state of a predecessor, before the first event.
    ///
    /// The predecessor's connections are not opened again: [`Host::sessions`] lists those that are
    /// still open. After a start from a copy on disk there are none. Runs on a thread of its own,
    /// up to `restore_timeout` (10 s by default).
    ///
    /// # Errors
    /// The predecessor continues to serve. The default refuses every snapshot, so that no state is
    /// lost by accident.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        Err(RestoreError::new(format!(
            "this application does not restore state (offered: {} bytes of version {})",
            snapshot.bytes.len(),
            snapshot.version
        )))
    }
}

/// A client's connection, borrowed for one callback. To refer to it later, keep [`Session::id`].
pub struct Session<'a> {
    raw: RawSession<'a>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(raw: RawSession<'a>) -> Self {
        Self { raw }
    }

    /// Returns the identifier by which [`Host`]'s functions address this connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.raw.id)
    }

    /// Returns the uuid that the client received in `ready`: the address for
    /// [`Target::Uuid`](crate::Target::Uuid).
    ///
    /// It is a random UUID, a dot and a signature. Treat it as a secret of the client and its
    /// scripts.
    #[must_use]
    pub fn uuid(&self) -> &'a str {
        self.raw.uuid.as_str()
    }

    /// Returns how the client connected.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.raw.kind {
            abi::kind::BACKEND => Kind::Backend,
            abi::kind::TCP => Kind::Tcp,
            _ => Kind::WebSocket,
        }
    }

    /// Returns the name that a backend announced in its `Ident` header: 1 to 256 bytes without
    /// control characters.
    #[must_use]
    pub fn ident(&self) -> Option<&'a str> {
        self.field(abi::field::IDENT, "")
    }

    /// Returns the client's IP address as text, without a port.
    ///
    /// Behind a trusted proxy this is the address that the proxy reports; on a Unix socket, `unix`.
    #[must_use]
    pub fn address(&self) -> &'a str {
        self.field(abi::field::ADDRESS, "").unwrap_or_default()
    }

    /// Returns the path of the resource, for example `/chat`.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.field(abi::field::RESOURCE, "").unwrap_or_default()
    }

    /// Returns the query of the request, not decoded and without `?`; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.field(abi::field::QUERY, "").unwrap_or_default()
    }

    /// Returns the first value of a query parameter, decoded as a form: `%20` and `+` are a space.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        self.query().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// Returns the first request header with this name, compared without case, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::HEADER, name)
    }

    /// Returns the authenticated user, as the resource's `auth` established it before
    /// [`open`](Plugin::open).
    ///
    /// This is a claim of the token (`user_claim`, by default `sub`) or the user in the answer of
    /// the authentication endpoint. `None` on a resource without `auth`, for a backend that is
    /// exempt, and if the endpoint named no user. An application that requires a user must refuse
    /// `None`.
    ///
    /// Added after 1.0: on an older host always `None`.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.field(abi::field::USER, "")
    }

    /// Returns the claims of the authenticated user as JSON text.
    ///
    /// For a token, an object with all of its claims; for an authentication endpoint, the `claims`
    /// of its answer, which may be any JSON. `None` as for [`user`](Self::user), and if the
    /// endpoint returned no claims.
    #[must_use]
    pub fn claims(&self) -> Option<&'a str> {
        self.field(abi::field::CLAIMS, "")
    }

    fn field(&self, field: u32, name: &str) -> Option<&'a str> {
        (self.raw.field)(self.raw.context, field, name.into())
            .into_option()
            .map(|text| text.as_str())
    }
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .field("kind", &self.kind())
            .field("resource", &self.resource())
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// Decodes `application/x-www-form-urlencoded` (WHATWG URL); invalid UTF-8 is replaced by U+FFFD.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let digits = rest.as_slice().get(..2).and_then(|d| std::str::from_utf8(d).ok());
                match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
                    Some(value) => {
                        rest.nth(1);
                        value
                    }
                    None => byte,
                }
            }
            _ => byte,
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn a_query_is_decoded_as_a_form() {
        for (text, expected) in [
            ("", ""),
            ("a+b", "a b"),
            ("M%C3%BCller", "Müller"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode(text), expected, "{text}");
        }
    }
}
