//! The bounded inbox of a lane, and the direct call that bypasses it.
//!
//! The queue of a stuck lane stays open, because its receiver is on the stuck thread. A sender
//! therefore checks [`LaneHealth`] first, and one that waits for a place also waits for the lane to
//! be given up.
//!
//! **Direct call.** An application that never blocks needs no task of its own: where nothing is
//! queued and the dispatcher is free, the sender takes the dispatcher and calls the application
//! itself. That saves two task switches per message and keeps the order, because each earlier item
//! of a connection is either done or counted in `queued`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};

use super::Item;
use super::dispatcher::{Dispatcher, DispatcherSlot};
use super::health::LaneHealth;
use super::queue_probe::QueueProbe;
use crate::plugin::Posted;
use crate::routing::input::{Input, Load};
use crate::routing::peer::Peer;
use crate::routing::sync::AtomicUsize;

/// The sending half of a lane.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    items: mpsc::Sender<Item>,
    shared: Arc<LaneShared>,
}

/// Shared by a lane and its inboxes.
#[derive(Debug)]
pub(super) struct LaneShared {
    pub(super) health: Arc<LaneHealth>,
    /// Items that were sent and are not processed yet.
    pub(super) queued: AtomicUsize,
    pub(super) slot: DispatcherSlot,
    pub(super) probe: QueueProbe,
}

impl LaneShared {
    /// Counts an item that is about to be sent.
    fn count_queued(&self) {
        let ahead = self.queued.fetch_add(1, Ordering::AcqRel);
        self.probe.queue(ahead);
    }
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

    /// Processes the item with a direct call if possible, otherwise queues it.
    pub(crate) fn try_send(&self, item: Item) -> Result<(), TrySendError<Item>> {
        match &item {
            Item::Open(_) | Item::Request(_) => {}
            // Deferred inputs come first.
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

    /// As [`try_send`](Self::try_send), for the inputs of one read. Queues what would take too long
    /// and defers what would overfill the outbox; only these are charged to the connection.
    pub(crate) fn try_inputs(
        &self,
        peer: &Arc<Peer>,
        mut inputs: Vec<Input>,
    ) -> Result<(), TrySendError<Item>> {
        self.take_turn(|dispatcher| {
            let handled = dispatcher.handle_batch(peer, &inputs);
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

    /// Queues what an application has posted. Never a direct call: the caller is in the application
    /// or on a thread of it, which may hold a lock of the application.
    pub(crate) fn post(&self, posted: Box<Posted>) -> Result<(), TrySendError<Item>> {
        self.queue(Item::Event(posted))
    }

    fn take_turn(&self, work: impl FnOnce(&mut Dispatcher)) {
        if !self.shared.health.is_given_up() && self.shared.queued.load(Ordering::Acquire) == 0 {
            self.shared.slot.take_turn(work);
        }
    }

    fn queue(&self, mut item: Item) -> Result<(), TrySendError<Item>> {
        item.reserve();
        if self.shared.health.is_given_up() {
            return Err(TrySendError::Closed(item));
        }
        self.shared.count_queued();
        self.items.try_send(item).inspect_err(|_| {
            self.shared.queued.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Waits for a place in the queue. Does not end when the lane is given up: a connection learns
    /// that through its outbox.
    pub(crate) async fn reserve(&self) -> Result<Permit<'_>, SendError<()>> {
        if self.shared.health.is_given_up() {
            return Err(SendError(()));
        }
        Ok(Permit { permit: self.items.reserve().await?, shared: &self.shared })
    }

    /// Waits for a place in the queue, or until the lane is given up.
    pub(crate) async fn send(&self, item: Item) -> Result<(), SendError<Item>> {
        let item = match self.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(item)) => return Err(SendError(item)),
            Err(TrySendError::Full(item)) => item,
        };
        // Boxed: rarely needed, and every connection's task would contain it.
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

/// A reserved place in the queue.
pub(crate) struct Permit<'a> {
    permit: mpsc::Permit<'a, Item>,
    shared: &'a LaneShared,
}

impl Permit<'_> {
    pub(crate) fn send(self, item: Item) {
        self.shared.count_queued();
        self.permit.send(item);
    }
}
