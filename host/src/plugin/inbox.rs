//! The way into a lane: a bounded queue that also refuses once the lane was given up.
//!
//! The queue of a lane that is stuck stays open, because its receiver is on the stuck thread. So whoever sends looks at the
//! lane's [`Pulse`] first, and whoever waits for a place waits for the end of the lane as well.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};

use super::lane::Item;
use super::pulse::Pulse;

#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    items: mpsc::Sender<Item>,
    pulse: Arc<Pulse>,
}

impl Inbox {
    pub(super) fn new(items: mpsc::Sender<Item>, pulse: Arc<Pulse>) -> Self {
        Self { items, pulse }
    }

    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    pub(crate) fn same_channel(&self, other: &Self) -> bool {
        self.items.same_channel(&other.items)
    }

    pub(crate) fn try_send(&self, item: Item) -> Result<(), TrySendError<Item>> {
        if self.pulse.is_given_up() {
            return Err(TrySendError::Closed(item));
        }
        self.items.try_send(item)
    }

    /// Waits for a place; not for the end of a lane that is given up: who waits here is told of that by its outbox.
    pub(crate) async fn reserve(&self) -> Result<mpsc::Permit<'_, Item>, SendError<()>> {
        if self.pulse.is_given_up() {
            return Err(SendError(()));
        }
        self.items.reserve().await
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
                permit = self.items.reserve() => permit.ok(),
                () = self.pulse.given_up() => None,
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
