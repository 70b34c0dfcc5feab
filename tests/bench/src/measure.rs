//! Measurement: the servers take turns in rounds; a turn is a window of time on a running server.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::server::Server;

/// Number and length of the measurements.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of each server.
    pub rounds: usize,
    /// Length of a turn. A warm-up of a fifth of it precedes.
    pub window: Duration,
    /// Whether to use small numbers of connections and messages (`--quick`).
    pub is_quick: bool,
    /// Whether to add the largest numbers of connections (`--large`).
    pub is_large: bool,
    /// Limit of open files of this process and each server.
    pub files: u64,
}

/// Result of one turn of one server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// The main figure of the table, usually messages per CPU second of the server.
    pub value: f64,
    /// CPU use of the server as a share of its core. Far below 1, the load was the limit.
    pub busy: f64,
    /// Messages per second of wall time.
    pub per_second: f64,
    /// A second figure, if the table has one.
    pub other: f64,
    /// Median latency in seconds.
    pub p50: f64,
    /// 99th percentile of the latency in seconds.
    pub p99: f64,
}

/// A server or setting with its results.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name in the table.
    pub name: String,
    /// One for each round.
    pub samples: Vec<Sample>,
}

impl Row {
    /// Returns the median of a figure over all rounds.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of).collect())
    }

    /// Returns the median over all rounds of the ratio to another row in the same round.
    pub fn ratio(&self, base: &Self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().zip(&base.samples).map(|(a, b)| of(a) / of(b)).collect())
    }
}

impl Effort {
    /// Measures all entries in turn, round by round.
    ///
    /// # Errors
    /// A measurement fails.
    pub async fn rounds<T>(
        &self,
        entries: &[(String, T)],
        measure: impl AsyncFn(&T) -> io::Result<Sample>,
    ) -> io::Result<Vec<Row>> {
        let mut rows: Vec<Row> = entries
            .iter()
            .map(|(name, _)| Row { name: name.clone(), samples: Vec::new() })
            .collect();
        for _ in 0..self.rounds {
            for ((name, entry), row) in entries.iter().zip(&mut rows) {
                let sample = measure(entry).await;
                let named = |error| io::Error::other(format!("{name}: {error}"));
                row.samples.push(sample.map_err(named)?);
            }
        }
        Ok(rows)
    }

    /// Measures one window of a server under load. `count` returns the work done so far.
    ///
    /// # Errors
    /// The server has ended.
    pub async fn observe(
        &self,
        server: &Server,
        latencies: &Latencies,
        count: impl Fn() -> u64,
    ) -> io::Result<Sample> {
        tokio::time::sleep(self.window / 5).await;
        drop(latencies.take());
        let (begun, before, cpu) = (Instant::now(), count(), server.cpu_time()?);
        tokio::time::sleep(self.window).await;
        let (done, cpu) = ((count() - before) as f64, server.cpu_time()? - cpu);
        let elapsed = begun.elapsed().as_secs_f64();
        let [p50, p99] = quantiles(latencies.take(), [0.5, 0.99]);
        Ok(Sample {
            value: done / cpu.as_secs_f64(),
            busy: cpu.as_secs_f64() / elapsed,
            per_second: done / elapsed,
            other: f64::NAN,
            p50,
            p99,
        })
    }
}

/// Durations, recorded by many tasks.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Arc<Mutex<Vec<f32>>>);

impl Latencies {
    /// Records a duration.
    pub fn record(&self, took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(took.as_secs_f32());
    }

    /// Returns the durations recorded since the last call, in seconds.
    #[must_use]
    pub fn take(&self) -> Vec<f32> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn quantiles<const N: usize>(mut values: Vec<f32>, shares: [f64; N]) -> [f64; N] {
    values.sort_by(f32::total_cmp);
    shares.map(|share| match values.len() {
        0 => f64::NAN,
        count => f64::from(values[((count as f64 * share) as usize).min(count - 1)]),
    })
}

/// Returns the median. Ignores NaN, the value of rounds without a result.
fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count => f64::midpoint(values[(count - 1) / 2], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_match_hand_computed_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, f64::NAN, 3.0]), 2.5);
        let hundred = (1..=100).map(|n| n as f32).collect();
        assert_eq!(quantiles(hundred, [0.5, 0.99]), [51.0, 100.0]);
    }
}
