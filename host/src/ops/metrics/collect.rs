//! Reads the state of the host, of its resources and of its plugins for a scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use plugsocket_plugin::abi::ABI_VERSION;
use prometheus_client::encoding::DescriptorEncoder;

use super::families::{self as family, Family, Labels};
use crate::hub::counters::{RefusalReason, Refused, TlsOutcome};
use crate::hub::status::PluginStatus;
use crate::hub::{Hub, health};
use crate::protocol::buffered;
use crate::routing::callback::CallbackKind;
use crate::routing::counters::{CounterValues, Counters};
use crate::routing::histogram::Histogram;
use crate::routing::resource::{Resource, ServiceState};

type Encoder<'a> = DescriptorEncoder<'a>;

/// Writes the metrics of the whole host.
pub(super) fn host(hub: &Hub, encoder: &mut Encoder<'_>) -> fmt::Result {
    let abi = ABI_VERSION.to_string();
    let version = [("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)];
    family::BUILD.write(encoder, |series| series.info(&version))?;
    let uptime = hub.started.elapsed().as_secs_f64();
    family::UPTIME.write(encoder, |series| series.number(&[], uptime))?;
    let applied = hub.config_file.load().refused.is_none();
    for (of, value) in [
        (family::READY, u64::from(health::is_ready(hub))),
        (family::DRAINING, u64::from(hub.is_draining())),
        (family::CONFIG_APPLIED, u64::from(applied)),
        (family::CONNECTIONS, hub.registry.len() as u64),
        (family::BUFFERED, buffered::bytes() as u64),
    ] {
        of.write(encoder, |series| series.number(&[], value))?;
    }
    if let Some(limit) = hub.config.load().server.limits.flow.max_buffered_bytes {
        family::MAX_BUFFERED.write(encoder, |series| series.number(&[], limit.get() as u64))?;
    }
    family::REFUSED.write(encoder, |series| {
        let count = |why: &Refused| (why.as_str(), hub.counters.refused(*why));
        Refused::ALL
            .iter()
            .map(count)
            .try_for_each(|(why, count)| series.number(&[("reason", why)], count))
    })?;
    tls(hub, encoder)
}

fn tls(hub: &Hub, encoder: &mut Encoder<'_>) -> fmt::Result {
    let Some(served) = hub.tls.load_full() else { return Ok(()) };
    family::TLS_HANDSHAKES.write(encoder, |series| {
        TlsOutcome::ALL.iter().try_for_each(|outcome| {
            series.number(&[("outcome", outcome.as_str())], hub.counters.tls(*outcome))
        })
    })?;
    family::CERTIFICATE_EXPIRY.write(encoder, |series| {
        served.statuses().try_for_each(|status| {
            let (key, name) = (status.key(), status.names.first().map_or("", String::as_str));
            series.number(&[("key", &key), ("name", name)], status.expires)
        })
    })
}

/// A resource, with the values of one moment.
struct Served {
    resource: Arc<Resource>,
    plugin: String,
    generation: Option<u64>,
    values: CounterValues,
}

/// Writes the metrics of all resources.
pub(super) fn resources(hub: &Hub, encoder: &mut Encoder<'_>) -> fmt::Result {
    let (config, resources) = (hub.config.load(), hub.resources.load());
    let served: Vec<Served> = resources
        .values()
        .map(|resource| {
            let settings = config.resources.get(&resource.path);
            let generation = match &resource.service().state {
                ServiceState::Serving(inbox) => Some(inbox.health().generation()),
                ServiceState::Unavailable(_) => None,
            };
            let plugin = settings.map(|settings| settings.plugin.clone()).unwrap_or_default();
            let values = resource.counters.values();
            Served { resource: resource.clone(), plugin, generation, values }
        })
        .collect();
    family::UP.write(encoder, |series| {
        served.iter().try_for_each(|Served { resource, plugin, generation, .. }| {
            let labels = [("resource", resource.path.as_str()), ("plugin", plugin)];
            series.number(&labels, u64::from(generation.is_some()))
        })
    })?;
    numbers(&served, encoder)?;
    closings(&served, encoder)?;
    logins(hub, &served, encoder)?;
    times(&served, encoder)?;
    snapshots(hub, &served, encoder)
}

fn numbers(served: &[Served], encoder: &mut Encoder<'_>) -> fmt::Result {
    type Read = fn(&Served) -> Option<u64>;
    let all: [(Family, Read); 19] = [
        (family::GENERATION, |it| it.generation),
        (family::SESSIONS, |it| Some(it.resource.count() as u64)),
        (family::OPENED, |it| Some(it.values.opened)),
        (family::RECEIVED, |it| Some(it.values.messages)),
        (family::SENT, |it| Some(it.values.sent)),
        (family::READ, |it| Some(it.values.read_bytes)),
        (family::WRITTEN, |it| Some(it.values.written_bytes)),
        (family::MESSAGES_REFUSED, |it| Some(it.values.refused)),
        (family::SLOW_CLOSED, |it| Some(it.resource.counters.closings.slow_consumers())),
        (family::DROPPED, |it| Some(it.values.dropped)),
        (family::CONFLATED, |it| Some(it.values.conflated)),
        (family::RATE_LIMITED, |it| Some(it.values.rate_limited)),
        (family::HIGH_WATER, |it| Some(it.values.high_water)),
        (family::TICKETS, |it| Some(it.resource.tickets.len() as u64)),
        (family::PANICS, |it| Some(it.values.panics)),
        (family::SLOW_CALLS, |it| Some(it.values.slow_calls)),
        (family::SWAPS, |it| Some(it.values.swaps)),
        (family::RESTARTS, |it| Some(it.values.restarts)),
        (family::QUARANTINES, |it| Some(it.values.quarantines)),
    ];
    for (of, read) in all {
        of.write(encoder, |series| {
            served.iter().try_for_each(|it| match read(it) {
                Some(value) => series.number(&[("resource", &it.resource.path)], value),
                None => Ok(()),
            })
        })?;
    }
    Ok(())
}

fn closings(served: &[Served], encoder: &mut Encoder<'_>) -> fmt::Result {
    family::CLOSED.write(encoder, |series| {
        let mut written = Ok(());
        for Served { resource, .. } in served {
            resource.counters.closings.for_each(|side, code, count| {
                let labels = [("resource", resource.path.as_str()), ("side", side), ("code", code)];
                written = written.and(series.number(&labels, count));
            });
        }
        written
    })
}

fn logins(hub: &Hub, served: &[Served], encoder: &mut Encoder<'_>) -> fmt::Result {
    let guards = hub.guards.load();
    let guarded = || served.iter().filter(|it| guards.contains_key(&it.resource.path));
    if guarded().next().is_none() {
        return Ok(());
    }
    family::LOGINS.write(encoder, |series| {
        guarded().try_for_each(|Served { resource, .. }| {
            let logins = &resource.counters.logins;
            let outcomes = [
                ("accepted", &logins.accepted),
                ("denied", &logins.denied),
                ("failed", &logins.failed),
            ];
            outcomes.into_iter().try_for_each(|(outcome, count)| {
                let labels = [("resource", resource.path.as_str()), ("outcome", outcome)];
                series.number(&labels, count.load(Ordering::Relaxed))
            })
        })
    })
}

fn times(served: &[Served], encoder: &mut Encoder<'_>) -> fmt::Result {
    family::CALLBACK.write(encoder, |series| {
        for Served { resource, .. } in served {
            for kind in CallbackKind::ALL {
                let values = resource.counters.times.callback(kind).values();
                let labels = [("resource", resource.path.as_str()), ("callback", kind.as_str())];
                if values.count() > 0 {
                    series.histogram(&labels, &values)?;
                }
            }
        }
        Ok(())
    })?;
    family::BUSY.write(encoder, |series| {
        served.iter().try_for_each(|Served { resource, .. }| {
            let (_, busy) = resource.counters.times.all_callbacks();
            series.number(&[("resource", &resource.path)], busy.as_secs_f64())
        })
    })?;
    type Read = fn(&Counters) -> &Histogram;
    // A rate needs a series that begins at 0, but most resources never defer or authenticate.
    let all: [(Family, Read, bool); 4] = [
        (family::QUEUE_WAIT, |counters| &counters.times.queue, false),
        (family::DEFERRED, |counters| &counters.times.deferred, false),
        (family::PAUSE, |counters| &counters.times.pause, true),
        (family::LOGIN_TIME, |counters| &counters.times.authentication, false),
    ];
    for (of, read, begins_at_0) in all {
        of.write(encoder, |series| {
            served.iter().try_for_each(|Served { resource, .. }| {
                let values = read(&resource.counters).values();
                let labels: Labels<'_> = &[("resource", &resource.path)];
                match begins_at_0 || values.count() > 0 {
                    true => series.histogram(labels, &values),
                    false => Ok(()),
                }
            })
        })?;
    }
    Ok(())
}

fn snapshots(hub: &Hub, served: &[Served], encoder: &mut Encoder<'_>) -> fmt::Result {
    family::STATE.write(encoder, |series| {
        let swapped = served.iter().filter(|it| it.values.swaps > 0);
        swapped.into_iter().try_for_each(|it| {
            series.number(&[("resource", &it.resource.path)], it.values.last_state_bytes)
        })
    })?;
    let config = hub.config.load();
    let is_written = |it: &&Served| {
        let settings = config.resources.get(&it.resource.path);
        settings.is_some_and(|settings| settings.snapshot_every.is_some())
    };
    family::SNAPSHOT_FAILING.write(encoder, |series| {
        served.iter().filter(is_written).try_for_each(|Served { resource, .. }| {
            let state = hub.snapshots.get(&resource.path).unwrap_or_default();
            series.number(&[("resource", &resource.path)], u64::from(state.failing.is_some()))
        })
    })?;
    let written = |path: &str| hub.snapshots.get(path)?.written;
    let written: Vec<(&str, (SystemTime, usize))> = served
        .iter()
        .filter_map(|it| Some((it.resource.path.as_str(), written(&it.resource.path)?)))
        .collect();
    if written.is_empty() {
        return Ok(());
    }
    family::SNAPSHOT.write(encoder, |series| {
        let mut all = written.iter();
        all.try_for_each(|(path, (_, bytes))| series.number(&[("resource", path)], *bytes as u64))
    })?;
    family::SNAPSHOT_TIME.write(encoder, |series| {
        let mut all = written.iter();
        all.try_for_each(|(path, (at, _))| {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            series.number(&[("resource", path)], since.as_secs())
        })
    })
}

/// Writes the metrics of all plugins.
pub(super) fn plugins(hub: &Hub, encoder: &mut Encoder<'_>) -> fmt::Result {
    let statuses = hub.plugin_statuses.load();
    type Read = fn(&PluginStatus) -> u64;
    let numbers: [(Family, Read); 5] = [
        (family::LOADS, |status| status.loads),
        (family::IS_REFUSED, |status| status.refused.is_some().into()),
        (family::PROBATIONS_FAILED, |status| status.failed_probations),
        (family::ON_PROBATION, |status| status.is_on_probation.into()),
        (family::RETIRED, |status| status.retired),
    ];
    for (of, read) in numbers {
        of.write(encoder, |series| {
            let mut all = statuses.iter();
            all.try_for_each(|(name, status)| series.number(&[("plugin", name)], read(status)))
        })?;
    }
    family::REFUSALS.write(encoder, |series| {
        for (name, status) in statuses.iter() {
            for (reason, count) in RefusalReason::ALL.iter().zip(status.refusals) {
                series.number(&[("plugin", name), ("reason", reason.as_str())], count)?;
            }
        }
        Ok(())
    })
}
