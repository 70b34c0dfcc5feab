//! Every metric of the host, declared once, and the reference page about them,
//! docs/reference/metrics.md.

use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use crate::routing::histogram::HistogramValues;

/// A metric, with one series for each combination of its labels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// Without the unit and `_total`.
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Bytes,
    Seconds,
    Gauge,
    GaugeBytes,
    GaugeSeconds,
    /// Of seconds.
    Histogram,
    Info,
}

/// Labels and their values.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

macro_rules! families {
    ($($(#[doc = $help:literal])+ $family:ident: $kind:ident $name:literal [$($label:ident),*];)+) => {
        $(pub(super) const $family: Family = Family {
            name: $name,
            help: concat!($($help),+),
            kind: Kind::$kind,
            labels: &[$(stringify!($label)),*],
        };)+
        #[cfg(test)]
        const ALL: &[Family] = &[$($family),+];
    };
}

families! {
    /// Version of the host and of the plugin ABI; the value is 1.
    BUILD: Info "plugsocket_build" [version, abi];
    /// Seconds since the host started.
    UPTIME: GaugeSeconds "plugsocket_uptime" [];
    /// Whether the readiness check succeeds: 1 or 0.
    READY: Gauge "plugsocket_ready" [];
    /// Whether the host refuses new connections, because it drains or stops: 1 or 0.
    DRAINING: Gauge "plugsocket_draining" [];
    /// Whether plugins.toml on disk is in effect: 1, or 0 if it was refused.
    CONFIG_APPLIED: Gauge "plugsocket_config_applied" [];
    /// Connections that are open now, of all resources.
    CONNECTIONS: Gauge "plugsocket_connections" [];
    /// What waits for clients, and beginnings of their messages.
    BUFFERED: GaugeBytes "plugsocket_buffered" [];
    /// The limit of the former, max_buffered_bytes.
    MAX_BUFFERED: GaugeBytes "plugsocket_max_buffered" [];
    /// Connections and requests that were refused before an application saw them.
    REFUSED: Counter "plugsocket_handshakes_refused" [reason];
    /// TLS handshakes by outcome.
    TLS_HANDSHAKES: Counter "plugsocket_tls_handshakes" [outcome];
    /// Unix time at which a certificate expires.
    CERTIFICATE_EXPIRY: GaugeSeconds "plugsocket_certificate_expiry_timestamp" [key, name];
    /// Whether an application serves the resource: 1 or 0.
    UP: Gauge "plugsocket_resource_up" [resource, plugin];
    /// Number of the generation that serves the resource; increases with each new library.
    GENERATION: Gauge "plugsocket_resource_generation" [resource];
    /// Connections of the resource that the application knows.
    SESSIONS: Gauge "plugsocket_sessions" [resource];
    /// Connections that were opened, scripts that POST included.
    OPENED: Counter "plugsocket_connections_opened" [resource];
    /// Connections that ended, by who closed them and the close code.
    CLOSED: Counter "plugsocket_connections_closed" [resource, side, code];
    /// Messages, chunks and plain HTTP requests handed to the application.
    RECEIVED: Counter "plugsocket_messages_received" [resource];
    /// Messages and packets of the dialog written to clients.
    SENT: Counter "plugsocket_messages_sent" [resource];
    /// Bytes read from clients.
    READ: Bytes "plugsocket_received" [resource];
    /// Bytes of messages and packets written to clients.
    WRITTEN: Bytes "plugsocket_sent" [resource];
    /// Messages that the application refused.
    MESSAGES_REFUSED: Counter "plugsocket_messages_refused" [resource];
    /// Slow consumers that were closed (1013). Other closes with 1013 by the host are for
    /// max_buffered_bytes, or because no application serves.
    SLOW_CLOSED: Counter "plugsocket_slow_consumers_closed" [resource];
    /// Messages dropped for slow consumers (outbox_policy = drop_oldest).
    DROPPED: Counter "plugsocket_messages_dropped" [resource];
    /// Messages that a newer one with the same key replaced (outbox_policy = conflate).
    CONFLATED: Counter "plugsocket_messages_conflated" [resource];
    /// How often a client exceeded its rate limit.
    RATE_LIMITED: Counter "plugsocket_rate_limited" [resource];
    /// The most messages that were written to one client at once, since the host started.
    HIGH_WATER: Gauge "plugsocket_outbox_high_water_messages" [resource];
    /// Time that the application spent in a callback. Of fast calls of `message` each sixteenth is
    /// timed and counts for all of them.
    CALLBACK: Histogram "plugsocket_callback" [resource, callback];
    /// Time that the application spent in callbacks; a lane does one at a time.
    BUSY: Seconds "plugsocket_lane_busy" [resource];
    /// Time that items waited for the lane, measured with one item at a time. Those of direct calls do not wait.
    QUEUE_WAIT: Histogram "plugsocket_queue_wait" [resource];
    /// Time from the deferral of a message to its completion, which sends `next`. Other messages
    /// are acknowledged when the callback returns.
    DEFERRED: Histogram "plugsocket_deferred_next" [resource];
    /// Messages that wait for the completion of their ticket.
    TICKETS: Gauge "plugsocket_deferred_messages" [resource];
    /// Callbacks that panicked.
    PANICS: Counter "plugsocket_panics" [resource];
    /// Callbacks that ran longer than callback_warn.
    SLOW_CALLS: Counter "plugsocket_slow_callbacks" [resource];
    /// Instances that took over from another one.
    SWAPS: Counter "plugsocket_swaps" [resource];
    /// How long messages waited during a swap.
    PAUSE: Histogram "plugsocket_swap_pause" [resource];
    /// Size of the state that the last swap handed over.
    STATE: GaugeBytes "plugsocket_swap_state" [resource];
    /// New instances after a stuck callback or repeated panics.
    RESTARTS: Counter "plugsocket_restarts" [resource];
    /// How often the resource was closed for a pause after failures.
    QUARANTINES: Counter "plugsocket_quarantines" [resource];
    /// Size of the last snapshot on disk.
    SNAPSHOT: GaugeBytes "plugsocket_snapshot" [resource];
    /// Whether the last attempt to write a snapshot failed: 1 or 0; for resources with snapshot_every.
    SNAPSHOT_FAILING: Gauge "plugsocket_snapshot_failing" [resource];
    /// Unix time of the last snapshot on disk.
    SNAPSHOT_TIME: GaugeSeconds "plugsocket_snapshot_timestamp" [resource];
    /// Outcomes of authentication: accepted, denied, or failed for a reason that the client cannot
    /// mend.
    LOGINS: Counter "plugsocket_authentications" [resource, outcome];
    /// Time that authentication took, with the endpoint if there is one.
    LOGIN_TIME: Histogram "plugsocket_authentication" [resource];
    /// Libraries that became the active generation.
    LOADS: Counter "plugsocket_plugin_loads" [plugin];
    /// Libraries that were refused.
    REFUSALS: Counter "plugsocket_plugin_refusals" [plugin, reason];
    /// Whether the newest library of the plugin was refused, while an earlier one may serve: 1 or 0.
    IS_REFUSED: Gauge "plugsocket_plugin_refused" [plugin];
    /// Generations that failed their probation and were rolled back.
    PROBATIONS_FAILED: Counter "plugsocket_plugin_probations_failed" [plugin];
    /// Whether the active generation is on probation: 1 or 0.
    ON_PROBATION: Gauge "plugsocket_plugin_on_probation" [plugin];
    /// Replaced generations, whose code stays mapped.
    RETIRED: Gauge "plugsocket_plugin_retired_generations" [plugin];
    /// Processor time of the host.
    CPU: Seconds "process_cpu" [];
    /// Resident memory of the host.
    MEMORY: GaugeBytes "process_resident_memory" [];
    /// Unix time at which the host started.
    START: GaugeSeconds "process_start_time" [];
    /// Open file descriptors.
    FDS: Gauge "process_open_fds" [];
    /// Limit of open file descriptors.
    MAX_FDS: Gauge "process_max_fds" [];
}

impl Family {
    fn unit(&self) -> Option<Unit> {
        match self.kind {
            Kind::Counter | Kind::Gauge | Kind::Info => None,
            Kind::Bytes | Kind::GaugeBytes => Some(Unit::Bytes),
            Kind::Seconds | Kind::GaugeSeconds | Kind::Histogram => Some(Unit::Seconds),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter | Kind::Bytes | Kind::Seconds => MetricType::Counter,
            Kind::Gauge | Kind::GaugeBytes | Kind::GaugeSeconds => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        }
    }

    /// Begins the metric and lets `write` add its series.
    pub(super) fn write(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        write: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = self.unit();
        let begun = encoder.encode_descriptor(
            self.name,
            self.help.trim(),
            unit.as_ref(),
            self.metric_type(),
        )?;
        write(&mut Series { encoder: begun, family: self })
    }
}

/// Adds series to a metric.
pub(super) struct Series<'a> {
    encoder: MetricEncoder<'a>,
    family: &'a Family,
}

impl Series<'_> {
    fn labelled(
        &mut self,
        labels: Labels<'_>,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        debug_assert!(labels.iter().map(|(name, _)| *name).eq(self.family.labels.iter().copied()));
        match labels {
            [] => write(&mut self.encoder),
            labels => write(&mut self.encoder.encode_family(&labels)?),
        }
    }

    /// Adds a counter or gauge: an integer, or an `f64`.
    pub(super) fn number(
        &mut self,
        labels: Labels<'_>,
        value: impl EncodeCounterValue + EncodeGaugeValue,
    ) -> fmt::Result {
        let is_counter = self.family.metric_type() == MetricType::Counter;
        self.labelled(labels, |encoder| match is_counter {
            true => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
            false => encoder.encode_gauge(&value),
        })
    }

    /// Adds a histogram.
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        values: &HistogramValues,
    ) -> fmt::Result {
        let (sum, count) = (values.sum.as_secs_f64(), values.count());
        self.labelled(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(sum, count, &values.buckets, None)
        })
    }

    /// Adds an information.
    pub(super) fn info(&mut self, labels: Labels<'_>) -> fmt::Result {
        self.encoder.encode_info(&labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
    const BEGIN: &str = "<!-- generated: cargo test -p plugsocket --lib metrics:: -->\n";
    const END: &str = "<!-- end -->\n";

    fn table() -> String {
        let mut table = "\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
        for family in ALL {
            let unit = family.unit().map_or(String::new(), |unit| format!("_{}", unit.as_str()));
            let (end, kind) = match family.metric_type() {
                MetricType::Counter => ("_total", "counter"),
                MetricType::Histogram => ("", "histogram"),
                MetricType::Info => ("_info", "gauge"),
                _ => ("", "gauge"),
            };
            let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, labels, help) = (family.name, labels.join(", "), family.help.trim());
            writeln!(table, "| `{name}{unit}{end}` | {kind} | {labels} | {help} |").unwrap();
        }
        table + "\n"
    }

    #[test]
    fn the_page_lists_every_metric() {
        let page = std::fs::read_to_string(FILE).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(FILE, [before, BEGIN, &table(), END, after].concat()).unwrap();
            return;
        }
        assert!(
            found == table(),
            "docs/reference/metrics.md is out of date; run: UPDATE_DOCS=1 cargo test -p plugsocket --lib metrics::"
        );
    }
}
