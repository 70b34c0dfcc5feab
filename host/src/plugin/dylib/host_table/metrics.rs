//! Metrics of applications. They work in every state of the instance.

use plugsocket_plugin::HostError;
use plugsocket_plugin::abi::{self, Count, HostContext, RawMetric};
use tracing::warn;

use super::{Generation, InstanceContext, counted, status_of};
use crate::routing::metrics::{Declaration, MetricChange, MetricError, MetricKind};

pub(super) extern "C" fn metric(context: HostContext, raw: RawMetric<'_>) -> Count {
    let context = InstanceContext::from_raw(context);
    let declared = declaration(&raw);
    counted(declared.and_then(|it| context.resource.metrics.register(it)).map_err(|error| {
        let Generation { plugin, number, .. } = &*context.generation;
        let (resource, generation, name) = (&*context.resource.path, *number, raw.name.as_str());
        warn!(resource, plugin, generation, name, %error, "metric not registered; it records nothing");
        match error {
            MetricError::TooMany => HostError::TooMany,
            _ => HostError::Invalid,
        }
    }))
}

pub(super) extern "C" fn record(context: HostContext, series: u64, change: u32, value: f64) -> u32 {
    let metrics = &InstanceContext::from_raw(context).resource.metrics;
    let change = match change {
        abi::metric_change::ADD => Ok(MetricChange::Add),
        abi::metric_change::SET => Ok(MetricChange::Set),
        abi::metric_change::OBSERVE => Ok(MetricChange::Observe),
        _ => Err(HostError::Invalid),
    };
    status_of(change.and_then(|change| metrics.record(series, change, value)))
}

fn declaration<'a>(raw: &RawMetric<'a>) -> Result<Declaration<'a>, MetricError> {
    let kind = match raw.kind {
        abi::metric::COUNTER => MetricKind::Counter,
        abi::metric::GAUGE => MetricKind::Gauge,
        abi::metric::HISTOGRAM => MetricKind::Histogram,
        unknown => return Err(MetricError::Kind(unknown)),
    };
    let labels = raw.labels.as_slice().iter();
    let labels = labels.map(|pair| (pair.name.as_str(), pair.value.as_str())).collect();
    let (name, help, buckets) = (raw.name.as_str(), raw.help.as_str(), raw.buckets.as_slice());
    Ok(Declaration { kind, name, help, labels, buckets })
}
