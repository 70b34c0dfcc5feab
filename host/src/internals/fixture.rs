//! Peers and resources without sockets.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use plugsocket_plugin::{Kind, Scope, Target};

use crate::config::{LaneKind, Limits};
use crate::protocol::{chunk::Form, http::Head, identity::IdentityIssuer, payload::Payload};
use crate::routing::outbox::{Outbox, OutboxBounds};
use crate::routing::peer::{Client, Membership, Peer, PeerState};
use crate::routing::registry::{Entry, Registry};
use crate::routing::resource::{Outage, Resource, Service, ServiceState};
use crate::routing::resources::Resources;
use crate::routing::router::{Command, Router};

/// Creates a resource that no application serves.
pub(crate) fn resource(path: &str) -> Arc<Resource> {
    let service = Service {
        dialog: true,
        subprotocols: Vec::new(),
        lane: LaneKind::Shared,
        state: ServiceState::Unavailable(Outage::of_plugin("none")),
    };
    Arc::new(Resource::new(path.to_owned(), service))
}

/// Creates a peer; `fields` are header lines beside `Host`.
pub(crate) fn peer(resource: &Arc<Resource>, address: &str, fields: &str) -> Arc<Peer> {
    peer_within(&Limits::default(), resource, address, fields)
}

pub(crate) fn peer_within(
    limits: &Limits,
    resource: &Arc<Resource>,
    address: &str,
    fields: &str,
) -> Arc<Peer> {
    let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n{fields}\r\n", resource.path);
    let (head, _) =
        Head::parse(head.as_bytes(), 8192).expect("a head by the rules").expect("a whole head");
    Arc::new(Peer {
        identity: IdentityIssuer::with_secret([7; 32]).issue(),
        kind: Kind::WebSocket,
        dialog: true,
        client: Client { address: address.into(), head, login: None, may_announce: false },
        resource: resource.clone(),
        outbox: Outbox::default(),
        bounds: OutboxBounds::new(limits, None),
        membership: Membership::new(1),
        state: PeerState::default(),
    })
}

/// Many peers on one resource, without sockets.
#[derive(Debug)]
pub struct Fixture {
    registry: Arc<Registry>,
    router: Router,
    resource: Arc<Resource>,
    entries: Vec<Entry>,
}

impl Fixture {
    /// Creates `count` open peers.
    pub fn new(count: usize) -> Self {
        let (registry, resource) = (Arc::<Registry>::default(), resource("/web"));
        let resources = Resources::from_iter([(resource.path.clone(), resource.clone())]);
        let router = Router::new(registry.clone(), Arc::new(ArcSwap::from_pointee(resources)));
        let enter = |_| {
            let peer = peer(&resource, "127.0.0.1", "");
            resource.admit(peer.clone());
            peer.outbox.accept(None);
            registry.enter(peer)
        };
        let entries = (0..count).map(enter).collect();
        Self { registry, router, resource, entries }
    }

    /// Returns the uuid of peer `number`, modulo the count.
    pub fn uuid(&self, number: usize) -> &str {
        self.peer(number).identity.as_str()
    }

    /// Looks a peer up by id; returns whether it exists.
    pub fn find(&self, number: usize) -> bool {
        self.registry.find(self.peer(number).id()).is_some()
    }

    /// Sends a feedback to a uuid; returns whether it was delivered.
    pub fn feedback(&self, uuid: &str, payload: &Bytes) -> bool {
        self.deliver(Command::Feedback {
            to: Target::Uuid(uuid),
            payload: Payload::copied(Form::Text, payload),
        }) == 1
    }

    /// Sends a message to one peer; returns whether it was delivered.
    pub fn send(&self, number: usize, payload: &Bytes) -> bool {
        let to = self.peer(number).id();
        self.deliver(Command::Send { to, key: None, payload: Payload::copied(Form::Text, payload) })
            == 1
    }

    /// Broadcasts a message; returns the number of receivers.
    pub fn broadcast(&self, payload: &Bytes) -> u64 {
        let (scope, payload) = (Scope::Resource, Payload::copied(Form::Text, payload));
        self.deliver(Command::Broadcast {
            scope,
            websockets_only: false,
            except: &[],
            key: None,
            payload,
        })
    }

    /// Takes the queue of a peer as its task does; returns the number of messages.
    pub fn take(&self, number: usize) -> usize {
        self.peer(number).outbox.take().now_or_never().map_or(0, |taken| taken.queue.len())
    }

    fn deliver(&self, command: Command<'_>) -> u64 {
        self.router.deliver(&self.resource, command).unwrap_or(0)
    }

    fn peer(&self, number: usize) -> &Peer {
        &self.entries[number % self.entries.len()].peer
    }
}
