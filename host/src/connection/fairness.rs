//! Cooperative budget: how much a connection does before other connections of its thread run.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::io::BATCH_MESSAGES;

/// Full batches that a connection has processed since it last yielded.
///
/// Tokio's own budget counts 128 operations, whatever each costs: twenty flooding clients would
/// delay all others by a tenth of a second.
#[derive(Default)]
pub(crate) struct TurnBudget(u32);

impl TurnBudget {
    /// Full batches before a yield.
    const LIMIT: u32 = 4;
    /// Longest handling of a batch before a yield; the application may run on this task.
    const MAX_HANDLING: Duration = Duration::from_micros(200);

    /// Yields if the budget is used up.
    pub(crate) async fn yield_if_spent(&mut self) {
        if self.0 >= Self::LIMIT {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Charges a write.
    pub(crate) fn wrote(&mut self, messages: usize) {
        self.0 += u32::from(messages >= BATCH_MESSAGES);
    }

    /// Charges a read of `messages` messages and of `frames` fragments and control frames (up to
    /// ten thousand in one read). Returns the start of handling for a full batch.
    pub(crate) fn read(&mut self, frames: u32, messages: usize) -> Option<Instant> {
        self.0 += match (frames, messages) {
            (2.., _) | (_, 0) => Self::LIMIT,
            (_, BATCH_MESSAGES..) => 1,
            _ => 0,
        };
        (messages >= BATCH_MESSAGES).then(Instant::now)
    }

    /// Charges the handling that began at `begun`.
    pub(crate) fn handled(&mut self, begun: Option<Instant>) {
        if begun.is_some_and(|begun| begun.elapsed() > Self::MAX_HANDLING) {
            self.0 = Self::LIMIT;
        }
    }
}
