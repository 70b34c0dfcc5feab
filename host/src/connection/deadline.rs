//! By when something that a peer has begun must be whole. The time stands still while the host itself does not read: that is not the
//! peer's doing.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Deadline {
    /// Nothing has begun.
    #[default]
    None,
    At(Instant),
    /// What was left of the time when it stopped.
    Stopped(Duration),
}

impl Deadline {
    /// Something has begun, unless something is under way already.
    pub(crate) fn begin(&mut self, limit: Duration) {
        if matches!(self, Self::None) {
            *self = Self::At(Instant::now() + limit);
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Self::At(at) = *self {
            *self = Self::Stopped(at.saturating_duration_since(Instant::now()));
        }
    }

    pub(crate) fn go_on(&mut self) {
        if let Self::Stopped(left) = *self {
            *self = Self::At(Instant::now() + left);
        }
    }

    /// When it will be over, unless it is stopped.
    pub(crate) fn time(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::None | Self::Stopped(_) => None,
        }
    }

    pub(crate) fn is_over(self) -> bool {
        self.time().is_some_and(|at| Instant::now() >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn it_counts_the_time_in_which_it_is_not_stopped() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut deadline = Deadline::None;
        deadline.stop();
        deadline.go_on();
        assert!(deadline.time().is_none() && !deadline.is_over());
        deadline.begin(3 * SECOND);
        advance(2 * SECOND).await;
        deadline.stop();
        // What was begun before counts.
        deadline.begin(9 * SECOND);
        advance(60 * SECOND).await;
        assert!(deadline.time().is_none() && !deadline.is_over());
        deadline.go_on();
        advance(SECOND / 2).await;
        assert!(!deadline.is_over());
        advance(SECOND / 2).await;
        assert!(deadline.is_over());
    }
}
