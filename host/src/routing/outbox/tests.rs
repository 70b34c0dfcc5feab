//! Tests of the outbox.

use super::*;
use crate::config::OutboxPolicy;
use crate::protocol::payload::Payload;
use futures_util::FutureExt;

const BOUNDS: OutboxBounds =
    OutboxBounds { messages: 3, bytes: 1000, message_bytes: 5000, policy: OutboxPolicy::Close };

fn text(text: &str) -> Outgoing {
    Outgoing::Message(Payload::text(text))
}

fn take(outbox: &Outbox) -> Option<(Vec<Outgoing>, Option<u16>)> {
    let taken = outbox.take().now_or_never()?;
    Some((taken.queue.into(), taken.close.map(|reason| reason.code.0)))
}

#[test]
fn what_is_sent_while_opening_waits_for_ready() {
    let outbox = Outbox::default();
    outbox.push(text("welcome"), BOUNDS).unwrap();
    assert_eq!(take(&outbox), None);
    outbox.accept(Some(Outgoing::Ready));
    assert_eq!(take(&outbox), Some((vec![Outgoing::Ready, text("welcome")], None)));
    assert_eq!(take(&outbox), None);
}

#[test]
fn ready_comes_first_also_where_the_connection_ends_before_it_was_taken() {
    let away = CloseReason::host(CloseCode::AWAY, "server shutting down");
    for is_owed in [false, true] {
        let outbox = Outbox::default();
        outbox.push(text("welcome"), BOUNDS).unwrap();
        let reason = if is_owed { None } else { Some(1001) };
        match is_owed {
            true => assert!(outbox.begin_draining()),
            false => outbox.close(away.clone()).unwrap(),
        }
        assert_eq!(take(&outbox), reason.map(|code| (vec![], Some(code))));
        outbox.accept(Some(Outgoing::Ready));
        outbox.finish();
        let rest = outbox.remaining().now_or_never().unwrap();
        assert_eq!(Vec::from(rest), [Outgoing::Ready, text("welcome")]);
    }
    let outbox = Outbox::default();
    outbox.push(text("welcome"), BOUNDS).unwrap();
    outbox.close(away).unwrap();
    outbox.finish();
    assert!(outbox.remaining().now_or_never().unwrap().is_empty(), "the queue was dropped");
}

#[test]
fn a_peer_that_is_done_is_owed_what_waits_and_what_is_with_the_lane() {
    let load = Load { messages: 1, bytes: 0 };
    for (waits, reserved, is_owed) in
        [(false, false, false), (true, false, true), (false, true, true)]
    {
        let outbox = Outbox::default();
        outbox.accept(None);
        if waits {
            outbox.push(text("answer"), BOUNDS).unwrap();
        }
        if reserved {
            outbox.reserve(load);
        }
        assert_eq!(outbox.begin_draining(), is_owed);
        assert_eq!(outbox.push(text("more"), BOUNDS).is_ok(), is_owed);
        assert!(!outbox.begin_draining() && outbox.is_ending());
    }
}

#[test]
fn a_refused_peer_reads_nothing_but_the_refusal() {
    let outbox = Outbox::default();
    outbox.push(text("welcome"), BOUNDS).unwrap();
    outbox.refuse(CloseReason::new(CloseCode::POLICY, ClosedBy::Plugin, "no"));
    assert_eq!(take(&outbox), Some((vec![], Some(1008))));
    assert_eq!(outbox.push(text("late"), BOUNDS), Err(Gone));
}

#[test]
fn a_peer_that_does_not_read_is_closed_with_1013() {
    for sizes in [[1, 1, 1, 1], [900, 400, 5000, 5000]] {
        let outbox = Outbox::default();
        outbox.accept(None);
        let results = sizes.map(|n| outbox.push(text(&"x".repeat(n)), BOUNDS).is_ok());
        assert!(results[0] && !results[3], "{results:?}");
        assert_eq!(take(&outbox), Some((vec![], Some(1013))));
    }
}

#[test]
fn what_the_lane_defers_is_told_once_and_comes_back_in_order() {
    let outbox = Outbox::default();
    outbox.accept(None);
    assert!(outbox.push(text("a"), BOUNDS).is_ok() && outbox.is_crowded(BOUNDS), "of three");
    outbox.defer(vec![Input::Chunk]);
    outbox.defer(vec![Input::Message(Payload::text("b"))]);
    let resumes = || outbox.try_take().map(|taken| (taken.queue.len(), taken.resumes));
    assert_eq!([resumes(), resumes()], [Some((1, true)), None]);
    assert!(outbox.is_crowded(BOUNDS), "until the lane has taken it back");
    assert_eq!(outbox.take_deferred(), [Input::Chunk, Input::Message(Payload::text("b"))]);
    assert!(!outbox.is_crowded(BOUNDS) && outbox.take_deferred().is_empty());
    outbox.defer(vec![Input::Chunk]);
    assert_eq!([resumes(), resumes()], [Some((0, true)), None]);
}

#[test]
fn an_answer_that_finds_no_place_does_not_change_why_a_connection_ends() {
    for is_told in [false, true] {
        let outbox = Outbox::default();
        outbox.accept(None);
        outbox.close(CloseReason::host(CloseCode::AWAY, "x")).unwrap();
        let reasons = |outbox: &Outbox| take(outbox).and_then(|(_, reason)| reason);
        let first = is_told.then(|| reasons(&outbox)).flatten();
        let pushed = [1; 4].map(|_| outbox.push(text("answer"), BOUNDS).is_ok());
        assert_eq!(pushed, [true, true, true, false]);
        assert_eq!(
            (first, reasons(&outbox)),
            if is_told { (Some(1001), None) } else { (None, Some(1001)) }
        );
    }
}

#[test]
fn a_reason_outlives_a_lane_that_is_through_before_the_connection_looked() {
    let outbox = Outbox::default();
    outbox.accept(None);
    outbox.close(CloseReason::host(CloseCode::AWAY, "x")).unwrap();
    outbox.finish();
    assert_eq!(take(&outbox), Some((vec![], Some(1001))));
    assert_eq!(take(&outbox), None);
}

#[test]
fn an_orderly_close_still_takes_answers_and_a_plugins_close_does_not() {
    let away = CloseReason::host(CloseCode::AWAY, "server shutting down");
    let quit = CloseReason::new(CloseCode::NORMAL, ClosedBy::Plugin, "");
    for (reason, accepts) in [(away, true), (quit, false)] {
        let outbox = Outbox::default();
        outbox.accept(None);
        outbox.close(reason.clone()).unwrap();
        assert_eq!(outbox.push(text("answer"), BOUNDS).is_ok(), accepts);
        assert_eq!(outbox.close(reason.clone()), Err(Gone));
        assert_eq!(take(&outbox).unwrap().1, Some(reason.code.0));
        assert_eq!(outbox.remaining().now_or_never(), None);
        outbox.finish();
        assert!(outbox.remaining().now_or_never().is_some());
        assert_eq!(outbox.push(text("late"), BOUNDS), Err(Gone));
    }
}
