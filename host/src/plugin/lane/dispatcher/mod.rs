//! Owns the instance and calls it for each item; also performs the swap.

mod input;
mod sampling;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use plugsocket_plugin::{CloseCode, ClosedBy, ConfigChange, RetireReason, SnapshotReason};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use self::sampling::Sampling;
use super::handover::{Handover, Succession, Swap, SwapError, activate, discard, restore, retire};
use super::health::LaneHealth;
use super::{Configure, Item};
use crate::config::HandoverSettings;
use crate::plugin::snapshot_file::SnapshotFile;
use crate::plugin::{EarlyRequests, Event, Failure, Instance, Retirement, Snapshot, TimerRequest};
use crate::protocol::close::{CloseReason, sendable};
use crate::protocol::payload::Outgoing;
use crate::routing::callback::CallbackKind;
use crate::routing::peer::Peer;
use crate::routing::requests::HttpRequest;
use crate::routing::resource::Resource;
use crate::routing::sync::{AtomicBool, Mutex};

/// Calls the application; the single owner of the instance.
pub(super) struct Dispatcher {
    health: Arc<LaneHealth>,
    resource: Arc<Resource>,
    instance: Box<dyn Instance>,
    next_tick: Option<Instant>,
    ending: LaneEnd,
    sampling: Sampling,
}

/// What happens to the instance when the inbox is empty.
enum LaneEnd {
    /// No end was requested. The lane still ends when every sender of its inbox was dropped.
    None,
    Yield(oneshot::Sender<Box<dyn Instance>>),
    Stop(Retirement, oneshot::Sender<oneshot::Receiver<()>>),
    /// The lane was stuck and the resource has another one; the items in the inbox are dropped.
    GivenUp,
}

/// Holds the dispatcher between two items. Taking it means to be the lane, which on a lane with its
/// own thread only that thread does.
#[derive(Default)]
pub(super) struct DispatcherSlot {
    dispatcher: Mutex<Option<Box<Dispatcher>>>,
    /// Whether a sender may take the lane's turn.
    pub(super) is_open: AtomicBool,
    /// The application wants a tick that the lane has not scheduled.
    pub(super) tick_wanted: Notify,
}

impl DispatcherSlot {
    /// Locks only to move the dispatcher in or out, never while it works.
    pub(super) fn take(&self) -> Option<Box<Dispatcher>> {
        self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, dispatcher: Box<Dispatcher>) {
        *self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(dispatcher);
    }

    /// Lets the caller do the lane's work, unless the slot is closed or empty.
    pub(super) fn take_turn(&self, work: impl FnOnce(&mut Dispatcher)) {
        if !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let Some(mut dispatcher) = self.take() else { return };
        if dispatcher.is_ending() {
            return self.put(dispatcher);
        }
        work(&mut dispatcher);
        if dispatcher.is_given_up() {
            // The lane finds its slot empty and itself given up.
            return dispatcher.end();
        }
        let had_tick = dispatcher.next_tick.is_some();
        let wants_tick = !had_tick && dispatcher.schedule_tick().is_some();
        self.put(dispatcher);
        if wants_tick {
            self.tick_wanted.notify_one();
        }
    }
}

impl fmt::Debug for DispatcherSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DispatcherSlot")
    }
}

impl Dispatcher {
    pub(super) fn new(
        health: Arc<LaneHealth>,
        resource: Arc<Resource>,
        instance: Box<dyn Instance>,
    ) -> Self {
        let (next_tick, ending, sampling) = (None, LaneEnd::None, Sampling::default());
        Self { health, resource, instance, next_tick, ending, sampling }
    }

    pub(super) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    pub(super) fn instance(&self) -> &dyn Instance {
        &*self.instance
    }

    pub(super) fn is_ending(&self) -> bool {
        !matches!(self.ending, LaneEnd::None)
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.ending, LaneEnd::GivenUp)
    }

    pub(super) fn end(mut self) {
        let ending = std::mem::replace(&mut self.ending, LaneEnd::None);
        match ending {
            // Received always, except during shutdown.
            LaneEnd::Yield(successor) => return drop(successor.send(self.instance)),
            LaneEnd::GivenUp => {
                warn!("callback returned after its lane was given up; the lane ends");
                return drop(discard(self.instance));
            }
            LaneEnd::None | LaneEnd::Stop(..) => {}
        }
        let removed = CloseReason::host(CloseCode::AWAY, "this application was removed");
        for peer in self.resource.members() {
            // A peer that is already closing keeps its reason.
            peer.outbox.close(removed.clone()).ok();
            self.close(&peer, &removed);
        }
        self.resource.requests.end();
        // On its own thread: on a shared lane other tasks wait for this one.
        if let LaneEnd::Stop(retirement, done) = ending {
            // The requester may have gone.
            drop(done.send(retire(self.instance, retirement)));
        } else {
            self.instance.retire();
            drop(discard(self.instance));
        }
    }

    pub(super) fn apply(&mut self, item: Item) {
        if self.is_given_up() {
            return;
        }
        match item {
            Item::Open(peer) => self.open(&peer),
            Item::Close(peer, reason) => self.close(&peer, &reason),
            Item::Request(request) => self.request(&request),
            // Processed by the lane, because they may wait.
            Item::Swap(_) | Item::Inputs { .. } | Item::Resume(_) => {}
            Item::Event(posted) => self.notify(Event::Posted(posted)),
            Item::Configure(configure) => {
                let Configure { config, done } = *configure;
                // The requester may have gone.
                drop(done.send(self.change_config(&config)));
            }
            Item::Snapshot(reason, done) => {
                let plugin = self.instance.plugin().to_owned();
                let file = |snapshot| SnapshotFile { plugin, snapshot };
                let taken = self.snapshot(reason).map(|taken| taken.map(file));
                // The requester may have gone.
                drop(done.send(taken));
            }
            Item::Yield(successor) => self.ending = LaneEnd::Yield(successor),
            Item::Stop(retirement, done) => self.ending = LaneEnd::Stop(retirement, done),
        }
    }

    fn open(&mut self, peer: &Arc<Peer>) {
        self.resource.admit(peer.clone());
        match self.call(Event::Open(peer)) {
            _ if self.is_given_up() => {}
            Ok(()) => peer.outbox.accept(peer.dialog.then_some(Outgoing::Ready)),
            Err(failure) => {
                self.resource.dismiss(peer);
                peer.outbox.refuse(close_reason(failure));
            }
        }
    }

    fn close(&mut self, peer: &Arc<Peer>, reason: &CloseReason) {
        let deferred = peer.outbox.take_deferred();
        if !deferred.is_empty() {
            // Handles everything that was read, although the answers are dropped.
            peer.outbox.finish();
            self.handle_all(peer, &deferred);
        }
        // The application does not know a peer that it refused.
        if self.resource.dismiss(peer) {
            if reason.is_fault() {
                self.notify(Event::Error(peer, &reason.text));
            }
            self.notify(Event::Close(peer, reason));
        }
        peer.outbox.finish();
    }

    fn request(&mut self, request: &HttpRequest) {
        if !request.ticket.is_waiting() {
            return;
        }
        let result = self.call(Event::Request(request));
        self.resource.counters.add_messages(1);
        if result.is_err() {
            request.ticket.answer(500);
        }
    }

    /// Calls the application for what is due by the clock.
    pub(super) fn handle_clock(&mut self) {
        /// Other items wait for at most so many timers.
        const TIMERS_AT_ONCE: usize = 16;
        let now = Instant::now();
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = None;
            self.notify(Event::Tick(SystemTime::now()));
        }
        for _ in 0..TIMERS_AT_ONCE {
            let expired = match self.is_given_up() {
                true => None,
                false => self.resource.timers.take_expired(now),
            };
            let Some(key) = expired else { return };
            self.notify(Event::Timer(&key));
        }
    }

    /// Handles what the instance has requested before it served.
    pub(super) fn handle_early_requests(&mut self) {
        let EarlyRequests { posted, timers } = self.instance.take_early_requests();
        for TimerRequest { key, delay, repeats } in timers {
            if let Err(error) = self.resource.timers.set(&key, delay, repeats) {
                warn!(resource = self.resource.path, %error, "timer of the start not set");
            }
        }
        posted.into_iter().for_each(|posted| self.notify(Event::Posted(Box::new(posted))));
    }

    /// Calls the application, observed by the watchdog.
    fn call(&mut self, event: Event<'_>) -> Result<(), Failure> {
        if self.is_given_up() {
            return Err(Failure::Refused(CloseCode::AWAY, String::new()));
        }
        let result = self.observed(event.callback(), |instance| instance.handle(event));
        if let Err(Failure::Panicked(_)) = &result {
            self.resource.counters.add_panic();
        }
        result
    }

    /// Calls the application where a failure has no consequence for a connection.
    fn notify(&mut self, event: Event<'_>) {
        if let Err(failure) = self.call(event) {
            debug!(?failure, "callback failed");
        }
    }

    fn snapshot(&mut self, reason: SnapshotReason) -> Result<Option<Snapshot>, Failure> {
        self.observed(CallbackKind::Snapshot, |instance| instance.snapshot(reason))
    }

    fn change_config(&mut self, config: &str) -> Result<ConfigChange, Failure> {
        self.observed(CallbackKind::Configuration, |instance| instance.change_config(config))
    }

    /// Makes a call that the watchdog observes, and records its time.
    fn observed<T>(&mut self, kind: CallbackKind, call: impl FnOnce(&mut dyn Instance) -> T) -> T {
        let timed = self.sampling.next(kind).map(|count| (count, Instant::now()));
        self.health.begin(kind);
        let result = call(&mut *self.instance);
        self.end_callback();
        if let Some((count, begun)) = timed {
            let time = begun.elapsed();
            self.resource.counters.times.callback(kind).observe(time, count);
            self.sampling.took(kind, time);
        }
        result
    }

    fn end_callback(&mut self) {
        if !self.health.end() {
            self.ending = LaneEnd::GivenUp;
        }
    }

    /// Asks the application for its interval and returns when it gets the next tick.
    pub(super) fn schedule_tick(&mut self) -> Option<Instant> {
        self.health.begin(CallbackKind::Tick);
        let every = self.instance.tick_every();
        self.end_callback();
        self.next_tick = every.map(|every| {
            let latest = Instant::now() + every;
            self.next_tick.map_or(latest, |planned| planned.min(latest))
        });
        self.next_tick
    }

    pub(super) async fn swap(&mut self, swap: Swap) {
        let begun = Instant::now();
        let Swap { next, succession, known, limits, retirement, done } = swap;
        if self.is_given_up() || done.is_closed() {
            return drop(discard(next));
        }
        let ready = match succession {
            Succession::Update => self.hand_over(next, limits, retirement.reason).await,
            Succession::Replacement => activate(next).map(|next| (next, None)),
            Succession::Restored => Ok((next, None)),
        };
        // The requester may have gone; the swap remains in effect.
        match ready {
            Err(error) => drop(done.send(Err(error))),
            Ok((next, snapshot)) => {
                if self.put_in_place(next, succession, &known, retirement) {
                    let sessions = self.resource.members();
                    let pause = begun.elapsed();
                    let state_bytes = snapshot.as_ref().map_or(0, |state| state.bytes.len());
                    self.resource.counters.add_swap(pause, state_bytes);
                    let values = self.resource.counters.values();
                    drop(done.send(Ok(Handover { pause, snapshot, sessions, values })));
                    self.handle_early_requests();
                }
            }
        }
    }

    /// Makes the successor the active instance; false if the predecessor got stuck in a `close`,
    /// which ends the lane.
    fn put_in_place(
        &mut self,
        mut next: Box<dyn Instance>,
        succession: Succession,
        known: &[Arc<Peer>],
        retirement: Retirement,
    ) -> bool {
        let members = match succession {
            Succession::Update => Vec::new(),
            Succession::Replacement | Succession::Restored => self.resource.members(),
        };
        let replaced =
            CloseReason::host(CloseCode::AWAY, "another application serves this resource now");
        if succession == Succession::Replacement {
            members.iter().for_each(|peer| self.notify(Event::Close(peer, &replaced)));
        }
        if self.is_given_up() {
            drop(discard(next));
            return false;
        }
        std::mem::swap(&mut self.instance, &mut next);
        drop(retire(next, retirement));
        if succession == Succession::Replacement {
            // They mean nothing to another application.
            self.resource.timers.clear();
            self.resource.forget_data();
        }
        self.health.set_instance(self.instance.generation(), self.instance.revocation());
        self.resource.set_takes_requests(self.instance.takes_requests());
        let left = CloseReason::new(CloseCode::AWAY, ClosedBy::Peer, "left meanwhile");
        for peer in known.iter().filter(|peer| !peer.is_member()) {
            self.notify(Event::Close(peer, &left));
        }
        let known: HashSet<u64> = known.iter().map(|peer| peer.id().0).collect();
        for peer in members.iter().filter(|peer| !known.contains(&peer.id().0)) {
            self.reopen(peer);
        }
        self.next_tick = None;
        true
    }

    /// Hands the state to the successor, which restores it on a separate thread.
    async fn hand_over(
        &mut self,
        next: Box<dyn Instance>,
        limits: HandoverSettings,
        reason: RetireReason,
    ) -> Result<(Box<dyn Instance>, Option<Snapshot>), SwapError> {
        let snapshot = self.snapshot(match reason {
            RetireReason::Reconfigured => SnapshotReason::Reconfigured,
            _ => SnapshotReason::Replaced,
        });
        if self.is_given_up() {
            return Err(SwapError::Stuck);
        }
        let snapshot = snapshot.map_err(|failure| SwapError::Snapshot(failure.into_text()))?;
        let Some(snapshot) = snapshot else { return activate(next).map(|next| (next, None)) };
        let (bytes, limit) = (snapshot.bytes.len(), limits.snapshot_limit);
        if bytes > limit {
            return Err(SwapError::TooLarge { bytes, limit });
        }
        restore(next, snapshot, limits.restore).await.map(|(next, taken)| (next, Some(taken)))
    }

    /// Opens a connection for an application that was not active when it came.
    fn reopen(&mut self, peer: &Arc<Peer>) {
        let opened = self.call(Event::Open(peer));
        if let Err(failure) = opened
            && !self.is_given_up()
        {
            self.resource.dismiss(peer);
            peer.outbox.close(close_reason(failure)).ok();
        }
    }
}

/// Returns how a failed callback closes its connection.
fn close_reason(failure: Failure) -> CloseReason {
    match failure {
        Failure::Refused(code, text) => CloseReason::new(sendable(code), ClosedBy::Plugin, text),
        Failure::Panicked(_) => {
            CloseReason::new(CloseCode::ERROR, ClosedBy::Plugin, "the application failed")
        }
    }
}
