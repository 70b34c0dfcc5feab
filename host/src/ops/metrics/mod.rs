//! Metrics in the formats of OpenMetrics and Prometheus.
//!
//! Reads the counters that the host keeps anyway, at the moment of a scrape.

mod application;
mod collect;
mod families;
mod process;
pub(crate) mod server;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use crate::hub::Hub;

/// A format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// Chooses by the `Accept` of a request (RFC 9110 section 12.5.1): OpenMetrics where the client
    /// names it, otherwise the older format, which every client reads.
    fn negotiate(accept: &str) -> Self {
        let weight = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            (media, weight.unwrap_or(1.0))
        };
        let (mut openmetrics, mut prometheus) = (0.0, 0.0_f32);
        for (media, weight) in accept.split(',').map(weight) {
            match media.as_str() {
                "application/openmetrics-text" => openmetrics = weight,
                "text/plain" | "text/*" | "*/*" => prometheus = prometheus.max(weight),
                _ => {}
            }
        }
        let is_openmetrics = openmetrics > 0.0 && openmetrics >= prometheus;
        if is_openmetrics { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Formats all metrics.
fn exposition(hub: &Arc<Hub>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(HostCollector(hub.clone())));
    let mut page = String::with_capacity(16 << 10);
    let written = match format {
        Format::OpenMetrics => text::encode(&mut page, &registry),
        Format::Prometheus => prometheus_text::encode(&mut page, &registry),
    };
    // A String takes everything.
    debug_assert!(written.is_ok());
    page
}

struct HostCollector(Arc<Hub>);

impl fmt::Debug for HostCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostCollector")
    }
}

impl Collector for HostCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        collect::host(&self.0, &mut encoder)?;
        collect::resources(&self.0, &mut encoder)?;
        collect::plugins(&self.0, &mut encoder)?;
        process::write(&mut encoder)?;
        application::write(&self.0, &mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_client_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html,*/*;q=0.8", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; q=0", Format::Prometheus),
            ("text/plain, application/openmetrics-text;q=0.4", Format::Prometheus),
            (prometheus, Format::OpenMetrics),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }
}
