//! What host and command line say to each other on the control socket: one JSON line each way. docs/operating.md describes it for others.

use serde::{Deserialize, Serialize};

/// What is asked: `{"do":"plugin-reload","plugin":"chat"}`. A key too many is refused, for it may be what makes the request
/// harmless; where there is nothing to say the braces see to that, as serde passes over all keys of a unit variant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ControlRequest {
    Status {},
    Plugins {},
    Connections {
        #[serde(default)]
        resource: Option<String>,
    },
    Close {
        uuid: String,
    },
    Diff {},
    Reload {},
    PluginReload {
        plugin: String,
    },
    PluginDisable {
        plugin: String,
    },
    PluginEnable {
        plugin: String,
    },
    PluginRollback {
        plugin: String,
        /// None: the one before the active one.
        #[serde(default)]
        generation: Option<u64>,
        /// Without the state.
        #[serde(default)]
        fresh: bool,
    },
    Drain {},
}

/// What is answered: `{"answer":"done","data":"…"}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "kebab-case")]
pub(crate) enum ControlAnswer {
    Status(StatusReport),
    Plugins(Vec<PluginReport>),
    Connections(Vec<ConnectionReport>),
    Diff(DifferenceReport),
    /// It was done; a sentence.
    Done(String),
    /// It was not done, and nothing changed; why.
    Refused(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: u64,
    pub(crate) config: String,
    pub(crate) connections: usize,
    /// What TLS listeners serve.
    #[serde(default)]
    pub(crate) certificates: Vec<CertificateReport>,
    pub(crate) resources: Vec<ResourceReport>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CertificateReport {
    /// `server.tls.certificates[0]`, or `server.tls.client_ca`: the authorities of clients, which have no names.
    #[serde(default)]
    pub(crate) key: String,
    pub(crate) file: String,
    pub(crate) names: Vec<String>,
    /// The last day, `2027-01-31`; of several authorities that of the first to end.
    pub(crate) expires: String,
    pub(crate) days_left: u64,
    /// Why what lies there now is not in service, or what is in service is of no use.
    pub(crate) problem: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResourceReport {
    pub(crate) path: String,
    pub(crate) plugin: String,
    /// Of the instance that serves; None while none does.
    pub(crate) generation: Option<u64>,
    /// Why it is closed, where it is.
    pub(crate) closed: Option<String>,
    pub(crate) lane: String,
    #[serde(flatten)]
    pub(crate) counts: CountsReport,
    pub(crate) swaps: u64,
    pub(crate) last_pause_micros: u64,
}

/// Since the host started, for a plugin the sum of its resources.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CountsReport {
    /// At this moment.
    pub(crate) sessions: u64,
    pub(crate) messages: u64,
    pub(crate) refused_messages: u64,
    pub(crate) panics: u64,
    pub(crate) slow_calls: u64,
    /// To peers that read slowly (`outbox_policy = "drop_oldest"`).
    #[serde(default)]
    pub(crate) dropped_messages: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PluginReport {
    pub(crate) name: String,
    /// `active`, `disabled`, `refused` (mapped, but nothing of it runs), `loaded` (runs nothing, as nothing is mapped
    /// to it any more) or `available` (in the folder, not mapped).
    pub(crate) state: String,
    /// Why its newest library was not taken.
    pub(crate) refused: Option<String>,
    /// The only contents that are loaded (`[plugins.NAME] sha256`), hexadecimal; empty: any.
    #[serde(default)]
    pub(crate) pinned: Vec<String>,
    pub(crate) generation: Option<GenerationReport>,
    /// Generations that were replaced, and whose code is still mapped.
    pub(crate) retired: u64,
    /// Whether its generation is watched still, and how many were undone since the host started.
    pub(crate) on_probation: bool,
    pub(crate) failed_probations: u64,
    /// What can be rolled back to, the newest first; the active one is among them.
    pub(crate) kept: Vec<KeptReport>,
    pub(crate) resources: Vec<String>,
    #[serde(flatten)]
    pub(crate) counts: CountsReport,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GenerationReport {
    pub(crate) number: u64,
    /// SHA-256 of the library, hexadecimal.
    pub(crate) hash: String,
    pub(crate) package: String,
    pub(crate) version: String,
    /// What the author put in; may be empty.
    pub(crate) build: String,
    pub(crate) age_seconds: u64,
}

/// A library that served before.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptReport {
    pub(crate) number: u64,
    pub(crate) hash: String,
    pub(crate) age_seconds: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConnectionReport {
    pub(crate) uuid: String,
    pub(crate) kind: String,
    pub(crate) resource: String,
    pub(crate) address: String,
    pub(crate) ident: Option<String>,
}

/// What reading `plugins.toml` and the plugin folder now would change.
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
    /// Plugins whose library is another one than the one that runs.
    pub(crate) swapped: Vec<String>,
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
            (r#"{"do":"plugin-reload","plugin":"chat"}"#, true),
            (r#"{"do":"drain","when":"idle"}"#, false),
            (r#"{"do":"reload","plugin":"chat"}"#, false),
            (r#"{"do":"status","x":1}"#, false),
            (r#"{"do":"plugins","x":1}"#, false),
            (r#"{"do":"diff","x":1}"#, false),
            (r#"{"do":"plugin-reload","plugin":"chat","fresh":true}"#, false),
            (r#"{"do":"plugin-reload"}"#, false),
            (r#"{"do":"nothing"}"#, false),
        ] {
            check(line, is_request);
        }
    }
}
