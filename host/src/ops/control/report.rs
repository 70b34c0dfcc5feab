//! Builds the answers to queries from the state that the host publishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::metrics;
use super::protocol::{
    BufferedReport, CertificateReport, ConnectionReport, ControlAnswer, CountsReport,
    DifferenceReport, FileReport, GenerationReport, KeptReport, PluginReport, ProbationReport,
    ResourceReport, SnapshotReport, StatusReport, TrafficReport,
};
use super::table::age;
use crate::config::Config;
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::hub::Hub;
use crate::hub::counters::Refused;
use crate::hub::status::{Active, FileState, PluginStatus, SnapshotState};
use crate::net::tls;
use crate::plugin::archive::ArchivedGeneration;
use crate::plugin::{staging, watch};
use crate::protocol::buffered;
use crate::routing::counters::Counters;
use crate::routing::resource::{Resource as Served, ServiceState};
use crate::supervisor::prediction::{Prediction, predict};

/// Reports the host, with or without the metrics of applications.
pub(super) fn status(hub: &Hub, with_metrics: bool) -> StatusReport {
    let config = hub.config.load();
    let resources = hub.resources.load();
    let report = |served: &Arc<Served>| {
        let metrics = if with_metrics { metrics::report(&served.metrics) } else { Vec::new() };
        ResourceReport { metrics, ..resource(served, &config, hub) }
    };
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: hub.started.elapsed().as_secs(),
        config: config.path.display().to_string(),
        config_file: config_file(&hub.config_file.load()),
        connections: hub.registry.len(),
        refused_handshakes: Refused::ALL.iter().map(|why| hub.counters.refused(*why)).sum(),
        buffered: BufferedReport {
            bytes: buffered::bytes(),
            max_bytes: config.server.limits.flow.max_buffered_bytes,
        },
        draining: hub.is_draining(),
        certificates: hub.tls.load_full().map_or_else(Vec::new, |served| {
            served.statuses().map(|status| certificate(&status)).collect()
        }),
        resources: resources.values().map(report).collect(),
    }
}

fn config_file(state: &FileState) -> FileReport {
    FileReport {
        state: if state.refused.is_some() { "refused" } else { "applied" }.to_owned(),
        age_seconds: age_seconds(state.since),
        refused: state.refused.clone(),
        needs_restart: state.needs_restart.iter().map(|key| (*key).to_owned()).collect(),
    }
}

/// Returns one sentence if the configuration file on disk is not in effect, unless the answer has
/// the reason already.
pub(super) fn notice(hub: &Hub, answer: &ControlAnswer) -> Option<String> {
    let state = hub.config_file.load();
    let refused = state.refused.as_deref()?;
    if matches!(answer, ControlAnswer::Refused(text) if text == refused) {
        return None;
    }
    let first = refused.lines().next().unwrap_or_default();
    let more = match refused.lines().count() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let (file, age) = (hub.config.load(), age(age_seconds(state.since)));
    let file = file.path.display();
    Some(format!(
        "{file} was refused {age} ago; the host runs with the version before: {first}{more}"
    ))
}

fn certificate(status: &tls::CertificateStatus<'_>) -> CertificateReport {
    CertificateReport {
        key: status.key(),
        file: status.file.display().to_string(),
        names: status.names.to_vec(),
        expires: status.expiry_date(),
        days_left: status.days_left(),
        problem: status.problem.as_deref().map(ToOwned::to_owned),
    }
}

fn resource(served: &Served, config: &Config, hub: &Hub) -> ResourceReport {
    let (service, values) = (served.service(), served.counters.values());
    let (generation, closed) = match &service.state {
        ServiceState::Serving(inbox) => (Some(inbox.health().generation()), None),
        ServiceState::Unavailable(outage) => (None, Some(outage.text.clone())),
    };
    let settings = config.resources.get(&served.path);
    let plugin = settings.map(|settings| settings.plugin.clone());
    let snapshot = settings.and_then(|settings| settings.snapshot_every);
    let snapshot = snapshot.map(|_| snapshot_of(&served.path, hub));
    ResourceReport {
        path: served.path.clone(),
        on_probation: plugin.as_ref().is_some_and(|plugin| {
            let statuses = hub.plugin_statuses.load();
            statuses.get(plugin).is_some_and(|status| status.is_on_probation)
        }),
        plugin: plugin.unwrap_or_default(),
        generation,
        closed,
        lane: service.lane.as_str().to_owned(),
        counts: counts([served]),
        traffic: traffic(&served.counters),
        swaps: values.swaps,
        last_pause_micros: u64::try_from(values.last_pause.as_micros()).unwrap_or(u64::MAX),
        last_swap_age_seconds: values.last_swap.map(age_seconds),
        last_state_bytes: values.last_state_bytes,
        snapshot,
        metrics: Vec::new(),
    }
}

fn traffic(counters: &Counters) -> TrafficReport {
    let (values, times) = (counters.values(), &counters.times);
    let (waits, (callbacks, callback_time)) = (times.queue.values(), times.all_callbacks());
    TrafficReport {
        opened_connections: values.opened,
        sent_messages: values.sent,
        read_bytes: values.read_bytes,
        written_bytes: values.written_bytes,
        conflated_messages: values.conflated,
        rate_limited: values.rate_limited,
        restarts: values.restarts,
        quarantines: values.quarantines,
        queue_waits: waits.count(),
        queue_wait_seconds: waits.sum.as_secs_f64(),
        callbacks,
        callback_seconds: callback_time.as_secs_f64(),
    }
}

fn snapshot_of(resource: &str, hub: &Hub) -> SnapshotReport {
    let SnapshotState { written, failing } = hub.snapshots.get(resource).unwrap_or_default();
    SnapshotReport {
        age_seconds: written.map(|(at, _)| age_seconds(at)),
        bytes: written.map(|(_, bytes)| bytes),
        failing_seconds: failing.as_ref().map(|(since, _)| age_seconds(*since)),
        error: failing.map(|(_, error)| error),
    }
}

/// Adds up the counts of resources.
fn counts<'a>(resources: impl IntoIterator<Item = &'a Served>) -> CountsReport {
    let mut sum = CountsReport::default();
    for resource in resources {
        let values = resource.counters.values();
        sum.sessions += resource.count() as u64;
        sum.messages += values.messages;
        sum.refused_messages += values.refused;
        sum.panics += values.panics;
        sum.slow_calls += values.slow_calls;
        sum.dropped_messages += values.dropped;
    }
    sum
}

pub(super) fn plugins(hub: &Hub) -> Vec<PluginReport> {
    let (config, plugin_statuses) = (hub.config.load(), hub.plugin_statuses.load());
    let mut names: BTreeSet<&str> = plugin_statuses.keys().map(String::as_str).collect();
    names.extend(config.resources.values().map(|settings| &*settings.plugin));
    let mut in_folder = watch::libraries(&config.server.folders.plugin_dir);
    let is_known = |path: &Path| watch::plugin_name(path).is_some_and(|it| names.contains(it));
    in_folder.retain(|path| !is_known(path) && staging::may_be_plugin(path));
    names.extend(in_folder.iter().filter_map(|path| watch::plugin_name(path)));
    names.into_iter().map(|name| plugin(name, hub, &config, plugin_statuses.get(name))).collect()
}

fn plugin(name: &str, hub: &Hub, config: &Config, status: Option<&PluginStatus>) -> PluginReport {
    let served = hub.resources.load();
    let resources: Vec<String> = config.mapped_to(name).map(|(path, _)| path.clone()).collect();
    let active = status.and_then(|status| status.active.as_ref());
    let state = match active {
        _ if status.is_some_and(|status| status.is_disabled) => "disabled",
        Some(_) if resources.is_empty() => "loaded",
        Some(_) => "active",
        None if resources.is_empty() => "available",
        None => "refused",
    };
    PluginReport {
        name: name.to_owned(),
        state: state.to_owned(),
        refused: status.and_then(|status| status.refused.clone()),
        pinned: config.plugins.get(name).map_or_else(Vec::new, |plugin| {
            plugin.sha256.iter().map(|hash| staging::hex(hash)).collect()
        }),
        generation: active.map(|Active { generation, hash, since }| GenerationReport {
            number: generation.number,
            hash: staging::hex(hash),
            package: generation.facts.package.clone(),
            version: generation.facts.version.clone(),
            build: generation.facts.build.clone(),
            age_seconds: age_seconds(*since),
        }),
        probation: ProbationReport {
            on_probation: status.is_some_and(|status| status.is_on_probation),
            failed_probations: status.map_or(0, |status| status.failed_probations),
        },
        kept: status.map_or_else(Vec::new, |status| status.archived.iter().map(kept).collect()),
        retired: status.map_or(0, |status| status.retired),
        counts: counts(resources.iter().filter_map(|path| served.get(path).map(|s| &**s))),
        resources,
    }
}

fn kept(archived: &ArchivedGeneration) -> KeptReport {
    let ArchivedGeneration { number, hash, version, since, .. } = archived;
    KeptReport {
        number: *number,
        hash: hash.clone(),
        version: version.clone(),
        since: httpdate::fmt_http_date(*since),
        age_seconds: age_seconds(*since),
    }
}

fn age_seconds(since: SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}

pub(super) fn connections(hub: &Hub, resource: Option<&str>) -> Vec<ConnectionReport> {
    let mut found = Vec::new();
    hub.registry.for_each(|peer| {
        if resource.is_none_or(|path| peer.resource.path == path) {
            let ([bytes_read, bytes_written], (queued_messages, queued_bytes)) =
                (peer.bytes(), peer.outbox.waiting());
            let user = peer.client.login.as_ref().and_then(|login| login.user.as_deref());
            found.push(ConnectionReport {
                uuid: peer.identity.as_str().to_owned(),
                kind: peer.kind.as_str().to_owned(),
                resource: peer.resource.path.clone(),
                address: peer.client.address.to_string(),
                ident: peer.ident().map(ToOwned::to_owned),
                user: user.map(ToOwned::to_owned),
                age_seconds: peer.age(hub.started).as_secs(),
                bytes_read,
                bytes_written,
                queued_messages,
                queued_bytes,
            });
        }
    });
    found.sort_by(|a, b| {
        (&a.resource, &a.address, &a.uuid).cmp(&(&b.resource, &b.address, &b.uuid))
    });
    found
}

/// Compares the running host with the files; reads them off the runtime, and tries changed
/// libraries in child processes.
pub(super) async fn difference(hub: Arc<Hub>) -> ControlAnswer {
    let old = hub.config.load_full();
    let compared = run_blocking(move || {
        let mut new = old.read_again().map_err(|error| chain(&error))?;
        old.must_not_end(&new)?;
        let diff = old.diff(&new);
        old.keep_until_restart(&mut new);
        Ok((new, diff))
    });
    let (new, diff) = match compared.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(compared) => compared,
        Err(text) => return ControlAnswer::Refused(text),
    };
    let Prediction { swapped, refused, deleted } = predict(&hub, &new, &diff).await;
    let owned = |keys: Vec<&'static str>| keys.into_iter().map(ToOwned::to_owned).collect();
    ControlAnswer::Diff(DifferenceReport {
        added: diff.added,
        removed: diff.removed,
        remapped: diff.remapped,
        reconfigured: diff.reconfigured,
        reshaped: diff.reshaped,
        guarded: diff.guarded,
        plugins: diff.plugins,
        server_keys: owned(diff.server),
        needs_restart: owned(diff.restart),
        swapped,
        refused,
        deleted,
    })
}
