//! The listener of `[server.metrics]`: metrics and health checks over plain HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use super::{Format, exposition};
use crate::hub::{Hub, health};
use crate::net::listener::{Accepted, Listener};
use crate::protocol::http::{Head, HeadReader, Method, Refusal, dated, response, without_body};
use crate::protocol::time_limit::timeout;

/// Path of the health checks on this listener.
const HEALTH: &str = "/health";
/// More clients than scrapers and load balancers together have.
const MAX_CLIENTS: usize = 32;
/// For a request, and for its response.
const LIMIT: Duration = Duration::from_secs(5);
const MAX_HEAD: usize = 8 << 10;
/// After a failure to accept, which a shortage of file descriptors causes.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers requests until the host ends.
pub(crate) async fn serve(listener: Listener, hub: Arc<Hub>) {
    let mut clients = JoinSet::new();
    let mut warned = false;
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok(Accepted::Tcp(stream, ..)) => drop(clients.spawn(client(stream, hub.clone()))),
                Ok(Accepted::Unix(stream)) => drop(clients.spawn(client(stream, hub.clone()))),
                Err(error) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn!(%error, "cannot accept on the metrics listener; retrying");
                    }
                    sleep(PAUSE).await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn client<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, hub: Arc<Hub>) {
    let bytes = match timeout(LIMIT, read(&mut stream)).await {
        Ok(Ok(Some(head))) => answer(&head, &hub),
        Ok(Err(refusal)) => refusal.to_bytes(),
        Ok(Ok(None)) => return,
        Err(_) => Refusal::timed_out().to_bytes(),
    };
    let goodbye = async {
        stream.write_all(&dated(&bytes, SystemTime::now())).await?;
        stream.shutdown().await?;
        // Until the client has read it: an end with unread input could lose the response.
        tokio::io::copy(&mut stream.take(MAX_HEAD as u64), &mut tokio::io::sink()).await
    };
    // Best effort: the client may have left.
    drop(timeout(LIMIT, goodbye).await);
}

/// Reads one request; `None` if the client has left.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Head>, Refusal> {
    let (mut reader, mut buffer) = (HeadReader::new(MAX_HEAD), Vec::new());
    loop {
        if matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            return Ok(None);
        }
        if let Some((head, _)) = reader.read(&buffer)? {
            return Ok(Some(head));
        }
    }
}

fn answer(head: &Head, hub: &Arc<Hub>) -> Vec<u8> {
    if !matches!(head.method(), Method::Get | Method::Head) {
        return Refusal::method_not_allowed("GET, HEAD").to_bytes();
    }
    let bytes = match head.path() {
        "/metrics" => {
            let format = Format::negotiate(head.header("accept").unwrap_or_default());
            let page = exposition(hub, format);
            response(200, format.content_type(), page.as_bytes(), &[("Vary", "Accept")])
        }
        path => health::answer(path, HEALTH, hub).unwrap_or_else(|| {
            Refusal::not_found("this host has /metrics, /health/live and /health/ready here")
                .to_bytes()
        }),
    };
    if head.method() == Method::Head { without_body(bytes) } else { bytes }
}
