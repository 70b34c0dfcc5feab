//! Linear regression over equidistant samples.

/// The slope of a regression line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// The growth from one sample to the next.
    pub slope: f64,
    /// The standard error of the slope.
    pub error: f64,
}

impl Trend {
    /// Fits a line by least squares; zero for fewer than three samples.
    pub(crate) fn of(samples: &[u64]) -> Self {
        let count = samples.len() as f64;
        if count < 3.0 {
            return Self::default();
        }
        let middle = (count - 1.0) / 2.0;
        let mean = samples.iter().map(|sample| *sample as f64).sum::<f64>() / count;
        let points =
            || samples.iter().enumerate().map(|(x, y)| (x as f64 - middle, *y as f64 - mean));
        let spread: f64 = points().map(|(x, _)| x * x).sum();
        let slope = points().map(|(x, y)| x * y).sum::<f64>() / spread;
        let left: f64 = points().map(|(x, y)| (y - slope * x).powi(2)).sum();
        Self { slope, error: (left / (count - 2.0) / spread).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_and_standard_error_are_computed() {
        assert_eq!(Trend::of(&[5, 8, 11, 14]), Trend { slope: 3.0, error: 0.0 });
        assert_eq!(Trend::of(&[7, 9]), Trend::default());
        let noisy = Trend::of(&[5, 9, 10, 14]);
        assert!((noisy.slope - 2.8).abs() < 1e-9 && noisy.error > 0.1, "{noisy:?}");
    }
}
