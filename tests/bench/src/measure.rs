//! How a figure comes about: windows of time on a running server, in rounds, in which the servers take turns.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::server::Server;

/// How long and how often each is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often all servers have their turn.
    pub rounds: usize,
    /// How long a turn is; a fifth more goes before it.
    pub window: Duration,
    /// The short form: small numbers of everything.
    pub is_quick: bool,
    /// The long form: as many connections as the system allows.
    pub is_large: bool,
    /// Files that this process, and each server, may have open.
    pub files: u64,
}

/// What one turn of one server gave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// What the table is about: mostly messages per CPU-second of the server.
    pub value: f64,
    /// The server's share of its core; far below 1, the load was the limit.
    pub busy: f64,
    /// Messages per second of the clock.
    pub per_second: f64,
    /// Another figure of the same turn, where a table has one.
    pub other: f64,
    /// Seconds that half of the messages took at most.
    pub p50: f64,
    /// Seconds that 99 % of the messages took at most.
    pub p99: f64,
}

/// A server or a setting, and what its turns gave.
#[derive(Clone, Debug)]
pub struct Row {
    /// What the table calls it.
    pub name: String,
    /// One for each round.
    pub samples: Vec<Sample>,
}

impl Row {
    /// The median of what `of` takes from each round.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of).collect())
    }

    /// The median of the ratios to another row, each of one round.
    pub fn ratio(&self, base: &Self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().zip(&base.samples).map(|(a, b)| of(a) / of(b)).collect())
    }
}

impl Effort {
    /// Measures all entries in turn, round by round.
    ///
    /// # Errors
    /// One of them failed.
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

    /// One window of a server that is under load. `count` says what has been done so far.
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

/// How long things took, noted by many.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Arc<Mutex<Vec<f32>>>);

impl Latencies {
    /// Notes one.
    pub fn note(&self, took: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(took.as_secs_f32());
    }

    /// What was noted since the last time.
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

/// The middle one, or the mean of the two in the middle; rounds that gave nothing (NaN) do not count.
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
    fn medians_and_quantiles_are_in_the_middle_and_at_the_end() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, f64::NAN, 3.0]), 2.5);
        let hundred = (1..=100).map(|n| n as f32).collect();
        assert_eq!(quantiles(hundred, [0.5, 0.99]), [51.0, 100.0]);
    }
}
