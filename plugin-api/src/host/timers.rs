//! Timers of an instance, kept by the host.

use std::time::Duration;

use super::{Host, check, count};
use crate::types::HostError;

impl Host {
    /// Calls [`Plugin::timer`](crate::Plugin::timer) with `key` once, after `delay`. ABI step 3.
    ///
    /// It replaces a timer with the same key. The host keeps timers when the instance is replaced by
    /// another generation of the same application, and calls the successor; it does not keep them
    /// when the host restarts. The resolution is one millisecond. A timer set in
    /// [`start`](crate::Plugin::start) begins when the instance serves.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # use std::time::Duration;
    /// # struct Auction { host: Host }
    /// # impl Plugin for Auction {
    /// #   fn start(host: Host, _: &str) -> Result<Self, StartError> { Ok(Self { host }) }
    /// fn message(&mut self, _: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
    ///     let lot = message.to_text().unwrap_or_default();
    ///     let _ = self.host.after(Duration::from_secs(60), &format!("end of {lot}"));
    ///     Ok(())
    /// }
    ///
    /// fn timer(&mut self, key: &str) {
    ///     if let Some(lot) = key.strip_prefix("end of ") {
    ///         let _ = self.host.broadcast(Audience::resource(), &format!("{lot} is sold"));
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HostError::TooLarge`] for a key over 256 bytes; [`HostError::TooMany`] beyond 100,000
    /// timers of the resource; [`HostError::Retired`] after the instance has been replaced;
    /// [`HostError::Unsupported`] on an older host, where [`tick`](crate::Plugin::tick) remains.
    pub fn after(&self, delay: Duration, key: &str) -> Result<(), HostError> {
        self.set_timer(key, delay, false)
    }

    /// Calls [`Plugin::timer`](crate::Plugin::timer) with `key` every `period`, first after one
    /// `period`, as [`after`](Self::after) does.
    ///
    /// Missed calls are not repeated. The minimum is one millisecond.
    ///
    /// # Errors
    /// Those of [`after`](Self::after).
    pub fn every(&self, period: Duration, key: &str) -> Result<(), HostError> {
        self.set_timer(key, period, true)
    }

    /// Cancels a timer; returns whether there was one.
    ///
    /// # Errors
    /// [`HostError::Retired`]; [`HostError::Unsupported`] on an older host.
    pub fn cancel(&self, key: &str) -> Result<bool, HostError> {
        let cancel_timer = self.raw.table.cancel_timer().ok_or(HostError::Unsupported)?;
        count(cancel_timer(self.raw.context, key.into())).map(|cancelled| cancelled > 0)
    }

    fn set_timer(&self, key: &str, delay: Duration, repeats: bool) -> Result<(), HostError> {
        let set_timer = self.raw.table.set_timer().ok_or(HostError::Unsupported)?;
        // Rounded up: a timer is never early.
        let millis = delay.as_nanos().div_ceil(1_000_000);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        check(set_timer(self.raw.context, key.into(), millis, repeats))
    }
}
