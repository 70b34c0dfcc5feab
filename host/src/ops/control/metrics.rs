//! The metrics of applications in `plugsocket status`: how they are reported and printed.

use super::protocol::{BucketReport, HistogramReport, MetricReport, ResourceReport};
use crate::ops::logging::escaped;
use crate::routing::metrics::{MetricValue, Metrics};

/// Returns all series, sorted by name and labels.
pub(super) fn report(metrics: &Metrics) -> Vec<MetricReport> {
    let series = metrics.series();
    let mut reports: Vec<MetricReport> = series
        .iter()
        .map(|series| {
            let labels =
                series.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let (value, histogram) = match series.value() {
                MetricValue::Number(value) => (Some(value), None),
                MetricValue::Histogram { buckets, count, sum } => {
                    let buckets = buckets.into_iter().map(|(le, count)| BucketReport { le, count });
                    (None, Some(HistogramReport { count, sum, buckets: buckets.collect() }))
                }
            };
            MetricReport {
                name: series.name.to_string(),
                kind: series.kind.as_str().to_owned(),
                help: series.help.to_string(),
                labels: labels.collect(),
                value,
                histogram,
            }
        })
        .collect();
    reports.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
    reports
}

/// Formats a block for each resource whose application has metrics.
pub(super) fn print(resources: &[ResourceReport]) -> String {
    let with_metrics = resources.iter().filter(|resource| !resource.metrics.is_empty());
    let block = |resource: &ResourceReport| {
        let lines = resource.metrics.iter().map(|metric| format!("{}\n", escaped(&line(metric))));
        format!(
            "\n{}: metrics of the application\n{}",
            escaped(&resource.path),
            lines.collect::<String>()
        )
    };
    with_metrics.map(block).collect()
}

/// Formats a series as `name{label="value"} 12`.
fn line(metric: &MetricReport) -> String {
    let quoted = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#);
    let labels = metric.labels.iter().map(|(name, value)| format!(r#"{name}="{}""#, quoted(value)));
    let labels = match labels.collect::<Vec<_>>().join(",") {
        none if none.is_empty() => none,
        labels => format!("{{{labels}}}"),
    };
    let value = match &metric.histogram {
        Some(HistogramReport { count: 0, .. }) => "count 0".to_owned(),
        Some(HistogramReport { count, sum, .. }) => {
            // Exact: no count reaches 2^53.
            let mean = number(sum / *count as f64);
            format!("count {count}, sum {}, mean {mean}", number(*sum))
        }
        None => number(metric.value.unwrap_or_default()),
    };
    format!("{}{labels} {value}", metric.name)
}

/// Formats a number with at most seven digits unless it is an integer: 12, 0.3, 1.5e-9.
fn number(value: f64) -> String {
    let is_integer = value.fract() == 0.0 && value.abs() < 1e15;
    if is_integer {
        return format!("{value}");
    }
    let rounded: f64 = format!("{value:.6e}").parse().unwrap_or(value);
    match rounded.abs() {
        1e-4..1e15 => format!("{rounded}"),
        _ => format!("{rounded:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_at_most_seven_digits_unless_it_is_an_integer() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (12.0, "12"),
            (-123_456_789.0, "-123456789"),
            (0.1 + 0.2, "0.3"),
            (-1_234.567_891, "-1234.568"),
            (0.000_012_345_678_9, "1.234568e-5"),
            (f64::MAX, "1.797693e308"),
            (1e15, "1e15"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn a_label_cannot_end_its_quotes() {
        let label = |value: &str| [("l".to_owned(), value.to_owned())].into();
        for (value, expected) in [
            ("a", r#"m{l="a"} 1"#),
            (r#"a"} 7"#, r#"m{l="a\"} 7"} 1"#),
            (r#"a\""#, r#"m{l="a\\\""} 1"#),
        ] {
            let (name, kind, help) = ("m".to_owned(), "gauge".to_owned(), String::new());
            let (labels, value) = (label(value), Some(1.0));
            let metric = MetricReport { name, kind, help, labels, value, histogram: None };
            assert_eq!(line(&metric), expected);
        }
    }
}
