//! How long a connection keeps its thread while others wait for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::io::BATCH_MESSAGES;

/// What a connection had of its thread since the others had their turn. The runtime itself counts reads and writes, up to 128,
/// whatever each costs: twenty peers that flood would make everybody else wait for a tenth of a second.
#[derive(Default)]
pub(crate) struct TurnBudget(u32);

impl TurnBudget {
    /// Reads or writes of a full batch.
    const MOST: u32 = 4;
    /// The application may have handled right here what was read.
    const LONG: Duration = Duration::from_micros(200);

    /// Lets the others have their turn if it was enough.
    pub(crate) async fn rest(&mut self) {
        if self.0 >= Self::MOST {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn wrote(&mut self, messages: usize) {
        self.0 += u32::from(messages >= BATCH_MESSAGES);
    }

    /// So many messages were read, and frames that brought none: fragments and control frames, up to ten thousand in one read. Says
    /// when handling them begins, if they are many.
    pub(crate) fn read(&mut self, frames: u32, messages: usize) -> Option<Instant> {
        self.0 += match (frames, messages) {
            (2.., _) | (_, 0) => Self::MOST,
            (_, BATCH_MESSAGES..) => 1,
            _ => 0,
        };
        (messages >= BATCH_MESSAGES).then(Instant::now)
    }

    pub(crate) fn handled(&mut self, begun: Option<Instant>) {
        if begun.is_some_and(|begun| begun.elapsed() > Self::LONG) {
            self.0 = Self::MOST;
        }
    }
}
