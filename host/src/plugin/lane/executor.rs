//! Where a lane runs: as a task of the runtime or on its own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::dispatcher::{Dispatcher, DispatcherSlot};
use super::health::LaneHealth;
use super::inbox::{Inbox, LaneShared};
use super::queue_probe::QueueProbe;
use super::{Item, Lane};
use crate::config::LaneKind;
use crate::plugin::Instance;
use crate::routing::resource::Resource;
use crate::routing::sync::AtomicUsize;

/// A lane that was not started yet; its inbox already accepts items.
pub(crate) struct PendingLane(Lane);

/// Creates the inbox of a lane; `capacity` is in items. A lane that will take over another one's
/// instance shares the other one's `health`, so that both are given up together.
pub(crate) fn open(capacity: usize, health: Arc<LaneHealth>) -> (Inbox, PendingLane) {
    let (inbox, items) = mpsc::channel(capacity);
    let queued = AtomicUsize::new(0);
    let (slot, probe) = (DispatcherSlot::default(), QueueProbe::new());
    let shared = Arc::new(LaneShared { health, queued, slot, probe });
    (Inbox::new(inbox, shared.clone()), PendingLane(Lane { items, shared }))
}

/// Reserves the place where a lane will run. Reserved before anything depends on it, because the
/// system may refuse a thread. An unused thread ends when this is dropped.
pub(crate) enum Executor {
    Task,
    /// A thread that waits for its lane.
    Thread(std::sync::mpsc::Sender<Lane>),
}

impl Executor {
    /// Reserves a task or a thread for the lane of the resource at `path`.
    ///
    /// # Errors
    /// The system refuses another thread.
    pub(crate) fn reserve(path: &str, kind: LaneKind) -> std::io::Result<Self> {
        if kind == LaneKind::Shared {
            return Ok(Self::Task);
        }
        let (executor, pending) = std::sync::mpsc::channel::<Lane>();
        let runtime = Handle::current();
        let work = move || {
            if let Ok(lane) = pending.recv() {
                runtime.block_on(lane.run(THREAD_BATCH));
            }
        };
        drop(std::thread::Builder::new().name(format!("lane:{path}")).spawn(work)?);
        Ok(Self::Thread(executor))
    }
}

impl PendingLane {
    /// Starts the lane of `resource`. It ends with [`Item::Stop`] or [`Item::Yield`].
    pub(crate) fn start(
        self,
        resource: Arc<Resource>,
        executor: Executor,
        instance: Box<dyn Instance>,
    ) {
        match executor {
            Executor::Task => {
                let lane = self.into_lane(resource, LaneKind::Shared, instance);
                drop(Handle::current().spawn(lane.run(SHARED_BATCH)));
            }
            // Cannot fail: the thread ends only after it has received a lane.
            Executor::Thread(thread) => {
                drop(thread.send(self.into_lane(resource, LaneKind::Thread, instance)));
            }
        }
    }

    /// Takes an item of the inbox without running the lane.
    pub(crate) fn try_next(&mut self) -> Option<Item> {
        let item = self.0.items.try_recv().ok()?;
        self.0.shared.queued.fetch_sub(1, Ordering::AcqRel);
        Some(item)
    }

    fn into_lane(
        self,
        resource: Arc<Resource>,
        kind: LaneKind,
        instance: Box<dyn Instance>,
    ) -> Lane {
        let Lane { shared, .. } = &self.0;
        shared.health.set_instance(instance.generation(), instance.revocation());
        resource.set_takes_requests(instance.takes_requests());
        shared.slot.put(Box::new(Dispatcher::new(shared.health.clone(), resource, instance)));
        shared.slot.is_open.store(kind == LaneKind::Shared, Ordering::Release);
        self.0
    }

    /// Returns the lane as a future that the caller runs.
    #[cfg(test)]
    pub(crate) fn into_running(
        self,
        resource: Arc<Resource>,
        kind: LaneKind,
        instance: Box<dyn Instance>,
    ) -> impl Future<Output = ()> + Send {
        self.into_lane(resource, kind, instance).run(SHARED_BATCH)
    }
}

/// Items taken at once; between two batches other tasks of the runtime run.
const SHARED_BATCH: usize = 16;
const THREAD_BATCH: usize = 64;
