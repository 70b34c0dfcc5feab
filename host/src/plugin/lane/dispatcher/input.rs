//! Hands the input of connections to the application.

use std::time::Duration;

use tokio::time::Instant;

use super::{Dispatcher, close_reason};
use crate::plugin::{Event, Failure};
use crate::protocol::payload::Payload;
use crate::routing::input::{Input, Load};
use crate::routing::peer::Peer;
use crate::routing::tickets;

impl Dispatcher {
    /// Handles what a peer sent and yields to other tasks in between. Defers what would overfill
    /// the peer's outbox, but handles at least `minimum` inputs.
    pub(in crate::plugin::lane) async fn handle_or_defer(
        &mut self,
        peer: &Peer,
        mut inputs: Vec<Input>,
        reserved: Load,
        minimum: usize,
    ) {
        let mut handled = 0;
        while handled < inputs.len() && (handled < minimum || !peer.outbox.is_crowded(peer.bounds))
        {
            if handled > 0 {
                tokio::task::yield_now().await;
            }
            handled += self.handle_batch(peer, &inputs[handled..]);
        }
        let rest = inputs.split_off(handled);
        peer.outbox.release(reserved.without(Load::of(&rest)));
        if !rest.is_empty() {
            peer.outbox.defer(rest);
        }
    }

    pub(in crate::plugin::lane) async fn resume(&mut self, peer: &Peer) {
        if peer.outbox.is_deferring() {
            let inputs = peer.outbox.take_deferred();
            let reserved = Load::of(&inputs);
            // Everything that waited is written: one input is handled even if the outbox has filled
            // again since.
            self.handle_or_defer(peer, inputs, reserved, 1).await;
        }
    }

    /// Handles as many inputs as one turn allows and returns their number. A turn is bounded in
    /// time, because 64 inputs may be a broadcast each, and by the free part of the peer's outbox.
    pub(in crate::plugin::lane) fn handle_batch(&mut self, peer: &Peer, inputs: &[Input]) -> usize {
        const TURN: Duration = Duration::from_micros(200);
        /// Inputs between two readings of the clock.
        const CLOCK_INTERVAL: usize = 16;
        if peer.outbox.is_deferring() {
            return 0;
        }
        let begun = (inputs.len() > CLOCK_INTERVAL).then(Instant::now);
        let takes_batches = self.instance.takes_batches();
        let is_over = |handled: usize| {
            handled > 0
                && (takes_batches || handled.is_multiple_of(CLOCK_INTERVAL))
                && begun.is_some_and(|begun| begun.elapsed() > TURN)
        };
        let mut handled = 0;
        while handled < inputs.len() {
            // The first one can be answered: it was read because the outbox had room.
            let is_crowded = handled > 0 && peer.outbox.is_crowded(peer.bounds);
            if is_crowded || is_over(handled) {
                break;
            }
            handled += self.handle_next(peer, &inputs[handled..]);
        }
        self.resource.counters.add_messages(handled as u64);
        handled
    }

    /// Handles all of them: the client has left, and their answers are dropped.
    pub(super) fn handle_all(&mut self, peer: &Peer, inputs: &[Input]) {
        let mut handled = 0;
        while handled < inputs.len() {
            handled += self.handle_next(peer, &inputs[handled..]);
        }
        self.resource.counters.add_messages(inputs.len() as u64);
    }

    /// Handles the first input, or as many as one call takes; returns their number.
    fn handle_next(&mut self, peer: &Peer, inputs: &[Input]) -> usize {
        match inputs {
            [Input::Message(_), ..] if self.instance.takes_batches() => {
                self.handle_run(peer, inputs)
            }
            [input, ..] => {
                self.handle(peer, input);
                1
            }
            [] => 0,
        }
    }

    fn handle(&mut self, peer: &Peer, input: &Input) {
        if self.drops_input_of(peer) {
            return;
        }
        match input {
            Input::Message(payload) => {
                self.deliver(peer, (1, payload.len()), Event::Message(peer, payload));
            }
            Input::Chunk => peer.acknowledge(),
        }
    }

    /// Handles the messages up to the next chunk with one call; returns their number.
    fn handle_run(&mut self, peer: &Peer, inputs: &[Input]) -> usize {
        let messages = inputs.iter().map_while(|input| match input {
            Input::Message(payload) => Some(payload),
            Input::Chunk => None,
        });
        let run: Vec<&Payload> = messages.collect();
        if !self.drops_input_of(peer) {
            let bytes = run.iter().map(|payload| payload.len()).sum();
            self.deliver(peer, (run.len(), bytes), Event::Messages(peer, &run));
        }
        run.len()
    }

    /// Returns whether the application has refused or closed the connection: it does not get the
    /// remaining inputs.
    fn drops_input_of(&self, peer: &Peer) -> bool {
        self.is_given_up() || !peer.is_member() || peer.outbox.is_cut_off()
    }

    /// Calls the application with a number of messages and their bytes, and acknowledges those that
    /// it does not defer.
    fn deliver(&mut self, peer: &Peer, (messages, bytes): (usize, usize), event: Event<'_>) {
        let (result, has_deferred) = tickets::while_handling(messages, bytes, || self.call(event));
        if let Err(Failure::Refused(..)) = &result {
            self.resource.counters.add_refused();
        }
        match result {
            _ if self.is_given_up() => {}
            Ok(()) if has_deferred => peer.end_deferring_call(),
            Ok(()) => (0..messages).for_each(|_| peer.acknowledge()),
            // It may be closing already.
            Err(failure) => drop(peer.outbox.close(close_reason(failure)).err()),
        }
    }
}
