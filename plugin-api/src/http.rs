//! Plain HTTP requests: [`Request`], [`Response`] and the later answer, [`Responder`].

use std::cell::Cell;

use crate::Kind;
use crate::abi::{self, HostRef, RawPair, RawRequest, RawResponse};
use crate::host::{check, collect_texts};
use crate::session::query_value;
use crate::types::HostError;

/// A plain HTTP request, borrowed for one call of [`Plugin::request`](crate::Plugin::request).
pub struct Request<'a> {
    raw: RawRequest<'a>,
    host: HostRef,
    is_taken: Cell<bool>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(raw: RawRequest<'a>, host: HostRef) -> Self {
        Self { raw, host, is_taken: Cell::new(false) }
    }

    /// Returns the method as the client sent it: `GET`, `POST`, … A `HEAD` is a `GET` here; the host sends
    /// the response without its body.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.raw.method.as_str()
    }

    /// Returns the path of the request, not decoded.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.field(abi::field::PATH, "").unwrap_or_default()
    }

    /// Returns the key of the resource in `plugins.toml`, for example `/app/{key}`.
    #[must_use]
    pub fn resource(&self) -> &'a str {
        self.field(abi::field::RESOURCE, "").unwrap_or_default()
    }

    /// Returns the part of the path that the pattern of the resource names, decoded: see
    /// [`Session::parameter`](crate::Session::parameter).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::PARAMETER, name)
    }

    /// Returns the query, not decoded and without `?`; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.field(abi::field::QUERY, "").unwrap_or_default()
    }

    /// Returns the first value of a query parameter, decoded as a form.
    #[must_use]
    pub fn query_value(&self, name: &str) -> Option<String> {
        query_value(self.query(), name)
    }

    /// Returns the first header with this name, compared without case, if it is UTF-8.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.field(abi::field::HEADER, name)
    }

    /// Returns all headers in their order, the names in lower case.
    #[must_use]
    pub fn headers(&self) -> Vec<(String, String)> {
        let texts = collect_texts(|sink| {
            (self.raw.headers)(self.raw.context, sink);
            abi::status::OK
        });
        let mut texts = texts.unwrap_or_default().into_iter();
        std::iter::from_fn(|| Some((texts.next()?, texts.next()?))).collect()
    }

    /// Returns the body; at most `max_message` bytes (16 MiB by default).
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.raw.body.as_slice()
    }

    /// Returns the client's IP address as text, without a port.
    #[must_use]
    pub fn address(&self) -> &'a str {
        self.field(abi::field::ADDRESS, "").unwrap_or_default()
    }

    /// Returns [`Kind::Backend`] for a script of the operator (`allowed_ips` or a client
    /// certificate), otherwise [`Kind::WebSocket`]: any client.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.raw.kind == abi::kind::BACKEND { Kind::Backend } else { Kind::WebSocket }
    }

    /// Returns the authenticated user, as [`Session::user`](crate::Session::user) does.
    #[must_use]
    pub fn user(&self) -> Option<&'a str> {
        self.field(abi::field::USER, "")
    }

    /// Returns the claims of the authenticated user, as [`Session::claims`](crate::Session::claims)
    /// does.
    #[must_use]
    pub fn claims(&self) -> Option<&'a str> {
        self.field(abi::field::CLAIMS, "")
    }

    /// Returns what answers the request later, from any thread; return [`Response::later`] then.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # struct Files;
    /// # impl Plugin for Files {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// fn request(&mut self, request: &Request<'_>) -> Response {
    ///     let responder = request.responder();
    ///     std::thread::spawn(move || {
    ///         // A database query.
    ///         let _ = responder.respond(&Response::text(200, "the answer"));
    ///     });
    ///     Response::later()
    /// }
    /// # }
    /// ```
    pub fn responder(&self) -> Responder {
        self.is_taken.set(true);
        Responder { host: self.host, ticket: Some(self.raw.ticket) }
    }

    /// Gives the host the result of `Plugin::request`.
    pub(crate) fn answer(&self, response: &Response) {
        let is_later = response.status == Response::LATER;
        if is_later && self.is_taken.get() {
            return;
        }
        let mut responder = Responder { host: self.host, ticket: Some(self.raw.ticket) };
        // Fails if the request has ended, or if a responder was faster. Without a response the
        // responder reports a failure.
        if !is_later {
            responder.send(response).ok();
        }
    }

    fn field(&self, field: u32, name: &str) -> Option<&'a str> {
        (self.raw.field)(self.raw.context, field, name.into())
            .into_option()
            .map(|text| text.as_str())
    }
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// Not a status of HTTP: a [`Responder`] answers.
    const LATER: u16 = u16::MAX;
    const UNHANDLED: u16 = 0;

    /// Creates a response with this status, 200 to 599, without headers and body.
    ///
    /// The host replaces a status outside of this range by 500.
    pub fn new(status: u16) -> Self {
        let status = if (200..600).contains(&status) { status } else { 500 };
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Creates a response with a text (`text/plain; charset=utf-8`).
    pub fn text(status: u16, text: &str) -> Self {
        Self::new(status).header("Content-Type", "text/plain; charset=utf-8").body(text)
    }

    /// Creates a response with a value as JSON (`application/json`); 500 if it cannot be JSON.
    #[cfg(feature = "serde")]
    pub fn json<T: serde::Serialize + ?Sized>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => Self::new(status).header("Content-Type", "application/json").body(json),
            Err(error) => Self::text(500, &format!("the answer cannot be JSON: {error}")),
        }
    }

    /// Adds a header.
    ///
    /// The host itself sends `Content-Length`, `Connection`, `Date` and `Transfer-Encoding`, and
    /// drops these and headers that are not valid (RFC 9110 section 5).
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body: at most `max_message` plus 4 MiB, otherwise the host answers 500.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Leaves the request to the host, as if the application had no `request`: a POST is one message
    /// of a script, a GET without an upgrade is answered 400, and other methods 405.
    pub fn unhandled() -> Self {
        Self { status: Self::UNHANDLED, headers: Vec::new(), body: Vec::new() }
    }

    /// Lets a [`Responder`] answer, which was taken from the [`Request`]. Otherwise the host answers
    /// 500.
    pub fn later() -> Self {
        Self { status: Self::LATER, headers: Vec::new(), body: Vec::new() }
    }
}

/// Answers a [`Request`] later, from any thread. The host answers 500 if it is dropped, and 503
/// after `callback_limit` (30 s by default).
#[must_use = "a dropped responder answers 500"]
pub struct Responder {
    host: HostRef,
    /// `None` once it has answered.
    ticket: Option<u64>,
}

impl Responder {
    /// Answers the request.
    ///
    /// # Errors
    /// [`HostError::Gone`] if the client has left or the request has expired;
    /// [`HostError::TooLarge`], after which the host answers 500; [`HostError::Invalid`] for
    /// [`Response::later`].
    pub fn respond(mut self, response: &Response) -> Result<(), HostError> {
        if response.status == Response::LATER {
            return Err(HostError::Invalid);
        }
        self.send(response)
    }

    fn send(&mut self, response: &Response) -> Result<(), HostError> {
        let headers: Vec<RawPair<'_>> = response
            .headers
            .iter()
            .map(|(name, value)| RawPair {
                name: name.as_str().into(),
                value: value.as_str().into(),
            })
            .collect();
        let raw = RawResponse {
            status: response.status,
            headers: headers.as_slice().into(),
            body: response.body.as_slice().into(),
        };
        let sent = self.send_raw(raw);
        if sent.is_ok() {
            self.ticket = None;
        }
        sent
    }

    fn send_raw(&self, raw: RawResponse<'_>) -> Result<(), HostError> {
        let ticket = self.ticket.ok_or(HostError::Gone)?;
        let respond = self.host.table.respond().ok_or(HostError::Unsupported)?;
        check(respond(self.host.context, ticket, raw))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            let raw = RawResponse {
                status: 500,
                headers: [].as_slice().into(),
                body: [].as_slice().into(),
            };
            self.send_raw(raw).ok();
        }
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("ticket", &self.ticket).finish()
    }
}
