//! Asks an HTTP endpoint who a peer is.
//!
//! One call is one future: connecting, asking and reading end with it, and nothing of it runs by itself. Connections that
//! the endpoint keeps open are used again. What the answer means is `answer.rs`'.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::answer::{self, Answer};
use super::{Applicant, Denial, Login};
use crate::config::{CallMethod, Callback, EndpointPlace};
use crate::error::chain;
use crate::fs::blocking::run_blocking;

/// An endpoint and the calls to it.
#[derive(Debug)]
pub(super) struct AuthEndpoint {
    settings: Callback,
    /// Calls at once. A name that is being looked up keeps its place for as long as the system's resolver takes, whoever
    /// still waits for it: so a resolver that hangs never holds more threads than there are places.
    places: Arc<Semaphore>,
    idle: Mutex<Vec<PooledConnection>>,
    /// Whether the last call failed: the first failure and the end of them are logged, not each.
    is_failing: AtomicBool,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("it did not answer within {0:?}")]
    Late(std::time::Duration),
    #[error("cannot connect to it")]
    Connect(#[source] io::Error),
    #[error("its name cannot be looked up")]
    Lookup(#[source] io::Error),
    #[error("the exchange with it failed")]
    Exchange(#[source] hyper::Error),
    #[error("the body of its answer cannot be read, or is longer than max_response")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    #[error("{0}")]
    Answer(String),
}

trait Socket: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Socket for S {}

type Body = Empty<Bytes>;
type Driver = Connection<TokioIo<Box<dyn Socket>>, Body>;

/// A connection to the endpoint. It moves only while a call drives it.
#[derive(Debug)]
struct PooledConnection {
    sender: SendRequest<Body>,
    /// None once it has ended.
    driver: Option<Pin<Box<Driver>>>,
}

impl AuthEndpoint {
    pub(super) fn new(settings: &Callback) -> Self {
        Self {
            settings: settings.clone(),
            places: Arc::new(Semaphore::new(settings.max_calls)),
            idle: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Who it is.
    ///
    /// # Errors
    /// The endpoint refuses, or cannot be asked.
    pub(super) async fn ask(&self, applicant: &Applicant<'_>) -> Result<Login, Denial> {
        let limit = self.settings.timeout;
        let called =
            timeout(limit, self.call(applicant)).await.unwrap_or(Err(CallError::Late(limit)));
        let resource = applicant.head.path();
        match called {
            Ok(judged) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    info!(resource, "the endpoint for authentication answers again");
                }
                judged
            }
            Err(error) => {
                let reason = chain(&error);
                if self.is_failing.swap(true, Ordering::Relaxed) {
                    debug!(resource, reason, "the endpoint for authentication still fails");
                } else {
                    let endpoint = &self.settings.url.authority;
                    warn!(
                        resource,
                        endpoint, reason, "the endpoint for authentication fails; nobody is let in"
                    );
                }
                Err(Denial::unavailable())
            }
        }
    }

    async fn call(&self, applicant: &Applicant<'_>) -> Result<Result<Login, Denial>, CallError> {
        let mut place = self.place().await;
        loop {
            let kept = self.idle().pop();
            let is_kept = kept.is_some();
            let mut line = match kept {
                Some(line) => line,
                None => {
                    let (line, kept_place) = self.connect(place).await?;
                    place = kept_place;
                    line
                }
            };
            match line.exchange(self.request(applicant)?, self.settings.max_response).await {
                Ok((parts, body, is_open)) => {
                    if is_open {
                        self.keep(line);
                    }
                    drop(place);
                    return understand(&parts, &body).map_err(CallError::Answer);
                }
                // The endpoint may have ended it meanwhile: that says nothing about the next one.
                Err(CallError::Exchange(_)) if is_kept => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        self.places.clone().acquire_owned().await.expect("it is never closed")
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PooledConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, line: PooledConnection) {
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(line);
        }
    }

    async fn connect(
        &self,
        place: OwnedSemaphorePermit,
    ) -> Result<(PooledConnection, OwnedSemaphorePermit), CallError> {
        let (socket, place): (Box<dyn Socket>, _) = match &self.settings.url.place {
            EndpointPlace::Unix(path) => {
                (Box::new(UnixStream::connect(path).await.map_err(CallError::Connect)?), place)
            }
            EndpointPlace::Tcp(host, port) => {
                let (found, place) = match host.parse::<IpAddr>() {
                    Ok(ip) => (vec![SocketAddr::from((ip, *port))], place),
                    Err(_) => {
                        let name = (host.clone(), *port);
                        let lookup = move || name.to_socket_addrs().map(Iterator::collect);
                        look_up(place, lookup).await?
                    }
                };
                let stream = TcpStream::connect(&*found).await.map_err(CallError::Connect)?;
                // The request is one write; an option that cannot be set costs time only.
                drop(stream.set_nodelay(true));
                (Box::new(stream), place)
            }
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER_HEAD)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(CallError::Exchange)?;
        Ok((PooledConnection { sender, driver: Some(Box::pin(driver)) }, place))
    }

    fn request(&self, applicant: &Applicant<'_>) -> Result<Request<Body>, CallError> {
        let Applicant { head, address, .. } = applicant;
        let Callback { url, method, forward_headers, .. } = &self.settings;
        let method = match method {
            CallMethod::Get => "GET",
            CallMethod::Post => "POST",
        };
        let query = if head.query().is_empty() { "" } else { "?" };
        let original = format!("{}{query}{}", head.path(), head.query());
        let mut request = Request::builder()
            .method(method)
            .uri(&url.target)
            .header(HOST, &url.authority)
            .header("X-Original-URI", original)
            .body(Body::new())
            .map_err(CallError::Request)?;
        let headers = request.headers_mut();
        if *address != "unix"
            && let Ok(address) = HeaderValue::from_str(address)
        {
            headers.insert("x-forwarded-for", address);
        }
        // RFC 9110 section 7.6.1: what Connection names is meant for this one connection.
        let is_hop = |name: &str| {
            head.texts("connection")
                .any(|line| line.split(',').any(|option| option.trim().eq_ignore_ascii_case(name)))
        };
        for name in forward_headers.iter().filter(|name| !is_hop(name)) {
            let lines = head.headers().filter(|(found, _)| found.eq_ignore_ascii_case(name));
            for (_, value) in lines {
                if let (Ok(name), Ok(value)) =
                    (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
                {
                    headers.append(name, value);
                }
            }
        }
        Ok(request)
    }
}

/// The system's resolver blocks, and cannot be told to stop: `place` is given back when it returns.
async fn look_up(
    place: OwnedSemaphorePermit,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<(Vec<SocketAddr>, OwnedSemaphorePermit), CallError> {
    let (found, place) =
        run_blocking(move || (lookup(), place)).await.map_err(CallError::Lookup)?;
    Ok((found.map_err(CallError::Lookup)?, place))
}

impl PooledConnection {
    /// One request and its answer; whether another may follow.
    async fn exchange(
        &mut self,
        request: Request<Body>,
        max_body: usize,
    ) -> Result<(Parts, Bytes, bool), CallError> {
        let Self { sender, driver } = self;
        let mut talk = pin!(async {
            sender.ready().await.map_err(CallError::Exchange)?;
            let response = sender.send_request(request).await.map_err(CallError::Exchange)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, max_body).collect().await.map_err(CallError::Body)?;
            Ok((parts, body.to_bytes()))
        });
        let (parts, body) = loop {
            tokio::select! {
                biased;
                done = &mut talk => break done?,
                () = drive(driver) => {}
            }
        };
        let is_open = driver.is_some();
        let closes = parts.headers.get(CONNECTION).is_some_and(|value| value != "keep-alive");
        Ok((parts.clone(), body, is_open && !closes && parts.version == Version::HTTP_11))
    }
}

/// Moves a connection until it ends. What it brought by then is still to be read; what it owes is an error only once it is
/// dropped.
async fn drive(driver: &mut Option<Pin<Box<Driver>>>) {
    match driver {
        Some(moving) => {
            // An error of it is one of the exchange, too.
            drop(moving.as_mut().await);
            *driver = None;
        }
        None => std::future::pending().await,
    }
}

fn understand(parts: &Parts, body: &[u8]) -> Result<Result<Login, Denial>, String> {
    let text =
        |value: &'_ HeaderValue| std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned);
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(text).unwrap_or_default();
    let users: Vec<_> = parts.headers.get_all("x-user").iter().map(HeaderValue::as_bytes).collect();
    answer::judge(&Answer {
        status: parts.status,
        content_type: &content_type.to_ascii_lowercase(),
        users: &users,
        body,
    })
}

/// Connections that are kept open.
const MAX_IDLE: usize = 8;
/// Bytes of an answer's head.
const MAX_ANSWER_HEAD: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_resolver_that_hangs_keeps_its_place_and_nobody_waiting() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().acquire_owned().await.unwrap();
        let (wake, hang) = std::sync::mpsc::channel::<()>();
        let lookup = look_up(place, move || {
            let _woken = hang.recv();
            Ok(Vec::new())
        });
        assert!(timeout(Duration::from_millis(20), lookup).await.is_err());
        // The one who asked has gone; the next does not start another thread.
        assert_eq!(places.available_permits(), 0);
        drop(wake);
        let freed = timeout(Duration::from_secs(10), places.acquire()).await;
        assert!(freed.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_name_that_is_not_known_is_an_error() {
        let place = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let failed = look_up(place, || Err(io::Error::other("no such name"))).await;
        assert!(matches!(failed, Err(CallError::Lookup(_))));
    }
}
