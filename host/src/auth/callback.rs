//! HTTP client of an authentication endpoint. [`answer`] interprets the responses.
//!
//! One call is one future: dropping it ends its connection attempt and exchange, and no task is
//! spawned. Connections are pooled. hyper-util's pooled client is not used, as it drives
//! connections in spawned tasks that outlive a call that timed out.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use http::response::Parts;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tracing::{debug, info, warn};

use super::answer::{self, Answer};
use super::{Applicant, Denial, Login};
use crate::config::{CallMethod, CallbackRules, EndpointPlace};
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::protocol::close::RETRY_AFTER;
use crate::protocol::http::Refusal;
use crate::protocol::time_limit::timeout;

/// An endpoint, its pooled connections and its concurrent calls.
#[derive(Debug)]
pub(super) struct AuthEndpoint {
    settings: CallbackRules,
    /// Limits concurrent calls. A name lookup holds its permit until the system's resolver returns,
    /// even after the call was dropped, so a hanging resolver cannot hold more threads than that.
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<PooledConnection>>,
    /// Whether the last call failed: only the first failure and the recovery are logged.
    is_failing: AtomicBool,
}

/// Reason why a call failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no response within {0:?}")]
    Timeout(std::time::Duration),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("name lookup failed")]
    Lookup(#[source] io::Error),
    #[error("the HTTP exchange failed")]
    Exchange(#[from] hyper::Error),
    #[error("the response body cannot be read, or is longer than max_response")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request cannot be built")]
    Request(#[from] http::Error),
    #[error("{0}")]
    Answer(String),
}

/// Shared by a call and its name lookup; the last of them releases it.
type Permit = Arc<OwnedSemaphorePermit>;
type RequestBody = Empty<Bytes>;
type Socket = TokioIo<Either<TcpStream, UnixStream>>;

/// Connection to the endpoint, driven only during a call.
#[derive(Debug)]
struct PooledConnection {
    sender: SendRequest<RequestBody>,
    driver: Fuse<Connection<Socket, RequestBody>>,
}

impl AuthEndpoint {
    pub(super) fn new(settings: &CallbackRules) -> Self {
        Self {
            settings: settings.clone(),
            permits: Arc::new(Semaphore::new(settings.max_calls)),
            idle: Mutex::default(),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Authenticates a client.
    ///
    /// # Errors
    /// The endpoint refuses the client, or the call failed.
    pub(super) async fn authenticate(&self, applicant: &Applicant<'_>) -> Result<Login, Denial> {
        let limit = self.settings.timeout;
        let called =
            timeout(limit, self.call(applicant)).await.unwrap_or(Err(CallError::Timeout(limit)));
        let resource = applicant.resource;
        match called {
            Ok(decision) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    info!(resource, "authentication endpoint recovered");
                }
                decision
            }
            Err(error) => {
                let reason = chain(&error);
                if self.is_failing.swap(true, Ordering::Relaxed) {
                    debug!(resource, reason, "authentication endpoint still fails");
                } else {
                    let endpoint = &self.settings.url.authority;
                    warn!(
                        resource,
                        endpoint, reason, "authentication endpoint failed; clients are refused"
                    );
                }
                let refusal = Refusal::unavailable("authentication is unavailable", RETRY_AFTER);
                Err(Denial { retry_after: Some(RETRY_AFTER), ..refusal.into() })
            }
        }
    }

    async fn call(&self, applicant: &Applicant<'_>) -> Result<Result<Login, Denial>, CallError> {
        let acquired = self.permits.clone().acquire_owned().await;
        let permit = Arc::new(acquired.expect("the semaphore is never closed"));
        loop {
            let pooled = self.idle().pop();
            let is_pooled = pooled.is_some();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => self.connect(&permit).await?,
            };
            match connection.exchange(self.request(applicant)?, self.settings.max_response).await {
                Ok((parts, body, is_open)) => {
                    let decision = interpret(&parts, &body).map_err(CallError::Answer);
                    let mut idle = self.idle();
                    if is_open && idle.len() < MAX_IDLE {
                        idle.push(connection);
                    }
                    return decision;
                }
                // The endpoint may have closed it while it was idle: try the next one.
                Err(CallError::Exchange(_)) if is_pooled => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PooledConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, permit: &Permit) -> Result<PooledConnection, CallError> {
        let socket = match &self.settings.url.place {
            EndpointPlace::Unix(path) => {
                Either::Right(UnixStream::connect(path).await.map_err(CallError::Connect)?)
            }
            EndpointPlace::Tcp(host, port) => {
                let found = match host.parse::<IpAddr>() {
                    Ok(ip) => vec![SocketAddr::from((ip, *port))],
                    Err(_) => {
                        let name = (host.clone(), *port);
                        let lookup = move || name.to_socket_addrs().map(Iterator::collect);
                        look_up(permit, lookup).await?
                    }
                };
                let stream = TcpStream::connect(&*found).await.map_err(CallError::Connect)?;
                // Without the option, the request is only slower.
                drop(stream.set_nodelay(true));
                Either::Left(stream)
            }
        };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER_HEAD)
            .handshake(TokioIo::new(socket))
            .await?;
        Ok(PooledConnection { sender, driver: driver.fuse() })
    }

    fn request(&self, applicant: &Applicant<'_>) -> Result<Request<RequestBody>, CallError> {
        let Applicant { head, address, .. } = applicant;
        let CallbackRules { url, method, forward_headers, .. } = &self.settings;
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
            .body(RequestBody::new())?;
        let headers = request.headers_mut();
        if *address != "unix"
            && let Ok(address) = HeaderValue::from_str(address)
        {
            headers.insert("x-forwarded-for", address);
        }
        // RFC 9110 section 7.6.1: headers that Connection names are not forwarded.
        let is_hop = |name: &str| {
            head.texts("connection")
                .any(|line| line.split(',').any(|option| option.trim().eq_ignore_ascii_case(name)))
        };
        for name in forward_headers.iter().filter(|name| !is_hop(name)) {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            let lines = head.headers().filter(|(found, _)| name == *found);
            for value in lines.filter_map(|(_, value)| HeaderValue::from_bytes(value).ok()) {
                headers.append(&name, value);
            }
        }
        Ok(request)
    }
}

/// The system's resolver blocks and cannot be cancelled: it holds the permit until it returns.
async fn look_up(
    permit: &Permit,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, CallError> {
    let permit = permit.clone();
    let lookup = move || {
        let _held = permit;
        lookup()
    };
    run_blocking(lookup).await.flatten().map_err(CallError::Lookup)
}

impl PooledConnection {
    /// Sends one request; returns the response and whether the connection can be reused.
    async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        max_body: usize,
    ) -> Result<(Parts, Bytes, bool), CallError> {
        let Self { sender, driver } = self;
        let exchange = async {
            sender.ready().await?;
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, max_body).collect().await.map_err(CallError::Body)?;
            Ok::<_, CallError>((parts, body.to_bytes()))
        };
        // After the end of the connection, the response can still be read from its buffers. The
        // exchange returns the error of the connection, too.
        let end = async {
            drop((&mut *driver).await);
            std::future::pending().await
        };
        let (parts, body) = tokio::select! {
            biased;
            done = exchange => done?,
            never = end => never,
        };
        let closes = parts.headers.get(CONNECTION).is_some_and(|value| value != "keep-alive");
        let is_open = !driver.is_terminated() && !closes && parts.version == Version::HTTP_11;
        Ok((parts, body, is_open))
    }
}

fn interpret(parts: &Parts, body: &[u8]) -> Result<Result<Login, Denial>, String> {
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let users: Vec<_> = parts.headers.get_all("x-user").iter().map(HeaderValue::as_bytes).collect();
    answer::interpret(&Answer {
        status: parts.status,
        content_type: &str::from_utf8(content_type).unwrap_or_default().to_ascii_lowercase(),
        users: &users,
        body,
    })
}

/// Size of the pool.
const MAX_IDLE: usize = 8;
/// Bytes of a response head.
const MAX_ANSWER_HEAD: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_hanging_resolver_keeps_its_permit_but_not_the_caller() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::new(permits.clone().acquire_owned().await.unwrap());
        let (wake, hang) = std::sync::mpsc::channel::<()>();
        let lookup = look_up(&permit, move || {
            let _woken = hang.recv();
            Ok(Vec::new())
        });
        assert!(timeout(Duration::from_millis(20), lookup).await.is_err());
        drop(permit);
        // The next call cannot start another thread.
        assert_eq!(permits.available_permits(), 0);
        drop(wake);
        let freed = timeout(Duration::from_secs(10), permits.acquire()).await;
        assert!(freed.unwrap().is_ok());
    }

    #[tokio::test]
    async fn an_unknown_name_is_an_error() {
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let permit = Arc::new(permit);
        let failed = look_up(&permit, || Err(io::Error::other("no such name"))).await;
        assert!(matches!(failed, Err(CallError::Lookup(_))));
    }
}
