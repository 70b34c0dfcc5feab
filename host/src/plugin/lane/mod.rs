//! A lane: the inbox of a resource and the one consumer that owns its [`Instance`].
//!
//! The same loop runs as a task (an application that never blocks) or on a thread of its own. It takes what is there,
//! calls the application for each event in order, and writes the dialog's answers into the peers' outboxes. It also
//! performs swaps, between two events. Connections wait here when an application is slow: the inbox is bounded, and a
//! connection whose event does not fit does not read on. For an application that never blocks, a sender may take the
//! lane's turn (`inbox.rs`): whoever has the [`Dispatcher`] is the lane.

pub(crate) mod handover;
pub(crate) mod health;
pub(crate) mod inbox;

use std::collections::HashSet;
use std::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, debug, info_span, warn};

use self::handover::{
    Handover, HandoverLimits, RetiredReceiver, Succession, Swap, SwapError, discard, restore,
    take_up,
};
use self::health::{Callback, LaneHealth};
use self::inbox::{Inbox, LaneShared};
use super::snapshot_file::SnapshotFile;
use super::{Event, Failure, Instance, Snapshot};
use crate::config::LaneKind;
use crate::protocol::close::{CloseReason, sendable};
use crate::protocol::outgoing::Outgoing;
use crate::routing::input::{Input, Load};
use crate::routing::registry::Peer;
use crate::routing::resource::Resource;
use crate::routing::sync::{AtomicBool, AtomicUsize, Mutex, pause};

/// What a lane does, in the order in which it comes.
pub(crate) enum Item {
    Open(Arc<Peer>),
    /// What one read of a connection yielded, and what was lent of it while it waits.
    Inputs {
        peer: Arc<Peer>,
        inputs: Vec<Input>,
        reserved: Load,
    },
    /// Goes on with what was deferred of a connection.
    Resume(Arc<Peer>),
    Close(Arc<Peer>, CloseReason),
    Swap(Swap),
    /// Hands the state to somebody who keeps it, with the name of the application that gave it: only the lane knows which one serves
    /// at that moment. The instance goes on.
    Snapshot(oneshot::Sender<Result<Option<SnapshotFile>, Failure>>),
    /// Ends the lane after what is already in its inbox; the instance goes on in another one.
    Yield(oneshot::Sender<Box<dyn Instance>>),
    /// Ends lane and instance after what is already in the inbox; every connection is closed. Answered then, with what tells when the
    /// instance is gone: its `Drop` may take its time.
    Stop(oneshot::Sender<RetiredReceiver>),
}

impl Item {
    /// It is going to wait: what was read and not yet handled counts against its connection.
    pub(super) fn reserve(&mut self) {
        if let Self::Inputs { peer, inputs, reserved } = self
            && *reserved == Load::default()
        {
            *reserved = Load::of(inputs);
            peer.outbox.reserve(*reserved);
        }
    }
}

/// A lane that does not run yet: what comes in waits.
pub(crate) struct PendingLane {
    items: mpsc::Receiver<Item>,
    shared: Arc<LaneShared>,
}

/// Makes the inbox of a lane; `capacity` is in items.
pub(crate) fn open(capacity: usize) -> (Inbox, PendingLane) {
    follow(capacity, Arc::default())
}

/// Makes the inbox of a lane that will go on with the instance of another one: given up together with it.
pub(crate) fn follow(capacity: usize, health: Arc<LaneHealth>) -> (Inbox, PendingLane) {
    let (inbox, items) = mpsc::channel(capacity);
    let shared = Arc::new(LaneShared {
        health,
        queued: AtomicUsize::new(0),
        place: DispatcherSlot::default(),
    });
    (Inbox::new(inbox, shared.clone()), PendingLane { items, shared })
}

/// Where a lane is going to run. Had before anything depends on it, because the system may have no thread left; one that is not used
/// ends by itself.
pub(crate) enum Executor {
    Task,
    /// A thread that waits for its lane.
    Thread(std::sync::mpsc::Sender<Lane>),
}

impl Executor {
    /// For the lane of the resource with this path.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn find(path: &str, kind: LaneKind) -> std::io::Result<Self> {
        if kind == LaneKind::Shared {
            return Ok(Self::Task);
        }
        let (executor, given) = std::sync::mpsc::channel::<Lane>();
        let runtime = Handle::current();
        let work = move || {
            if let Ok(lane) = given.recv() {
                runtime.block_on(lane.run(THREAD_BATCH));
            }
        };
        drop(std::thread::Builder::new().name(format!("lane:{path}")).spawn(work)?);
        Ok(Self::Thread(executor))
    }

    pub(crate) fn kind(&self) -> LaneKind {
        match self {
            Self::Task => LaneKind::Shared,
            Self::Thread(_) => LaneKind::Thread,
        }
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
        let lane = self.staffed(resource, executor.kind(), instance);
        match executor {
            Executor::Task => drop(Handle::current().spawn(lane.run(SHARED_BATCH))),
            Executor::Thread(thread) => {
                // It waits for that and for nothing else.
                drop(thread.send(lane));
            }
        }
    }

    /// With a clerk in its place.
    fn staffed(self, resource: Arc<Resource>, kind: LaneKind, instance: Box<dyn Instance>) -> Lane {
        let Self { items, shared } = self;
        shared.health.serves(instance.generation(), instance.revocation());
        let dispatcher = Dispatcher {
            health: shared.health.clone(),
            resource,
            instance,
            next_tick: None,
            ending: LaneEnd::None,
        };
        shared.place.put(Box::new(dispatcher));
        shared.place.is_open.store(kind == LaneKind::Shared, Ordering::Release);
        Lane { items, shared }
    }

    /// The lane as a future, for who runs it by himself.
    #[cfg(test)]
    pub(crate) fn into_running(
        self,
        resource: Arc<Resource>,
        kind: LaneKind,
        instance: Box<dyn Instance>,
    ) -> impl Future<Output = ()> + Send {
        self.staffed(resource, kind, instance).run(SHARED_BATCH)
    }
}

/// Items taken at once; between two batches other tasks of the runtime get their turn.
const SHARED_BATCH: usize = 16;
const THREAD_BATCH: usize = 64;
/// A batch that took longer makes the next one smaller: an item may be 64 messages, and each of them a broadcast.
const LONG_BATCH: Duration = Duration::from_millis(1);

/// The consumer of the queue.
pub(crate) struct Lane {
    items: mpsc::Receiver<Item>,
    shared: Arc<LaneShared>,
}

/// What comes of a lane's work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    GoesOn,
    /// Another generation serves.
    Swapped,
    /// The lane was given up, or has ended.
    Over,
}

/// Where the clerk sits while it has nothing to do: whoever has taken it from here is the lane. On a thread of its own that is only
/// the thread.
#[derive(Default)]
pub(super) struct DispatcherSlot {
    dispatcher: Mutex<Option<Box<Dispatcher>>>,
    /// Whether a sender may take its turn here.
    is_open: AtomicBool,
    /// The clerk wants a tick that the lane does not know of.
    tick_wanted: Notify,
}

/// Calls the application; the single owner of the instance.
pub(super) struct Dispatcher {
    health: Arc<LaneHealth>,
    resource: Arc<Resource>,
    instance: Box<dyn Instance>,
    next_tick: Option<Instant>,
    ending: LaneEnd,
}

/// What becomes of the instance when the inbox is empty.
enum LaneEnd {
    /// Nobody asked: every way into the lane was dropped.
    None,
    Yield(oneshot::Sender<Box<dyn Instance>>),
    Stop(oneshot::Sender<RetiredReceiver>),
    /// It was stuck; the resource has another lane by now. What is in the inbox is nobody's.
    GivenUp,
}

impl Lane {
    /// Each generation has a span of its own: what is once recorded in one stays in its lines.
    async fn run(mut self, most: usize) {
        let mut batch = Vec::with_capacity(most);
        loop {
            let Some(dispatcher) = self.dispatcher().await else { return };
            let (path, generation) =
                (dispatcher.resource.path.clone(), dispatcher.instance.generation());
            self.shared.place.put(dispatcher);
            let span = info_span!("lane", resource = path, generation);
            if self.run_generation(&mut batch, most).instrument(span).await == Work::Over {
                return;
            }
        }
    }

    /// `batch` is what was taken from the queue and is not done.
    async fn run_generation(&mut self, batch: &mut Vec<Item>, most: usize) -> Work {
        let mut batch_size = most;
        if !batch.is_empty() {
            // What came behind the swap.
            match self.work(batch).await {
                Work::GoesOn => {}
                Work::Swapped => return Work::Swapped,
                Work::Over => return self.end().await,
            }
        }
        loop {
            let Some(mut dispatcher) = self.dispatcher().await else { return Work::Over };
            dispatcher.schedule_tick();
            let next_tick = dispatcher.next_tick;
            self.shared.place.put(dispatcher);
            let tick = async {
                match next_tick {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                taken = self.items.recv_many(batch, batch_size) => {
                    let begun = Instant::now();
                    match self.work(batch).await {
                        Work::GoesOn if taken > 0 => {}
                        Work::Swapped => return Work::Swapped,
                        Work::GoesOn | Work::Over => break,
                    }
                    // On a shared lane: lets the other tasks of this worker have their turn. The runtime's own budget counts
                    // batches, whatever each costs.
                    if begun.elapsed() > LONG_BATCH {
                        batch_size = (batch_size / 2).max(1);
                        tokio::task::yield_now().await;
                    } else {
                        batch_size = (batch_size + 1).min(most);
                        tokio::task::consume_budget().await;
                    }
                }
                () = self.shared.place.tick_wanted.notified() => {}
                () = tick => {
                    let Some(mut dispatcher) = self.dispatcher().await else { return Work::Over };
                    dispatcher.next_tick = None;
                    dispatcher.tell(Event::Tick(SystemTime::now()));
                    self.shared.place.put(dispatcher);
                }
            }
        }
        self.end().await
    }

    async fn end(&self) -> Work {
        if let Some(dispatcher) = self.dispatcher().await {
            dispatcher.end();
        }
        Work::Over
    }

    /// Does what was taken from the inbox, up to a swap.
    async fn work(&mut self, batch: &mut Vec<Item>) -> Work {
        let Some(mut dispatcher) = self.dispatcher().await else { return Work::Over };
        let (mut work, mut count, mut rest) = (Work::GoesOn, 0, Vec::new());
        let mut items = batch.drain(..);
        while let Some(item) = items.next() {
            count += 1;
            match item {
                Item::Swap(swap) => {
                    let before = dispatcher.instance.generation();
                    dispatcher.swap(swap).await;
                    if dispatcher.instance.generation() != before {
                        work = Work::Swapped;
                        rest.extend(items.by_ref());
                    }
                }
                Item::Inputs { peer, inputs, reserved } => {
                    dispatcher.handle(&peer, inputs, reserved, 0).await
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
        self.shared.queued.fetch_sub(count, Ordering::AcqRel);
        if !matches!(dispatcher.ending, LaneEnd::None) {
            // Takes nothing new; what is already in the inbox is still done.
            self.items.close();
        }
        if dispatcher.is_given_up() {
            work = Work::Over;
        }
        self.shared.place.put(dispatcher);
        batch.append(&mut rest);
        work
    }

    /// Takes the clerk from its place; None if a sender got stuck with it, and the lane was given up for that.
    async fn dispatcher(&self) -> Option<Box<Dispatcher>> {
        const SHORT: usize = 20;
        let mut attempts = 0;
        loop {
            if let Some(dispatcher) = self.shared.place.take() {
                return Some(dispatcher);
            }
            // A sender is at it, for some microseconds; but one that is stuck there must not keep this thread as well.
            attempts += 1;
            match attempts {
                _ if self.shared.health.is_given_up() => return None,
                0..SHORT => tokio::task::yield_now().await,
                _ => pause(Duration::from_millis(1)).await,
            }
        }
    }
}

impl DispatcherSlot {
    /// Locked for as long as it takes to move the clerk in or out, never while it works.
    fn take(&self) -> Option<Box<Dispatcher>> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, dispatcher: Box<Dispatcher>) {
        *self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
    }

    /// Has the caller do the lane's work; false if the place is closed or empty.
    pub(super) fn take_turn(&self, work: impl FnOnce(&mut Dispatcher)) -> bool {
        if !self.is_open.load(Ordering::Acquire) {
            return false;
        }
        let Some(mut dispatcher) = self.take() else { return false };
        if !matches!(dispatcher.ending, LaneEnd::None) {
            self.put(dispatcher);
            return false;
        }
        work(&mut dispatcher);
        if dispatcher.is_given_up() {
            // The lane finds its place empty and itself given up.
            dispatcher.end();
            return true;
        }
        let had_tick = dispatcher.next_tick.is_some();
        if !had_tick {
            dispatcher.schedule_tick();
        }
        let wants_tick = !had_tick && dispatcher.next_tick.is_some();
        self.put(dispatcher);
        if wants_tick {
            self.tick_wanted.notify_one();
        }
        true
    }
}

impl std::fmt::Debug for DispatcherSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl Dispatcher {
    fn end(mut self) {
        let ending = std::mem::replace(&mut self.ending, LaneEnd::None);
        match ending {
            // Nobody takes it only while the host goes down.
            LaneEnd::Yield(heir) => return drop(heir.send(self.instance)),
            LaneEnd::GivenUp => {
                warn!("a lane that was given up has come back and ends");
                drop(discard(self.instance));
                return;
            }
            LaneEnd::None | LaneEnd::Stop(_) => {}
        }
        let removed = CloseReason::host(CloseCode::AWAY, "this application was removed");
        for peer in self.resource.members() {
            // One that is closing already has its reason.
            peer.outbox.close(removed.clone()).ok();
            self.close(&peer, &removed);
        }
        self.instance.retire();
        // Not here: on a shared lane others wait for this thread.
        let gone = discard(self.instance);
        if let LaneEnd::Stop(done) = ending {
            // Who asked may have gone.
            drop(done.send(gone));
        }
    }

    pub(super) fn apply(&mut self, item: Item) {
        if self.is_given_up() {
            return;
        }
        match item {
            Item::Open(peer) => self.open(&peer),
            Item::Close(peer, reason) => self.close(&peer, &reason),
            // Dealt with by the lane, because they may wait.
            Item::Swap(_) | Item::Inputs { .. } | Item::Resume(_) => {}
            Item::Snapshot(done) => {
                let plugin = self.instance.plugin().to_owned();
                let of = |snapshot| SnapshotFile { plugin, snapshot };
                let taken = self.snapshot().map(|taken| taken.map(of));
                // Who asked may have gone.
                drop(done.send(taken));
            }
            Item::Yield(heir) => self.ending = LaneEnd::Yield(heir),
            Item::Stop(done) => self.ending = LaneEnd::Stop(done),
        }
    }

    fn open(&mut self, peer: &Arc<Peer>) {
        self.resource.admit(peer.clone());
        match self.call(Event::Open(peer)) {
            _ if self.is_given_up() => {}
            Ok(()) => peer.outbox.accept(peer.dialog.then_some(Outgoing::Ready)),
            Err(failure) => {
                self.resource.dismiss(peer);
                peer.outbox.refuse(verdict(failure));
            }
        }
    }

    /// Handles what a peer sent, with breaks for others; what would overfill its outbox is deferred, but `at_least` so many are handled.
    /// `reserved` is what was lent of it.
    async fn handle(
        &mut self,
        peer: &Peer,
        mut inputs: Vec<Input>,
        reserved: Load,
        at_least: usize,
    ) {
        let mut handled = 0;
        while handled < inputs.len() && (handled < at_least || !peer.outbox.is_crowded(peer.bounds))
        {
            if handled > 0 {
                tokio::task::yield_now().await;
            }
            handled += self.inputs(peer, &inputs[handled..]);
        }
        let rest = inputs.split_off(handled);
        peer.outbox.release(reserved.without(Load::of(&rest)));
        if !rest.is_empty() {
            peer.outbox.defer(rest);
        }
    }

    async fn resume(&mut self, peer: &Peer) {
        if peer.outbox.is_deferring() {
            let inputs = peer.outbox.take_deferred();
            let reserved = Load::of(&inputs);
            // All that waited is written: one goes on whatever else has come for the peer since.
            self.handle(peer, inputs, reserved, 1).await;
        }
    }

    /// Handles what a peer sent, as much of it as may be handled in one go, and returns how many that were: sixty-four messages that are
    /// a broadcast each would keep the thread from everybody else for long, and as many large answers find no place.
    pub(super) fn inputs(&mut self, peer: &Peer, inputs: &[Input]) -> usize {
        const GO: Duration = Duration::from_micros(200);
        /// Between two looks at the clock.
        const FEW: usize = 16;
        if peer.outbox.is_deferring() {
            return 0;
        }
        let begun = (inputs.len() > FEW).then(Instant::now);
        let is_over = |handled: usize| {
            handled > 0
                && handled.is_multiple_of(FEW)
                && begun.is_some_and(|begun| begun.elapsed() > GO)
        };
        let mut handled = 0;
        for input in inputs {
            // One may always be answered: it was read because there was a place.
            let is_crowded = handled > 0 && peer.outbox.is_crowded(peer.bounds);
            if is_crowded || is_over(handled) {
                break;
            }
            self.input(peer, input);
            handled += 1;
        }
        self.resource.counters.add_messages(handled as u64);
        handled
    }

    fn input(&mut self, peer: &Peer, input: &Input) {
        // Refused, or ended by the application: what is still on its way from there is not for it.
        if self.is_given_up() || !peer.is_member() || peer.outbox.is_cut_off() {
            return;
        }
        let result = match input {
            Input::Message(payload) => self.call(Event::Message(peer, payload)),
            Input::Chunk => Ok(()),
        };
        if let Err(Failure::Refused(..)) = &result {
            self.resource.counters.add_refused();
        }
        match result {
            _ if self.is_given_up() => {}
            Ok(()) => peer.acknowledge(),
            // A connection that is closing already is as good.
            Err(failure) => drop(peer.outbox.close(verdict(failure)).err()),
        }
    }

    fn close(&mut self, peer: &Arc<Peer>, reason: &CloseReason) {
        let deferred = peer.outbox.take_deferred();
        if !deferred.is_empty() {
            // What was read is handled, though there is no place for the answers any more.
            peer.outbox.finish();
            deferred.iter().for_each(|input| self.input(peer, input));
            self.resource.counters.add_messages(deferred.len() as u64);
        }
        // One that was refused is no member, and the application does not know it.
        if self.resource.dismiss(peer) {
            if reason.is_fault() {
                self.tell(Event::Error(peer, &reason.text));
            }
            self.tell(Event::Close(peer, reason));
        }
        peer.outbox.finish();
    }

    /// Calls the application under the watchdog's eyes.
    fn call(&mut self, event: Event<'_>) -> Result<(), Failure> {
        if self.is_given_up() {
            return Err(Failure::Refused(CloseCode::AWAY, String::new()));
        }
        self.health.begin(event.callback());
        let result = self.instance.handle(event);
        self.left();
        if let Err(Failure::Panicked(_)) = &result {
            self.resource.counters.add_panic();
        }
        result
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure> {
        self.health.begin(Callback::Snapshot);
        let snapshot = self.instance.snapshot();
        self.left();
        snapshot
    }

    /// A callback is over.
    fn left(&mut self) {
        if !self.health.end() {
            self.ending = LaneEnd::GivenUp;
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(self.ending, LaneEnd::GivenUp)
    }

    /// For events to which the host has no answer.
    fn tell(&mut self, event: Event<'_>) {
        if let Err(failure) = self.call(event) {
            debug!(?failure, "a callback failed");
        }
    }

    async fn swap(&mut self, swap: Swap) {
        let begun = Instant::now();
        let Swap { next, succession, known, limits, done } = swap;
        if self.is_given_up() || done.is_closed() {
            drop(discard(next));
            return;
        }
        let taken_over = match succession {
            Succession::Heir => self.hand_over(next, limits).await,
            Succession::Stranger => take_up(next).map(|next| (next, None)),
            Succession::Returned => Ok((next, None)),
        };
        // Nobody may be waiting for the answer; what was done stands.
        match taken_over {
            Err(error) => drop(done.send(Err(error))),
            Ok((next, snapshot)) => {
                if self.put_in_place(next, succession, &known) {
                    let sessions = self.resource.members();
                    let pause = begun.elapsed();
                    self.resource.counters.add_swap(pause);
                    let values = self.resource.counters.values();
                    drop(done.send(Ok(Handover { pause, snapshot, sessions, values })));
                }
            }
        }
    }

    /// The successor serves from here on; false if the predecessor got stuck on the way, which ends the lane.
    fn put_in_place(
        &mut self,
        mut next: Box<dyn Instance>,
        succession: Succession,
        known: &[Arc<Peer>],
    ) -> bool {
        let members = match succession {
            Succession::Heir => Vec::new(),
            Succession::Stranger | Succession::Returned => self.resource.members(),
        };
        let replaced =
            CloseReason::host(CloseCode::AWAY, "another application serves this resource now");
        if succession == Succession::Stranger {
            members.iter().for_each(|peer| self.tell(Event::Close(peer, &replaced)));
        }
        if self.is_given_up() {
            drop(discard(next));
            return false;
        }
        std::mem::swap(&mut self.instance, &mut next);
        next.retire();
        self.health.serves(self.instance.generation(), self.instance.revocation());
        let left = CloseReason::new(CloseCode::AWAY, ClosedBy::Peer, "left meanwhile");
        for peer in known.iter().filter(|peer| !peer.is_member()) {
            self.tell(Event::Close(peer, &left));
        }
        let known: HashSet<u64> = known.iter().map(|peer| peer.id().0).collect();
        for peer in members.iter().filter(|peer| !known.contains(&peer.id().0)) {
            self.open_again(peer);
        }
        self.next_tick = None;
        drop(discard(next));
        true
    }

    /// The state goes to the successor. It takes it on a thread of its own, which is left behind if it takes too long.
    async fn hand_over(
        &mut self,
        next: Box<dyn Instance>,
        limits: HandoverLimits,
    ) -> Result<(Box<dyn Instance>, Option<Snapshot>), SwapError> {
        let snapshot = self.snapshot();
        if self.is_given_up() {
            return Err(SwapError::Stuck);
        }
        let snapshot = snapshot.map_err(|failure| SwapError::Snapshot(failure.into_text()))?;
        let Some(snapshot) = snapshot else { return take_up(next).map(|next| (next, None)) };
        let (bytes, limit) = (snapshot.bytes.len(), limits.snapshot_bytes);
        if bytes > limit {
            return Err(SwapError::TooLarge { bytes, limit });
        }
        restore(next, snapshot, limits.restore).await.map(|(next, taken)| (next, Some(taken)))
    }

    /// A connection meets an application that did not see it come.
    fn open_again(&mut self, peer: &Arc<Peer>) {
        let opened = self.call(Event::Open(peer));
        if let Err(failure) = opened
            && !self.is_given_up()
        {
            self.resource.dismiss(peer);
            peer.outbox.close(verdict(failure)).ok();
        }
    }

    fn schedule_tick(&mut self) {
        self.health.begin(Callback::Tick);
        let every = self.instance.tick_every();
        self.left();
        self.next_tick = every.map(|every| {
            let latest = Instant::now() + every;
            self.next_tick.map_or(latest, |planned| planned.min(latest))
        });
    }
}

/// What a failed callback means for the connection that it was about.
fn verdict(failure: Failure) -> CloseReason {
    match failure {
        Failure::Refused(code, text) => CloseReason::new(sendable(code), ClosedBy::Plugin, text),
        Failure::Panicked(_) => {
            CloseReason::new(CloseCode::ERROR, ClosedBy::Plugin, "the application failed")
        }
    }
}
