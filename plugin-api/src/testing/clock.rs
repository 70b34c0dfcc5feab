//! The clock of the simulated host: timers, ticks, and what expires.

use std::time::{Duration, SystemTime};

use super::Harness;
use crate::Plugin;
use crate::types::tick_millis;

/// What is due next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Expiry,
    Timer,
    Tick,
}

impl<P: Plugin> Harness<P> {
    /// Lets time pass: calls [`Plugin::timer`] and [`Plugin::tick`] when they are due, one after
    /// the other, and lets tickets and requests expire.
    ///
    /// Each callback sees the time at which it is due. Posted events are delivered in between, as
    /// [`run`](Self::run) does. The host calls `tick` only if [`Plugin::tick_every`] requests it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct Auction(Host);
    /// # impl Plugin for Auction {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
    /// #       Ok(self.0.after(Duration::from_secs(60), "end")?)
    /// #   }
    /// #   fn timer(&mut self, _: &str) {
    /// #       let _ = self.0.broadcast(Audience::resource(), "sold");
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<Auction>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// app.message(ann, "5 euros").unwrap();
    /// app.advance(Duration::from_secs(59));
    /// assert!(app.received(ann).is_empty());
    /// app.advance(Duration::from_secs(1));
    /// assert_eq!(app.received(ann), ["sold"]);
    /// ```
    pub fn advance(&mut self, by: Duration) {
        let end = self.elapsed().saturating_add(by);
        self.settle();
        self.run();
        while self.call_next(end) {
            self.run();
        }
        self.lease.host.lock().now = end;
    }

    /// Lets time pass in which the application is busy, as if a callback took this long: then calls
    /// what has become due, each timer once, because missed calls are not repeated.
    pub fn stall(&mut self, by: Duration) {
        self.settle();
        self.schedule_tick();
        let end = self.elapsed().saturating_add(by);
        self.lease.host.lock().now = end;
        while self.call_next(end) {}
        self.run();
    }

    /// Returns the wall clock: the time at which the harness was created, and what has passed since
    /// through [`advance`](Self::advance) and [`stall`](Self::stall).
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.begun + self.elapsed()
    }

    /// Calls [`Plugin::tick`] with this time, whatever [`Plugin::tick_every`] returns.
    pub fn tick(&mut self, now: SystemTime) {
        // A panic concerns no connection.
        self.call(|plugin| plugin.tick(now)).ok();
        self.settle();
    }

    /// Returns the keys of the timers that are set, in the order in which they are due.
    #[must_use]
    pub fn timers(&self) -> Vec<String> {
        self.lease.host.lock().timer_keys()
    }

    fn elapsed(&self) -> Duration {
        self.lease.host.lock().now
    }

    /// Calls what is due next, until `end`; returns whether there was something.
    fn call_next(&mut self, end: Duration) -> bool {
        self.schedule_tick();
        let due = {
            let host = self.lease.host.lock();
            let expiry = host.next_expiry().map(|due| (due, Due::Expiry));
            let timer = host.next_timer().map(|due| (due, Due::Timer));
            let tick = self.next_tick.map(|due| (due, Due::Tick));
            expiry.into_iter().chain(timer).chain(tick).min()
        };
        let Some((due, what)) = due.filter(|(due, _)| *due <= end) else { return false };
        let now = self.elapsed().max(due);
        self.lease.host.lock().now = now;
        match what {
            Due::Expiry => self.lease.host.lock().expire(),
            Due::Timer => {
                let key = self.lease.host.lock().take_timer().unwrap_or_default();
                self.call(|plugin| plugin.timer(&key)).ok();
            }
            Due::Tick => {
                self.next_tick = None;
                let now = self.now();
                self.call(|plugin| plugin.tick(now)).ok();
            }
        }
        self.settle();
        true
    }

    /// Asks the application for its interval, as the host does between callbacks.
    fn schedule_tick(&mut self) {
        let millis = self.call(|plugin| tick_millis(plugin.tick_every())).unwrap_or(0);
        let latest = self.elapsed().saturating_add(Duration::from_millis(millis));
        self.next_tick =
            (millis > 0).then(|| self.next_tick.map_or(latest, |planned| planned.min(latest)));
    }
}
