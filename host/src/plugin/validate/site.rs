//! A resource without sockets, and its clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use plugsocket_plugin::{CloseCode, Kind};

use super::report::{Checked, skip};
use crate::config::{LaneKind, Limits};
use crate::plugin::lane::health::LaneHealth;
use crate::plugin::lane::{self, Item, PendingLane};
use crate::protocol::http::Head;
use crate::protocol::identity::IdentityIssuer;
use crate::protocol::payload::{Outgoing, Payload};
use crate::routing::outbox::{Outbox, OutboxBounds};
use crate::routing::peer::{Client as ClientOfPeer, Membership, Peer, PeerState};
use crate::routing::registry::{Entry, Registry};
use crate::routing::resource::{Outage, Resource, Service, ServiceState};
use crate::routing::resources::Resources;
use crate::routing::router::Router;

/// Where an instance and its successors serve.
pub(super) struct Site {
    pub(super) resource: Arc<Resource>,
    pub(super) router: Arc<Router>,
    registry: Arc<Registry>,
    issuer: IdentityIssuer,
    /// What the instance has posted.
    posted: Mutex<PendingLane>,
    bounds: OutboxBounds,
}

/// How a client connects.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) kind: Kind,
    pub(super) query: String,
}

/// A connected client.
pub(super) struct Client(Entry);

/// What a client has received.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) payloads: Vec<Payload>,
    /// Whether it is closed because it has received too much.
    pub(super) is_overfull: bool,
}

/// Returns the limits of a host without configuration.
pub(super) fn default_bounds() -> OutboxBounds {
    OutboxBounds::new(&Limits::default(), None)
}

impl Site {
    pub(super) fn new(bounds: OutboxBounds) -> Self {
        const CAPACITY: usize = 4096;
        let (inbox, posted) = lane::open(CAPACITY, Arc::<LaneHealth>::default());
        let service = Service {
            dialog: true,
            subprotocols: Vec::new(),
            lane: LaneKind::Thread,
            state: ServiceState::Unavailable(Outage::of_plugin("validated")),
        };
        let state = ServiceState::Serving(inbox);
        let resource = Resource::new("/validated".to_owned(), Service { state, ..service });
        let (resource, registry) = (Arc::new(resource), Arc::<Registry>::default());
        let resources =
            Resources::from(BTreeMap::from([(resource.path.clone(), resource.clone())]));
        let resources = Arc::new(ArcSwap::from_pointee(resources));
        let router = Arc::new(Router::new(registry.clone(), resources));
        let issuer = IdentityIssuer::new();
        Self { resource, router, registry, issuer, posted: Mutex::new(posted), bounds }
    }

    /// Takes what the instance or one of its threads has posted.
    pub(super) fn next_posted(&self) -> Option<Item> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).try_next()
    }

    pub(super) fn connect(&self, opening: &Opening) -> Checked<Client> {
        let Opening { kind, query } = opening;
        let target = if query.is_empty() { String::new() } else { format!("?{query}") };
        let ident = if kind.is_backend() { "Ident: validator\r\n" } else { "" };
        let head = format!("GET /validated{target} HTTP/1.1\r\nHost: localhost\r\n{ident}\r\n");
        let Ok(Some((head, _))) = Head::parse(head.as_bytes(), 8192) else {
            return Err(skip(format!("{query:?} is not a query")));
        };
        Ok(Client(self.registry.enter(Arc::new(Peer {
            identity: self.issuer.issue(),
            kind: *kind,
            dialog: *kind != Kind::Tcp,
            client: ClientOfPeer {
                address: "127.0.0.1".into(),
                head,
                login: None,
                may_announce: kind.is_backend(),
            },
            resource: self.resource.clone(),
            outbox: Outbox::default(),
            bounds: self.bounds,
            membership: Membership::new(100),
            state: PeerState::default(),
        }))))
    }
}

impl Client {
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.0.peer
    }

    pub(super) fn uuid(&self) -> &str {
        self.0.peer.identity.as_str()
    }

    /// Takes what it has received.
    pub(super) fn take(&self) -> Received {
        take(&self.0.peer)
    }
}

/// Takes what a client has received.
pub(super) fn take(peer: &Peer) -> Received {
    let mut received = Received::default();
    while let Some(taken) = peer.outbox.try_take() {
        let is_end = taken.queue.is_empty();
        received.payloads.extend(taken.queue.into_iter().filter_map(|item| match item {
            Outgoing::Message(payload) => Some(payload),
            _ => None,
        }));
        received.is_overfull |=
            taken.close.is_some_and(|reason| reason.code == CloseCode::TRY_AGAIN);
        peer.outbox.written();
        if is_end {
            break;
        }
    }
    received
}
