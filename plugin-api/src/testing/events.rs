//! Posted events: delivered when the test asks for it.

use std::time::{Duration, Instant};

use super::Harness;
use crate::Plugin;

impl<P: Plugin> Harness<P> {
    /// Delivers the events that wait, in the order of the posts; returns their number.
    ///
    /// Also makes the `close` callbacks of connections that threads of the application have closed.
    /// Events that are posted meanwhile wait for the next call.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct App { host: Host, events: usize }
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> {
    /// #       host.post(b"loaded")?;
    /// #       Ok(Self { host, events: 0 })
    /// #   }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// #   fn event(&mut self, _: Event) { self.events += 1; }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// assert_eq!(app.plugin().events, 0);
    /// assert_eq!(app.run(), 1);
    /// assert_eq!(app.plugin().events, 1);
    /// ```
    pub fn run(&mut self) -> usize {
        self.settle();
        let waiting = self.lease.host.lock().inbox.len();
        let mut delivered = 0;
        for _ in 0..waiting {
            let Some(post) = self.lease.host.lock().inbox.pop_front() else { break };
            delivered += 1;
            let event = post.into_event();
            // A panic concerns no connection.
            self.call(|plugin| plugin.event(event)).ok();
            self.settle();
        }
        delivered
    }

    /// Delivers events until `condition` holds, and waits for threads of the application meanwhile,
    /// up to `limit` in real time; returns whether it holds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct App { host: Host }
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self { host }) }
    /// #   fn message(&mut self, s: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
    /// #       let (ticket, n) = (self.host.defer(s)?, m.as_bytes().len());
    /// #       self.host.spawn_blocking(move || (n, ticket))?;
    /// #       Ok(())
    /// #   }
    /// #   fn event(&mut self, event: Event) {
    /// #       let (n, ticket) = event.downcast::<(usize, Ticket)>().unwrap();
    /// #       let _ = ticket.complete_with(&n.to_string());
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// // Counts the bytes on another thread, and acknowledges the message with their number.
    /// app.message(ann, "hello").unwrap();
    /// let is_done = app.run_until(Duration::from_secs(10), |app| app.deferred(ann) == 0);
    /// assert!(is_done);
    /// assert_eq!(app.acknowledged(ann), ["5"]);
    /// ```
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.lease.host.changes();
            self.run();
            if condition(self) {
                return true;
            }
            if !self.lease.host.wait(seen, deadline) {
                return false;
            }
            if Instant::now() >= deadline {
                self.run();
                return condition(self);
            }
        }
    }

    /// Delivers `count` events, and waits for threads of the application to post them, up to
    /// `limit` in real time; returns how many were delivered, which may be more.
    pub fn run_events(&mut self, count: usize, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut delivered = 0;
        loop {
            let seen = self.lease.host.changes();
            delivered += self.run();
            if delivered >= count || !self.lease.host.wait(seen, deadline) {
                return delivered;
            }
            if Instant::now() >= deadline {
                return delivered + self.run();
            }
        }
    }

    /// Returns the number of events that wait.
    #[must_use]
    pub fn waiting_events(&self) -> usize {
        self.lease.host.lock().inbox.len()
    }
}
