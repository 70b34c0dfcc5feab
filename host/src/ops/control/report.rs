//! Builds the answers to queries from the state that the host publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::protocol::{
    CertificateReport, ConnectionReport, ControlAnswer, CountsReport, DifferenceReport,
    GenerationReport, KeptReport, PluginReport, ProbationReport, ResourceReport, StatusReport,
};
use crate::config::{Config, LaneKind};
use crate::error::chain;
use crate::fs::blocking::run_blocking;
use crate::hub::Hub;
use crate::hub::status::PluginStatus;
use crate::net::tls;
use crate::plugin::{archive, staging, watch};
use crate::routing::resource::{Resource as Served, ServiceState};

pub(super) fn status(hub: &Hub) -> StatusReport {
    let config = hub.config.load();
    let resources = hub.resources.load();
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: hub.started.elapsed().as_secs(),
        config: config.path.display().to_string(),
        connections: hub.registry.len(),
        certificates: hub.tls.load_full().map_or_else(Vec::new, |served| {
            served.statuses().map(|status| certificate(&status)).collect()
        }),
        resources: resources.values().map(|served| resource(served, &config)).collect(),
    }
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

fn resource(served: &Served, config: &Config) -> ResourceReport {
    let (service, values) = (served.service(), served.counters.values());
    let (generation, closed) = match &service.state {
        ServiceState::Serving(inbox) => (Some(inbox.health().generation()), None),
        ServiceState::Unavailable(outage) => (None, Some(outage.text.clone())),
    };
    let plugin = config.resources.get(&served.path).map(|settings| settings.plugin.clone());
    let lane = match service.lane {
        LaneKind::Thread => "thread",
        LaneKind::Shared => "shared",
    };
    ResourceReport {
        path: served.path.clone(),
        plugin: plugin.unwrap_or_default(),
        generation,
        closed,
        lane: lane.to_owned(),
        counts: counts(served),
        swaps: values.swaps,
        last_pause_micros: u64::try_from(values.last_pause.as_micros()).unwrap_or(u64::MAX),
    }
}

fn counts(served: &Served) -> CountsReport {
    let values = served.counters.values();
    CountsReport {
        sessions: served.count() as u64,
        messages: values.messages,
        refused_messages: values.refused,
        panics: values.panics,
        slow_calls: values.slow_calls,
        dropped_messages: values.dropped,
    }
}

impl std::iter::Sum for CountsReport {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, next| Self {
            sessions: sum.sessions + next.sessions,
            messages: sum.messages + next.messages,
            refused_messages: sum.refused_messages + next.refused_messages,
            panics: sum.panics + next.panics,
            slow_calls: sum.slow_calls + next.slow_calls,
            dropped_messages: sum.dropped_messages + next.dropped_messages,
        })
    }
}

pub(super) fn plugins(hub: &Hub) -> Vec<PluginReport> {
    let (config, plugin_statuses) = (hub.config.load(), hub.plugin_statuses.load());
    let in_folder = watch::libraries(&config.server.folders.plugin_dir);
    let mut names: BTreeSet<&str> =
        in_folder.iter().filter_map(|p| watch::plugin_name(p)).collect();
    names.extend(plugin_statuses.keys().map(String::as_str));
    names.extend(config.resources.values().map(|settings| &*settings.plugin));
    names.into_iter().map(|name| plugin(name, hub, &config, plugin_statuses.get(name))).collect()
}

fn plugin(name: &str, hub: &Hub, config: &Config, status: Option<&PluginStatus>) -> PluginReport {
    let served = hub.resources.load();
    let resources: Vec<String> = config.mapped_to(name).map(|(path, _)| path.clone()).collect();
    let generation = status.and_then(|status| status.generation.as_ref());
    let state = match generation {
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
        pinned: config
            .plugins
            .get(name)
            .map(|plugin| plugin.sha256.iter().map(|hash| staging::hex(hash)).collect())
            .unwrap_or_default(),
        generation: generation.map(|running| GenerationReport {
            number: running.number,
            hash: running.hash.clone(),
            package: running.package.clone(),
            version: running.version.clone(),
            build: running.build.clone(),
            age_seconds: age(running.since).as_secs(),
        }),
        probation: ProbationReport {
            on_probation: status.is_some_and(|status| status.is_on_probation),
            failed_probations: status.map_or(0, |status| status.failed_probations),
        },
        kept: status.map(kept).unwrap_or_default(),
        retired: status.map_or(0, |status| status.retired),
        counts: resources.iter().filter_map(|path| served.get(path)).map(|s| counts(s)).sum(),
        resources,
    }
}

fn kept(status: &PluginStatus) -> Vec<KeptReport> {
    let kept = |kept: &archive::Kept| KeptReport {
        number: kept.number,
        hash: kept.hash.clone(),
        age_seconds: age(kept.since).as_secs(),
    };
    status.kept.iter().map(kept).collect()
}

fn age(since: SystemTime) -> Duration {
    since.elapsed().unwrap_or_default()
}

pub(super) fn connections(hub: &Hub, resource: Option<&str>) -> Vec<ConnectionReport> {
    let mut found = Vec::new();
    hub.registry.for_each(|peer| {
        if resource.is_none_or(|path| peer.resource.path == path) {
            found.push(ConnectionReport {
                uuid: peer.identity.as_str().to_owned(),
                kind: peer.kind.as_str().to_owned(),
                resource: peer.resource.path.clone(),
                address: peer.client.address.to_string(),
                ident: peer.ident().map(ToOwned::to_owned),
            });
        }
    });
    found.sort_by(|a, b| {
        (&a.resource, &a.address, &a.uuid).cmp(&(&b.resource, &b.address, &b.uuid))
    });
    found
}

/// Compares the running host with the files; reads and hashes off the runtime.
pub(super) async fn difference(hub: Arc<Hub>) -> ControlAnswer {
    let compared = run_blocking(move || {
        let old = hub.config.load_full();
        let new = Config::load(&old.path).map_err(|error| chain(&error))?;
        old.must_not_end(&new)?;
        let mut difference = difference_of(&old, &new);
        difference.swapped = swapped(&new, &hub.plugin_statuses.load());
        Ok::<_, String>(difference)
    });
    match compared.await {
        Ok(Ok(difference)) => ControlAnswer::Diff(difference),
        Ok(Err(text)) => ControlAnswer::Refused(text),
        Err(error) => ControlAnswer::Refused(error.to_string()),
    }
}

fn difference_of(old: &Config, new: &Config) -> DifferenceReport {
    let diff = old.diff(new);
    let owned = |keys: Vec<&'static str>| keys.into_iter().map(ToOwned::to_owned).collect();
    DifferenceReport {
        added: diff.added,
        removed: diff.removed,
        remapped: diff.remapped,
        reconfigured: diff.reconfigured,
        reshaped: diff.reshaped,
        guarded: diff.guarded,
        plugins: diff.plugins,
        server_keys: owned(diff.server),
        needs_restart: owned(diff.restart),
        swapped: Vec::new(),
    }
}

/// Returns the running plugins whose library file differs from the running generation.
fn swapped(config: &Config, plugin_statuses: &BTreeMap<String, PluginStatus>) -> Vec<String> {
    let differs = |name: &&String| {
        let running = plugin_statuses[*name].generation.as_ref();
        let file = watch::library(&config.server.folders.plugin_dir, name);
        running.is_some_and(|running| hash_of(&file).is_some_and(|hash| hash != running.hash))
    };
    plugin_statuses.keys().filter(differs).cloned().collect()
}

fn hash_of(file: &Path) -> Option<String> {
    staging::hash_of(file).ok().map(|hash| staging::hex(&hash))
}
