//! Interleaving tests of outbox and inbox: nothing is lost, duplicated or reordered, and every waiter
//! is woken. With `--cfg shuttle` (`tests/model`) a scheduler chooses the thread at each lock and
//! atomic; otherwise real threads run a few hundred times.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::sync::oneshot;

use super::fixture;
use crate::config::{HandoverSettings, LaneKind, Limits, OutboxPolicy};
use crate::plugin::lane::handover::{Succession, Swap};
use crate::plugin::lane::inbox::Inbox;
use crate::plugin::lane::{self, Item, health};
use crate::plugin::{Event, Failure, Instance, Snapshot};
use crate::protocol::close::CloseReason;
use crate::protocol::payload::{Outgoing, Payload};
use crate::routing::input::{Input, Load};
use crate::routing::outbox::{Gone, NextStep, Outbox, OutboxBounds, Priority, Taken};
use crate::routing::peer::Peer;

#[cfg(shuttle)]
mod ground {
    pub(super) use shuttle::future::block_on;
    pub(super) use shuttle::sync::mpsc;
    pub(super) use shuttle::thread::{spawn, yield_now};

    /// Runs `MODEL_ITERATIONS` interleavings: half random, half with few thread switches (PCT).
    pub(super) fn check(body: impl Fn() + Clone + Send + Sync + 'static) {
        let iterations = std::env::var("MODEL_ITERATIONS").ok().and_then(|n| n.parse().ok());
        let iterations: usize = iterations.unwrap_or(20_000);
        shuttle::check_random(body.clone(), iterations / 2);
        shuttle::check_pct(body, iterations / 2, 3);
    }
}

#[cfg(not(shuttle))]
mod ground {
    pub(super) use std::sync::mpsc;
    pub(super) use std::thread::{spawn, yield_now};

    pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(future)
    }

    pub(super) fn check(body: impl Fn() + Clone + Send + Sync + 'static) {
        (0..300).for_each(|_| body());
    }
}

use ground::{block_on, check, mpsc, spawn, yield_now};

const ROOMY: OutboxBounds = bounds(100);

const fn bounds(messages: usize) -> OutboxBounds {
    let bytes = 100_000;
    OutboxBounds { messages, bytes, message_bytes: bytes, policy: OutboxPolicy::Close }
}

fn text(pusher: usize, n: usize) -> Outgoing {
    Outgoing::Message(Payload::text(format!("{pusher} {n}")))
}

/// Numbers of the messages of one producer.
fn numbers(taken: &[Outgoing], pusher: usize) -> Vec<usize> {
    let texts = taken.iter().filter_map(|item| match item {
        Outgoing::Message(payload) => str::from_utf8(payload.as_bytes()).unwrap().split_once(' '),
        _ => None,
    });
    texts.filter(|(by, _)| *by == pusher.to_string()).map(|(_, n)| n.parse().unwrap()).collect()
}

/// Acts as the connection's task: takes until close, then the rest.
fn take_all(outbox: &Outbox) -> (Vec<Outgoing>, Vec<CloseReason>) {
    let (mut taken, mut reasons) = (Vec::new(), Vec::new());
    block_on(async {
        while reasons.is_empty() {
            let next = outbox.take().await;
            taken.extend(next.queue);
            reasons.extend(next.close);
        }
        taken.extend(outbox.remaining().await);
    });
    (taken, reasons)
}

/// Pushes until the connection is gone; returns how many messages were accepted.
fn push(outbox: Arc<Outbox>, pusher: usize, count: usize, bounds: OutboxBounds) -> usize {
    (0..count).take_while(|n| outbox.push(text(pusher, *n), bounds).is_ok()).count()
}

#[test]
fn what_an_outbox_took_is_taken_from_it_once_and_in_order() {
    check(|| {
        let outbox = Arc::new(Outbox::default());
        let pushers: Vec<_> = (0..2)
            .map(|pusher| {
                let outbox = outbox.clone();
                spawn(move || push(outbox, pusher, 3, ROOMY))
            })
            .collect();
        let lane = {
            let outbox = outbox.clone();
            spawn(move || {
                outbox.accept(Some(Outgoing::Ready));
                yield_now();
                let reason = CloseReason::host(CloseCode::AWAY, "x");
                assert_eq!(outbox.close(reason), Ok(()));
                let taken: Vec<usize> =
                    pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
                outbox.finish();
                taken
            })
        };
        let (taken, reasons) = take_all(&outbox);
        let pushed = lane.join().unwrap();
        assert_eq!(reasons.len(), 1);
        assert_eq!(taken[0], Outgoing::Ready);
        // A graceful close still accepts messages: all of them arrive.
        for (pusher, count) in pushed.into_iter().enumerate() {
            assert_eq!(count, 3);
            assert_eq!(numbers(&taken, pusher), [0, 1, 2]);
        }
    });
}

#[test]
fn of_several_who_close_the_first_one_counts() {
    check(|| {
        let outbox = Arc::new(Outbox::default());
        outbox.accept(None);
        let closers: Vec<_> = [CloseCode::NORMAL, CloseCode::POLICY]
            .into_iter()
            .map(|code| {
                let outbox = outbox.clone();
                spawn(move || {
                    let pushed = push(outbox.clone(), usize::from(code.0), 2, ROOMY);
                    let reason = CloseReason::new(code, ClosedBy::Plugin, "");
                    (code, pushed, outbox.close(reason))
                })
            })
            .collect();
        let lane = {
            let outbox = outbox.clone();
            spawn(move || {
                let ends: Vec<_> =
                    closers.into_iter().map(|closer| closer.join().unwrap()).collect();
                outbox.finish();
                ends
            })
        };
        let (taken, reasons) = take_all(&outbox);
        let ends = lane.join().unwrap();
        let first: Vec<_> = ends.iter().filter(|(.., closed)| closed.is_ok()).collect();
        let ([(code, ..)], [reason]) = (&first[..], &reasons[..]) else {
            panic!("{ends:?} {reasons:?}")
        };
        assert_eq!(*code, reason.code);
        // Messages accepted before the end are not lost.
        for (code, pushed, _) in &ends {
            assert_eq!(numbers(&taken, usize::from(code.0)), Vec::from_iter(0..*pushed));
        }
    });
}

#[test]
fn an_outbox_that_is_full_says_so_once_and_takes_nothing_more() {
    const TIGHT: OutboxBounds = bounds(2);
    check(|| {
        let outbox = Arc::new(Outbox::default());
        outbox.accept(None);
        let pushers: Vec<_> = (0..2)
            .map(|pusher| {
                let outbox = outbox.clone();
                spawn(move || push(outbox, pusher, 3, TIGHT))
            })
            .collect();
        let lane = {
            let outbox = outbox.clone();
            spawn(move || {
                let pushed: Vec<usize> =
                    pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect();
                let closed = outbox.close(CloseReason::host(CloseCode::AWAY, "x"));
                if closed.is_err() {
                    assert_eq!(outbox.push(Outgoing::Ping, TIGHT), Err(Gone));
                }
                outbox.finish();
                (pushed, closed)
            })
        };
        let (taken, reasons) = take_all(&outbox);
        let (pushed, closed) = lane.join().unwrap();
        let [reason] = &reasons[..] else { panic!("{reasons:?}") };
        let was_full = closed == Err(Gone);
        assert_eq!(reason.code, if was_full { CloseCode::TRY_AGAIN } else { CloseCode::AWAY });
        for (pusher, pushed) in pushed.into_iter().enumerate() {
            // Only the queue of a slow consumer is dropped, at its end.
            let numbers = numbers(&taken, pusher);
            assert_eq!(numbers, Vec::from_iter(0..numbers.len()));
            assert!(numbers.len() == pushed || was_full && numbers.len() < pushed);
        }
    });
}

#[test]
fn a_connection_that_may_not_read_is_woken_when_it_may() {
    const TIGHT: OutboxBounds = bounds(4);
    const ONE: Load = Load { messages: 1, bytes: 3 };
    check(|| {
        let outbox = Arc::new(Outbox::default());
        outbox.accept(None);
        let (sender, received) = mpsc::channel();
        let lane = {
            let outbox = outbox.clone();
            spawn(move || {
                // Every second message is acknowledged only by its release.
                for n in received {
                    if n % 2 == 0 {
                        outbox.push(text(0, n), TIGHT).unwrap();
                    }
                    outbox.release(ONE);
                }
            })
        };
        let mut taken = Vec::new();
        block_on(async {
            for n in 0..5 {
                let look = |cx: &mut Context<'_>| match outbox.next_step(
                    cx,
                    Priority::Write,
                    Some(ONE),
                    TIGHT,
                ) {
                    NextStep::Write(taken) => Poll::Ready(Some(taken)),
                    NextStep::Wait { may_read: true, .. } => Poll::Ready(None),
                    NextStep::Wait { .. } => Poll::Pending,
                };
                while let Some(next) = poll_fn(look).await {
                    outbox.attend();
                    taken.extend(next.queue);
                }
                outbox.attend();
                outbox.reserve(ONE);
                sender.send(n).unwrap();
            }
            drop(sender);
            while numbers(&taken, 0).len() < 3 {
                taken.extend(outbox.take().await.queue);
            }
        });
        lane.join().unwrap();
        assert_eq!(numbers(&taken, 0), [0, 2, 4]);
    });
}

/// Acts as a connection whose lane sends large answers: hands over five messages, reads the outbox,
/// resumes deferred input, and ends after the last answer. Returns what it took.
fn converse(inbox: &Inbox, peer: &Arc<Peer>) -> Vec<Outgoing> {
    let mut taken = Vec::new();
    let is_next = |item: &&Outgoing| matches!(item, Outgoing::Next(_));
    block_on(async {
        assert!(inbox.send(Item::Open(peer.clone())).await.is_ok());
        let input = |n: i32| Input::Message(Payload::text(n.to_string()));
        for numbers in [0..4, 4..5] {
            let inputs = numbers.map(input).collect();
            if let Err(refused) = inbox.try_inputs(peer, inputs) {
                assert!(inbox.send(refused.into_inner()).await.is_ok());
            }
        }
        while taken.iter().filter(is_next).count() < 5 {
            let next = outbox_turn(&peer.outbox, peer.bounds).await;
            assert_eq!(next.close, None);
            taken.extend(next.queue);
            if next.resumes {
                peer.outbox.written();
                assert!(inbox.send(Item::Resume(peer.clone())).await.is_ok());
            }
        }
        // A connection that has finished sending is woken when the lane has no input left.
        let look = |cx: &mut Context<'_>| match peer.outbox.next_step(
            cx,
            Priority::Read,
            None,
            peer.bounds,
        ) {
            NextStep::Wait { may_read: true, is_due: false } => Poll::Ready(()),
            NextStep::Wait { is_due: false, .. } => Poll::Pending,
            _ => panic!("more than was answered"),
        };
        poll_fn(look).await;
        peer.outbox.attend();
        let left = CloseReason::new(CloseCode::NORMAL, ClosedBy::Peer, "");
        assert!(inbox.send(Item::Close(peer.clone(), left)).await.is_ok());
    });
    taken
}

async fn outbox_turn(outbox: &Outbox, bounds: OutboxBounds) -> Taken {
    let look = |cx: &mut Context<'_>| match outbox.next_step(cx, Priority::Write, None, bounds) {
        NextStep::Write(taken) => Poll::Ready(taken),
        NextStep::Wait { .. } => Poll::Pending,
    };
    let taken = poll_fn(look).await;
    outbox.attend();
    taken
}

/// Answers each message with three.
fn talker() -> Box<dyn Instance> {
    let handle = |event: Event<'_>| {
        if let Event::Message(peer, payload) = event {
            for _ in 0..3 {
                // A closed connection needs none.
                let _gone = peer.send(payload.clone(), None);
                yield_now();
            }
        }
    };
    Box::new(Stage { generation: 1, handle })
}

fn a_peer_that_does_not_wait_is_answered_in_full(kind: LaneKind) {
    check(move || {
        let resource = fixture::resource("/x");
        // An answer and its `next` fit below three quarters of the bounds; all answers together do not.
        let mut limits = Limits::default();
        limits.flow.outbox_messages = 16;
        let (inbox, pending_lane) = lane::open(1, Arc::default());
        let running = pending_lane.into_running(resource.clone(), kind, talker());
        let lane = spawn(move || block_on(running));
        let peers: Vec<_> = ["a", "b"]
            .map(|name| fixture::peer_within(&limits, &resource, name, ""))
            .map(|peer| {
                let inbox = inbox.clone();
                spawn(move || converse(&inbox, &peer))
            })
            .into();
        drop(inbox);
        for peer in peers {
            let taken = peer.join().unwrap();
            let texts = taken.iter().filter_map(|item| match item {
                Outgoing::Message(payload) => Some(payload.as_bytes()[0] - b'0'),
                _ => None,
            });
            assert_eq!(texts.collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        }
        lane.join().unwrap();
    });
}

#[test]
fn from_a_shared_lane_a_peer_that_does_not_wait_gets_more_than_its_outbox_holds() {
    a_peer_that_does_not_wait_is_answered_in_full(LaneKind::Shared);
}

#[test]
fn from_a_lane_of_its_own_too() {
    a_peer_that_does_not_wait_is_answered_in_full(LaneKind::Thread);
}

/// Runs a closure at each event, and yields while its state is handed over.
struct Stage<F> {
    generation: u64,
    handle: F,
}

impl<F: FnMut(Event<'_>) + Send> Instance for Stage<F> {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure> {
        (self.handle)(event);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure> {
        yield_now();
        Ok(None)
    }

    fn restore(&mut self, _: Option<&Snapshot>) -> Result<(), Failure> {
        yield_now();
        Ok(())
    }

    fn retire(&mut self) {}

    fn revocation(&self) -> Option<health::Revocation> {
        None
    }

    fn tick_every(&mut self) -> Option<std::time::Duration> {
        None
    }

    fn plugin(&self) -> &str {
        "stage"
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

type Notes = Arc<std::sync::Mutex<Vec<(u64, String)>>>;

/// Records its callbacks, and yields between a call and its record.
fn recorder(generation: u64, notes: Notes) -> Box<dyn Instance> {
    let handle = move |event: Event<'_>| {
        let note = match event {
            Event::Open(peer) => format!("open {}", peer.client.address),
            Event::Message(_, payload) => String::from_utf8(payload.as_bytes().to_vec()).unwrap(),
            Event::Close(peer, _) => format!("close {}", peer.client.address),
            Event::Error(..) | Event::Tick(_) | Event::Request(_) => return,
        };
        yield_now();
        notes.lock().unwrap().push((generation, note));
    };
    Box::new(Stage { generation, handle })
}

/// Acts as a connection: opens, sends three messages, closes.
fn visit(inbox: Inbox, peer: Arc<Peer>) {
    block_on(async {
        assert!(inbox.send(Item::Open(peer.clone())).await.is_ok());
        for n in 0..3 {
            let text = format!("{} {n}", peer.client.address);
            let inputs = vec![Input::Message(Payload::text(text))];
            let (peer, reserved) = (peer.clone(), Load::default());
            assert!(inbox.send(Item::Inputs { peer, inputs, reserved }).await.is_ok());
        }
        let left = CloseReason::new(CloseCode::NORMAL, ClosedBy::Peer, "");
        assert!(inbox.send(Item::Close(peer, left)).await.is_ok());
    });
}

fn each_item_is_seen_once_by_one_generation(kind: LaneKind) {
    check(move || {
        let notes = Notes::default();
        let resource = fixture::resource("/x");
        let recorder = |generation| recorder(generation, notes.clone());
        // Capacity two: some senders have to wait.
        let (inbox, pending_lane) = lane::open(2, Arc::default());
        let running = pending_lane.into_running(resource.clone(), kind, recorder(1));
        let lane = spawn(move || block_on(running));
        let visitors: Vec<_> = ["a", "b"]
            .map(|name| {
                let (inbox, peer) = (inbox.clone(), fixture::peer(&resource, name, ""));
                (peer.clone(), spawn(move || visit(inbox, peer)))
            })
            .into();
        block_on(async {
            let (done, outcome) = oneshot::channel();
            let (next, known, any) = (recorder(2), Vec::new(), std::time::Duration::ZERO);
            let limits =
                HandoverSettings { preflight: any, start: any, restore: any, snapshot_limit: 0 };
            let swap = Swap { next, succession: Succession::Update, known, limits, done };
            assert!(inbox.send(Item::Swap(Box::new(swap))).await.is_ok());
            assert!(outcome.await.unwrap().is_ok());
        });
        for (peer, visitor) in visitors {
            visitor.join().unwrap();
            // Handled, or still in the inbox when the lane closes.
            let queue = block_on(peer.outbox.remaining());
            let nexts = queue.iter().filter(|item| matches!(item, Outgoing::Next(_))).count();
            assert_eq!((queue.front(), nexts), (Some(&Outgoing::Ready), 3));
        }
        drop(inbox);
        lane.join().unwrap();
        let notes = notes.lock().unwrap();
        assert!(notes.is_sorted_by_key(|(generation, _)| *generation), "{notes:?}");
        for name in ["a", "b"] {
            let own: Vec<&str> = notes
                .iter()
                .map(|(_, note)| &note[..])
                .filter(|note| note.contains(name))
                .collect();
            let expected = ["open", "0", "1", "2", "close"];
            assert_eq!(own.len(), 5, "{notes:?}");
            assert!(own.iter().zip(expected).all(|(note, part)| note.contains(part)), "{notes:?}");
        }
    });
}

#[test]
fn on_a_shared_lane_each_item_is_seen_once_and_in_order_by_one_generation() {
    each_item_is_seen_once_by_one_generation(LaneKind::Shared);
}

#[test]
fn on_a_lane_of_its_own_too() {
    each_item_is_seen_once_by_one_generation(LaneKind::Thread);
}
