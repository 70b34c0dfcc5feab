//! [`Session`]: a connection, as callbacks receive it.

use std::cell::Cell;

use crate::abi::{self, HostTableRef, RawSession};
use crate::host::collect_bytes;
use crate::types::{ConnectionId, Kind};

/// A client's connection, borrowed for one callback. To refer to it later, keep [`Session::id`].
pub struct Session<'a> {
    raw: RawSession<'a>,
    table: HostTableRef,
    /// Which message of a batch is being handled.
    index: Cell<usize>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(raw: RawSession<'a>, table: HostTableRef) -> Self {
        Self { raw, table, index: Cell::new(0) }
    }

    /// Begins to handle the message at `index` of a batch.
    pub(crate) fn at(&self, index: usize) {
        self.index.set(index);
    }

    pub(crate) fn index(&self) -> usize {
        self.index.get()
    }

    /// Returns the identifier by which the functions of [`Host`](crate::Host) address this connection.
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

    /// Returns the path of the request, not decoded: it differs from [`resource`](Self::resource)
    /// where that is a pattern, such as `/app/{key}`.
    ///
    /// ABI step 3; on an older host it is the resource.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.field(abi::field::PATH, "").unwrap_or_else(|| self.resource())
    }

    /// Returns the part of the path that the pattern of the resource names, decoded: `key` in
    /// `/app/{key}`, and `*` for what the pattern `/files/*` leaves open.
    ///
    /// ABI step 3; on an older host always `None`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::PARAMETER, name)
    }

    /// Returns the query of the request, not decoded and without `?`; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.field(abi::field::QUERY, "").unwrap_or_default()
    }

    /// Returns the first value of a query parameter, decoded as a form: `%20` and `+` are a space.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        query_value(self.query(), name)
    }

    /// Returns the first request header with this name, compared without case, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::HEADER, name)
    }

    /// Returns the authenticated user, as the resource's `auth` established it before
    /// [`open`](crate::Plugin::open).
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

    /// Returns the data that [`Host::set_data`](crate::Host::set_data) has stored with this
    /// connection; also in [`Plugin::close`](crate::Plugin::close).
    ///
    /// ABI step 3; on an older host always `None`.
    #[must_use]
    pub fn data(&self) -> Option<Vec<u8>> {
        let session_data = self.table.session_data()?;
        collect_bytes(|sink| session_data(self.raw.context, sink)).ok().flatten()
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

/// Returns the first value of a parameter of a query.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
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
