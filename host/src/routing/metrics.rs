//! The metrics that an application publishes: counters, gauges and histograms of its resource.
//!
//! A series belongs to the resource, not to the instance, and so survives a reload. Recording takes
//! no lock. Does not know the ABI.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use plugsocket_plugin::HostError;

/// All series of a resource. The number of a series is its index.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: ArcSwap<Vec<Arc<Series>>>,
    /// Held while a series is added; readers do not take it.
    registration: Mutex<()>,
}

/// A metric with one value for each of its labels.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: Box<str>,
    pub(crate) help: Box<str>,
    /// Sorted by name.
    pub(crate) labels: Vec<(Box<str>, Box<str>)>,
    pub(crate) kind: MetricKind,
    /// Of a histogram: upper bounds, ascending, and how many values belong to each. The last count
    /// is that of greater values.
    bounds: Box<[f64]>,
    counts: Box<[AtomicU64]>,
    /// Value of a counter or gauge; of a histogram, the sum of its values.
    number: Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// A series that an application wants to have.
#[derive(Debug)]
pub(crate) struct Declaration<'a> {
    pub(crate) kind: MetricKind,
    pub(crate) name: &'a str,
    pub(crate) help: &'a str,
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    /// Of a histogram: upper bounds.
    pub(crate) buckets: &'a [f64],
}

/// How a series changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricChange {
    Add,
    Set,
    Observe,
}

/// What a series has recorded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MetricValue {
    Number(f64),
    /// For each upper bound, the number of values that are at most that.
    Histogram {
        buckets: Vec<(f64, u64)>,
        count: u64,
        sum: f64,
    },
}

/// Why a series is not registered.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum MetricError {
    #[error(
        "a name consists of 1 to {MAX_TEXT} letters, digits and `_`, and does not begin with a digit"
    )]
    Name,
    #[error("its help has {0} bytes; the maximum is {MAX_HELP}")]
    Help(usize),
    #[error("its kind is {0}; the host knows 1 (counter), 2 (gauge) and 3 (histogram)")]
    Kind(u32),
    #[error("it has {0} labels; the maximum is {MAX_LABELS}")]
    Labels(usize),
    #[error(
        "label {0:?}: a name consists of 1 to {MAX_TEXT} letters, digits and `_`, and does not begin with a digit"
    )]
    LabelName(String),
    #[error("the label `{0}` occurs twice")]
    SameLabel(String),
    #[error(
        "the value of the label `{0}` must have at most {MAX_TEXT} bytes and no control characters"
    )]
    LabelValue(String),
    #[error("a histogram has 1 to {MAX_BUCKETS} buckets, finite numbers that ascend")]
    Buckets,
    #[error("a {} with this name exists; a {} needs another name", .exists.as_str(), .new.as_str())]
    OtherKind { exists: MetricKind, new: MetricKind },
    #[error(
        "the resource has {MAX_SERIES} series, the maximum; a label must not have a value per client"
    )]
    TooMany,
}

const MAX_SERIES: usize = 1000;
/// Longest name, and longest value of a label, in bytes.
const MAX_TEXT: usize = 100;
const MAX_HELP: usize = 1000;
const MAX_LABELS: usize = 8;
const MAX_BUCKETS: usize = 64;

impl Metrics {
    /// Returns the number of a series, which is added unless one with this name and these labels
    /// exists. That one continues, with the help and the buckets that it has.
    ///
    /// # Errors
    /// The declaration breaks a rule, or there are too many series.
    pub(crate) fn register(&self, mut declared: Declaration<'_>) -> Result<u64, MetricError> {
        declared.labels.sort_unstable();
        declared.check()?;
        let _registration = self.registration.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.series.load();
        let mut of_name = known.iter().filter(|series| &*series.name == declared.name);
        if let Some(other) = of_name.clone().find(|series| series.kind != declared.kind) {
            return Err(MetricError::OtherKind { exists: other.kind, new: declared.kind });
        }
        if let Some(same) = of_name.find(|series| declared.has_labels_of(series)) {
            let position = known.iter().position(|series| Arc::ptr_eq(series, same));
            return Ok(position.unwrap_or_default() as u64);
        }
        if known.len() >= MAX_SERIES {
            return Err(MetricError::TooMany);
        }
        let added = std::iter::once(Arc::new(Series::new(&declared)));
        self.series.store(Arc::new(known.iter().cloned().chain(added).collect()));
        Ok(known.len() as u64)
    }

    /// Changes a series.
    ///
    /// # Errors
    /// [`HostError::Invalid`] for an unknown series, for a change that its kind does not have, or if the value
    /// is not finite or would decrease a counter.
    pub(crate) fn record(
        &self,
        series: u64,
        change: MetricChange,
        value: f64,
    ) -> Result<(), HostError> {
        let known = self.series.load();
        let series = usize::try_from(series).ok().and_then(|index| known.get(index));
        series.filter(|series| series.record(change, value)).map(drop).ok_or(HostError::Invalid)
    }

    /// Returns all series in the order in which they were registered.
    pub(crate) fn series(&self) -> Arc<Vec<Arc<Series>>> {
        self.series.load_full()
    }
}

impl Series {
    fn new(declared: &Declaration<'_>) -> Self {
        let labels = declared.labels.iter();
        let is_histogram = declared.kind == MetricKind::Histogram;
        let bounds = if is_histogram { declared.buckets } else { &[] };
        Self {
            name: declared.name.into(),
            help: declared.help.into(),
            labels: labels.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            kind: declared.kind,
            bounds: bounds.into(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            number: Number::default(),
        }
    }

    /// Applies a change; returns false if it is not one of this kind.
    fn record(&self, change: MetricChange, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        match (self.kind, change) {
            (MetricKind::Counter, MetricChange::Add) if value < 0.0 => return false,
            (MetricKind::Counter | MetricKind::Gauge, MetricChange::Add) => self.number.add(value),
            (MetricKind::Gauge, MetricChange::Set) => self.number.set(value),
            (MetricKind::Histogram, MetricChange::Observe) => {
                let bucket = self.bounds.partition_point(|bound| *bound < value);
                self.counts[bucket].fetch_add(1, Ordering::Relaxed);
                self.number.add(value);
            }
            _ => return false,
        }
        true
    }

    pub(crate) fn value(&self) -> MetricValue {
        let number = self.number.get();
        if self.kind != MetricKind::Histogram {
            return MetricValue::Number(number);
        }
        let mut count = 0;
        let mut reached = self.counts.iter().map(|values| {
            count += values.load(Ordering::Relaxed);
            count
        });
        let buckets = self.bounds.iter().copied().zip(&mut reached).collect();
        reached.for_each(drop);
        MetricValue::Histogram { buckets, count, sum: number }
    }
}

impl Declaration<'_> {
    fn check(&self) -> Result<(), MetricError> {
        let Self { kind, name, help, labels, buckets } = self;
        if !is_name(name) {
            return Err(MetricError::Name);
        }
        if help.len() > MAX_HELP {
            return Err(MetricError::Help(help.len()));
        }
        if labels.len() > MAX_LABELS {
            return Err(MetricError::Labels(labels.len()));
        }
        for (index, (name, value)) in labels.iter().enumerate() {
            if !is_name(name) {
                let shown = name.chars().take(MAX_TEXT).collect();
                return Err(MetricError::LabelName(shown));
            }
            if index > 0 && labels[index - 1].0 == *name {
                return Err(MetricError::SameLabel((*name).to_owned()));
            }
            if value.len() > MAX_TEXT || value.contains(char::is_control) {
                return Err(MetricError::LabelValue((*name).to_owned()));
            }
        }
        let ascend = buckets.is_sorted_by(|a, b| a < b) && buckets.iter().all(|b| b.is_finite());
        match kind {
            MetricKind::Histogram if !ascend => Err(MetricError::Buckets),
            MetricKind::Histogram if !(1..=MAX_BUCKETS).contains(&buckets.len()) => {
                Err(MetricError::Buckets)
            }
            _ => Ok(()),
        }
    }

    fn has_labels_of(&self, series: &Series) -> bool {
        let labels = series.labels.iter().map(|(name, value)| (&**name, &**value));
        self.labels.iter().copied().eq(labels)
    }
}

impl MetricKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    text.len() <= MAX_TEXT
        && text.bytes().next().is_some_and(is_letter)
        && text.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// A floating-point number that several threads change. Always finite: JSON has nothing else.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    fn add(&self, value: f64) {
        let add = |bits| {
            let sum = (f64::from_bits(bits) + value).clamp(f64::MIN, f64::MAX);
            Some(sum.to_bits())
        };
        // Never fails, because `add` returns a value.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared<'a>(kind: MetricKind, name: &'a str, buckets: &'a [f64]) -> Declaration<'a> {
        Declaration { kind, name, help: "", labels: Vec::new(), buckets }
    }

    fn gauge<'a>(name: &'a str, labels: &[(&'a str, &'a str)]) -> Declaration<'a> {
        Declaration { labels: labels.to_vec(), ..declared(MetricKind::Gauge, name, &[]) }
    }

    #[test]
    fn a_name_is_an_identifier_of_at_most_100_bytes() {
        let (longest, longer) = ("n".repeat(100), "n".repeat(101));
        for (name, is_valid) in [
            ("a", true),
            ("_", true),
            ("Bids_total2", true),
            (&*longest, true),
            (&*longer, false),
            ("", false),
            ("2a", false),
            ("a-b", false),
            ("a b", false),
            ("a:b", false),
            ("ä", false),
            ("a\n", false),
        ] {
            let metrics = Metrics::default();
            let expected = is_valid.then_some(0).ok_or(MetricError::Name);
            assert_eq!(metrics.register(gauge(name, &[])), expected, "{name}");
            let shown = name.chars().take(100).collect();
            let expected = is_valid.then_some(0).ok_or(MetricError::LabelName(shown));
            let metrics = Metrics::default();
            assert_eq!(metrics.register(gauge("a", &[(name, "v")])), expected, "{name}");
        }
    }

    #[test]
    fn labels_are_bounded_in_number_and_length() {
        let (longest, longer) = ("v".repeat(100), "v".repeat(101));
        let names: Vec<String> = (0..9).map(|number| format!("l{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "")).collect();
        let value = || MetricError::LabelValue("l".to_owned());
        for (labels, expected) in [
            (&[("l", "")][..], Ok(0)),
            (&[("l", "\"a\\ ü\u{202e}")], Ok(0)),
            (&[("l", &*longest)], Ok(0)),
            (&[("l", &*longer)], Err(value())),
            (&[("l", "a\nb")], Err(value())),
            (&[("l", "\u{85}")], Err(value())),
            (&[("l", "1"), ("m", ""), ("l", "2")], Err(MetricError::SameLabel("l".to_owned()))),
            (&many[..8], Ok(0)),
            (&many, Err(MetricError::Labels(9))),
        ] {
            assert_eq!(Metrics::default().register(gauge("a", labels)), expected, "{labels:?}");
        }
        let help = "h".repeat(1001);
        let with = |help| Declaration { help, ..gauge("a", &[]) };
        assert_eq!(Metrics::default().register(with(&help)), Err(MetricError::Help(1001)));
        assert_eq!(Metrics::default().register(with(&help[1..])), Ok(0));
    }

    #[test]
    fn buckets_are_finite_and_ascend() {
        let many: Vec<f64> = (0..65).map(f64::from).collect();
        for (buckets, is_valid) in [
            (&[][..], false),
            (&[0.5], true),
            (&[-1.0, 0.0, 2.5], true),
            (&[1.0, 1.0], false),
            (&[2.0, 1.0], false),
            (&[f64::NAN], false),
            (&[1.0, f64::NAN, 2.0], false),
            (&[1.0, f64::INFINITY], false),
            (&[f64::NEG_INFINITY, 1.0], false),
            (&many[..64], true),
            (&many, false),
        ] {
            let expected = is_valid.then_some(0).ok_or(MetricError::Buckets);
            let metrics = Metrics::default();
            let histogram = declared(MetricKind::Histogram, "a", buckets);
            assert_eq!(metrics.register(histogram), expected, "{buckets:?}");
        }
    }

    #[test]
    fn the_same_name_and_labels_are_the_same_series() {
        let metrics = Metrics::default();
        let two = [("l", "1"), ("m", "2")];
        assert_eq!(metrics.register(gauge("a", &[])), Ok(0));
        assert_eq!(metrics.register(gauge("a", &two)), Ok(1));
        assert_eq!(metrics.register(gauge("b", &two)), Ok(2));
        assert_eq!(metrics.register(gauge("a", &[("l", "1")])), Ok(3));
        assert_eq!(metrics.register(gauge("a", &[])), Ok(0));
        assert_eq!(metrics.register(gauge("a", &[two[1], two[0]])), Ok(1));
        let counter = declared(MetricKind::Counter, "a", &[]);
        let expected =
            MetricError::OtherKind { exists: MetricKind::Gauge, new: MetricKind::Counter };
        assert_eq!(metrics.register(counter), Err(expected));
        // A histogram continues with its buckets.
        let histogram = |buckets| declared(MetricKind::Histogram, "h", buckets);
        assert_eq!(metrics.register(histogram(&[1.0])), Ok(4));
        assert_eq!(metrics.register(histogram(&[2.0, 3.0])), Ok(4));
        let expected = MetricValue::Histogram { buckets: vec![(1.0, 0)], count: 0, sum: 0.0 };
        assert_eq!(metrics.series()[4].value(), expected);
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let metrics = Metrics::default();
        for number in 0..MAX_SERIES {
            assert_eq!(metrics.register(gauge(&format!("s{number}"), &[])), Ok(number as u64));
        }
        assert_eq!(metrics.register(gauge("more", &[])), Err(MetricError::TooMany));
        assert_eq!(metrics.register(gauge("s7", &[])), Ok(7));
    }

    #[test]
    fn a_kind_takes_its_changes_only_and_stays_finite() {
        use MetricChange::{Add, Observe, Set};
        use MetricKind::{Counter, Gauge, Histogram};
        for (kind, change, value, expected) in [
            (Counter, Add, 1.5, Some(1.5)),
            (Counter, Add, 0.0, Some(0.0)),
            (Counter, Add, -1.0, None),
            (Counter, Set, 1.0, None),
            (Counter, Observe, 1.0, None),
            (Gauge, Add, -1.0, Some(-1.0)),
            (Gauge, Set, 7.0, Some(7.0)),
            (Gauge, Observe, 1.0, None),
            (Histogram, Observe, 2.0, Some(2.0)),
            (Histogram, Add, 1.0, None),
            (Histogram, Set, 1.0, None),
        ] {
            let metrics = Metrics::default();
            assert_eq!(metrics.register(declared(kind, "a", &[1.0])), Ok(0));
            let recorded = metrics.record(0, change, value);
            assert_eq!(recorded.is_ok(), expected.is_some(), "{kind:?} {change:?} {value}");
            let number = metrics.series()[0].number.get();
            assert_eq!(number, expected.unwrap_or_default(), "{kind:?} {change:?} {value}");
            for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert_eq!(metrics.record(0, change, value), Err(HostError::Invalid));
            }
            assert_eq!(metrics.record(1, change, 1.0), Err(HostError::Invalid));
        }
        let metrics = Metrics::default();
        assert_eq!(metrics.register(declared(Counter, "a", &[])), Ok(0));
        for _ in 0..3 {
            assert_eq!(metrics.record(0, Add, f64::MAX), Ok(()));
        }
        assert_eq!(metrics.series()[0].value(), MetricValue::Number(f64::MAX));
    }

    #[test]
    fn a_bucket_counts_the_values_up_to_its_bound() {
        let metrics = Metrics::default();
        let histogram = declared(MetricKind::Histogram, "a", &[-1.0, 0.5, 2.0]);
        assert_eq!(metrics.register(histogram), Ok(0));
        for value in [-2.0, -1.0, 0.5, 0.6, 2.0, 2.1] {
            assert_eq!(metrics.record(0, MetricChange::Observe, value), Ok(()));
        }
        let MetricValue::Histogram { buckets, count, sum } = metrics.series()[0].value() else {
            unreachable!("it is a histogram");
        };
        assert_eq!((buckets, count), (vec![(-1.0, 2), (0.5, 3), (2.0, 5)], 6));
        assert!((sum - 2.2).abs() < 1e-9, "{sum}");
    }
}
