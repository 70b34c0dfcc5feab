//! Acknowledgements: one `next` for each message, in the order of the messages.
//!
//! An application may defer the acknowledgement of a message. Those of later messages then wait
//! behind it, and the message still counts as being with the lane (backpressure).

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;

use super::{Gone, Outbox, OutboxBounds, OutboxState, Phase};
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Outgoing;
use crate::routing::input::Load;

/// How one message is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing is sent: the client has no dialog.
    Silent,
    /// `next`, with the present `fyi` of the connection.
    Next,
    /// `next` with this packet; `None` for an empty `fyi`.
    NextWith(Option<Arc<str>>),
    Close(CloseReason),
}

impl Answer {
    /// Fixes the packet of `next`: a later `fyi` is for later messages.
    fn with(self, next: Option<&Arc<str>>) -> Self {
        match self {
            Self::Next => Self::NextWith(next.cloned()),
            answer => answer,
        }
    }
}

/// Acknowledgements that wait. Present while one is deferred.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    entries: VecDeque<Entry>,
    /// The application is in a call that has deferred a message: what it sends meanwhile precedes
    /// the answers.
    is_in_call: bool,
}

/// A message whose acknowledgement waits. It counts as being with the lane.
#[derive(Debug)]
struct Entry {
    load: Load,
    state: EntryState,
}

#[derive(Debug)]
enum EntryState {
    /// The message is being handled, in a call that has deferred another one.
    InCall,
    /// With the number of its ticket.
    Deferred(u64),
    Answered(Answer),
}

impl Entry {
    fn new(state: EntryState) -> Self {
        Self { load: Load { messages: 1, bytes: 0 }, state }
    }
}

/// A message of the call that the application is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallPosition {
    /// Messages of the call.
    pub(crate) of: usize,
    pub(crate) index: usize,
    /// Whether it is the first one that the call defers.
    pub(crate) is_first: bool,
}

impl Outbox {
    /// Acknowledges one message, behind those that wait.
    pub(crate) fn acknowledge(&self, bounds: OutboxBounds) -> Result<(), Gone> {
        let mut state = self.lock();
        if state.waiting.is_some() {
            // With the `fyi` that it would have had.
            let answer = Answer::NextWith(state.next.clone());
            state.wait(Entry::new(EntryState::Answered(answer)));
            return Ok(());
        }
        let next = Outgoing::Next(state.next.clone());
        self.append(&mut state, next, None, bounds).map(drop)
    }

    /// Sets the `next` packet; `None` for an empty `fyi`.
    pub(crate) fn set_next(&self, packet: Option<Arc<str>>) {
        self.lock().next = packet;
    }

    /// Defers the acknowledgement of a message that the application handles; false if it is deferred
    /// already or the call has no message at this index.
    pub(crate) fn defer_acknowledgement(
        &self,
        at: CallPosition,
        ticket: u64,
        bytes: usize,
    ) -> Result<bool, Gone> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Finished(_)) {
            return Err(Gone);
        }
        if at.index >= at.of {
            return Ok(false);
        }
        if at.is_first {
            (0..at.of).for_each(|_| state.wait(Entry::new(EntryState::InCall)));
        }
        let Waiting { entries, is_in_call } = &mut **state.waiting.get_or_insert_default();
        *is_in_call = true;
        let first = entries.len().saturating_sub(at.of);
        match entries.get_mut(first + at.index) {
            Some(entry) if matches!(entry.state, EntryState::InCall) => {
                entry.state = EntryState::Deferred(ticket);
                entry.load.bytes = bytes;
            }
            _ => return Ok(false),
        }
        state.with_lane.bytes += bytes;
        state.count_added();
        Ok(true)
    }

    /// Ends a call that has deferred a message, and answers the other messages of it.
    pub(crate) fn end_deferring_call(&self, answer: impl Fn() -> Answer, bounds: OutboxBounds) {
        let mut state = self.lock();
        let next = state.next.clone();
        if let Some(waiting) = &mut state.waiting {
            waiting.is_in_call = false;
            for entry in &mut waiting.entries {
                if matches!(entry.state, EntryState::InCall) {
                    entry.state = EntryState::Answered(answer().with(next.as_ref()));
                }
            }
        }
        self.send_answered(&mut state, bounds);
    }

    /// Answers a deferred message; the answer is sent once those before it are.
    pub(crate) fn settle(
        &self,
        ticket: u64,
        answer: Answer,
        bounds: OutboxBounds,
    ) -> Result<(), Gone> {
        let mut state = self.lock();
        let answer = answer.with(state.next.as_ref());
        let waiting = state.waiting.as_mut().ok_or(Gone)?;
        let is_it =
            |entry: &&mut Entry| matches!(entry.state, EntryState::Deferred(it) if it == ticket);
        let entry = waiting.entries.iter_mut().find(is_it).ok_or(Gone)?;
        entry.state = EntryState::Answered(answer);
        self.send_answered(&mut state, bounds);
        Ok(())
    }

    /// Sends the answers before the first message that is not answered.
    fn send_answered(&self, state: &mut OutboxState, bounds: OutboxBounds) {
        while let Some(waiting) = state.waiting.as_mut().filter(|waiting| !waiting.is_in_call) {
            match waiting.entries.pop_front() {
                None => state.waiting = None,
                Some(Entry { load, state: EntryState::Answered(answer) }) => {
                    state.with_lane = state.with_lane.without(load);
                    self.answer(state, answer, bounds);
                }
                Some(entry) => {
                    waiting.entries.push_front(entry);
                    break;
                }
            }
        }
        state.count_removed();
        // A connection that does not read, or that waits for its last answers.
        if state.is_held || state.phase.is_ending() {
            self.wake(state);
        }
    }

    fn answer(&self, state: &mut OutboxState, answer: Answer, bounds: OutboxBounds) {
        let packet = match answer {
            Answer::Silent => return,
            Answer::Next => state.next.clone(),
            Answer::NextWith(packet) => packet,
            Answer::Close(reason) => {
                // Fails if it is closing already.
                let _closing = self.close_now(state, reason);
                return;
            }
        };
        // Fails only if the connection is gone.
        let _gone = self.append(state, Outgoing::Next(packet), None, bounds);
    }
}

impl OutboxState {
    fn wait(&mut self, entry: Entry) {
        self.with_lane.messages += entry.load.messages;
        self.waiting.get_or_insert_default().entries.push_back(entry);
    }

    /// Drops what waits: the connection has ended.
    pub(super) fn drop_waiting(&mut self) {
        for Entry { load, .. } in take(&mut self.waiting).unwrap_or_default().entries {
            self.with_lane = self.with_lane.without(load);
        }
    }
}
