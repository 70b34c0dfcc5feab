//! Whether the host is alive and ready, for load balancers and Kubernetes.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::Hub;
use crate::protocol::http::response;
use crate::routing::resource::ServiceState;

const JSON: &str = "application/json";

/// Returns the response to a health check; `None` for another path. `prefix`: the path of the
/// checks.
pub(crate) fn answer(path: &str, prefix: &str, hub: &Hub) -> Option<Vec<u8>> {
    match path.strip_prefix(prefix)? {
        // That it answers is the whole check: a restart would not mend what readiness reports.
        "/live" => Some(respond(200, "alive", &[], &[])),
        "/ready" => {
            let (reasons, notes) = (unready(hub), notes(hub));
            let (status, text) =
                if reasons.is_empty() { (200, "ready") } else { (503, "not ready") };
            Some(respond(status, text, &reasons, &notes))
        }
        _ => None,
    }
}

fn respond(status: u16, text: &str, reasons: &[String], notes: &[String]) -> Vec<u8> {
    let mut body = json!({ "status": text, "reasons": reasons, "notes": notes }).to_string();
    body.push('\n');
    response(status, JSON, body.as_bytes(), &[("Cache-Control", "no-store")])
}

/// Returns whether the readiness check succeeds.
pub(crate) fn is_ready(hub: &Hub) -> bool {
    unready(hub).is_empty()
}

/// Returns why the host is not ready.
fn unready(hub: &Hub) -> Vec<String> {
    let mut reasons = Vec::new();
    if hub.is_draining() {
        reasons.push("the host is draining".to_owned());
    }
    if !hub.is_ready.load(Ordering::Relaxed) {
        reasons.push("the host is starting, or serves no resource".to_owned());
    }
    for resource in hub.resources.load().values() {
        if let ServiceState::Unavailable(outage) = &resource.service().state {
            reasons.push(format!("{}: {}", resource.path, outage.text));
        }
    }
    reasons
}

/// Returns conditions that do not affect readiness. A refused file must not take hosts out of
/// service that all serve the version before.
fn notes(hub: &Hub) -> Vec<String> {
    let refused = &hub.config_file.load().refused;
    let note = refused.as_ref().map(|why| format!("plugins.toml was not applied: {why}"));
    note.into_iter().collect()
}
