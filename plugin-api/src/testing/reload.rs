//! Successors: a hot reload, another application, another configuration, and the end.

use std::panic::resume_unwind;
use std::time::Instant;

use super::simulated_host::{End, Phase};
use super::{Harness, guard};
use crate::Plugin;
use crate::types::{
    CloseCode, ClosedBy, ConfigChange, RetireReason, Snapshot, SnapshotReason, StartError,
};

/// Why a successor did not take over, with the instance that continues to serve: see
/// [`Harness::try_reload`].
pub struct ReloadError<P: Plugin> {
    /// The instance that continues.
    pub harness: Harness<P>,
    /// The error of `start` or `restore`.
    pub error: StartError,
}

impl<P: Plugin> std::fmt::Debug for ReloadError<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReloadError").field(&self.error).finish()
    }
}

impl<P: Plugin> Harness<P> {
    /// Replaces the application with `Q` (another version, or the same) and hands over its state,
    /// as a hot reload does. Connections with their data, rooms, timers, metrics and tickets remain;
    /// bytes that were posted go to the successor, values are dropped.
    ///
    /// Calls [`Plugin::snapshot_for`] with [`SnapshotReason::Replaced`], and
    /// [`Plugin::retiring`] on another thread before the old instance is dropped.
    ///
    /// # Errors
    /// The error of the successor's `start` or `restore`. Unlike on the host, the old instance is
    /// dropped then; [`try_reload`](Self::try_reload) returns it.
    pub fn reload<Q: Plugin>(self, config: &str) -> Result<Harness<Q>, StartError> {
        self.try_reload(config).map_err(|refused| refused.error)
    }

    /// Replaces the application as [`reload`](Self::reload) does.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct App(Host);
    /// # impl Plugin for App {
    /// #   fn start(host: Host, config: &str) -> Result<Self, StartError> {
    /// #       if config == "{}" { Ok(Self(host)) } else { Err(StartError::new("no such key")) }
    /// #   }
    /// #   fn message(&mut self, s: &Session<'_>, m: Message<'_>) -> Result<(), Refused> {
    /// #       Ok(self.0.send(s.id(), m)?)
    /// #   }
    /// # }
    ///
    /// let mut app = Harness::<App>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// let refused = app.try_reload::<App>(r#"{"seats":2}"#).unwrap_err();
    /// assert_eq!(refused.error.0, "no such key");
    /// let mut app = refused.harness;
    /// app.message(ann, "still here").unwrap();
    /// assert_eq!(app.received(ann), ["still here"]);
    /// ```
    ///
    /// # Errors
    /// The error of the successor's `start` or `restore`, with the old instance, which continues.
    pub fn try_reload<Q: Plugin>(
        mut self,
        config: &str,
    ) -> Result<Harness<Q>, Box<ReloadError<P>>> {
        match self.successor::<Q>(config, SnapshotReason::Replaced) {
            Ok(mut next) => {
                next.lease.succeed(Some(&self.lease));
                next.panics.extend(self.retire(RetireReason::Replaced));
                next.settle();
                Ok(next)
            }
            Err(error) => Err(Box::new(ReloadError { harness: self, error })),
        }
    }

    /// Replaces the application with another one, which knows nothing of its state.
    ///
    /// As on the host, the old application sees every connection close, and the new one sees each of
    /// them open. Rooms remain; posts, timers, metrics and the data of connections and rooms are
    /// removed.
    ///
    /// ```
    /// use plugsocket_plugin::testing::{Harness, Peer};
    /// # use plugsocket_plugin::*;
    /// # struct App(Host);
    /// # impl Plugin for App {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self(host)) }
    /// #   fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
    /// #       Ok(self.0.send(session.id(), "welcome")?)
    /// #   }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    /// # type Chat = App;
    /// # type Quiz = App;
    ///
    /// let mut app = Harness::<Chat>::start("{}").unwrap();
    /// let ann = app.open(Peer::websocket()).unwrap();
    /// assert_eq!(app.received(ann), ["welcome"]);
    /// let app = app.replace::<Quiz>("{}").unwrap();
    /// assert_eq!(app.received(ann), ["welcome"]);
    /// ```
    ///
    /// # Errors
    /// The error of the successor's `start`. Unlike on the host, the old instance is dropped then.
    pub fn replace<Q: Plugin>(mut self, config: &str) -> Result<Harness<Q>, StartError> {
        self.settle();
        let mut next = self.candidate_of::<Q>(config)?;
        let members = self.lease.host.lock().members();
        let text = "another application serves this resource now";
        let replaced = End::new(CloseCode::AWAY, ClosedBy::Host, text);
        for id in &members {
            self.call_close(*id, &replaced);
        }
        self.lease.clear();
        next.lease.succeed(Some(&self.lease));
        for id in members {
            // The harness has recorded a refusal.
            next.call_open(id).ok();
        }
        next.panics.extend(self.retire(RetireReason::Replaced));
        next.settle();
        Ok(next)
    }

    /// Changes the configuration; calls [`Plugin::config_changed`].
    ///
    /// With [`ConfigChange::Restart`], and on a host before ABI step 3, a new instance takes over
    /// the state as in a [`reload`](Self::reload), with [`SnapshotReason::Reconfigured`].
    ///
    /// ```
    /// use plugsocket_plugin::{ConfigChange, testing::Harness};
    /// # use plugsocket_plugin::*;
    /// # struct Quiz { config: String }
    /// # impl Plugin for Quiz {
    /// #   fn start(_: Host, config: &str) -> Result<Self, StartError> {
    /// #       Ok(Self { config: config.to_owned() })
    /// #   }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// # }
    ///
    /// let mut app = Harness::<Quiz>::start("{}").unwrap();
    /// assert_eq!(app.configure(r#"{"seats":2}"#), Ok(ConfigChange::Restart));
    /// assert_eq!(app.plugin().config, r#"{"seats":2}"#);
    /// ```
    ///
    /// # Errors
    /// The error of `config_changed`, or of the new instance's `start` or `restore`. The instance
    /// continues.
    pub fn configure(&mut self, config: &str) -> Result<ConfigChange, StartError> {
        self.settle();
        let change = match self.step() {
            3.. => self
                .call(|plugin| plugin.config_changed(config))
                .unwrap_or_else(|_| Err(panicked("config_changed")))?,
            _ => ConfigChange::Restart,
        };
        self.settle();
        if change == ConfigChange::Restart {
            let next = self.successor::<P>(config, SnapshotReason::Reconfigured)?;
            next.lease.succeed(Some(&self.lease));
            let old = std::mem::replace(self, next);
            self.panics.extend(old.retire(RetireReason::Reconfigured));
            self.settle();
        }
        Ok(change)
    }

    /// Requests a snapshot, for example with [`SnapshotReason::Stored`]; the instance continues.
    ///
    /// [`start_from`](Self::start_from) starts an instance with it.
    pub fn snapshot(&mut self, reason: SnapshotReason) -> Option<Snapshot> {
        self.settle();
        self.take_snapshot(reason).ok().flatten()
    }

    /// Stops the host: closes every connection with 1001, then requests the last snapshot
    /// ([`SnapshotReason::Stopping`]), calls [`Plugin::retiring`], and drops the instance.
    ///
    /// ```
    /// use plugsocket_plugin::testing::Harness;
    /// # use plugsocket_plugin::*;
    /// # struct Count(u8);
    /// # impl Plugin for Count {
    /// #   fn start(_: Host, _: &str) -> Result<Self, StartError> { Ok(Self(7)) }
    /// #   fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> { Ok(()) }
    /// #   fn snapshot(&mut self) -> Option<Snapshot> {
    /// #       Some(Snapshot { version: 1, bytes: vec![self.0] })
    /// #   }
    /// #   fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
    /// #       self.0 = snapshot.bytes[0];
    /// #       Ok(())
    /// #   }
    /// # }
    ///
    /// let app = Harness::<Count>::start("{}").unwrap();
    /// let on_disk = app.stop().unwrap();
    /// let mut app = Harness::<Count>::start_from(on_disk, "{}").unwrap();
    /// assert_eq!(app.plugin().0, 7);
    /// ```
    pub fn stop(mut self) -> Option<Snapshot> {
        self.close_all("the host stops");
        let snapshot = self.snapshot(SnapshotReason::Stopping);
        self.retire(RetireReason::Stopping);
        snapshot
    }

    /// Ends the resource for this reason, for example [`RetireReason::Removed`]: closes every
    /// connection with 1001, calls [`Plugin::retiring`], and drops the instance.
    pub fn remove(mut self, reason: RetireReason) {
        self.close_all("this application was removed");
        self.retire(reason);
    }

    fn close_all(&mut self, text: &str) {
        self.settle();
        let members = self.lease.host.lock().members();
        for id in members {
            self.end(id, End::new(CloseCode::AWAY, ClosedBy::Host, text));
        }
    }

    /// Starts a successor and gives it the state. It does not serve yet.
    fn successor<Q: Plugin>(
        &mut self,
        config: &str,
        reason: SnapshotReason,
    ) -> Result<Harness<Q>, StartError> {
        self.settle();
        let mut next = self.candidate_of::<Q>(config)?;
        if let Some(snapshot) = self.take_snapshot(reason)? {
            next.lease.set_phase(Phase::Restoring);
            next.call(|plugin| plugin.restore(snapshot))
                .map_err(|_| panicked("restore"))?
                .map_err(|error| StartError(error.0))?;
        }
        next.panics = std::mem::take(&mut self.panics);
        Ok(next)
    }

    fn candidate_of<Q: Plugin>(&mut self, config: &str) -> Result<Harness<Q>, StartError> {
        let host = self.lease.host.clone();
        let started =
            guard(self.catches_panics, &mut self.panics, || Harness::<Q>::candidate(&host, config));
        let mut next = started.unwrap_or_else(|_| Err(panicked("start")))?;
        next.begun = self.begun;
        next.catches_panics = self.catches_panics;
        Ok(next)
    }

    fn take_snapshot(&mut self, reason: SnapshotReason) -> Result<Option<Snapshot>, StartError> {
        let is_older = self.step() < 3;
        self.call(|plugin| match is_older {
            true => plugin.snapshot(),
            false => plugin.snapshot_for(reason),
        })
        .map_err(|_| panicked("snapshot"))
    }

    /// Retires and drops the instance on another thread, as the host does; returns its panics.
    fn retire(self, reason: RetireReason) -> Vec<String> {
        let is_told = self.step() >= 3;
        let Self { lease, mut plugin, catches_panics, mut panics, .. } = self;
        lease.set_phase(Phase::Retiring);
        let deadline = Instant::now() + lease.host.lock().limits.retiring;
        let retiring = std::thread::spawn(move || {
            if is_told {
                guard(catches_panics, &mut panics, || plugin.retiring(reason, deadline)).ok();
            }
            lease.set_phase(Phase::Retired);
            guard(catches_panics, &mut panics, || drop(plugin)).ok();
            panics
        });
        retiring.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Returns the error of a callback that has panicked.
fn panicked(callback: &str) -> StartError {
    StartError(format!("{callback} has panicked"))
}
