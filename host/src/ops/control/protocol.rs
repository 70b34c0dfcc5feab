//! Requests and answers on the control socket, one JSON line each. docs/reference/command-line.md
//! describes them for other programs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

/// A request, such as `{"do":"plugin-reload","plugin":"chat"}`.
///
/// Unknown keys are refused: one of them might have limited the request. Variants without keys have
/// braces because serde ignores unknown keys of a unit variant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    Status {
        /// With the metrics of applications, which may be many.
        #[serde(default = "yes")]
        metrics: bool,
    },
    Plugins {},
    Connections {
        #[serde(default)]
        resource: Option<String>,
    },
    Close {
        uuid: String,
    },
    /// The last events of the host, as a stream of lines.
    Events {
        /// How many; `None`: all that are kept.
        #[serde(default)]
        last: Option<usize>,
        /// Also the following ones, until the host ends.
        #[serde(default)]
        follow: bool,
    },
    /// What passes one connection, as a stream of lines.
    Trace {
        /// Or a unique beginning of it.
        uuid: String,
        /// With the beginning of each payload.
        #[serde(default)]
        payloads: bool,
    },
    Diff {},
    Reload {},
    PluginReload {
        plugin: String,
        /// Only a library that differs from the running one.
        #[serde(default)]
        changed: bool,
    },
    PluginDisable {
        plugin: String,
    },
    PluginEnable {
        plugin: String,
    },
    PluginRollback {
        plugin: String,
        /// `None`: the generation before the active one.
        #[serde(default)]
        generation: Option<u64>,
        /// Discards the state.
        #[serde(default)]
        fresh: bool,
    },
    Drain {},
    Stop {
        /// Keeps the connection open until the process of the host has ended.
        #[serde(default)]
        wait: bool,
    },
}

fn yes() -> bool {
    true
}

/// An answer as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerLine {
    #[serde(flatten)]
    pub(crate) answer: ControlAnswer,
    /// Why the configuration file on disk is not in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) notice: Option<String>,
}

/// An answer, such as `{"answer":"done","data":"…"}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "kebab-case")]
pub(crate) enum ControlAnswer {
    Status(StatusReport),
    Plugins(Vec<PluginReport>),
    Connections(Vec<ConnectionReport>),
    Diff(DifferenceReport),
    /// Lines follow, one JSON object each; the last one is another answer.
    Stream,
    /// The command succeeded; one sentence.
    Done(String),
    /// The command failed and changed nothing; the reason.
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: u64,
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) config_file: FileReport,
    pub(crate) connections: usize,
    /// Connections and requests that were refused before an application saw them.
    #[serde(default)]
    pub(crate) refused_handshakes: u64,
    #[serde(default)]
    pub(crate) buffered: BufferedReport,
    /// Whether the host accepts no new connections.
    #[serde(default)]
    pub(crate) draining: bool,
    /// Certificates of the TLS listeners.
    #[serde(default)]
    pub(crate) certificates: Vec<CertificateReport>,
    pub(crate) resources: Vec<ResourceReport>,
}

impl StatusReport {
    /// Returns whether a resource is served, or none is configured: what the host reports to systemd
    /// as ready.
    pub(crate) fn serves(&self) -> bool {
        let is_served = |resource: &ResourceReport| resource.generation.is_some();
        self.resources.is_empty() || self.resources.iter().any(is_served)
    }
}

/// What the host buffers for all clients together.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BufferedReport {
    pub(crate) bytes: usize,
    /// `max_buffered_bytes`, unless that is 0.
    pub(crate) max_bytes: Option<NonZeroUsize>,
}

/// State of the configuration file on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FileReport {
    /// `applied` or `refused`.
    pub(crate) state: String,
    /// Seconds since it was applied, or first refused.
    pub(crate) age_seconds: u64,
    /// The mistakes for which it was refused, one per line.
    pub(crate) refused: Option<String>,
    /// Changed keys that take effect at the next start.
    pub(crate) needs_restart: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CertificateReport {
    /// `server.tls.certificates[0]`, or `server.tls.client_ca`, which has no names.
    #[serde(default)]
    pub(crate) key: String,
    pub(crate) file: String,
    pub(crate) names: Vec<String>,
    /// Last day of validity, `2027-01-31`; of several authorities, the earliest.
    pub(crate) expires: String,
    pub(crate) days_left: u64,
    /// Why the file is not in use, or why the certificate in use is invalid.
    pub(crate) problem: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResourceReport {
    pub(crate) path: String,
    pub(crate) plugin: String,
    /// Generation of the serving instance, if one serves.
    pub(crate) generation: Option<u64>,
    /// Why the resource is unavailable, if it is.
    pub(crate) closed: Option<String>,
    pub(crate) lane: String,
    #[serde(flatten)]
    pub(crate) counts: CountsReport,
    #[serde(flatten, default)]
    pub(crate) traffic: TrafficReport,
    #[serde(default)]
    pub(crate) on_probation: bool,
    pub(crate) swaps: u64,
    pub(crate) last_pause_micros: u64,
    #[serde(default)]
    pub(crate) last_swap_age_seconds: Option<u64>,
    /// Size of the state that the last swap handed over.
    #[serde(default)]
    pub(crate) last_state_bytes: u64,
    /// The last snapshot on disk, with `snapshot_every`.
    #[serde(default)]
    pub(crate) snapshot: Option<SnapshotReport>,
    /// Series of the application, sorted by name and labels.
    #[serde(default)]
    pub(crate) metrics: Vec<MetricReport>,
}

/// A metric of an application with one value for each of its labels.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MetricReport {
    pub(crate) name: String,
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Of a counter or gauge.
    pub(crate) value: Option<f64>,
    pub(crate) histogram: Option<HistogramReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HistogramReport {
    pub(crate) count: u64,
    pub(crate) sum: f64,
    pub(crate) buckets: Vec<BucketReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BucketReport {
    pub(crate) le: f64,
    /// Number of values that are at most `le`.
    pub(crate) count: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotReport {
    /// Seconds since it was written, and its bytes; null if there is none.
    pub(crate) age_seconds: Option<u64>,
    pub(crate) bytes: Option<usize>,
    /// Why no newer one could be written.
    pub(crate) error: Option<String>,
    pub(crate) failing_seconds: Option<u64>,
}

/// Counts since the host started; for a plugin, the sum over its resources.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CountsReport {
    /// Connections now.
    pub(crate) sessions: u64,
    pub(crate) messages: u64,
    pub(crate) refused_messages: u64,
    pub(crate) panics: u64,
    pub(crate) slow_calls: u64,
    /// Messages dropped for slow consumers (`outbox_policy = "drop_oldest"`).
    #[serde(default)]
    pub(crate) dropped_messages: u64,
}

/// What passed a resource since the host started. Of two reports, the difference is a rate.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TrafficReport {
    pub(crate) opened_connections: u64,
    pub(crate) sent_messages: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) conflated_messages: u64,
    pub(crate) rate_limited: u64,
    pub(crate) restarts: u64,
    pub(crate) quarantines: u64,
    /// Callbacks of all kinds, and the time that they took.
    pub(crate) callbacks: u64,
    pub(crate) callback_seconds: f64,
    /// Items whose wait for the lane was measured, and how long they waited.
    pub(crate) queue_waits: u64,
    pub(crate) queue_wait_seconds: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PluginReport {
    pub(crate) name: String,
    /// `active`, `disabled`, `refused` (mapped, but no generation runs), `loaded` (no longer
    /// mapped) or `available` (in the folder, not mapped).
    pub(crate) state: String,
    /// Why the newest library was refused.
    pub(crate) refused: Option<String>,
    /// Accepted SHA-256 hashes (`[plugins.NAME] sha256`), hexadecimal; empty: any.
    #[serde(default)]
    pub(crate) pinned: Vec<String>,
    pub(crate) generation: Option<GenerationReport>,
    /// Number of replaced generations; their code stays mapped.
    pub(crate) retired: u64,
    #[serde(flatten)]
    pub(crate) probation: ProbationReport,
    /// Generations available for rollback, newest first, including the active one.
    pub(crate) kept: Vec<KeptReport>,
    pub(crate) resources: Vec<String>,
    #[serde(flatten)]
    pub(crate) counts: CountsReport,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProbationReport {
    /// Whether the active generation is on probation.
    pub(crate) on_probation: bool,
    /// Number of generations that were rolled back since the host started.
    pub(crate) failed_probations: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GenerationReport {
    pub(crate) number: u64,
    /// SHA-256 of the library, hexadecimal.
    pub(crate) hash: String,
    pub(crate) package: String,
    pub(crate) version: String,
    /// Build text of the author; may be empty.
    pub(crate) build: String,
    pub(crate) age_seconds: u64,
}

/// A generation that is kept for rollback.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptReport {
    pub(crate) number: u64,
    pub(crate) hash: String,
    /// Version of its package; empty if unknown.
    #[serde(default)]
    pub(crate) version: String,
    /// When it last became active.
    #[serde(default)]
    pub(crate) since: String,
    pub(crate) age_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionReport {
    pub(crate) uuid: String,
    pub(crate) kind: String,
    pub(crate) resource: String,
    pub(crate) address: String,
    pub(crate) ident: Option<String>,
    /// The authenticated user.
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) age_seconds: u64,
    #[serde(default)]
    pub(crate) bytes_read: u64,
    #[serde(default)]
    pub(crate) bytes_written: u64,
    #[serde(default)]
    pub(crate) queued_messages: usize,
    #[serde(default)]
    pub(crate) queued_bytes: usize,
}

/// What applying `plugins.toml` and the plugin folder now would change.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DifferenceReport {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) remapped: Vec<String>,
    pub(crate) reconfigured: Vec<String>,
    pub(crate) reshaped: Vec<String>,
    #[serde(default)]
    pub(crate) guarded: Vec<String>,
    #[serde(default)]
    pub(crate) plugins: Vec<String>,
    pub(crate) server_keys: Vec<String>,
    pub(crate) needs_restart: Vec<String>,
    /// Plugins whose library would replace the running generation.
    pub(crate) swapped: Vec<String>,
    /// Plugins whose library or settings would be refused, and why. A refusal of settings means
    /// that `plugins.toml` would not be applied.
    #[serde(default)]
    pub(crate) refused: Vec<String>,
    /// Plugins whose library is not there; the running generation would continue.
    #[serde(default)]
    pub(crate) deleted: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, is_request: bool) {
        assert_eq!(serde_json::from_str::<ControlRequest>(line).is_ok(), is_request, "{line}");
    }

    #[test]
    fn a_key_that_is_not_known_is_refused_and_not_passed_over() {
        for (line, is_request) in [
            (r#"{"do":"status"}"#, true),
            (r#"{"do":"drain"}"#, true),
            (r#"{"do":"stop"}"#, true),
            (r#"{"do":"stop","wait":true}"#, true),
            (r#"{"do":"stop","now":true}"#, false),
            (r#"{"do":"plugin-reload","plugin":"chat"}"#, true),
            (r#"{"do":"drain","when":"idle"}"#, false),
            (r#"{"do":"reload","plugin":"chat"}"#, false),
            (r#"{"do":"status","metrics":false}"#, true),
            (r#"{"do":"status","x":1}"#, false),
            (r#"{"do":"plugins","x":1}"#, false),
            (r#"{"do":"diff","x":1}"#, false),
            (r#"{"do":"events"}"#, true),
            (r#"{"do":"events","last":5,"follow":true}"#, true),
            (r#"{"do":"events","last":-1}"#, false),
            (r#"{"do":"events","level":"WARN"}"#, false),
            (r#"{"do":"plugin-reload","plugin":"chat","fresh":true}"#, false),
            (r#"{"do":"plugin-reload"}"#, false),
            (r#"{"do":"nothing"}"#, false),
        ] {
            check(line, is_request);
        }
    }
}
