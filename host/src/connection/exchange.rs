//! HTTP exchanges: a POST with a message, or a plain request. The connection may stay open for the
//! next one (RFC 9112 section 9.3).

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use plugsocket_plugin::Kind;
use tracing::Instrument;

use super::Socket;
use super::admit::{Admission, Request, Step, connection_span, new_peer};
use super::handshake::{Handshake, Intent, host_intent};
use super::http_post::{self, ErrorResponse, PostRequest, Received, Reply};
use super::http_request::{Exchange, Outcome, ask};
use super::reject::{CloseTimeouts, answer, write_response};
use crate::auth::Pass;
use crate::config::Config;
use crate::hub::Hub;
use crate::net::origin::Origin;
use crate::protocol::buffered::PostsFull;
use crate::protocol::close::{BUFFERS_FULL, RETRY_AFTER};
use crate::protocol::http::{self, BodyEnd, Method, Refusal};
use crate::routing::peer::Client;
use crate::routing::requests::{HttpRequest, Wait};

/// Serves one exchange, whose body ends at `end`.
pub(super) async fn serve<S: Socket>(
    mut stream: S,
    handshake: Handshake,
    end: BodyEnd,
    admission: Admission,
    hub: &Hub,
) -> Step<S> {
    // Read again: the resource was found in the current configuration.
    let config = hub.config.load_full();
    let Handshake { head, origin, read, intent, .. } = handshake;
    let form = Form {
        wants_keep_alive: http::wants_keep_alive(&head),
        is_head: head.method() == Method::Head,
    };
    let answered = match http_post::receive(&mut stream, &head, read, end, &config).await {
        Err(refusal) => Err(refusal.into()),
        Ok(received) => {
            let Pass { login, .. } = &admission.pass;
            let client = Client {
                address: origin.to_text(),
                head,
                login: login.clone(),
                may_announce: origin.may_be_backend(&config.server.access),
            };
            let work = Work { received, origin, admission: &admission, hub, config: &config };
            match intent {
                Intent::Request { .. } => match work.request(&mut stream, client).await {
                    Some(answered) => answered,
                    None => return Break(None),
                },
                _ => work.post(client).await,
            }
        }
    };
    // From here on the connection counts as a handshaking one, or no longer.
    drop(admission);
    respond(stream, answered, form, hub, &config).await
}

/// How a request wants its response.
struct Form {
    wants_keep_alive: bool,
    is_head: bool,
}

/// A request whose body was read.
struct Work<'a> {
    received: Received,
    origin: Origin,
    admission: &'a Admission,
    hub: &'a Hub,
    config: &'a Config,
}

impl Work<'_> {
    /// Delivers the body as the message of a backend.
    async fn post(self, client: Client) -> Result<Reply, ErrorResponse> {
        let Self { received, admission, hub, config, .. } = self;
        // The response consists of dialog packets, also where the resource has no dialog.
        let peer = new_peer(client, Kind::Backend, true, &admission.resource, hub);
        let span = connection_span(&peer);
        let request = PostRequest { received, inbox: admission.inbox.clone() };
        let entry = hub.registry.enter(peer);
        http_post::serve(request, entry, config).instrument(span).await
    }

    /// Lets the application answer; `None` if the client has left.
    async fn request(
        mut self,
        stream: &mut impl Socket,
        client: Client,
    ) -> Option<Result<Reply, ErrorResponse>> {
        let (admission, settings) = (self.admission, &self.config.server);
        let max_answer = settings.limits.messages.max_message.saturating_add(ANSWER_EXTRA);
        let (wait, ticket) = Wait::begin(&admission.resource, max_answer);
        let (kind, body) = (admission.kind, self.received.body.clone());
        let _share = std::mem::take(&mut self.received.share);
        let request = Arc::new(HttpRequest { ticket, kind, client, body, _share });
        let exchange = Exchange { request: request.clone(), wait, inbox: admission.inbox.clone() };
        let limits = &self.hub.connection_limits;
        Some(match ask(stream, &mut self.received.rest, exchange, limits, settings).await {
            Outcome::Left => return None,
            Outcome::Refused(refusal) => Err(refusal.into()),
            Outcome::Unhandled => self.unhandled(&request.client).await,
            Outcome::Answered(answer) => {
                let Received { rest, share, .. } = self.received;
                match share.set(answer.bytes()) {
                    Ok(()) => Ok(Reply { answer, rest, share }),
                    Err(PostsFull) => Err(Refusal::unavailable(BUFFERS_FULL, RETRY_AFTER).into()),
                }
            }
        })
    }

    /// Answers as if the application took no requests.
    async fn unhandled(self, client: &Client) -> Result<Reply, ErrorResponse> {
        match host_intent(&client.head, self.origin, true, self.config)? {
            Intent::Post(_) => self.post(client.clone()).await,
            Intent::Page(bytes) => Err(ErrorResponse { bytes, share: self.received.share }),
            // A handshake is not a plain request.
            _ => Err(Refusal::bad_request("this is not a plain HTTP request").into()),
        }
    }
}

/// Writes the response; keeps the connection open for the next request, or closes it.
async fn respond<S: Socket>(
    mut stream: S,
    answered: Result<Reply, ErrorResponse>,
    form: Form,
    hub: &Hub,
    config: &Config,
) -> Step<S> {
    let (limits, timeouts) = (&config.server.limits, &config.server.timeouts);
    let Reply { answer: response, rest, share: _share } = match answered {
        Ok(reply) => reply,
        Err(ErrorResponse { bytes, share: _share }) => {
            let bytes = if form.is_head { http::without_body(bytes) } else { bytes };
            answer(stream, &bytes, &[], CloseTimeouts::full(timeouts)).await;
            return Break(None);
        }
    };
    let handshaking = hub.connection_limits.start_handshake();
    let is_kept = form.wants_keep_alive && handshaking.may_keep_alive(&limits.connections);
    let head = response.head(is_kept.then_some(timeouts.head));
    let body = if form.is_head { &[] } else { response.content() };
    if !is_kept {
        drop(handshaking);
        answer(stream, &head, body, CloseTimeouts::full(timeouts)).await;
        return Break(None);
    }
    match write_response(&mut stream, &head, body, timeouts.write).await {
        true => Continue(Request { stream, handshaking, kept: Some(rest) }),
        false => Break(None),
    }
}

/// How much longer than `max_message` the answer of an application may be.
const ANSWER_EXTRA: usize = 4 << 20;
