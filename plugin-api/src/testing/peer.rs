//! Simulated clients: [`Peer`].

use crate::types::Kind;

/// A simulated client, to be passed to [`Harness::open`](super::Harness::open).
#[derive(Clone, Debug)]
pub struct Peer {
    pub(super) kind: Kind,
    pub(super) uuid: String,
    pub(super) ident: Option<String>,
    pub(super) address: String,
    pub(super) resource: String,
    pub(super) path: Option<String>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) user: Option<String>,
    pub(super) claims: Option<String>,
    pub(super) is_slow: bool,
}

impl Peer {
    /// Creates a browser with the address 192.0.2.1, on the resource `/test`.
    #[must_use]
    pub fn websocket() -> Self {
        Self {
            kind: Kind::WebSocket,
            uuid: String::new(),
            ident: None,
            address: "192.0.2.1".to_owned(),
            resource: "/test".to_owned(),
            path: None,
            parameters: Vec::new(),
            query: String::new(),
            headers: Vec::new(),
            user: None,
            claims: None,
            is_slow: false,
        }
    }

    /// Creates a script of the operator ([`Kind::Backend`]) with the address 127.0.0.1.
    #[must_use]
    pub fn backend() -> Self {
        Self { kind: Kind::Backend, address: "127.0.0.1".to_owned(), ..Self::websocket() }
    }

    /// Creates a script of the operator on plain TCP ([`Kind::Tcp`]) with the address 127.0.0.1.
    #[must_use]
    pub fn tcp() -> Self {
        Self { kind: Kind::Tcp, ..Self::backend() }
    }

    /// Sets the query of the request, without `?`.
    #[must_use]
    pub fn query(self, query: &str) -> Self {
        Self { query: query.to_owned(), ..self }
    }

    /// Sets the announced `Ident`.
    #[must_use]
    pub fn ident(self, ident: &str) -> Self {
        Self { ident: Some(ident.to_owned()), ..self }
    }

    /// Sets the address.
    #[must_use]
    pub fn address(self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self }
    }

    /// Sets the key of the resource in `plugins.toml`, which may be a pattern such as `/app/{key}`.
    #[must_use]
    pub fn resource(self, resource: &str) -> Self {
        Self { resource: resource.to_owned(), ..self }
    }

    /// Sets the path of the request; by default it is the resource.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    /// Sets the value of a part of the path: see [`Session::parameter`](crate::Session::parameter).
    #[must_use]
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the authenticated user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        Self { user: Some(user.to_owned()), ..self }
    }

    /// Sets the claims of the authenticated user, as JSON text.
    #[must_use]
    pub fn claims(self, claims: &str) -> Self {
        Self { claims: Some(claims.to_owned()), ..self }
    }

    /// Adds a header to the request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the client one that does not read: see [`Harness::slow`](super::Harness::slow).
    #[must_use]
    pub fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }
}

/// Returns the value with this name.
pub(super) fn value_of(
    pairs: &[(String, String)],
    is_named: impl Fn(&str) -> bool,
) -> Option<&str> {
    pairs.iter().find(|(name, _)| is_named(name)).map(|(_, value)| value.as_str())
}
