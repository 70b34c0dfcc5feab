//! Deadline of a partial message. It is paused while the host itself does not read.

use std::time::Duration;

use tokio::time::Instant;

/// A deadline that can be paused.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Deadline {
    /// No message is partial.
    #[default]
    None,
    At(Instant),
    /// Paused with this much time left.
    Paused(Duration),
}

impl Deadline {
    /// Starts the deadline, unless it runs already.
    pub(crate) fn start(&mut self, limit: Duration) {
        if matches!(self, Self::None) {
            *self = Self::At(Instant::now() + limit);
        }
    }

    pub(crate) fn pause(&mut self) {
        if let Self::At(at) = *self {
            *self = Self::Paused(at.saturating_duration_since(Instant::now()));
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Self::Paused(left) = *self {
            *self = Self::At(Instant::now() + left);
        }
    }

    /// Returns the time of expiry, unless paused.
    pub(crate) fn time(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::None | Self::Paused(_) => None,
        }
    }

    pub(crate) fn is_expired(self) -> bool {
        self.time().is_some_and(|at| Instant::now() >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn only_time_outside_of_pauses_counts() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut deadline = Deadline::None;
        deadline.pause();
        deadline.resume();
        assert!(deadline.time().is_none() && !deadline.is_expired());
        deadline.start(3 * SECOND);
        advance(2 * SECOND).await;
        deadline.pause();
        // A running deadline is not restarted.
        deadline.start(9 * SECOND);
        advance(60 * SECOND).await;
        assert!(deadline.time().is_none() && !deadline.is_expired());
        deadline.resume();
        advance(SECOND / 2).await;
        assert!(!deadline.is_expired());
        advance(SECOND / 2).await;
        assert!(deadline.is_expired());
    }
}
