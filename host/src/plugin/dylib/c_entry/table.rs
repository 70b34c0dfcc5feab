//! The host's functions for C: each checks and converts its arguments, and calls the function for
//! Rust. None unwinds, as no `extern "C"` function does.
#![expect(unsafe_code, reason = "turns the pointers that C passes back into references")]

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::size_of;

use abi_stable::std_types::RSlice;
use plugsocket_plugin::abi::{
    self, Count, HostContext, LogSink, Opaque, RawAudience, RawCompletion, RawMetric, RawPair,
    RawRequest, RawResponse, RawSession, RawTarget, RawValue, Sink, ValuePtr, Visitor, status,
};

use super::super::host_table::host_table;
use super::types::{
    Free, MAGIC, PsAudience, PsBytes, PsCompletion, PsCount, PsHost, PsIds, PsLog, PsMessage,
    PsMetric, PsPair, PsRequest, PsResponse, PsSession, PsSink, PsStr, PsVisitor, array, structure,
};

pub(super) static HOST: PsHost = PsHost {
    magic: MAGIC,
    abi_version: abi::ABI_VERSION,
    size: size_of::<PsHost>(),
    send,
    broadcast,
    feedback,
    join,
    leave,
    publish,
    send_latest,
    broadcast_latest,
    publish_latest,
    close,
    set_fyi,
    sessions,
    log,
    defer,
    complete,
    respond,
    post,
    post_value,
    set_timer,
    cancel_timer,
    members,
    room_count,
    rooms,
    room_names,
    set_room_data,
    room_data,
    data,
    set_data,
    session_field,
    session_data,
    request_field,
    request_headers,
    metric,
    record,
};

/// `PS_UNSUPPORTED`.
const UNSUPPORTED: u32 = u32::MAX;

/// Calls a function of the host, whose `None` is an argument that is not valid.
fn status(context: HostContext, call: impl FnOnce() -> Option<u32>) -> c_int {
    let is_valid = !context.0.is_null();
    let status = is_valid.then(call).flatten().unwrap_or(status::INVALID);
    // -1 for `UNSUPPORTED`.
    status.cast_signed()
}

/// As [`status`], for functions that count.
fn count(context: HostContext, call: impl FnOnce() -> Option<Count>) -> PsCount {
    let is_valid = !context.0.is_null();
    let invalid = Count { status: status::INVALID, count: 0 };
    let Count { status, count } = is_valid.then(call).flatten().unwrap_or(invalid);
    PsCount { status: status.cast_signed(), count }
}

const UNSUPPORTED_COUNT: Count = Count { status: UNSUPPORTED, count: 0 };

extern "C" fn send(context: HostContext, id: u64, message: PsMessage) -> c_int {
    status(context, || Some(host_table().send()(context, id, message.borrowed()?)))
}

extern "C" fn broadcast(
    context: HostContext,
    to: *const PsAudience,
    message: PsMessage,
) -> PsCount {
    count(context, || Some(host_table().broadcast()(context, audience(to)?, message.borrowed()?)))
}

/// Borrows an audience, by default all of the resource; `None` if it is not valid.
fn audience<'a>(to: *const PsAudience) -> Option<RawAudience<'a>> {
    if to.is_null() {
        let (scope, except) = (abi::scope::RESOURCE, RSlice::EMPTY);
        return Some(RawAudience { scope, websockets_only: false, except });
    }
    // SAFETY: C lends it until the function of the host returns.
    let PsAudience { scope, websockets_only, except } = unsafe { structure(to) }?;
    if !matches!(*scope, abi::scope::RESOURCE | abi::scope::ALL) {
        return None;
    }
    let (websockets_only, except) = (*websockets_only != 0, except.ids()?.into());
    Some(RawAudience { scope: *scope, websockets_only, except })
}

extern "C" fn feedback(context: HostContext, by: u32, to: PsStr, message: PsMessage) -> c_int {
    status(context, || {
        let text = to.borrowed()?;
        let target = matches!(by, abi::target::UUID | abi::target::IDENT)
            .then_some(RawTarget { by, text })?;
        Some(host_table().feedback()(context, target, message.borrowed()?))
    })
}

extern "C" fn join(context: HostContext, id: u64, room: PsStr) -> c_int {
    status(context, || Some(host_table().join()(context, id, room.borrowed()?)))
}

extern "C" fn leave(context: HostContext, id: u64, room: PsStr) -> c_int {
    status(context, || Some(host_table().leave()(context, id, room.borrowed()?)))
}

extern "C" fn publish(
    context: HostContext,
    room: PsStr,
    except: PsIds,
    message: PsMessage,
) -> PsCount {
    count(context, || {
        let (room, except) = (room.borrowed()?, except.ids()?.into());
        Some(host_table().publish()(context, room, except, message.borrowed()?))
    })
}

extern "C" fn send_latest(context: HostContext, id: u64, key: PsStr, message: PsMessage) -> c_int {
    status(context, || {
        let (key, message) = (key.borrowed()?, message.borrowed()?);
        Some(host_table().send_latest().map_or(UNSUPPORTED, |f| f(context, id, key, message)))
    })
}

extern "C" fn broadcast_latest(
    context: HostContext,
    to: *const PsAudience,
    key: PsStr,
    message: PsMessage,
) -> PsCount {
    count(context, || {
        let (to, key, message) = (audience(to)?, key.borrowed()?, message.borrowed()?);
        let call = host_table().broadcast_latest();
        Some(call.map_or(UNSUPPORTED_COUNT, |f| f(context, to, key, message)))
    })
}

extern "C" fn publish_latest(
    context: HostContext,
    room: PsStr,
    except: PsIds,
    key: PsStr,
    message: PsMessage,
) -> PsCount {
    count(context, || {
        let (room, except) = (room.borrowed()?, except.ids()?.into());
        let (key, message) = (key.borrowed()?, message.borrowed()?);
        let call = host_table().publish_latest();
        Some(call.map_or(UNSUPPORTED_COUNT, |f| f(context, room, except, key, message)))
    })
}

extern "C" fn close(context: HostContext, id: u64, code: u16, reason: PsStr) -> c_int {
    let reason = reason.lossy();
    status(context, || Some(host_table().close()(context, id, code, (&*reason).into())))
}

extern "C" fn set_fyi(context: HostContext, id: u64, fyi: PsStr) -> c_int {
    status(context, || Some(host_table().set_fyi()(context, id, fyi.borrowed()?)))
}

extern "C" fn sessions(context: HostContext, visitor: PsVisitor) -> c_int {
    status(context, || {
        visitor.visit?;
        Some(host_table().sessions()(context, visit_with(&visitor)))
    })
}

fn visit_with(visitor: &PsVisitor) -> Visitor<'_> {
    let pointer = std::ptr::from_ref(visitor).cast();
    Visitor { context: Opaque { pointer, life: PhantomData }, visit }
}

extern "C" fn visit<'a>(context: Opaque<'a>, session: RawSession<'_>) {
    // SAFETY: `visit_with` made it from a reference, whose lifetime it carries.
    let visitor = unsafe { &*context.pointer.cast::<PsVisitor>() };
    if let Some(visit) = visitor.visit {
        visit(visitor.context, &lend_session(&session));
    }
}

/// Lends a session to C for one call.
pub(super) fn lend_session(session: &RawSession<'_>) -> PsSession {
    PsSession {
        id: session.id,
        kind: session.kind,
        uuid: PsStr::lend(session.uuid.as_str()),
        opaque: std::ptr::from_ref(session).cast(),
    }
}

/// Lends a request to C for one call.
pub(super) fn lend_request(request: &RawRequest<'_>) -> PsRequest {
    PsRequest {
        ticket: request.ticket,
        kind: request.kind,
        method: PsStr::lend(request.method.as_str()),
        body: PsBytes::lend(request.body.as_slice()),
        opaque: std::ptr::from_ref(request).cast(),
    }
}

fn session<'a>(session: *const PsSession) -> Option<&'a RawSession<'a>> {
    // SAFETY: C passes a session that was lent to it and that is still lent.
    let lent = unsafe { structure(session) }?;
    // SAFETY: `lend_session` made the pointer from a reference that lives as long as the session.
    unsafe { structure(lent.opaque.cast::<RawSession<'a>>()) }
}

fn request<'a>(request: *const PsRequest) -> Option<&'a RawRequest<'a>> {
    // SAFETY: C passes a request that was lent to it and that is still lent.
    let lent = unsafe { structure(request) }?;
    // SAFETY: `lend_request` made the pointer from a reference that lives as long as the request.
    unsafe { structure(lent.opaque.cast::<RawRequest<'a>>()) }
}

extern "C" fn session_field(lent: *const PsSession, field: u32, name: PsStr) -> PsStr {
    let found = session(lent)
        .zip(name.borrowed())
        .and_then(|(session, name)| (session.field)(session.context, field, name).into_option());
    found.map_or(PsStr::NONE, |text| PsStr::lend(text.as_str()))
}

extern "C" fn session_data(lent: *const PsSession, sink: PsSink) -> c_int {
    let found = session(lent).filter(|_| sink.put.is_some());
    let status = found.map(|session| {
        let call = host_table().session_data();
        call.map_or(UNSUPPORTED, |f| f(session.context, put_with(&sink)))
    });
    status.unwrap_or(status::INVALID).cast_signed()
}

extern "C" fn request_field(lent: *const PsRequest, field: u32, name: PsStr) -> PsStr {
    let found = request(lent)
        .zip(name.borrowed())
        .and_then(|(request, name)| (request.field)(request.context, field, name).into_option());
    found.map_or(PsStr::NONE, |text| PsStr::lend(text.as_str()))
}

extern "C" fn request_headers(lent: *const PsRequest, sink: PsSink) -> c_int {
    let found = request(lent).filter(|_| sink.put.is_some());
    let status = found.map(|request| {
        (request.headers)(request.context, put_with(&sink));
        status::OK
    });
    status.unwrap_or(status::INVALID).cast_signed()
}

fn put_with(sink: &PsSink) -> Sink<'_> {
    let pointer = std::ptr::from_ref(sink).cast();
    Sink { context: Opaque { pointer, life: PhantomData }, put }
}

extern "C" fn put<'a>(context: Opaque<'a>, bytes: RSlice<'_, u8>) {
    // SAFETY: `put_with` made it from a reference, whose lifetime it carries.
    let sink = unsafe { &*context.pointer.cast::<PsSink>() };
    if let Some(put) = sink.put {
        put(sink.context, PsBytes::lend(bytes.as_slice()));
    }
}

extern "C" fn log(context: HostContext, level: u32, text: PsStr) {
    if !context.0.is_null() {
        host_table().log()(context, level, "".into(), (&*text.lossy()).into());
    }
}

/// Lends the log of a library to C. Leaked: it lives as long as the library.
pub(super) fn lend_log(sink: LogSink) -> &'static PsLog {
    let max_level = sink.max_level;
    let sink: &'static LogSink = Box::leak(Box::new(sink));
    Box::leak(Box::new(PsLog {
        context: std::ptr::from_ref(sink).cast(),
        max_level,
        write: write_log,
    }))
}

extern "C" fn write_log(context: *const c_void, level: u32, place: PsStr, text: PsStr) {
    // SAFETY: C passes the context of `lend_log`, which lives for ever.
    let Some(sink) = (unsafe { structure(context.cast::<LogSink>()) }) else { return };
    if level <= sink.max_level {
        (sink.log)(sink.context, level, (&*place.lossy()).into(), (&*text.lossy()).into());
    }
}

extern "C" fn defer(context: HostContext, id: u64, index: u32) -> PsCount {
    count(context, || {
        Some(host_table().defer().map_or(UNSUPPORTED_COUNT, |f| f(context, id, index)))
    })
}

extern "C" fn complete(
    context: HostContext,
    ticket: u64,
    completion: *const PsCompletion,
) -> c_int {
    status(context, || {
        // SAFETY: C lends it until this function returns.
        let PsCompletion { kind, code, text } = unsafe { structure(completion) }?;
        let text = match *kind {
            abi::completion::DONE | abi::completion::REFUSED | abi::completion::FAILED => {
                text.lossy()
            }
            abi::completion::FYI => text.text()?.into(),
            _ => return None,
        };
        let raw = RawCompletion { kind: *kind, code: *code, text: (&*text).into() };
        Some(host_table().complete().map_or(UNSUPPORTED, |f| f(context, ticket, raw)))
    })
}

extern "C" fn respond(context: HostContext, ticket: u64, response: *const PsResponse) -> c_int {
    status(context, || {
        // SAFETY: C lends it until this function returns.
        let response = unsafe { structure(response) }?;
        let headers = pairs(response.headers, response.header_count)?;
        let raw = RawResponse {
            status: response.status,
            headers: headers.as_slice().into(),
            body: response.body.bytes()?.into(),
        };
        Some(host_table().respond().map_or(UNSUPPORTED, |f| f(context, ticket, raw)))
    })
}

fn pairs<'a>(pairs: *const PsPair, count: usize) -> Option<Vec<RawPair<'a>>> {
    // SAFETY: C lends them until the function of the host returns.
    let pairs = unsafe { array(pairs, count) }?;
    let pair =
        |it: &PsPair| Some(RawPair { name: it.name.borrowed()?, value: it.value.borrowed()? });
    pairs.iter().map(pair).collect()
}

extern "C" fn post(context: HostContext, bytes: PsBytes) -> c_int {
    status(context, || {
        let bytes = bytes.bytes()?.into();
        Some(host_table().post().map_or(UNSUPPORTED, |f| f(context, bytes)))
    })
}

extern "C" fn post_value(context: HostContext, pointer: ValuePtr, free: Option<Free>) -> c_int {
    extern "C" fn keep(_: ValuePtr) {}
    status(context, || {
        // Null would be an event of bytes.
        let pointer = (!pointer.0.is_null()).then_some(pointer)?;
        let value = RawValue { pointer, free: free.unwrap_or(keep) };
        Some(host_table().post_value().map_or(UNSUPPORTED, |f| f(context, value)))
    })
}

extern "C" fn set_timer(context: HostContext, key: PsStr, millis: u64, repeats: u32) -> c_int {
    status(context, || {
        let (key, repeats) = (key.borrowed()?, repeats != 0);
        Some(host_table().set_timer().map_or(UNSUPPORTED, |f| f(context, key, millis, repeats)))
    })
}

extern "C" fn cancel_timer(context: HostContext, key: PsStr) -> PsCount {
    count(context, || {
        let key = key.borrowed()?;
        Some(host_table().cancel_timer().map_or(UNSUPPORTED_COUNT, |f| f(context, key)))
    })
}

extern "C" fn members(context: HostContext, room: PsStr, visitor: PsVisitor) -> c_int {
    status(context, || {
        visitor.visit?;
        let (room, visitor) = (room.borrowed()?, visit_with(&visitor));
        Some(host_table().members().map_or(UNSUPPORTED, |f| f(context, room, visitor)))
    })
}

extern "C" fn room_count(context: HostContext, room: PsStr) -> PsCount {
    count(context, || {
        let room = room.borrowed()?;
        Some(host_table().room_count().map_or(UNSUPPORTED_COUNT, |f| f(context, room)))
    })
}

extern "C" fn rooms(context: HostContext, id: u64, sink: PsSink) -> c_int {
    status(context, || {
        sink.put?;
        Some(host_table().rooms().map_or(UNSUPPORTED, |f| f(context, id, put_with(&sink))))
    })
}

extern "C" fn room_names(context: HostContext, sink: PsSink) -> c_int {
    status(context, || {
        sink.put?;
        Some(host_table().room_names().map_or(UNSUPPORTED, |f| f(context, put_with(&sink))))
    })
}

extern "C" fn set_room_data(context: HostContext, room: PsStr, data: PsBytes) -> c_int {
    status(context, || {
        let (room, data) = (room.borrowed()?, data.bytes()?.into());
        Some(host_table().set_room_data().map_or(UNSUPPORTED, |f| f(context, room, data)))
    })
}

extern "C" fn room_data(context: HostContext, room: PsStr, sink: PsSink) -> c_int {
    status(context, || {
        sink.put?;
        let room = room.borrowed()?;
        Some(host_table().room_data().map_or(UNSUPPORTED, |f| f(context, room, put_with(&sink))))
    })
}

extern "C" fn data(context: HostContext, id: u64, sink: PsSink) -> c_int {
    status(context, || {
        sink.put?;
        Some(host_table().data().map_or(UNSUPPORTED, |f| f(context, id, put_with(&sink))))
    })
}

extern "C" fn set_data(context: HostContext, id: u64, data: PsBytes) -> c_int {
    status(context, || {
        let data = data.bytes()?.into();
        Some(host_table().set_data().map_or(UNSUPPORTED, |f| f(context, id, data)))
    })
}

extern "C" fn metric(context: HostContext, metric: *const PsMetric) -> PsCount {
    count(context, || {
        // SAFETY: C lends it until this function returns.
        let metric = unsafe { structure(metric) }?;
        // SAFETY: as above.
        let buckets = unsafe { array(metric.buckets, metric.bucket_count) }?;
        let labels = pairs(metric.labels, metric.label_count)?;
        let raw = RawMetric {
            kind: metric.kind,
            name: metric.name.borrowed()?,
            help: metric.help.borrowed()?,
            labels: labels.as_slice().into(),
            buckets: buckets.into(),
        };
        Some(host_table().metric().map_or(UNSUPPORTED_COUNT, |f| f(context, raw)))
    })
}

extern "C" fn record(context: HostContext, series: u64, change: u32, value: f64) -> c_int {
    status(context, || {
        Some(host_table().record().map_or(UNSUPPORTED, |f| f(context, series, change, value)))
    })
}
