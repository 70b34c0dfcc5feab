//! Histograms of durations. Recording takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets; the last bucket has none.
const BOUNDS: [Duration; 8] = [
    Duration::from_micros(50),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];

/// How often durations of each size occurred, and their sum.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// What a histogram has recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistogramValues {
    /// Upper bounds in seconds, the last one infinite, and how many durations belong to each.
    pub(crate) buckets: [(f64, u64); BOUNDS.len() + 1],
    pub(crate) sum: Duration,
}

impl Histogram {
    /// Records a duration that stands for so many.
    pub(crate) fn observe(&self, duration: Duration, count: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        self.counts[bucket].fetch_add(count, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos.saturating_mul(count), Ordering::Relaxed);
    }

    pub(crate) fn values(&self) -> HistogramValues {
        let mut buckets = [(f64::INFINITY, 0); BOUNDS.len() + 1];
        for (index, bucket) in buckets.iter_mut().enumerate() {
            let bound = BOUNDS.get(index).map_or(f64::INFINITY, Duration::as_secs_f64);
            *bucket = (bound, self.counts[index].load(Ordering::Relaxed));
        }
        HistogramValues { buckets, sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)) }
    }
}

impl HistogramValues {
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_belongs_to_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (micros, count) in [(0, 1), (50, 1), (51, 16), (1_000, 1), (10_000_000, 1)] {
            histogram.observe(Duration::from_micros(micros), count);
        }
        histogram.observe(Duration::from_secs(11), 1);
        let values = histogram.values();
        let counts = values.buckets.map(|(_, count)| count);
        assert_eq!(counts, [2, 16, 1, 0, 0, 0, 0, 1, 1]);
        assert_eq!(values.buckets[0].0, 0.000_05);
        assert_eq!(values.count(), 21);
        assert_eq!(
            values.sum,
            Duration::from_micros(50 + 51 * 16 + 1_000 + 10_000_000 + 11_000_000)
        );
    }
}
