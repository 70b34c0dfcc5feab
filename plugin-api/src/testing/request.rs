//! Plain HTTP requests of a test: [`TestRequest`], [`Answer`] and [`TestResponse`].

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::simulated_host::{Answered, Slot, raw_request};
use crate::abi::RawResponse;
use crate::types::Kind;
use crate::{Plugin, Request};

/// A plain HTTP request, to be passed to [`Harness::request`].
#[derive(Clone, Debug)]
pub struct TestRequest {
    pub(super) kind: Kind,
    pub(super) method: String,
    pub(super) resource: String,
    pub(super) path: String,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) query: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) address: String,
    pub(super) user: Option<String>,
    pub(super) claims: Option<String>,
}

impl TestRequest {
    /// Creates a request of a browser with the address 192.0.2.1. `target` is a path, and a query
    /// after `?`; the resource is `/test`.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            kind: Kind::WebSocket,
            method: method.to_owned(),
            resource: "/test".to_owned(),
            path: path.to_owned(),
            parameters: Vec::new(),
            query: query.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            address: "192.0.2.1".to_owned(),
            user: None,
            claims: None,
        }
    }

    /// Creates a GET request: see [`new`](Self::new).
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// Creates a POST request: see [`new`](Self::new).
    #[must_use]
    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the key of the resource in `plugins.toml`.
    #[must_use]
    pub fn resource(self, resource: &str) -> Self {
        Self { resource: resource.to_owned(), ..self }
    }

    /// Sets the value of a part of the path: see [`Request::parameter`].
    #[must_use]
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the address of the client.
    #[must_use]
    pub fn address(self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self }
    }

    /// Makes the client a script of the operator ([`Kind::Backend`]) with the address 127.0.0.1.
    #[must_use]
    pub fn backend(self) -> Self {
        Self { kind: Kind::Backend, address: "127.0.0.1".to_owned(), ..self }
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
}

/// The answer to a [`TestRequest`], which may come later.
#[derive(Clone, Debug)]
pub struct Answer {
    slot: Arc<Slot>,
}

impl Answer {
    /// Returns the response, or `None` if there is none yet and if the application has left the
    /// request to the host.
    #[must_use]
    pub fn response(&self) -> Option<TestResponse> {
        response(self.slot.get())
    }

    /// Waits up to `limit`, in real time, for the response of a thread of the application. Returns
    /// `None` as [`response`](Self::response) does.
    ///
    /// An answer that is given in [`Plugin::event`] needs [`Harness::run_until`] instead.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<TestResponse> {
        response(self.slot.wait(limit))
    }

    /// Returns whether the application has left the request to the host
    /// ([`Response::unhandled`](crate::Response::unhandled)).
    #[must_use]
    pub fn is_unhandled(&self) -> bool {
        matches!(self.slot.get(), Answered::Unhandled)
    }

    /// Closes the client's connection: a later answer fails with
    /// [`HostError::Gone`](crate::HostError::Gone).
    pub fn leave(&self) {
        self.slot.set(Answered::Left);
    }
}

fn response(answered: Answered) -> Option<TestResponse> {
    match answered {
        Answered::Response(response) => Some(response),
        Answered::Not | Answered::Unhandled | Answered::Left => None,
    }
}

/// A response, as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestResponse {
    /// The status, for example 200.
    pub status: u16,
    /// The headers of the application, without those that the host drops.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl TestResponse {
    /// Returns the first header with this name, compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        super::peer::value_of(&self.headers, |key| key.eq_ignore_ascii_case(name))
    }

    /// Returns the body as text. Invalid UTF-8 is replaced by U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Creates a response of the host itself.
    pub(super) fn of_host(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Creates what the host sends.
    pub(super) fn sent(raw: &RawResponse<'_>) -> Self {
        let status = if (200..600).contains(&raw.status) { raw.status } else { 500 };
        let headers = raw.headers.iter().map(|pair| (pair.name.as_str(), pair.value.as_str()));
        let headers = headers.filter(|(name, value)| is_sent(name, value));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, headers, body: raw.body.to_vec() }
    }
}

/// Returns whether the host sends a header of an application (RFC 9110 section 5).
fn is_sent(name: &str, value: &str) -> bool {
    const OF_HOST: [&str; 4] = ["content-length", "connection", "date", "transfer-encoding"];
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty()
        && name.bytes().all(is_token)
        && value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
        && value.trim_matches([' ', '\t']) == value
        && !OF_HOST.iter().any(|own| own.eq_ignore_ascii_case(name))
}

impl<P: Plugin> Harness<P> {
    /// Sends a plain HTTP request; calls [`Plugin::request`] if [`Plugin::HTTP`] is set.
    ///
    /// Otherwise, and on a host before ABI step 3, the answer is unhandled. A body above
    /// `max_message` is answered with 413, a panic (see [`expect_panics`](Self::expect_panics)) with
    /// 500.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, TestRequest};
    /// # use plugsocket_plugin::*;
    /// # struct Hall { seats: u32 }
    /// # impl Plugin for Hall {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self { seats: 12 }) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// #   const HTTP: bool = true;
    /// #   fn request(&mut self, request: &Request<'_>) -> Response {
    /// #       match request.query_value("row") {
    /// #           Some(row) => Response::text(200, &format!("row {row}: {} seats", self.seats)),
    /// #           None => Response::unhandled(),
    /// #       }
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<Hall>::start("{}").unwrap();
    /// let response = app.request(TestRequest::get("/test?row=3")).response().unwrap();
    /// assert_eq!((response.status, response.text().as_str()), (200, "row 3: 12 seats"));
    /// assert!(app.request(TestRequest::post("/test").body("x")).is_unhandled());
    /// ```
    pub fn request(&mut self, request: TestRequest) -> Answer {
        let answer = Answer { slot: Arc::default() };
        let max_message = self.lease.host.lock().limits.max_message;
        if !P::HTTP || self.step() < 3 {
            answer.slot.set(Answered::Unhandled);
        } else if request.body.len() > max_message {
            answer.slot.set(Answered::Response(TestResponse::of_host(413)));
        } else {
            // Leaked: a test process ends soon.
            let request: &'static TestRequest = Box::leak(Box::new(request));
            let number = self.lease.host.lock().admit_request(answer.slot.clone());
            let host = self.lease.raw;
            let called = self.call(|plugin| {
                let request = Request::new(raw_request(number, request), host);
                let response = plugin.request(&request);
                request.answer(&response);
            });
            if called.is_err() {
                self.lease.host.lock().fail_request(number);
            }
            self.settle();
        }
        answer
    }
}
