//! The way into a lane: a bounded queue that also refuses once the lane was given up, and the short way past it.
//!
//! The queue of a lane that is stuck stays open, because its receiver is on the stuck thread. So whoever sends looks at the
//! lane's [`LaneHealth`] first, and whoever waits for a place waits for the end of the lane as well.
//!
//! **The short way.** An application that never blocks needs no task of its own: where nothing is queued and nobody is at
//! it, the sender takes the lane's place for the length of its item and calls the application itself. That saves two task switches a
//! message. The order is the same: what a connection has sent is either done or counted in `queued`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};

use super::health::LaneHealth;
use super::{Dispatcher, DispatcherSlot, Item};
use crate::routing::input::{Input, Load};
use crate::routing::registry::Peer;
use crate::routing::sync::AtomicUsize;

#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    items: mpsc::Sender<Item>,
    shared: Arc<LaneShared>,
}

/// What a lane and the ways into it share.
#[derive(Debug)]
pub(super) struct LaneShared {
    pub(super) health: Arc<LaneHealth>,
    /// Items that were sent and are not done.
    pub(super) queued: AtomicUsize,
    pub(super) place: DispatcherSlot,
}

impl Inbox {
    pub(super) fn new(items: mpsc::Sender<Item>, shared: Arc<LaneShared>) -> Self {
        Self { items, shared }
    }

    pub(crate) fn health(&self) -> &Arc<LaneHealth> {
        &self.shared.health
    }

    pub(crate) fn same_channel(&self, other: &Self) -> bool {
        self.items.same_channel(&other.items)
    }

    /// Has the item done at once if that can be, else puts it into the queue.
    pub(crate) fn try_send(&self, item: Item) -> Result<(), TrySendError<Item>> {
        match &item {
            Item::Open(_) => {}
            // What was deferred comes before.
            Item::Close(peer, _) if !peer.outbox.is_deferring() => {}
            _ => return self.queue(item),
        }
        let mut item = Some(item);
        let work = |dispatcher: &mut Dispatcher| {
            item.take().into_iter().for_each(|item| dispatcher.apply(item))
        };
        self.take_turn(work);
        item.map_or(Ok(()), |item| self.queue(item))
    }

    /// As [`try_send`](Self::try_send), for what one read of a connection yielded. What is done at once was never lent; what would
    /// take too long is left to the lane, and what would overfill the outbox is deferred.
    pub(crate) fn try_inputs(
        &self,
        peer: &Arc<Peer>,
        mut inputs: Vec<Input>,
    ) -> Result<(), TrySendError<Item>> {
        self.take_turn(|dispatcher| {
            let handled = dispatcher.inputs(peer, &inputs);
            inputs.drain(..handled);
            if !inputs.is_empty() && peer.outbox.is_crowded(peer.bounds) {
                let rest = std::mem::take(&mut inputs);
                peer.outbox.reserve(Load::of(&rest));
                peer.outbox.defer(rest);
            }
        });
        if inputs.is_empty() {
            return Ok(());
        }
        self.queue(Item::Inputs { peer: peer.clone(), inputs, reserved: Load::default() })
    }

    fn take_turn(&self, work: impl FnOnce(&mut Dispatcher)) -> bool {
        !self.shared.health.is_given_up()
            && self.shared.queued.load(Ordering::Acquire) == 0
            && self.shared.place.take_turn(work)
    }

    fn queue(&self, mut item: Item) -> Result<(), TrySendError<Item>> {
        item.reserve();
        if self.shared.health.is_given_up() {
            return Err(TrySendError::Closed(item));
        }
        self.shared.queued.fetch_add(1, Ordering::AcqRel);
        self.items.try_send(item).inspect_err(|_| {
            self.shared.queued.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Waits for a place; not for the end of a lane that is given up: who waits here is told of that by its outbox.
    pub(crate) async fn reserve(&self) -> Result<Permit<'_>, SendError<()>> {
        if self.shared.health.is_given_up() {
            return Err(SendError(()));
        }
        Ok(Permit { permit: self.items.reserve().await?, shared: &self.shared })
    }

    /// Waits for a place or for the end of the lane.
    pub(crate) async fn send(&self, item: Item) -> Result<(), SendError<Item>> {
        let item = match self.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(item)) => return Err(SendError(item)),
            Err(TrySendError::Full(item)) => item,
        };
        // Boxed: hardly ever needed, and every connection's task would make room for it.
        let permit = Box::pin(async {
            tokio::select! {
                permit = self.reserve() => permit.ok(),
                () = self.shared.health.given_up() => None,
            }
        });
        match permit.await {
            Some(permit) => {
                permit.send(item);
                Ok(())
            }
            None => Err(SendError(item)),
        }
    }
}

/// A place in the queue.
pub(crate) struct Permit<'a> {
    permit: mpsc::Permit<'a, Item>,
    shared: &'a LaneShared,
}

impl Permit<'_> {
    pub(crate) fn send(self, item: Item) {
        self.shared.queued.fetch_add(1, Ordering::AcqRel);
        self.permit.send(item);
    }
}
