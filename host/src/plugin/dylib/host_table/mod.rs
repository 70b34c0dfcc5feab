//! The functions through which a library calls the host, and the contexts that it passes to them.
#![expect(unsafe_code, reason = "turns the pointers that libraries pass back into references")]

mod events;
mod metrics;
mod rooms;
mod tickets;

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RSlice, RStr};
use plugsocket_plugin::abi::{
    self, Count, HostContext, HostTable, HostTableRef, LogSink, Opaque, RawAudience, RawMessage,
    RawRequest, RawSession, RawTarget, Sink, Visitor, status,
};
use plugsocket_plugin::{CloseCode, ConnectionId, HostError, Kind, Scope, Target};
use tracing::level_filters::LevelFilter;
use tracing::{debug, error, info, trace, warn};

pub(super) use self::events::PostedValue;
use super::Generation;
use crate::plugin::EarlyRequests;
use crate::plugin::lane::health::Revocation;
use crate::protocol::chunk::Form;
use crate::protocol::payload::Payload;
use crate::routing::peer::{Client, Peer};
use crate::routing::requests::HttpRequest;
use crate::routing::resource::Resource;
use crate::routing::router::{Command, Router};

/// What an instance passes to each function of the host. Leaked: about 100 bytes for each instance.
pub(super) struct InstanceContext {
    state: AtomicU8,
    /// End of the time in which a retiring instance may address connections.
    retires_at: OnceLock<Instant>,
    /// What the instance has requested before it served; `None` once the lane has taken it.
    early: Mutex<Option<EarlyRequests>>,
    /// Calls that were refused because the instance was not serving.
    refused_calls: AtomicU64,
    pub(super) generation: Arc<Generation>,
    resource: Arc<Resource>,
    router: Arc<Router>,
}

impl InstanceContext {
    /// Not serving yet; may only log.
    const CANDIDATE: u8 = 0;
    const ACTIVE: u8 = 1;
    const RETIRED: u8 = 2;
    /// Another instance serves; this one may address connections until `retires_at`.
    const RETIRING: u8 = 3;

    pub(super) fn leak(
        generation: Arc<Generation>,
        resource: Arc<Resource>,
        router: Arc<Router>,
    ) -> &'static Self {
        Box::leak(Box::new(Self {
            state: AtomicU8::new(Self::CANDIDATE),
            retires_at: OnceLock::new(),
            early: Mutex::new(Some(EarlyRequests::default())),
            refused_calls: AtomicU64::new(0),
            generation,
            resource,
            router,
        }))
    }

    pub(super) fn as_raw(&'static self) -> HostContext {
        HostContext(std::ptr::from_ref(self).cast())
    }

    fn from_raw(context: HostContext) -> &'static Self {
        // SAFETY: `Generation::start` passed a leaked `Self`; plugins return it unchanged.
        unsafe { &*context.0.cast::<Self>() }
    }

    pub(super) fn activate(&self) {
        self.state.store(Self::ACTIVE, Ordering::Release);
    }

    /// Leaves the instance, for `limit`, the functions that name one connection or client.
    pub(super) fn begin_retiring(&self, limit: Duration) {
        self.retires_at.set(Instant::now() + limit).ok();
        self.state.store(Self::RETIRING, Ordering::Release);
    }

    /// Returns the time in which a retiring instance may still address connections.
    pub(super) fn retires_in(&self) -> Option<Duration> {
        self.retires_at.get().map(|end| end.saturating_duration_since(Instant::now()))
    }

    pub(super) fn retire(&self) {
        self.state.store(Self::RETIRED, Ordering::Release);
    }

    pub(super) fn revocation(&'static self) -> Revocation {
        Revocation::new(&self.state, Self::RETIRED)
    }

    fn is_active(&self) -> bool {
        self.state.load(Ordering::Acquire) == Self::ACTIVE
    }

    /// Returns whether the instance may call the functions that name one connection or client.
    fn may_address(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            Self::ACTIVE => true,
            Self::RETIRING => self.retires_at.get().is_some_and(|end| Instant::now() < *end),
            _ => false,
        }
    }

    fn deliver(&self, command: Command<'_>) -> Count {
        let is_allowed = if command.names_one() { self.may_address() } else { self.is_active() };
        counted(match is_allowed {
            true => self.router.deliver(&self.resource, command),
            false => Err(self.refuse()),
        })
    }

    /// Counts a call of an instance that is not serving, and returns the error for it.
    #[cold]
    fn refuse(&self) -> HostError {
        self.refused_calls.fetch_add(1, Ordering::Relaxed);
        HostError::Retired
    }

    pub(super) fn refused_calls(&'static self) -> &'static AtomicU64 {
        &self.refused_calls
    }
}

/// Returns the result of a function at the boundary.
fn counted(result: Result<u64, HostError>) -> Count {
    match result {
        Ok(count) => Count { status: status::OK, count },
        Err(error) => Count { status: status_of(Err(error)), count: 0 },
    }
}

fn status_of(result: Result<(), HostError>) -> u32 {
    match result {
        Ok(()) => status::OK,
        Err(HostError::TooLarge) => status::TOO_LARGE,
        Err(HostError::TooMany) => status::TOO_MANY,
        Err(HostError::Retired) => status::RETIRED,
        Err(HostError::Invalid) => status::INVALID,
        Err(_) => status::GONE,
    }
}

/// The origin of log lines that a library writes outside its instances.
struct LibraryContext {
    plugin: String,
    generation: u64,
}

/// Returns where a library writes its own log lines. Leaks the context.
pub(super) fn log_sink(plugin: &str, generation: u64) -> LogSink {
    let context = Box::leak(Box::new(LibraryContext { plugin: plugin.to_owned(), generation }));
    LogSink {
        context: HostContext(std::ptr::from_ref(context).cast()),
        max_level: max_level(),
        log: log_of_library,
    }
}

pub(super) fn host_table() -> HostTableRef {
    static TABLE: OnceLock<HostTableRef> = OnceLock::new();
    *TABLE.get_or_init(|| {
        let table = HostTable {
            send,
            broadcast,
            feedback,
            join,
            leave,
            publish,
            close,
            set_fyi,
            sessions,
            log,
            send_latest,
            broadcast_latest,
            publish_latest,
            abi_version: abi::ABI_VERSION,
            members: rooms::members,
            room_count: rooms::room_count,
            rooms: rooms::rooms,
            room_names: rooms::room_names,
            set_room_data: rooms::set_room_data,
            room_data: rooms::room_data,
            data: rooms::data,
            session_data: rooms::session_data,
            set_data: rooms::set_data,
            metric: metrics::metric,
            record: metrics::record,
            post: events::post,
            post_value: events::post_value,
            set_timer: events::set_timer,
            cancel_timer: events::cancel_timer,
            defer: tickets::defer,
            complete: tickets::complete,
            respond: tickets::respond,
        };
        table.leak_into_prefix()
    })
}

fn deliver(context: HostContext, command: Command<'_>) -> Count {
    InstanceContext::from_raw(context).deliver(command)
}

fn payload(message: RawMessage<'_>) -> Payload {
    let form = if message.kind == abi::message::TEXT { Form::Text } else { Form::Binary };
    Payload::copied(form, message.bytes.as_slice())
}

extern "C" fn send(context: HostContext, id: u64, message: RawMessage<'_>) -> u32 {
    let (context, payload) = (InstanceContext::from_raw(context), payload(message));
    let sent = with_sender(|sender| match sender.filter(|peer| peer.id().0 == id) {
        Some(to) => context.deliver(Command::Answer { to, payload }),
        None => context.deliver(Command::Send { to: ConnectionId(id), key: None, payload }),
    });
    sent.status
}

thread_local! {
    /// The peer whose message an instance handles on this thread, set during the call. Most
    /// messages go back to their sender, which needs no lookup then.
    static SENDER: Cell<*const Peer> = const { Cell::new(std::ptr::null()) };
}

/// Calls an instance with a message of `peer`.
pub(super) fn while_handling<T>(peer: &Peer, call: impl FnOnce() -> T) -> T {
    struct Previous(*const Peer);
    impl Drop for Previous {
        fn drop(&mut self) {
            SENDER.set(self.0);
        }
    }
    let _previous = Previous(SENDER.replace(peer));
    call()
}

fn with_sender<T>(act: impl FnOnce(Option<&Peer>) -> T) -> T {
    // SAFETY: not null only during `while_handling` on this thread, which borrows the peer.
    act(unsafe { SENDER.get().as_ref() })
}

extern "C" fn send_latest(
    context: HostContext,
    id: u64,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> u32 {
    let (to, key) = (ConnectionId(id), Some(key.as_str()));
    deliver(context, Command::Send { to, key, payload: payload(message) }).status
}

extern "C" fn broadcast(
    context: HostContext,
    to: RawAudience<'_>,
    message: RawMessage<'_>,
) -> Count {
    deliver(context, broadcasting(&to, None, message))
}

extern "C" fn broadcast_latest(
    context: HostContext,
    to: RawAudience<'_>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    deliver(context, broadcasting(&to, Some(key.as_str()), message))
}

fn broadcasting<'a>(
    to: &RawAudience<'a>,
    key: Option<&'a str>,
    message: RawMessage<'_>,
) -> Command<'a> {
    Command::Broadcast {
        scope: if to.scope == abi::scope::ALL { Scope::All } else { Scope::Resource },
        websockets_only: to.websockets_only,
        except: to.except.as_slice(),
        key,
        payload: payload(message),
    }
}

extern "C" fn feedback(context: HostContext, to: RawTarget<'_>, message: RawMessage<'_>) -> u32 {
    let to = match to.by {
        abi::target::UUID => Target::Uuid(to.text.as_str()),
        _ => Target::Ident(to.text.as_str()),
    };
    deliver(context, Command::Feedback { to, payload: payload(message) }).status
}

extern "C" fn join(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    deliver(context, Command::Join { id: ConnectionId(id), room: room.as_str() }).status
}

extern "C" fn leave(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    deliver(context, Command::Leave { id: ConnectionId(id), room: room.as_str() }).status
}

extern "C" fn publish(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    message: RawMessage<'_>,
) -> Count {
    let (room, except, payload) = (room.as_str(), except.as_slice(), payload(message));
    deliver(context, Command::Publish { room, except, key: None, payload })
}

extern "C" fn publish_latest(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    let (room, except, payload) = (room.as_str(), except.as_slice(), payload(message));
    deliver(context, Command::Publish { room, except, key: Some(key.as_str()), payload })
}

extern "C" fn close(context: HostContext, id: u64, code: u16, reason: RStr<'_>) -> u32 {
    let (id, code) = (ConnectionId(id), CloseCode(code));
    deliver(context, Command::Close { id, code, reason: reason.as_str() }).status
}

extern "C" fn set_fyi(context: HostContext, id: u64, fyi: RStr<'_>) -> u32 {
    deliver(context, Command::SetFyi { id: ConnectionId(id), fyi: fyi.as_str() }).status
}

extern "C" fn sessions(context: HostContext, visitor: Visitor<'_>) -> u32 {
    let context = InstanceContext::from_raw(context);
    if !context.is_active() {
        return status::RETIRED;
    }
    for peer in context.resource.members() {
        (visitor.visit)(visitor.context, raw_session(&peer));
    }
    status::OK
}

extern "C" fn log(context: HostContext, level: u32, _target: RStr<'_>, text: RStr<'_>) {
    let context = InstanceContext::from_raw(context);
    let Generation { plugin, number, .. } = &*context.generation;
    plugin_line(level, plugin, *number, &context.resource.path, &text);
}

extern "C" fn log_of_library(context: HostContext, level: u32, target: RStr<'_>, text: RStr<'_>) {
    // SAFETY: `log_sink` passed a leaked `LibraryContext`; plugins return it unchanged.
    let context = unsafe { &*context.0.cast::<LibraryContext>() };
    plugin_line(level, &context.plugin, context.generation, &target, &text);
}

/// Logs a line of a plugin at its level: 1 error, 2 warn, 3 info, 4 debug, other trace. `place` is
/// the resource of the instance, or the Rust module that logged.
fn plugin_line(level: u32, plugin: &str, generation: u64, place: &str, text: &str) {
    match level {
        1 => error!(target: "plugin", plugin, generation, place, "{text}"),
        2 => warn!(target: "plugin", plugin, generation, place, "{text}"),
        3 => info!(target: "plugin", plugin, generation, place, "{text}"),
        4 => debug!(target: "plugin", plugin, generation, place, "{text}"),
        _ => trace!(target: "plugin", plugin, generation, place, "{text}"),
    }
}

/// The most verbose level of the log.
static LOG_LEVEL: OnceLock<LevelFilter> = OnceLock::new();

/// Sets the most verbose level of the log, before the first library is opened.
pub(crate) fn set_log_level(level: LevelFilter) {
    // A second start of the log has no effect.
    LOG_LEVEL.set(level).ok();
}

/// Returns the most verbose level that the host logs, as a number of the ABI.
fn max_level() -> u32 {
    match LOG_LEVEL.get().copied().unwrap_or_else(LevelFilter::current) {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    }
}

/// Lends a peer to a plugin for one call.
pub(super) fn raw_session(peer: &Peer) -> RawSession<'_> {
    RawSession {
        id: peer.id().0,
        kind: match peer.kind {
            Kind::Backend => abi::kind::BACKEND,
            Kind::Tcp => abi::kind::TCP,
            _ => abi::kind::WEBSOCKET,
        },
        // SAFETY: identities consist of ASCII. Not checked, because this runs for each message.
        uuid: unsafe { std::str::from_utf8_unchecked(peer.identity.as_ascii()) }.into(),
        context: Opaque { pointer: std::ptr::from_ref(peer).cast(), life: PhantomData },
        field,
    }
}

/// Returns the peer of a session that a plugin passes back.
fn lent_peer(context: Opaque<'_>) -> &Peer {
    // SAFETY: `raw_session` made it from a reference to a peer, whose lifetime it carries.
    unsafe { &*context.pointer.cast::<Peer>() }
}

extern "C" fn field<'a>(context: Opaque<'a>, field: u32, name: RStr<'_>) -> ROption<RStr<'a>> {
    let peer = lent_peer(context);
    let found = match field {
        abi::field::IDENT => peer.ident(),
        _ => client_field(&peer.client, &peer.resource, field, name.as_str()),
    };
    found.map(RStr::from).into()
}

fn client_field<'a>(
    client: &'a Client,
    resource: &'a Resource,
    field: u32,
    name: &str,
) -> Option<&'a str> {
    match field {
        abi::field::ADDRESS => Some(&*client.address),
        abi::field::RESOURCE => Some(resource.path.as_str()),
        abi::field::QUERY => Some(client.head.query()),
        abi::field::HEADER => client.head.header(name),
        abi::field::USER => client.login.as_ref().and_then(|login| login.user.as_deref()),
        abi::field::CLAIMS => client.login.as_ref().and_then(|login| login.claims.as_deref()),
        abi::field::PATH => Some(client.head.path()),
        abi::field::PARAMETER => client.parameter(&resource.path, name),
        _ => None,
    }
}

/// Lends a request to a plugin for one call.
pub(super) fn raw_request(request: &HttpRequest) -> RawRequest<'_> {
    let is_backend = request.kind.is_backend();
    RawRequest {
        ticket: request.ticket.number,
        kind: if is_backend { abi::kind::BACKEND } else { abi::kind::WEBSOCKET },
        method: request.client.head.method_name().into(),
        body: request.body.as_ref().into(),
        context: Opaque { pointer: std::ptr::from_ref(request).cast(), life: PhantomData },
        field: request_field,
        headers,
    }
}

extern "C" fn request_field<'a>(
    context: Opaque<'a>,
    field: u32,
    name: RStr<'_>,
) -> ROption<RStr<'a>> {
    let request = lent_request(context);
    let resource = &request.ticket.resource;
    client_field(&request.client, resource, field, name.as_str()).map(RStr::from).into()
}

extern "C" fn headers<'a>(context: Opaque<'a>, sink: Sink<'_>) {
    for (name, value) in lent_request(context).client.head.headers() {
        let (name, value) = (name.to_ascii_lowercase(), String::from_utf8_lossy(value));
        (sink.put)(sink.context, name.as_bytes().into());
        (sink.put)(sink.context, value.as_bytes().into());
    }
}

fn lent_request(context: Opaque<'_>) -> &HttpRequest {
    // SAFETY: `raw_request` made it from a reference, whose lifetime it carries.
    unsafe { &*context.pointer.cast::<HttpRequest>() }
}
