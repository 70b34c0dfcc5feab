//! Metrics of an application.

use super::Host;
use crate::abi::{RawMetric, RawPair, metric, metric_change};

impl Host {
    /// Returns a counter of this resource: a number that only grows. ABI step 3.
    ///
    /// `name` has letters, digits and `_`; `help` is one sentence for operators; `labels`
    /// distinguish series of one name. A resource has at most 1,000 series, so a label must not
    /// have a value per client. `plugsocket status` shows them. They survive a reload: registering
    /// a series again continues it. Call this once, in [`start`](crate::Plugin::start) for example.
    ///
    /// A series that cannot be registered records nothing, and the host logs why; on an older host
    /// it records nothing.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// struct Auction {
    ///     bids: Counter,
    /// }
    ///
    /// impl Plugin for Auction {
    ///     fn start(host: Host, _: &str) -> Result<Self, StartError> {
    ///         Ok(Self { bids: host.counter("bids", "Accepted bids.", &[]) })
    ///     }
    ///
    ///     fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
    ///         self.bids.add(1.0);
    ///         Ok(())
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn counter(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        Counter(self.series(metric::COUNTER, (name, help), labels, &[]))
    }

    /// Returns a gauge of this resource: a number that rises and falls. As
    /// [`counter`](Self::counter).
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Gauge {
        Gauge(self.series(metric::GAUGE, (name, help), labels, &[]))
    }

    /// Returns a histogram of this resource: how often values were at most each of `buckets`, which
    /// ascend and are at most 64. As [`counter`](Self::counter).
    #[must_use]
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        buckets: &[f64],
    ) -> Histogram {
        Histogram(self.series(metric::HISTOGRAM, (name, help), labels, buckets))
    }

    fn series(
        &self,
        kind: u32,
        (name, help): (&str, &str),
        labels: &[(&str, &str)],
        buckets: &[f64],
    ) -> Series {
        let labels: Vec<RawPair<'_>> = labels
            .iter()
            .map(|(name, value)| RawPair { name: (*name).into(), value: (*value).into() })
            .collect();
        let (name, help) = (name.into(), help.into());
        let (labels, buckets) = (labels.as_slice().into(), buckets.into());
        let raw = RawMetric { kind, name, help, labels, buckets };
        let number = self.raw.table.metric().and_then(|register| {
            let registered = register(self.raw.context, raw);
            (registered.status == crate::abi::status::OK).then_some(registered.count)
        });
        Series { host: self.clone(), number }
    }
}

#[derive(Clone, Debug)]
struct Series {
    host: Host,
    /// `None` if it could not be registered.
    number: Option<u64>,
}

impl Series {
    fn record(&self, change: u32, value: f64) {
        if let (Some(number), Some(record)) = (self.number, self.host.raw.table.record()) {
            record(self.host.raw.context, number, change, value);
        }
    }
}

/// A number that only grows: see [`Host::counter`]. Usable from any thread.
#[derive(Clone, Debug)]
pub struct Counter(Series);

impl Counter {
    /// Adds a number that is not negative.
    pub fn add(&self, value: f64) {
        self.0.record(metric_change::ADD, value);
    }
}

/// A number that rises and falls: see [`Host::gauge`]. Usable from any thread.
#[derive(Clone, Debug)]
pub struct Gauge(Series);

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: f64) {
        self.0.record(metric_change::SET, value);
    }

    /// Adds a number, which may be negative.
    pub fn add(&self, value: f64) {
        self.0.record(metric_change::ADD, value);
    }
}

/// The distribution of values: see [`Host::histogram`]. Usable from any thread.
#[derive(Clone, Debug)]
pub struct Histogram(Series);

impl Histogram {
    /// Counts a value.
    pub fn observe(&self, value: f64) {
        self.0.record(metric_change::OBSERVE, value);
    }
}
