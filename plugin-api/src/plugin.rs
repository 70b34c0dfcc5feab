//! What an author implements, and what each callback is handed.

use std::time::{Duration, SystemTime};

use crate::Host;
use crate::abi::{self, RawSession};
use crate::types::{
    CloseReason, ConnectionId, Kind, Message, Refused, RestoreError, Snapshot, StartError,
};

/// An application.
///
/// One value of the implementing type, an *instance*, serves one resource. The host calls it from
/// one thread at a time, in order, never overlapping: `&mut self` is all the locking there is.
/// For one connection the order is `open`, then any number of `message`, then `close`, once.
///
/// **Blocking.** Unless [`NEVER_BLOCKS`](Self::NEVER_BLOCKS) is set, an instance has a thread of its
/// own: a slow callback delays this resource and no other. Its peers are slowed down through TCP.
///
/// **Panics** are caught: message and place are logged, the connection whose callback it was is closed
/// with 1011, and the same instance goes on. Code that panics half-way through a change of its state
/// should put the state right first, or not panic.
/// A stack overflow, a panic during a panic and `process::exit` end the whole host.
pub trait Plugin: Send + Sized + 'static {
    /// Whether no callback ever waits for anything: no file, no network, no lock held elsewhere, no long
    /// computation. The instance then shares the host's threads and answers some 20 µs sooner.
    /// An operator can override it with `lane = "thread" | "shared"`.
    const NEVER_BLOCKS: bool = false;

    /// Makes an instance. `config` is the JSON object of `[resources."/path".config]`, `{}` where there is none:
    /// check all of it here ([`read_config`](crate::read_config)), so that a mistake is found before anything changes.
    ///
    /// Called on a thread of its own, while an older instance may still be serving: do not take away
    /// what that one needs (a port, a file) before [`restore`](Self::restore).
    ///
    /// # Errors
    /// The text goes to the operator; the older instance, if there is one, goes on.
    fn start(host: Host, config: &str) -> Result<Self, StartError>;

    /// A peer has connected. What is sent to it from here on arrives after its `ready`.
    ///
    /// # Errors
    /// Refuses the connection; neither `message` nor `close` will be called for it.
    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let _ = session;
        Ok(())
    }

    /// A whole message. When this returns, the peer is sent its `next` (on a resource with a dialog),
    /// after everything that was sent to it meanwhile.
    ///
    /// # Errors
    /// Closes the connection with the code and the reason; `close` is called.
    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused>;

    /// The connection has ended; nothing can be sent to it any more. Called exactly once if `open` accepted it.
    fn close(&mut self, session: &Session<'_>, reason: &CloseReason<'_>) {
        let _ = (session, reason);
    }

    /// Something went wrong with the connection: it broke, or its peer broke the protocol. `close` follows.
    fn error(&mut self, session: &Session<'_>, reason: &str) {
        let _ = (session, reason);
    }

    /// How often [`tick`](Self::tick) is wanted; asked again after every few callbacks and after each tick, so the
    /// answer may depend on whether there is anything to do. At least a millisecond. None, the default: not now.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Called at the pace of [`tick_every`](Self::tick_every), between messages, never early. Late ticks are not made up for.
    fn tick(&mut self, now: SystemTime) {
        let _ = now;
    }

    /// The state for a successor, when the library or the configuration is replaced. None, the default:
    /// there is none worth keeping. Peers stay connected either way; they, their rooms and their uuids are the host's.
    ///
    /// Messages wait while it runs. The instance may have to go on if the successor refuses: do not take the state apart.
    fn snapshot(&mut self) -> Option<Snapshot> {
        None
    }

    /// Takes over the state of a predecessor, before the first event. Its connections are listed by
    /// [`Host::sessions`]; they are not opened again.
    ///
    /// # Errors
    /// The predecessor goes on serving. The default refuses every snapshot, so that state is never dropped by accident.
    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        Err(RestoreError::new(format!(
            "this plugin takes over no state (it was offered {} bytes of version {})",
            snapshot.bytes.len(),
            snapshot.version
        )))
    }
}

/// A connection as an application sees it. Borrowed for one call: keep [`Session::id`], not the session.
pub struct Session<'a> {
    raw: RawSession<'a>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(raw: RawSession<'a>) -> Self {
        Self { raw }
    }

    /// What [`Host`]'s functions take.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        ConnectionId(self.raw.id)
    }

    /// What the peer was told in `ready`, and what others name it by in a feedback.
    #[must_use]
    pub fn uuid(&self) -> &'a str {
        self.raw.uuid.as_str()
    }

    /// How it came in.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.raw.kind {
            abi::kind::BACKEND => Kind::Backend,
            abi::kind::TCP => Kind::Tcp,
            _ => Kind::WebSocket,
        }
    }

    /// The name it announced by `Ident:`; none if it announced none or an empty one.
    #[must_use]
    pub fn ident(&self) -> Option<&'a str> {
        self.field(abi::field::IDENT, "")
    }

    /// The peer's IP address in text, without port: behind a trusted proxy the one that the proxy
    /// names, `unix` on a Unix socket.
    #[must_use]
    pub fn address(&self) -> &'a str {
        self.field(abi::field::ADDRESS, "").unwrap_or_default()
    }

    /// The path of the resource, e.g. `/chat`.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.field(abi::field::RESOURCE, "").unwrap_or_default()
    }

    /// What followed `?` in the address, undecoded; empty if nothing did.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.field(abi::field::QUERY, "").unwrap_or_default()
    }

    /// The value of one parameter of the query, decoded (`%20` and `+` are a space); the first if there are several.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        self.query().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key) == name).then(|| decode(value))
        })
    }

    /// The first header of the request with this name (any letter case), if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::HEADER, name)
    }

    /// Who this is, as the resource's `auth` found out before [`open`](Plugin::open): the claim of a token (`user_claim`,
    /// by default `sub`), or what an endpoint answered.
    ///
    /// None on a resource without `auth`, for a backend that is exempt from it, where an endpoint named nobody, and on a
    /// host before 1.1. An application that depends on it must say no to None.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.field(abi::field::USER, "")
    }

    /// What else the resource's `auth` knows of it, as JSON text: all claims of a token, an object; or the `claims` of an
    /// endpoint's answer, any JSON. None as with [`user`](Self::user), and where an endpoint answered none.
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

/// Percent-decoding as in a form (WHATWG URL, `application/x-www-form-urlencoded`); what is no UTF-8 is replaced.
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
