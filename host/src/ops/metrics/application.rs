//! The metrics that applications publish, as `plugsocket_application_NAME`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::hub::Hub;
use crate::routing::metrics::{MetricKind, MetricValue, Series};

/// A series, with the resource and the plugin that it belongs to.
struct Published {
    resource: String,
    plugin: String,
    series: Arc<Series>,
}

/// Writes the series of all applications, one metric after the other.
pub(super) fn write(hub: &Hub, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut taken = BTreeSet::new();
    for ((name, kind), all) in by_name(hub) {
        let name = free_name(&name, kind, &mut taken);
        let help = all.first().map_or(String::new(), |first| help(&first.series.help));
        let mut family = encoder.encode_descriptor(&name, &help, None, metric_type(kind))?;
        for published in all {
            let labels = labels(&published);
            let mut encoder = family.encode_family(&labels)?;
            match published.series.value() {
                MetricValue::Number(value) if kind == MetricKind::Counter => {
                    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
                MetricValue::Number(value) => encoder.encode_gauge(&value)?,
                MetricValue::Histogram { buckets, count, sum } => {
                    let buckets = each(&buckets, count);
                    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns all series by name and kind: applications may use one name for several kinds.
fn by_name(hub: &Hub) -> BTreeMap<(String, MetricKind), Vec<Published>> {
    let (config, mut names) = (hub.config.load(), BTreeMap::<_, Vec<_>>::new());
    for resource in hub.resources.load().values() {
        let settings = config.resources.get(&resource.path);
        let plugin = settings.map(|settings| settings.plugin.clone()).unwrap_or_default();
        for series in resource.metrics.series().iter() {
            let (resource, plugin) = (resource.path.clone(), plugin.clone());
            let published = Published { resource, plugin, series: series.clone() };
            names.entry((series.name.to_string(), series.kind)).or_default().push(published);
        }
    }
    names
}

/// Returns the name of a metric, none of whose samples another one has: those of the counter `a` and
/// of the gauge `a_total` would be the same.
fn free_name(name: &str, kind: MetricKind, taken: &mut BTreeSet<String>) -> String {
    let name = match kind {
        MetricKind::Counter => name.strip_suffix("_total").unwrap_or(name),
        MetricKind::Gauge | MetricKind::Histogram => name,
    };
    let mut name = format!("plugsocket_application_{name}");
    let samples = |name: &str| match kind {
        MetricKind::Counter => vec![format!("{name}_total"), format!("{name}_created")],
        MetricKind::Gauge => vec![],
        MetricKind::Histogram => {
            ["_bucket", "_count", "_sum", "_created"].map(|end| format!("{name}{end}")).into()
        }
    };
    while taken.contains(&name) || samples(&name).iter().any(|sample| taken.contains(sample)) {
        name = format!("{name}_{}", kind.as_str());
    }
    taken.extend(samples(&name));
    taken.insert(name.clone());
    name
}

/// Returns the labels of a series. Those of the application that have the name of one of the host
/// get the prefix that Prometheus gives them, too.
fn labels(published: &Published) -> Vec<(String, String)> {
    let Published { resource, plugin, series } = published;
    let own = [("resource", resource), ("plugin", plugin)];
    let mut labels: Vec<_> =
        own.map(|(name, value)| (name.to_owned(), value.clone())).into_iter().collect();
    for (name, value) in &series.labels {
        let mut name = name.to_string();
        // `le` is that of histograms.
        while name == "le" || labels.iter().any(|(other, _)| *other == name) {
            name = format!("exported_{name}");
        }
        labels.push((name, value.to_string()));
    }
    labels
}

/// Returns a help that needs no escapes, which the formats write in different ways.
fn help(text: &str) -> String {
    let plain = |c: char| match c {
        '\\' => '/',
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// Returns how many values belong to each bucket, given how many belong to it and those below.
fn each(buckets: &[(f64, u64)], count: u64) -> Vec<(f64, u64)> {
    let mut below = 0;
    let all = buckets.iter().copied().chain([(f64::INFINITY, count)]);
    all.map(|(bound, reached)| {
        (bound, reached.saturating_sub(std::mem::replace(&mut below, reached)))
    })
    .collect()
}

fn metric_type(kind: MetricKind) -> MetricType {
    match kind {
        MetricKind::Counter => MetricType::Counter,
        MetricKind::Gauge => MetricType::Gauge,
        MetricKind::Histogram => MetricType::Histogram,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MetricKind::{Counter, Gauge, Histogram};

    #[test]
    fn no_two_metrics_have_the_same_samples() {
        let mut taken = BTreeSet::new();
        for (name, kind, expected) in [
            ("bids", Counter, "bids"),
            ("bids", Gauge, "bids_gauge"),
            ("bids_total", Gauge, "bids_total_gauge"),
            ("sales_total", Counter, "sales"),
            ("seconds", Histogram, "seconds"),
            ("seconds_sum", Gauge, "seconds_sum_gauge"),
        ] {
            let found = free_name(name, kind, &mut taken);
            assert_eq!(found, format!("plugsocket_application_{expected}"));
        }
    }

    #[test]
    fn each_bucket_has_its_own_values() {
        assert_eq!(
            each(&[(1.0, 2), (5.0, 2), (9.0, 7)], 8),
            [(1.0, 2), (5.0, 0), (9.0, 5), (f64::INFINITY, 1)]
        );
    }
}
