//! Messages to clients, and the ends of connections.

use abi_stable::std_types::{RSlice, RStr};

use super::clients::{End, raw_session};
use super::{SimulatedHost, Works, call, count_of, status_of};
use crate::abi::{Count, HostContext, RawAudience, RawMessage, RawTarget, Visitor, status, target};
use crate::types::{CloseCode, Kind};

/// Maximum bytes of a key of `send_latest` and of a timer, and of the name of a room.
pub(super) const MAX_NAME: usize = 256;
/// Maximum bytes of an `fyi`.
pub(super) const MAX_FYI: usize = 4096;

pub(super) fn check_length(text: &str, max: usize) -> Result<(), u32> {
    if text.len() > max { Err(status::TOO_LARGE) } else { Ok(()) }
}

impl SimulatedHost {
    /// Sends a message to these connections; returns the number of outboxes that took it.
    fn push_all(
        &mut self,
        ids: &[u64],
        except: &[u64],
        key: Option<&str>,
        message: &RawMessage<'_>,
    ) -> u64 {
        let ids = ids.iter().filter(|id| !except.contains(id));
        ids.map(|id| self.push(*id, message, key).unwrap_or(0)).sum()
    }

    fn audience(&self, to: &RawAudience<'_>) -> Vec<u64> {
        let mut ids = self.members();
        ids.retain(|id| {
            !to.websockets_only || self.clients[id].record.peer.kind == Kind::WebSocket
        });
        ids
    }
}

pub(super) extern "C" fn send(context: HostContext, id: u64, message: RawMessage<'_>) -> u32 {
    status_of(call(context, (1, Works::Retiring), |host, _| host.push(id, &message, None)))
}

pub(super) extern "C" fn send_latest(
    context: HostContext,
    id: u64,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> u32 {
    status_of(call(context, (1, Works::Retiring), |host, _| {
        let key = key_on(host, &key)?;
        host.push(id, &message, key)
    }))
}

/// Returns the key, unless the host is older than keys.
fn key_on<'a>(host: &SimulatedHost, key: &'a RStr<'_>) -> Result<Option<&'a str>, u32> {
    if host.step < 2 {
        return Ok(None);
    }
    check_length(key, MAX_NAME)?;
    Ok(Some(key.as_str()))
}

pub(super) extern "C" fn broadcast(
    context: HostContext,
    to: RawAudience<'_>,
    message: RawMessage<'_>,
) -> Count {
    count_of(call(context, (1, Works::Serving), |host, _| {
        let ids = host.audience(&to);
        Ok(host.push_all(&ids, &to.except, None, &message))
    }))
}

pub(super) extern "C" fn broadcast_latest(
    context: HostContext,
    to: RawAudience<'_>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    count_of(call(context, (1, Works::Serving), |host, _| {
        let (ids, key) = (host.audience(&to), key_on(host, &key)?);
        Ok(host.push_all(&ids, &to.except, key, &message))
    }))
}

pub(super) extern "C" fn publish(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    message: RawMessage<'_>,
) -> Count {
    count_of(call(context, (1, Works::Serving), |host, _| {
        let ids = host.members_of(&room);
        Ok(host.push_all(&ids, &except, None, &message))
    }))
}

pub(super) extern "C" fn publish_latest(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    count_of(call(context, (1, Works::Serving), |host, _| {
        let (ids, key) = (host.members_of(&room), key_on(host, &key)?);
        Ok(host.push_all(&ids, &except, key, &message))
    }))
}

pub(super) extern "C" fn feedback(
    context: HostContext,
    to: RawTarget<'_>,
    message: RawMessage<'_>,
) -> u32 {
    let is_target = |host: &SimulatedHost, id: &u64| {
        let peer = &host.clients[id].record.peer;
        match to.by {
            target::UUID => peer.uuid == to.text.as_str() && peer.kind == Kind::WebSocket,
            _ => !to.text.is_empty() && peer.ident.as_deref() == Some(to.text.as_str()),
        }
    };
    status_of(call(context, (1, Works::Retiring), |host, _| {
        let newest_first = host.members().into_iter().rev();
        let found = newest_first.into_iter().find(|id| is_target(host, id));
        host.push(found.ok_or(status::GONE)?, &message, None)
    }))
}

pub(super) extern "C" fn close(context: HostContext, id: u64, code: u16, reason: RStr<'_>) -> u32 {
    status_of(call(context, (1, Works::Retiring), |host, _| {
        host.end(id, End::by_plugin(CloseCode(code), &reason))
    }))
}

pub(super) extern "C" fn set_fyi(context: HostContext, id: u64, fyi: RStr<'_>) -> u32 {
    status_of(call(context, (1, Works::Retiring), |host, _| {
        check_length(&fyi, MAX_FYI)?;
        host.member(id)?.fyi = fyi.to_string();
        Ok(())
    }))
}

pub(super) extern "C" fn sessions(context: HostContext, visitor: Visitor<'_>) -> u32 {
    visit(visitor, call(context, (1, Works::Serving), |host, _| Ok(host.records(host.members()))))
}

/// Calls the visitor without the lock: it may call the host.
pub(super) fn visit(
    visitor: Visitor<'_>,
    records: Result<Vec<&'static super::Record>, u32>,
) -> u32 {
    status_of(records.map(|records| {
        for record in records {
            (visitor.visit)(visitor.context, raw_session(record));
        }
    }))
}

impl SimulatedHost {
    pub(super) fn records(&self, ids: Vec<u64>) -> Vec<&'static super::Record> {
        ids.into_iter().map(|id| self.clients[&id].record).collect()
    }
}
