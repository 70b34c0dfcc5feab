//! The host's function table over maps in memory, one [`SimulatedHost`] per harness.
//!
//! The context that an instance passes to the functions is not a pointer but an index into
//! [`CONTEXTS`]; likewise the context of a session or a request is an index.

mod clients;
mod metrics;
mod outbox;
mod posts;
mod requests;
mod rooms;
mod sending;
mod tickets;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::RStr;

use self::clients::session_data;
pub(super) use self::clients::{Client, End, Handled, Record, raw_session};
use self::metrics::Metrics;
pub(super) use self::posts::Post;
use self::requests::Pending;
pub(super) use self::requests::{Answered, Slot, raw_request};
use self::tickets::PendingTicket;
use self::timers::Timer;
use super::limits::Limits;
use crate::abi::{Count, HostContext, HostRef, HostTable, status};
use crate::types::Level;

/// A status that no step knows.
const UNSUPPORTED: u32 = u32::MAX;

/// A simulated host, shared by the instances that follow each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<SimulatedHost>,
    /// Notified after each call of a function of the host.
    changed: Condvar,
}

/// State of a simulated host. Ids are those of connections.
#[derive(Debug, Default)]
pub(super) struct SimulatedHost {
    /// ABI step of the host.
    pub(super) step: u32,
    pub(super) limits: Limits,
    /// Time since the start.
    pub(super) now: Duration,
    /// Number of calls, to notice one.
    changes: u64,
    /// Includes connections that have ended.
    pub(super) clients: BTreeMap<u64, Client>,
    /// Connections whose `close` is due.
    closing: VecDeque<u64>,
    rooms: BTreeMap<String, rooms::Room>,
    handling: Option<Handling>,
    last_ticket: u64,
    tickets: BTreeMap<u64, PendingTicket>,
    requests: BTreeMap<u64, Pending>,
    pub(super) inbox: VecDeque<Post>,
    timers: BTreeMap<String, Timer>,
    pub(super) metrics: Metrics,
    pub(super) log: Vec<(Level, String)>,
    instances: Vec<Instance>,
}

/// The messages that an instance is handling.
#[derive(Debug)]
struct Handling {
    thread: ThreadId,
    id: u64,
    count: usize,
}

#[derive(Debug, Default)]
struct Instance {
    phase: Phase,
    /// What the instance did before it served.
    early_posts: Vec<Post>,
    early_timers: Vec<(String, Timer)>,
    /// Timers of its predecessor that it has cancelled.
    early_cancels: Vec<String>,
}

/// State of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// In `start`.
    #[default]
    Candidate,
    /// In `restore`.
    Restoring,
    Active,
    /// In `retiring`.
    Retiring,
    Retired,
}

/// When a function works.
#[derive(Clone, Copy, Debug)]
enum Works {
    /// While the instance serves.
    Serving,
    /// Also in `retiring`.
    Retiring,
    /// Also in `start`, but not in `retiring`.
    Starting,
    Always,
}

impl Works {
    fn check(self, phase: Phase) -> Result<(), u32> {
        let works = match self {
            Self::Serving => matches!(phase, Phase::Restoring | Phase::Active),
            Self::Retiring => matches!(phase, Phase::Restoring | Phase::Active | Phase::Retiring),
            Self::Starting => !matches!(phase, Phase::Retiring | Phase::Retired),
            Self::Always => true,
        };
        if works { Ok(()) } else { Err(status::RETIRED) }
    }
}

/// What an instance's context refers to.
#[derive(Clone, Debug)]
struct Context {
    host: Arc<Shared>,
    /// Index in [`SimulatedHost::instances`].
    instance: usize,
}

/// The contexts of all instances; the first one is 1.
static CONTEXTS: Mutex<Vec<Context>> = Mutex::new(Vec::new());

impl Shared {
    pub(super) fn new(step: u32, limits: Limits) -> Arc<Self> {
        let state = SimulatedHost { step, limits, ..SimulatedHost::default() };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SimulatedHost> {
        lock(&self.state)
    }

    /// Returns the number of calls so far.
    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits until there were more calls than `seen`, at most until `deadline`; returns whether
    /// there were.
    pub(super) fn wait(&self, seen: u64, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), left, |s| s.changes == seen);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.changes != seen
    }
}

/// The place of one instance. The instance retires when it is dropped.
pub(super) struct Lease {
    pub(super) raw: HostRef,
    pub(super) host: Arc<Shared>,
    instance: usize,
}

impl Lease {
    pub(super) fn new(host: Arc<Shared>) -> Self {
        let mut state = host.lock();
        let instance = state.instances.len();
        state.instances.push(Instance::default());
        let step = state.step;
        drop(state);
        let mut contexts = lock(&CONTEXTS);
        contexts.push(Context { host: host.clone(), instance });
        let context = HostContext(std::ptr::without_provenance(contexts.len()));
        Self { raw: HostRef { context, table: table(step).leak_into_prefix() }, host, instance }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        let mut state = self.host.lock();
        let instance = &mut state.instances[self.instance];
        let before = std::mem::replace(&mut instance.phase, phase);
        let mut dropped: Vec<Post> = Vec::new();
        if matches!(phase, Phase::Retiring | Phase::Retired) {
            dropped.append(&mut instance.early_posts);
            // Otherwise the inbox is a successor's.
            if before == Phase::Active {
                dropped.extend(state.inbox.drain(..));
            }
        }
        // A value may call the host when it is dropped.
        drop(state);
        drop(dropped);
    }

    /// Makes this instance the one that serves, in place of `old`. Keeps timers and bytes that wait,
    /// and drops values.
    pub(super) fn succeed(&self, old: Option<&Self>) {
        let mut state = self.host.lock();
        if let Some(old) = old {
            state.instances[old.instance].phase = Phase::Retiring;
        }
        let inbox = std::mem::take(&mut state.inbox);
        let (bytes, values): (Vec<Post>, Vec<Post>) =
            inbox.into_iter().partition(|post| matches!(post, Post::Bytes(_)));
        let instance = &mut state.instances[self.instance];
        instance.phase = Phase::Active;
        let posts = std::mem::take(&mut instance.early_posts);
        let timers = std::mem::take(&mut instance.early_timers);
        let cancels = std::mem::take(&mut instance.early_cancels);
        state.inbox = bytes.into_iter().chain(posts).collect();
        state.timers.retain(|key, _| !cancels.contains(key));
        for (key, mut timer) in timers {
            timer.begin(state.now);
            state.timers.insert(key, timer);
        }
        drop(state);
        drop(values);
    }

    /// Removes what belongs to an application that another one replaces: posts, timers, data and
    /// metrics.
    pub(super) fn clear(&self) {
        let mut state = self.host.lock();
        let posts = std::mem::take(&mut state.inbox);
        state.timers.clear();
        state.metrics.clear();
        state.rooms.values_mut().for_each(|room| room.data.clear());
        state.clients.values().for_each(|client| lock(&client.record.data).clear());
        drop(state);
        drop(posts);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set_phase(Phase::Retired);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a function of the host that step `step` has, if it works in the state of the instance.
fn call<T>(
    context: HostContext,
    (step, works): (u32, Works),
    act: impl FnOnce(&mut SimulatedHost, usize) -> Result<T, u32>,
) -> Result<T, u32> {
    let Context { host, instance } = lock(&CONTEXTS)[context.0.addr() - 1].clone();
    let mut state = host.lock();
    if state.step < step {
        return Err(UNSUPPORTED);
    }
    works.check(state.instances[instance].phase)?;
    let result = act(&mut state, instance);
    state.changes += 1;
    drop(state);
    host.changed.notify_all();
    result
}

fn status_of<T>(result: Result<T, u32>) -> u32 {
    result.err().unwrap_or(status::OK)
}

fn count_of(result: Result<u64, u32>) -> Count {
    match result {
        Ok(count) => Count { status: status::OK, count },
        Err(status) => Count { status, count: 0 },
    }
}

fn table(step: u32) -> HostTable {
    HostTable {
        send: sending::send,
        broadcast: sending::broadcast,
        feedback: sending::feedback,
        join: rooms::join,
        leave: rooms::leave,
        publish: sending::publish,
        close: sending::close,
        set_fyi: sending::set_fyi,
        sessions: sending::sessions,
        log,
        send_latest: sending::send_latest,
        broadcast_latest: sending::broadcast_latest,
        publish_latest: sending::publish_latest,
        abi_version: step,
        defer: tickets::defer,
        complete: tickets::complete,
        respond: requests::respond,
        post: posts::post,
        post_value: posts::post_value,
        set_timer: timers::set_timer,
        cancel_timer: timers::cancel_timer,
        members: rooms::members,
        room_count: rooms::room_count,
        rooms: rooms::rooms,
        room_names: rooms::room_names,
        set_room_data: rooms::set_room_data,
        room_data: rooms::room_data,
        data: rooms::data,
        session_data,
        set_data: rooms::set_data,
        metric: metrics::metric,
        record: metrics::record,
    }
}

extern "C" fn log(context: HostContext, level: u32, _target: RStr<'_>, text: RStr<'_>) {
    let level = match level {
        1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        _ => Level::Trace,
    };
    // Cannot fail: it always works.
    call(context, (1, Works::Always), |host, _| {
        host.log.push((level, text.to_string()));
        Ok(())
    })
    .ok();
}
