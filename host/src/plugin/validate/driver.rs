//! Calls an instance as a lane does, for the clients of a simulated resource.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy, ConfigChange, Kind, RetireReason, SnapshotReason};

use super::child::{OPENING, Progress, on_thread};
use super::journal::Journal;
use super::process::Surroundings;
use super::report::{Checked, Finding, fail, skip};
use super::runner::Brief;
use super::site::{Client, Opening, Site, default_bounds, take};
use crate::error::chain;
use crate::plugin::dylib::{Generation, LoadError};
use crate::plugin::lane::Item;
use crate::plugin::{Event, Failure, Instance, Posted, Retirement, Snapshot};
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Payload;
use crate::routing::peer::Peer;
use crate::routing::tickets;

/// What a check works with: an opened library.
pub(super) struct Bench {
    pub(super) brief: Brief,
    pub(super) journal: Journal,
    pub(super) progress: Arc<Progress>,
    /// Before the library was opened.
    pub(super) before: Surroundings,
    opened: Result<Arc<Generation>, LoadError>,
}

/// An instance that serves a resource. Without [`App::end`] it is never dropped.
pub(super) struct App<'b> {
    bench: &'b Bench,
    pub(super) site: Arc<Site>,
    instance: Option<Box<dyn Instance>>,
    /// Whether clients keep what they receive until the check takes it.
    pub(super) keeps_answers: bool,
    calls: u32,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Handled,
    Refused(String),
    /// The application had closed the connection before.
    Dropped,
}

impl Bench {
    pub(super) fn open(brief: Brief, progress: Arc<Progress>, journal: Journal) -> Self {
        let before = Surroundings::now();
        let open = || Generation::open("validated", 1, &brief.library);
        let opened = progress.call(OPENING, open).map(Arc::new);
        Self { brief, journal, progress, before, opened }
    }

    pub(super) fn opened(&self) -> Result<&Arc<Generation>, &LoadError> {
        self.opened.as_ref()
    }

    /// Returns the library.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn generation(&self) -> Checked<&Arc<Generation>> {
        self.opened().map_err(|error| fail(format!("it cannot be opened: {}", chain(error))))
    }

    /// Starts an instance with the settings of the author, and makes it serve.
    ///
    /// # Errors
    /// It panicked or refused the settings.
    pub(super) fn serve(&self) -> Checked<App<'_>> {
        self.serve_with(&Arc::new(Site::new(default_bounds())), &self.brief.settings)
    }

    pub(super) fn serve_with(&self, site: &Arc<Site>, settings: &str) -> Checked<App<'_>> {
        let mut app = self.start(site, settings)?.map_err(refused("`start`"))?;
        app.activate(None)?.map_err(refused("`restore`"))?;
        Ok(app)
    }

    /// Starts an instance, on its own thread as in a host; returns why it refused.
    ///
    /// # Errors
    /// It panicked.
    pub(super) fn start(
        &self,
        site: &Arc<Site>,
        settings: &str,
    ) -> Checked<Result<App<'_>, String>> {
        let generation = self.generation()?;
        let started = on_thread("start", || {
            let start = || generation.start(site.resource.clone(), site.router.clone(), settings);
            self.progress.call("`start`", start)
        })?;
        Ok(self.checked("`start`", started)?.map(|instance| App {
            bench: self,
            site: site.clone(),
            instance: Some(instance),
            keeps_answers: false,
            calls: 0,
        }))
    }

    /// Turns a panic into a finding; returns a refusal.
    fn checked<T>(&self, callback: &str, result: Result<T, Failure>) -> Checked<Result<T, String>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Failure::Refused(_, text)) => Ok(Err(text)),
            Err(Failure::Panicked(text)) => {
                let place = self.journal.last_panic().unwrap_or_else(|| format!(": {text}"));
                Err(fail(format!("{callback} panicked{place}")))
            }
        }
    }

    pub(super) fn opening(&self, kind: Kind) -> Opening {
        Opening { kind, query: self.brief.query.clone() }
    }
}

fn refused(callback: &'static str) -> impl Fn(String) -> Finding {
    move |text| fail(format!("{callback} refused: {text}"))
}

impl<'b> App<'b> {
    /// Calls the instance. A panic is a finding; returns a refusal.
    fn call<T>(
        &mut self,
        callback: &'static str,
        call: impl FnOnce(&mut dyn Instance) -> Result<T, Failure>,
    ) -> Checked<Result<T, String>> {
        let Some(instance) = self.instance.as_mut() else { return Err(fail("it has ended")) };
        let result = self.bench.progress.call(callback, || call(&mut **instance));
        let result = self.bench.checked(callback, result);
        self.calls += 1;
        if !self.keeps_answers && self.calls.is_multiple_of(32) {
            // As connections do that write.
            self.site.resource.for_each_member(|peer| drop(take(peer)));
        }
        result
    }

    fn notify(&mut self, callback: &'static str, event: Event<'_>) -> Checked {
        self.call(callback, |instance| instance.handle(event)).map(drop)
    }

    /// Grants the host functions, and restores a state on a thread as in a host; returns why the
    /// instance refused.
    pub(super) fn activate(&mut self, state: Option<&Snapshot>) -> Checked<Result<(), String>> {
        let restored =
            on_thread("restore", || self.call("`restore`", |instance| instance.restore(state)))??;
        if restored.is_ok() {
            let early = self.instance.as_mut().map(|instance| instance.take_early_requests());
            let early = early.unwrap_or_default();
            for timer in early.timers {
                // A host logs it.
                self.site.resource.timers.set(&timer.key, timer.delay, timer.repeats).ok();
            }
            for posted in early.posted {
                self.notify("`event`", Event::Posted(Box::new(posted)))?;
            }
        }
        Ok(restored)
    }

    /// Connects a client; returns why the application refused it.
    pub(super) fn open(&mut self, opening: &Opening) -> Checked<Result<Client, String>> {
        let client = self.site.connect(opening)?;
        let peer = client.peer();
        self.site.resource.admit(peer.clone());
        let opened = self.call("`open`", |instance| instance.handle(Event::Open(peer)))?;
        match &opened {
            Ok(()) => peer.outbox.accept(None),
            Err(text) => {
                self.site.resource.dismiss(peer);
                let code = CloseCode::POLICY;
                peer.outbox.refuse(CloseReason::new(code, ClosedBy::Plugin, text.as_str()));
            }
        }
        self.take_posted()?;
        Ok(opened.map(|()| client))
    }

    /// Connects a client that the application has to accept for the check.
    pub(super) fn client(&mut self) -> Checked<Client> {
        self.client_of(Kind::WebSocket)
    }

    pub(super) fn client_of(&mut self, kind: Kind) -> Checked<Client> {
        let opening = self.bench.opening(kind);
        let opened = self.open(&opening)?;
        opened.map_err(|text| {
            let kind = kind.as_str();
            skip(format!("it refuses a client of kind {kind} ({text}); --query sets a query"))
        })
    }

    pub(super) fn message(&mut self, client: &Client, payload: &Payload) -> Checked<Answer> {
        let peer = client.peer();
        if !peer.is_member() || peer.outbox.is_cut_off() {
            return Ok(Answer::Dropped);
        }
        let handled = self.call("`message`", |instance| {
            let handle = || instance.handle(Event::Message(peer, payload));
            while_handling(peer, &[payload], handle)
        })?;
        self.answered(client, handled)
    }

    /// Passes on messages at once.
    pub(super) fn batch(&mut self, client: &Client, payloads: &[&Payload]) -> Checked<Answer> {
        let peer = client.peer();
        let handled = self.call("`messages`", |instance| {
            let handle = || instance.handle(Event::Messages(peer, payloads));
            while_handling(peer, payloads, handle)
        })?;
        self.answered(client, handled)
    }

    fn answered(&mut self, client: &Client, handled: Result<(), String>) -> Checked<Answer> {
        self.take_posted()?;
        Ok(match handled {
            Ok(()) => Answer::Handled,
            Err(text) => {
                let code = CloseCode::POLICY;
                let reason = CloseReason::new(code, ClosedBy::Plugin, text.as_str());
                // It may be closing already.
                client.peer().outbox.close(reason).ok();
                Answer::Refused(text)
            }
        })
    }

    /// Ends a connection as its client does.
    pub(super) fn close(&mut self, client: Client) -> Checked {
        self.close_for(client, &CloseReason::peer(CloseCode::NORMAL, ""))
    }

    pub(super) fn close_for(&mut self, client: Client, reason: &CloseReason) -> Checked {
        let peer = client.peer();
        if self.site.resource.dismiss(peer) {
            if reason.is_fault() {
                self.notify("`error`", Event::Error(peer, &reason.text))?;
            }
            self.notify("`close`", Event::Close(peer, reason))?;
        }
        peer.outbox.finish();
        self.take_posted()
    }

    pub(super) fn tick_every(&mut self) -> Checked<Option<Duration>> {
        let every = self.call("`tick_every`", |instance| Ok(instance.tick_every()))?;
        Ok(every.unwrap_or_default())
    }

    pub(super) fn tick(&mut self, now: SystemTime) -> Checked {
        self.notify("`tick`", Event::Tick(now))?;
        self.take_posted()
    }

    pub(super) fn timer(&mut self, key: &str) -> Checked {
        self.notify("`timer`", Event::Timer(key))?;
        self.take_posted()
    }

    /// Passes on the timers that expire within a day; returns their number.
    pub(super) fn expire_timers(&mut self) -> Checked<usize> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        const MOST: usize = 100;
        let then = tokio::time::Instant::now() + DAY;
        let mut count = 0;
        while count < MOST
            && let Some(key) = self.site.resource.timers.take_expired(then)
        {
            self.timer(&key)?;
            count += 1;
        }
        Ok(count)
    }

    /// Passes on bytes, as if the instance had posted them.
    pub(super) fn event(&mut self, bytes: &[u8]) -> Checked {
        let posted = Posted { bytes: Bytes::copy_from_slice(bytes), value: None };
        self.notify("`event`", Event::Posted(Box::new(posted)))?;
        self.take_posted()
    }

    /// Passes on what the instance and its threads have posted.
    fn take_posted(&mut self) -> Checked {
        /// An instance may post at each event.
        const MOST: usize = 1000;
        for _ in 0..MOST {
            let next = self.site.next_posted();
            match next {
                Some(Item::Event(posted)) => self.notify("`event`", Event::Posted(posted))?,
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    pub(super) fn takes_batches(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.takes_batches())
    }

    pub(super) fn change_config(
        &mut self,
        settings: &str,
    ) -> Checked<Result<ConfigChange, String>> {
        self.call("`config_changed`", |instance| instance.change_config(settings))
    }

    /// # Errors
    /// It panicked.
    pub(super) fn snapshot(&mut self) -> Checked<Option<Snapshot>> {
        let taken =
            self.call("`snapshot`", |instance| instance.snapshot(SnapshotReason::Replaced))?;
        taken.map_err(refused("`snapshot`"))
    }

    /// Returns a state that the check needs.
    pub(super) fn state(&mut self) -> Checked<Snapshot> {
        self.snapshot()?.ok_or_else(|| skip("it has no snapshot"))
    }

    /// Replaces the instance by another one, which takes over its state, as at a reload.
    pub(super) fn hand_over(&mut self) -> Checked {
        let mut next = match self.bench.start(&self.site, &self.bench.brief.settings)? {
            Ok(next) => next,
            Err(text) => {
                return Err(fail(format!("beside another instance, `start` refused: {text}")));
            }
        };
        let state = self.snapshot()?;
        next.activate(state.as_ref())?.map_err(|text| {
            fail(format!("`restore` refused the state of the same library: {text}"))
        })?;
        drop(state);
        std::mem::swap(&mut self.instance, &mut next.instance);
        next.end()
    }

    /// Lets the instance finish and drops it, on a thread as in a host.
    pub(super) fn end(mut self) -> Checked {
        const LIMIT: Duration = Duration::from_secs(1);
        let retirement = Retirement { reason: RetireReason::Replaced, limit: LIMIT };
        self.retire(retirement)?;
        self.drop_instance()
    }

    pub(super) fn retire(&mut self, retirement: Retirement) -> Checked {
        let (progress, instance) = (&self.bench.progress, self.instance.as_mut());
        let Some(instance) = instance else { return Ok(()) };
        instance.begin_retiring(retirement.limit);
        let finish = || progress.call("`retiring`", || instance.finish_retiring(retirement));
        on_thread("drop", finish)
    }

    pub(super) fn drop_instance(&mut self) -> Checked {
        let (progress, instance) = (&self.bench.progress, self.instance.take());
        on_thread("drop", || progress.call("the drop of its instance", || drop(instance)))
    }

    /// Returns the count of calls that the host refuses, also after the drop.
    pub(super) fn refused_calls(&self) -> Option<&'static AtomicU64> {
        self.instance.as_ref().and_then(|instance| instance.refused_calls())
    }

    pub(super) fn members(&self) -> usize {
        self.site.resource.count()
    }

    pub(super) fn bench(&self) -> &'b Bench {
        self.bench
    }
}

impl Drop for App<'_> {
    fn drop(&mut self) {
        // Other checks drop instances. The process ends soon.
        self.instance.take().map(Box::leak);
    }
}

/// Calls the instance with messages, so that it can defer their acknowledgement.
fn while_handling<T>(peer: &Peer, payloads: &[&Payload], handle: impl FnOnce() -> T) -> T {
    let bytes = payloads.iter().map(|payload| payload.len()).sum();
    let (result, has_deferred) = tickets::while_handling(payloads.len(), bytes, handle);
    if has_deferred {
        peer.end_deferring_call();
    }
    result
}
