//! A lane: the inbox of a resource and the one consumer that owns its [`Instance`].
//!
//! The same loop runs as a task, for an application that never blocks, or on its own thread. It
//! takes a batch from the inbox, calls the application for each item in order and appends the
//! dialog's answers to the peers' outboxes. A swap is an item like any other. The inbox is bounded:
//! a connection whose item does not fit stops reading. For an application that never blocks, a
//! sender may do the lane's work itself (`inbox.rs`): the holder of the [`Dispatcher`] is the lane.
//!
//! A lane must know neither sockets nor libraries.

mod dispatcher;
mod executor;
pub(crate) mod handover;
pub(crate) mod health;
pub(crate) mod inbox;
mod queue_probe;

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use plugsocket_plugin::{ConfigChange, SnapshotReason};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, info_span};

use self::dispatcher::Dispatcher;
pub(crate) use self::executor::{Executor, PendingLane, open};
use self::handover::Swap;
use self::inbox::LaneShared;
use super::snapshot_file::SnapshotFile;
use super::{Failure, Instance, Posted, Retirement};
use crate::protocol::close::CloseReason;
use crate::routing::input::{Input, Load};
use crate::routing::peer::Peer;
use crate::routing::requests::HttpRequest;
use crate::routing::resource::Resource;
use crate::routing::sync::pause;

/// A unit of work in the inbox.
pub(crate) enum Item {
    Open(Arc<Peer>),
    /// What one read of a connection produced, and what it has reserved while it waits.
    Inputs {
        peer: Arc<Peer>,
        inputs: Vec<Input>,
        reserved: Load,
    },
    /// Continues with the deferred inputs of a connection.
    Resume(Arc<Peer>),
    Close(Arc<Peer>, CloseReason),
    Event(Box<Posted>),
    /// A plain HTTP request, whose connection waits for the answer.
    Request(Arc<HttpRequest>),
    Swap(Box<Swap>),
    /// Applies a changed configuration to the instance, unless that needs a new one.
    Configure(Box<Configure>),
    /// Requests the state together with the name of its application, which only the lane knows at
    /// that moment. The instance continues.
    Snapshot(SnapshotReason, oneshot::Sender<Result<Option<SnapshotFile>, Failure>>),
    /// Ends the lane after the items already in its inbox and returns the instance, which another
    /// lane takes over.
    Yield(oneshot::Sender<Box<dyn Instance>>),
    /// Ends lane and instance after the items already in the inbox, and closes every connection.
    /// Answered before the instance is dropped, with a receiver for the end of the drop.
    Stop(Retirement, oneshot::Sender<oneshot::Receiver<()>>),
}

/// A changed configuration, as JSON.
pub(crate) struct Configure {
    pub(crate) config: String,
    pub(crate) done: oneshot::Sender<Result<ConfigChange, Failure>>,
}

impl Item {
    /// Charges inputs to their connection, because they are going to wait.
    pub(super) fn reserve(&mut self) {
        if let Self::Inputs { peer, inputs, reserved } = self
            && *reserved == Load::default()
        {
            *reserved = Load::of(inputs);
            peer.outbox.reserve(*reserved);
        }
    }
}

/// The consumer of the inbox.
pub(crate) struct Lane {
    items: mpsc::Receiver<Item>,
    shared: Arc<LaneShared>,
}

/// How the lane continues after a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Continue,
    /// Another generation is active.
    Swapped,
    /// The lane was given up or has ended.
    Ended,
}

/// A batch that took longer halves the next one: an item may be 64 messages, each of them a
/// broadcast.
const LONG_BATCH: Duration = Duration::from_millis(1);

impl Lane {
    /// Runs generation after generation, each in its own span, whose fields cannot change.
    async fn run(mut self, max_batch: usize) {
        let mut batch = Vec::with_capacity(max_batch);
        loop {
            let Some(mut dispatcher) = self.dispatcher().await else { return };
            dispatcher.handle_early_requests();
            let (resource, generation) =
                (dispatcher.resource().clone(), dispatcher.instance().generation());
            self.shared.slot.put(dispatcher);
            let span = info_span!("lane", resource = resource.path, generation);
            let running = self.run_generation(&resource, &mut batch, max_batch);
            let progress = running.instrument(span).await;
            if progress == Progress::Ended {
                return;
            }
        }
    }

    /// Runs until the instance is swapped or the lane ends; `batch` begins with the items that were
    /// behind the last swap.
    async fn run_generation(
        &mut self,
        resource: &Resource,
        batch: &mut Vec<Item>,
        max_batch: usize,
    ) -> Progress {
        let mut batch_size = max_batch;
        if !batch.is_empty() {
            match self.process(batch).await {
                Progress::Continue => {}
                Progress::Swapped => return Progress::Swapped,
                Progress::Ended => return self.end().await,
            }
        }
        loop {
            let Some(mut dispatcher) = self.dispatcher().await else { return Progress::Ended };
            let next_time =
                dispatcher.schedule_tick().into_iter().chain(resource.timers.next()).min();
            self.shared.slot.put(dispatcher);
            let clock = async {
                match next_time {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                taken = self.items.recv_many(batch, batch_size) => {
                    let begun = Instant::now();
                    if let Some(waited) = self.shared.probe.take(taken, begun.into_std()) {
                        resource.counters.times.queue.observe(waited, 1);
                    }
                    match self.process(batch).await {
                        Progress::Continue if taken > 0 => {}
                        Progress::Swapped => return Progress::Swapped,
                        Progress::Continue | Progress::Ended => break,
                    }
                    // Lets other tasks of this worker run. The runtime's own budget counts batches,
                    // whatever each costs.
                    if begun.elapsed() > LONG_BATCH {
                        batch_size = (batch_size / 2).max(1);
                        tokio::task::yield_now().await;
                    } else {
                        batch_size = (batch_size + 1).min(max_batch);
                        tokio::task::consume_budget().await;
                    }
                }
                () = self.shared.slot.tick_wanted.notified() => {}
                () = resource.timers.changed.notified() => {}
                () = clock => {
                    let Some(mut dispatcher) = self.dispatcher().await else {
                        return Progress::Ended;
                    };
                    dispatcher.handle_clock();
                    let is_given_up = dispatcher.is_given_up();
                    self.shared.slot.put(dispatcher);
                    if is_given_up {
                        break;
                    }
                    tokio::task::consume_budget().await;
                }
            }
        }
        self.end().await
    }

    async fn end(&mut self) -> Progress {
        // First, so that no request comes in after the waiting ones were ended.
        self.items.close();
        if let Some(dispatcher) = self.dispatcher().await {
            dispatcher.end();
        }
        Progress::Ended
    }

    /// Processes a batch up to a swap and leaves the rest in `batch`.
    async fn process(&mut self, batch: &mut Vec<Item>) -> Progress {
        let Some(mut dispatcher) = self.dispatcher().await else { return Progress::Ended };
        let (mut progress, mut count, mut rest) = (Progress::Continue, 0, Vec::new());
        let mut items = batch.drain(..);
        while let Some(item) = items.next() {
            count += 1;
            match item {
                Item::Swap(swap) => {
                    let before = dispatcher.instance().generation();
                    dispatcher.swap(*swap).await;
                    if dispatcher.instance().generation() != before {
                        progress = Progress::Swapped;
                        rest.extend(items.by_ref());
                    }
                }
                Item::Inputs { peer, inputs, reserved } => {
                    dispatcher.handle_or_defer(&peer, inputs, reserved, 0).await;
                }
                Item::Resume(peer) => dispatcher.resume(&peer).await,
                Item::Close(peer, reason) => {
                    dispatcher.resume(&peer).await;
                    dispatcher.apply(Item::Close(peer, reason));
                }
                item => dispatcher.apply(item),
            }
        }
        drop(items);
        if self.shared.queued.fetch_sub(count, Ordering::AcqRel) == count {
            self.shared.probe.clear();
        }
        if dispatcher.is_ending() {
            // Accepts no new items; those in the inbox are still processed.
            self.items.close();
        }
        if dispatcher.is_given_up() {
            progress = Progress::Ended;
        }
        self.shared.slot.put(dispatcher);
        batch.append(&mut rest);
        progress
    }

    /// Takes the dispatcher from its slot; `None` if a sender is stuck with it and the lane was
    /// given up for that.
    async fn dispatcher(&self) -> Option<Box<Dispatcher>> {
        const YIELDS: usize = 20;
        let mut attempts = 0;
        loop {
            if let Some(dispatcher) = self.shared.slot.take() {
                return Some(dispatcher);
            }
            // A sender holds it for some microseconds; one that is stuck must not occupy this
            // thread as well.
            attempts += 1;
            match attempts {
                _ if self.shared.health.is_given_up() => return None,
                0..YIELDS => tokio::task::yield_now().await,
                _ => pause(Duration::from_millis(1)).await,
            }
        }
    }
}
