//! The series of an application.

use abi_stable::std_types::RSlice;

use super::{SimulatedHost, Works, call, count_of, status_of};
use crate::abi::{Count, HostContext, RawMetric, RawPair, metric, metric_change, status};
use crate::testing::Metric;
use crate::types::Level;

const MAX_SERIES: usize = 1000;
const MAX_BUCKETS: usize = 64;

/// All series; the number of a series is its index.
#[derive(Debug, Default)]
pub(in crate::testing) struct Metrics(Vec<Series>);

#[derive(Debug)]
struct Series {
    /// Empty after another application has taken over.
    name: String,
    /// Sorted by name.
    labels: Vec<(String, String)>,
    value: Metric,
}

impl Metrics {
    pub(in crate::testing) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<Metric> {
        let mut labels: Vec<_> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        labels.sort();
        self.find(name, &labels).map(|index| self.0[index].value.clone())
    }

    fn find(&self, name: &str, labels: &[(String, String)]) -> Option<usize> {
        self.0.iter().position(|series| series.name == name && series.labels == labels)
    }

    /// Removes all series. Their numbers are not used again.
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(|series| series.name.clear());
    }

    /// Registers a series or finds the one that is registered.
    fn register(&mut self, raw: &RawMetric<'_>) -> Result<u64, (u32, &'static str)> {
        let invalid = |text| Err((status::INVALID, text));
        let (name, labels) = (raw.name.as_str(), labels_of(&raw.labels));
        let names = || labels.iter().map(|(name, _)| name.as_str());
        if !is_name(name) || !names().all(is_name) {
            return invalid("a name has letters, digits and `_`, and begins with no digit");
        }
        if labels.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return invalid("a label has one value");
        }
        let ascends = raw.buckets.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascends || raw.buckets.iter().any(|bound| bound.is_nan()) {
            return invalid("buckets ascend");
        }
        if raw.buckets.len() > MAX_BUCKETS {
            return invalid("a histogram has at most 64 buckets");
        }
        let Some(value) = empty(raw) else { return invalid("the kind is not known") };
        if self.0.iter().any(|series| series.name == name && !series.value.is_like(&value)) {
            return invalid("a series of this name has another kind or other buckets");
        }
        if let Some(index) = self.find(name, &labels) {
            return Ok(index as u64);
        }
        if self.0.iter().filter(|series| !series.name.is_empty()).count() >= MAX_SERIES {
            return Err((status::TOO_MANY, "a resource has at most 1,000 series"));
        }
        self.0.push(Series { name: name.to_owned(), labels, value });
        Ok(self.0.len() as u64 - 1)
    }

    fn record(&mut self, series: u64, change: u32, value: f64) -> Result<(), u32> {
        let index = usize::try_from(series).map_err(|_| status::INVALID)?;
        let series = self.0.get_mut(index).ok_or(status::INVALID)?;
        match (&mut series.value, change) {
            (_, _) if value.is_nan() => return Err(status::INVALID),
            (Metric::Counter(sum), metric_change::ADD) if value >= 0.0 => *sum += value,
            (Metric::Gauge(number), metric_change::ADD) => *number += value,
            (Metric::Gauge(number), metric_change::SET) => *number = value,
            (Metric::Histogram { buckets, count, sum }, metric_change::OBSERVE) => {
                *count += 1;
                *sum += value;
                for (_, below) in buckets.iter_mut().filter(|(bound, _)| value <= *bound) {
                    *below += 1;
                }
            }
            _ => return Err(status::INVALID),
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn labels_of(raw: &RSlice<'_, RawPair<'_>>) -> Vec<(String, String)> {
    let mut labels: Vec<_> =
        raw.iter().map(|pair| (pair.name.to_string(), pair.value.to_string())).collect();
    labels.sort();
    labels
}

fn empty(raw: &RawMetric<'_>) -> Option<Metric> {
    Some(match raw.kind {
        metric::COUNTER => Metric::Counter(0.0),
        metric::GAUGE => Metric::Gauge(0.0),
        metric::HISTOGRAM => {
            let buckets = raw.buckets.iter().map(|bound| (*bound, 0)).collect();
            Metric::Histogram { buckets, count: 0, sum: 0.0 }
        }
        _ => return None,
    })
}

pub(super) extern "C" fn metric(context: HostContext, raw: RawMetric<'_>) -> Count {
    count_of(call(context, (3, Works::Always), |host: &mut SimulatedHost, _| {
        host.metrics.register(&raw).map_err(|(status, text)| {
            let line = format!("metric {} is not registered: {text}", raw.name);
            host.log.push((Level::Warn, line));
            status
        })
    }))
}

pub(super) extern "C" fn record(context: HostContext, series: u64, change: u32, value: f64) -> u32 {
    status_of(call(context, (3, Works::Always), |host, _| {
        host.metrics.record(series, change, value)
    }))
}
