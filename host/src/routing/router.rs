//! The router: applies one [`Command`] of an application. The only code that resolves a scope, a
//! room, a uuid or an ident to outboxes.
//!
//! Never waits; called from lanes and from any thread of a plugin. A cluster would replace
//! [`Router::deliver`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, ClosedBy, ConnectionId, HostError, Kind, Scope, Target};

use super::outbox::Gone;
use super::peer::{Completion, Peer};
use super::registry::Registry;
use super::resource::Resource;
use super::resources::Resources;
use crate::protocol::close::{CloseReason, sendable};
use crate::protocol::identity::Identity;
use crate::protocol::payload::Payload;

/// An action that an application requests.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    /// With a key, here and below: replaces a waiting message with the same key (conflation).
    Send {
        to: ConnectionId,
        key: Option<&'a str>,
        payload: Payload,
    },
    /// To the connection whose message is being handled.
    Answer {
        to: &'a Peer,
        payload: Payload,
    },
    Broadcast {
        scope: Scope,
        websockets_only: bool,
        except: &'a [u64],
        key: Option<&'a str>,
        payload: Payload,
    },
    Feedback {
        to: Target<'a>,
        payload: Payload,
    },
    Join {
        id: ConnectionId,
        room: &'a str,
    },
    Leave {
        id: ConnectionId,
        room: &'a str,
    },
    Publish {
        room: &'a str,
        except: &'a [u64],
        key: Option<&'a str>,
        payload: Payload,
    },
    Close {
        id: ConnectionId,
        code: CloseCode,
        reason: &'a str,
    },
    SetFyi {
        id: ConnectionId,
        fyi: &'a str,
    },
}

impl Command<'_> {
    /// Returns whether it names one connection or client.
    pub(crate) fn names_one(&self) -> bool {
        match self {
            Self::Send { .. }
            | Self::Answer { .. }
            | Self::Feedback { .. }
            | Self::Close { .. }
            | Self::SetFyi { .. } => true,
            Self::Broadcast { .. }
            | Self::Publish { .. }
            | Self::Join { .. }
            | Self::Leave { .. } => false,
        }
    }
}

/// Delivers commands.
#[derive(Debug)]
pub(crate) struct Router {
    registry: Arc<Registry>,
    resources: Arc<ArcSwap<Resources>>,
}

impl Router {
    pub(crate) fn new(registry: Arc<Registry>, resources: Arc<ArcSwap<Resources>>) -> Self {
        Self { registry, resources }
    }

    /// Applies a command of an application on `from`; returns the number of connections for which a
    /// message was queued.
    pub(crate) fn deliver(&self, from: &Resource, command: Command<'_>) -> Result<u64, HostError> {
        match command {
            Command::Send { to, key, payload } => {
                let key = shared(key)?;
                self.member(from, to)?.send(payload, key.as_ref()).map(|()| 1)
            }
            Command::Answer { to, payload } if is_on(to, from) => {
                to.send(payload, None).map(|()| 1)
            }
            Command::Answer { .. } => Err(HostError::Gone),
            Command::Broadcast {
                scope: Scope::Resource,
                websockets_only,
                except,
                key,
                payload,
            } => Ok(broadcast(from, websockets_only, except, &payload, shared(key)?.as_ref())),
            Command::Broadcast { scope: Scope::All, websockets_only, except, key, payload } => {
                let resources = self.resources.load();
                let with_dialog = resources.values().filter(|resource| resource.service().dialog);
                let key = shared(key)?;
                let reached =
                    |r: &Arc<_>| broadcast(r, websockets_only, except, &payload, key.as_ref());
                Ok(with_dialog.map(reached).sum())
            }
            Command::Feedback { to, payload } => {
                self.target(to).ok_or(HostError::Gone)?.send(payload, None).map(|()| 1)
            }
            Command::Join { id, room } => {
                check_length(room, Self::MAX_ROOM_NAME)?;
                from.join(&self.member(from, id)?, room).map(|()| 1)
            }
            Command::Leave { id, room } => {
                from.leave(&*self.member(from, id)?, room);
                Ok(1)
            }
            Command::Publish { room, except, key, payload } => {
                let (key, mut count) = (shared(key)?, 0);
                from.for_each_in_room(room, |peer| {
                    count += send_unless(except, peer, &payload, key.as_ref());
                });
                Ok(count)
            }
            Command::Close { id, code, reason } => {
                let reason = CloseReason::new(sendable(code), ClosedBy::Plugin, reason);
                let closed = self.member(from, id)?.outbox.close(reason);
                closed.map(|()| 1).map_err(|Gone| HostError::Gone)
            }
            Command::SetFyi { id, fyi } => {
                check_length(fyi, Self::MAX_FYI)?;
                self.member(from, id)?.set_fyi(fyi);
                Ok(1)
            }
        }
    }

    /// Completes a message that an application on `from` has deferred.
    ///
    /// # Errors
    /// `Gone` if the ticket is closed or the connection has ended; `TooLarge` for the `fyi`.
    pub(crate) fn complete(
        &self,
        from: &Resource,
        ticket: u64,
        completion: Completion<'_>,
    ) -> Result<(), HostError> {
        if let Completion::Fyi(fyi) = completion {
            check_length(fyi, Self::MAX_FYI)?;
        }
        let (id, deferred) = from.tickets.take(ticket).ok_or(HostError::Gone)?;
        from.counters.times.deferred.observe(deferred, 1);
        self.registry.find(id).ok_or(HostError::Gone)?.settle(ticket, completion)
    }

    const MAX_ROOM_NAME: usize = 256;
    const MAX_KEY: usize = 256;
    const MAX_FYI: usize = 4096;

    /// Finds a connection by id; an application reaches only connections of its own resource.
    pub(crate) fn member(&self, from: &Resource, id: ConnectionId) -> Result<Arc<Peer>, HostError> {
        self.registry.find(id).filter(|peer| is_on(peer, from)).ok_or(HostError::Gone)
    }

    fn target(&self, to: Target<'_>) -> Option<Arc<Peer>> {
        match to {
            Target::Uuid(uuid) => {
                // Compares the complete uuid, with its signature, in constant time.
                let peer = self.registry.find(ConnectionId(Identity::key_of(uuid)?))?;
                (peer.kind == Kind::WebSocket && peer.identity.matches(uuid)).then_some(peer)
            }
            Target::Ident("") => None,
            Target::Ident(ident) => self.registry.find_ident(ident),
        }
    }
}

fn is_on(peer: &Peer, resource: &Resource) -> bool {
    std::ptr::eq(&raw const *peer.resource, resource)
}

fn broadcast(
    to: &Resource,
    websockets_only: bool,
    except: &[u64],
    payload: &Payload,
    key: Option<&Arc<str>>,
) -> u64 {
    let mut count = 0;
    to.for_each_member(|peer| {
        if !websockets_only || peer.kind == Kind::WebSocket {
            count += send_unless(except, peer, payload, key);
        }
    });
    count
}

/// Returns the number of messages that were queued: 0 if the peer is in `except` or ends.
fn send_unless(except: &[u64], peer: &Peer, payload: &Payload, key: Option<&Arc<str>>) -> u64 {
    let is_sent = !except.contains(&peer.id().0) && peer.send(payload.clone(), key).is_ok();
    u64::from(is_sent)
}

/// Returns one copy of a key for all receivers.
fn shared(key: Option<&str>) -> Result<Option<Arc<str>>, HostError> {
    let Some(key) = key else { return Ok(None) };
    check_length(key, Router::MAX_KEY).map(|()| Some(Arc::from(key)))
}

fn check_length(text: &str, max: usize) -> Result<(), HostError> {
    if text.len() > max { Err(HostError::TooLarge) } else { Ok(()) }
}
