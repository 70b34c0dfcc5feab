//! A lane: the inbox of a resource and the one consumer that owns its [`Instance`].
//!
//! The same loop runs as a task (an application that never blocks) or on a thread of its own. It takes what is there,
//! calls the application for each event in order, and writes the dialog's answers into the peers' outboxes. It also
//! performs swaps, between two events. Connections wait here when an application is slow: the inbox is bounded, and a
//! connection whose event does not fit does not read on. For an application that never blocks, a sender may take the
//! lane's turn (`inbox.rs`): whoever holds the [`Place`] is the lane.

use std::collections::HashSet;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use plugsocket_plugin::{CloseCode, ClosedBy, Snapshot};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, debug, info_span, warn};

use super::handover::{
    Handover, HandoverLimits, Succession, Swap, SwapError, discard, restore, take_up,
};
use super::inbox::{Desk, Inbox};
use super::pulse::{Callback, Pulse};
use super::{Event, Failure, Instance};
use crate::config::LaneKind;
use crate::outbox::{CloseReason, Load, Outgoing, Payload};
use crate::registry::Peer;
use crate::resource::Resource;
use crate::router::sendable;

/// What a lane does, in the order in which it comes.
pub(crate) enum Item {
    Open(Arc<Peer>),
    /// What one read of a connection yielded.
    Inputs(Arc<Peer>, Vec<Input>),
    Close(Arc<Peer>, CloseReason),
    Swap(Swap),
    /// Hands the state to somebody who keeps it; the instance goes on.
    Snapshot(oneshot::Sender<Result<Option<Snapshot>, Failure>>),
    /// Ends the lane after what is already in its inbox; the instance goes on in another one.
    Yield(oneshot::Sender<Box<dyn Instance>>),
    /// Ends lane and instance after what is already in the inbox; every connection is closed. Answered when the instance is gone.
    Stop(oneshot::Sender<()>),
}

/// One thing that a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Message(Payload),
    /// A chunk, or the beginning of a buffer: the host takes it, the application does not see it.
    Chunk,
}

impl Input {
    pub(crate) fn load(inputs: &[Self]) -> Load {
        let bytes = inputs.iter().map(|input| match input {
            Self::Message(payload) => payload.bytes.len(),
            Self::Chunk => 0,
        });
        Load { messages: inputs.len(), bytes: bytes.sum() }
    }
}

/// A lane that does not run yet: what comes in waits.
pub(crate) struct Standstill {
    items: mpsc::Receiver<Item>,
    desk: Arc<Desk>,
}

/// Makes the inbox of a lane; `capacity` is in items.
pub(crate) fn open(capacity: usize) -> (Inbox, Standstill) {
    follow(capacity, Arc::default())
}

/// Makes the inbox of a lane that will go on with the instance of another one: given up together with it.
pub(crate) fn follow(capacity: usize, pulse: Arc<Pulse>) -> (Inbox, Standstill) {
    let (inbox, items) = mpsc::channel(capacity);
    let desk = Arc::new(Desk { pulse, queued: AtomicUsize::new(0), place: Place::default() });
    (Inbox::new(inbox, desk.clone()), Standstill { items, desk })
}

impl Standstill {
    /// Starts the lane of `resource`. It ends with [`Item::Stop`] or [`Item::Yield`].
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub(crate) fn start(
        self,
        resource: Arc<Resource>,
        kind: LaneKind,
        instance: Box<dyn Instance>,
    ) -> std::io::Result<()> {
        let path = resource.path.clone();
        let span = info_span!("lane", resource = path, generation = instance.generation());
        let Self { items, desk } = self;
        desk.pulse.serves(instance.generation(), instance.voice());
        let clerk = Clerk {
            pulse: desk.pulse.clone(),
            resource,
            instance,
            next_tick: None,
            ending: Ending::None,
        };
        desk.place.fill(clerk, kind == LaneKind::Shared);
        let lane = Lane { items, desk };
        let runtime = Handle::current();
        match kind {
            LaneKind::Shared => drop(runtime.spawn(lane.run(SHARED_BATCH).instrument(span))),
            LaneKind::Thread => {
                std::thread::Builder::new()
                    .name(format!("lane:{path}"))
                    .spawn(move || runtime.block_on(lane.run(THREAD_BATCH).instrument(span)))?;
            }
        }
        Ok(())
    }
}

/// Items taken at once; between two batches other tasks of the runtime get their turn.
const SHARED_BATCH: usize = 16;
const THREAD_BATCH: usize = 64;

/// The consumer of the queue.
struct Lane {
    items: mpsc::Receiver<Item>,
    desk: Arc<Desk>,
}

/// Where the clerk sits: whoever holds the lock is the lane. On a lane of its own thread that is only the thread.
#[derive(Default)]
pub(super) struct Place {
    clerk: Mutex<Option<Clerk>>,
    /// Whether a sender may take its turn here.
    is_open: AtomicBool,
    /// The clerk wants a tick that the lane does not know of.
    tick_wanted: Notify,
}

/// Calls the application; the single owner of the instance.
struct Clerk {
    pulse: Arc<Pulse>,
    resource: Arc<Resource>,
    instance: Box<dyn Instance>,
    next_tick: Option<Instant>,
    ending: Ending,
}

/// What becomes of the instance when the inbox is empty.
enum Ending {
    /// Nobody asked: every way into the lane was dropped.
    None,
    Yield(oneshot::Sender<Box<dyn Instance>>),
    Stop(oneshot::Sender<()>),
    /// It was stuck; the resource has another lane by now. What is in the inbox is nobody's.
    GivenUp,
}

impl Lane {
    async fn run(mut self, batch_size: usize) {
        let mut batch = Vec::with_capacity(batch_size);
        loop {
            let next_tick = self.with_clerk(|clerk| {
                clerk.schedule_tick();
                clerk.next_tick
            });
            let next_tick = next_tick.await.flatten();
            let tick = async {
                match next_tick {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                taken = self.items.recv_many(&mut batch, batch_size) => {
                    if taken == 0 || !self.work(&mut batch).await {
                        break;
                    }
                    // On a shared lane: lets the other tasks of this worker have their turn.
                    tokio::task::consume_budget().await;
                }
                () = self.desk.place.tick_wanted.notified() => {}
                () = tick => {
                    let ticked = self.with_clerk(|clerk| {
                        clerk.next_tick = None;
                        clerk.tell(Event::Tick(SystemTime::now()));
                    });
                    ticked.await;
                }
            }
        }
        if let Some(clerk) = self.desk.place.vacate() {
            clerk.end();
        }
    }

    /// False if the lane was given up.
    async fn work(&mut self, batch: &mut Vec<Item>) -> bool {
        let count = batch.len();
        let goes_on = if batch.iter().any(|item| matches!(item, Item::Swap(_))) {
            self.work_with_swaps(batch).await
        } else {
            let done = self.with_clerk(|clerk| {
                batch.drain(..).for_each(|item| clerk.apply(item));
                clerk.goes_on()
            });
            done.await.flatten()
        };
        batch.clear();
        self.desk.queued.fetch_sub(count, Ordering::AcqRel);
        if goes_on != Some(true) {
            // Takes nothing new; what is already in the inbox is still done.
            self.items.close();
        }
        goes_on.is_some()
    }

    /// A swap waits for the successor, so the clerk leaves its place meanwhile: who comes finds it empty, and queues.
    async fn work_with_swaps(&self, batch: &mut Vec<Item>) -> Option<bool> {
        let mut clerk = self.with_place(Option::take).await?;
        for item in batch.drain(..) {
            match item {
                Item::Swap(swap) => clerk.swap(swap).await,
                item => clerk.apply(item),
            }
        }
        let goes_on = clerk.goes_on();
        self.desk.place.put_back(clerk);
        goes_on
    }

    /// None if the lane was given up.
    async fn with_clerk<T>(&self, work: impl FnOnce(&mut Clerk) -> T) -> Option<T> {
        self.with_place(|place| place.as_mut().map(work)).await
    }

    async fn with_place<T>(&self, work: impl FnOnce(&mut Option<Clerk>) -> Option<T>) -> Option<T> {
        const SHORT: usize = 20;
        let mut attempts = 0;
        loop {
            if let Ok(mut place) = self.desk.place.clerk.try_lock() {
                return work(&mut place);
            }
            // A sender is at it, for some microseconds; but one that is stuck there must not keep this thread as well.
            attempts += 1;
            match attempts {
                _ if self.desk.pulse.is_given_up() => return None,
                0..SHORT => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

impl Place {
    fn fill(&self, clerk: Clerk, is_open: bool) {
        if let Ok(mut place) = self.clerk.lock() {
            *place = Some(clerk);
        }
        self.is_open.store(is_open, Ordering::Release);
    }

    /// For a clerk that left it for a moment.
    fn put_back(&self, clerk: Clerk) {
        if let Ok(mut place) = self.clerk.lock() {
            *place = Some(clerk);
        }
    }

    /// None if somebody is stuck in it.
    fn vacate(&self) -> Option<Clerk> {
        self.clerk.try_lock().ok()?.take()
    }

    /// Has an item done by the caller; gives it back if the place is closed or taken.
    pub(super) fn take_turn(&self, item: Item) -> Option<Item> {
        if !self.is_open.load(Ordering::Acquire)
            || !matches!(item, Item::Open(_) | Item::Inputs(..) | Item::Close(..))
        {
            return Some(item);
        }
        let Ok(mut place) = self.clerk.try_lock() else { return Some(item) };
        let Some(clerk) = place.as_mut().filter(|clerk| matches!(clerk.ending, Ending::None))
        else {
            return Some(item);
        };
        clerk.apply(item);
        if clerk.is_given_up() {
            // The lane waits for items that will not come; it ends when the last way into it is dropped.
            let clerk = place.take();
            drop(place);
            clerk.into_iter().for_each(Clerk::end);
            return None;
        }
        if clerk.next_tick.is_none() {
            clerk.schedule_tick();
            if clerk.next_tick.is_some() {
                self.tick_wanted.notify_one();
            }
        }
        None
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl Clerk {
    /// None if the lane was given up, false if it takes nothing new.
    fn goes_on(&self) -> Option<bool> {
        match self.ending {
            Ending::None => Some(true),
            Ending::Yield(_) | Ending::Stop(_) => Some(false),
            Ending::GivenUp => None,
        }
    }

    fn end(mut self) {
        let ending = std::mem::replace(&mut self.ending, Ending::None);
        match ending {
            // Nobody takes it only while the host goes down.
            Ending::Yield(heir) => return drop(heir.send(self.instance)),
            Ending::GivenUp => {
                warn!("a lane that was given up has come back and ends");
                return discard(self.instance);
            }
            Ending::None | Ending::Stop(_) => {}
        }
        let removed = CloseReason::host(CloseCode::AWAY, "this application was removed");
        for peer in self.resource.members() {
            // One that is closing already has its reason.
            peer.outbox.close(removed.clone()).ok();
            self.close(&peer, &removed);
        }
        self.instance.retire();
        drop(self.instance);
        if let Ending::Stop(done) = ending {
            done.send(()).ok();
        }
    }

    fn apply(&mut self, item: Item) {
        if self.is_given_up() {
            return;
        }
        match item {
            Item::Open(peer) => self.open(&peer),
            Item::Inputs(peer, inputs) => {
                inputs.iter().for_each(|input| self.input(&peer, input));
                self.resource.tally.add_messages(inputs.len() as u64);
                peer.outbox.give_back(Input::load(&inputs));
            }
            Item::Close(peer, reason) => self.close(&peer, &reason),
            // Dealt with by the lane, because it waits.
            Item::Swap(_) => {}
            Item::Snapshot(done) => {
                let taken = self.snapshot();
                // Who asked may have gone.
                drop(done.send(taken));
            }
            Item::Yield(heir) => self.ending = Ending::Yield(heir),
            Item::Stop(done) => self.ending = Ending::Stop(done),
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
            self.resource.tally.add_refused();
        }
        match result {
            _ if self.is_given_up() => {}
            Ok(()) => peer.acknowledge(),
            // A connection that is closing already is as good.
            Err(failure) => drop(peer.outbox.close(verdict(failure)).err()),
        }
    }

    fn close(&mut self, peer: &Arc<Peer>, reason: &CloseReason) {
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
        self.pulse.begin(event.callback());
        let result = self.instance.handle(event);
        self.left();
        if let Err(Failure::Panicked(_)) = &result {
            self.resource.tally.add_panic();
        }
        result
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure> {
        self.pulse.begin(Callback::Snapshot);
        let snapshot = self.instance.snapshot();
        self.left();
        snapshot
    }

    /// A callback is over.
    fn left(&mut self) {
        if !self.pulse.end() {
            self.ending = Ending::GivenUp;
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(self.ending, Ending::GivenUp)
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
            return discard(next);
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
                    let pause = begun.elapsed();
                    self.resource.tally.add_swap(pause);
                    let sessions = self.resource.members();
                    drop(done.send(Ok(Handover { pause, snapshot, sessions })));
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
            discard(next);
            return false;
        }
        std::mem::swap(&mut self.instance, &mut next);
        next.retire();
        self.pulse.serves(self.instance.generation(), self.instance.voice());
        tracing::Span::current().record("generation", self.instance.generation());
        let left = CloseReason::new(CloseCode::AWAY, ClosedBy::Peer, "left meanwhile");
        for peer in known.iter().filter(|peer| !peer.is_member()) {
            self.tell(Event::Close(peer, &left));
        }
        let known: HashSet<u64> = known.iter().map(|peer| peer.id().0).collect();
        for peer in members.iter().filter(|peer| !known.contains(&peer.id().0)) {
            self.open_again(peer);
        }
        self.next_tick = None;
        discard(next);
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
        self.pulse.begin(Callback::Tick);
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
