//! The table `[server.metrics]`, and the key `health`.

use super::address::{self, Listen};
use super::keys::settings;
use super::rules::text;
use super::value::{At, Wrong, quoted, wrong};

settings! {
    /// Metrics for Prometheus and health checks, on an address of their own. Without this table the
    /// host has no such listener. `GET /metrics` returns the metrics, `/health/live` and
    /// `/health/ready` the state of the host; see the page on metrics.
    pub struct MetricsSettings in "metrics." {
        /// Address to listen on, without TLS and without authentication: `host:port`, `[v6]:port`
        /// or `unix:/path`.
        "listen" [restart] => listen: Listen =
            text(address::listen, "an address", "127.0.0.1:9095")
            .required(r#"listen = "127.0.0.1:9095""#);
    }
}

/// Checks the path of the health checks, below which are `/live` and `/ready`.
pub(super) fn health_path(path: &str, _: &At<'_>) -> Result<String, Wrong> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut segments = path.split('/');
    let is_path = segments.next() == Some("")
        && segments.clone().count() > 0
        && segments.all(|it| !it.is_empty() && it != "." && it != ".." && it.bytes().all(is_plain));
    if !is_path {
        return wrong!(
            "{} is not the path of a health check; give segments of letters, digits and -._~, e.g. \"/health\"",
            quoted(path)
        );
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_health_path_consists_of_plain_segments() {
        let at = At { base: Path::new("/"), line: 1, example: "" };
        for (path, is_right) in [
            ("/health", true),
            ("/internal/health-1", true),
            ("", false),
            ("/", false),
            ("health", false),
            ("/health/", false),
            ("//health", false),
            ("/he%61lth", false),
            ("/a/../health", false),
            ("/{x}", false),
            ("/*", false),
        ] {
            assert_eq!(health_path(path, &at).is_ok(), is_right, "{path}");
        }
    }
}
