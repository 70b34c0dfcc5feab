//! Snapshots and what restores them.

use std::sync::Arc;

use bytes::Bytes;

use super::Check;
use crate::plugin::Snapshot;
use crate::plugin::validate::compare::{Difference, compare};
use crate::plugin::validate::driver::{App, Bench};
use crate::plugin::validate::generator::{Random, samples, text};
use crate::plugin::validate::report::{Checked, fail, skip, warn};
use crate::plugin::validate::site::{Client, Site, default_bounds};

pub(super) const CHECKS: &[Check] = &[
    Check::new("snapshot-has-a-version", "the version of a snapshot is at least 1", has_version),
    Check::new(
        "refuses-other-versions",
        "`restore` refuses a version that this build does not know",
        refuses_other_versions,
    ),
    Check::new("snapshot-keeps-the-state", "two snapshots in a row are equal", keeps_state),
    Check::new(
        "restores-its-snapshot",
        "a restored state loses nothing: its snapshot is the same",
        restores,
    ),
    Check::new(
        "restores-running-sessions",
        "after a reload, the sessions that are open send messages and leave",
        running_sessions,
    ),
    Check::new(
        "restores-without-sessions",
        "a state whose connections have gone is restored, as after a restart of the host",
        without_sessions,
    ),
    Check::new(
        "takes-damaged-snapshots",
        "`restore` does not panic for empty, random, cut and older states",
        damaged,
    ),
    Check::new("refuses-cut-snapshots", "`restore` refuses a state that was cut", refuses_cut),
    Check::new("hands-over-ten-times", "ten reloads in a row lose nothing", ten_times),
];

/// Serves clients until the application has a state; they stay connected.
fn with_state(bench: &Bench) -> Checked<(App<'_>, Vec<Client>)> {
    let mut app = bench.serve()?;
    let mut clients = vec![app.client()?, app.client()?];
    for payload in samples(&bench.brief.messages) {
        let client = app.client()?;
        app.message(&client, &payload)?;
        app.message(&clients[0], &payload)?;
        clients.push(client);
    }
    Ok((app, clients))
}

/// Restores a state in a new instance with the connections of an older one; returns why it refused.
fn restore<'b>(
    bench: &'b Bench,
    site: &Arc<Site>,
    state: &Snapshot,
) -> Checked<Result<App<'b>, String>> {
    let started = bench.start(site, &bench.brief.settings)?;
    let mut app = started.map_err(|text| fail(format!("`start` refused: {text}")))?;
    Ok(app.activate(Some(state))?.map(|()| app))
}

fn has_version(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    match app.state()?.version {
        0 => Err(fail(
            "the version of its snapshot is 0; begin with 1, and increase it with each \
                       change of the format",
        )),
        _ => Ok(()),
    }
}

fn refuses_other_versions(bench: &Bench) -> Checked {
    let (mut app, _clients) = with_state(bench)?;
    let state = app.state()?;
    let later = Snapshot { version: state.version.wrapping_add(1000), ..state };
    match restore(bench, &app.site, &later)? {
        Err(text) if text.trim().is_empty() => {
            Err(fail("`restore` refuses another version without a sentence for the operator"))
        }
        Err(_) => Ok(()),
        Ok(_) => {
            let version = later.version;
            Err(fail(format!(
                "`restore` accepts version {version}; after a change of the format \
                              it would misread older states: compare `snapshot.version`"
            )))
        }
    }
}

fn keeps_state(bench: &Bench) -> Checked {
    let (mut app, clients) = with_state(bench)?;
    let (first, second) = (app.state()?, app.state()?);
    match compare(&first.bytes, &second.bytes) {
        Difference::Lost => Err(fail(
            "`snapshot` takes the state out of the instance, which has \
                                      to continue if its successor refuses",
        )),
        _ => {
            for client in clients {
                app.message(&client, &text("hello"))?;
                app.close(client)?;
            }
            Ok(())
        }
    }
}

fn restores(bench: &Bench) -> Checked {
    let empty = bench.serve()?.state()?;
    let (mut app, _clients) = with_state(bench)?;
    let before = app.state()?;
    let mut next = match restore(bench, &app.site, &before)? {
        Ok(next) => next,
        Err(text) => return Err(fail(format!("`restore` refuses its own snapshot: {text}"))),
    };
    let after = next.state()?;
    match compare(&before.bytes, &after.bytes) {
        Difference::Lost => {
            let (before, after) = (before.bytes.len(), after.bytes.len());
            Err(fail(format!(
                "`restore` loses parts of the state: the snapshot has {before} bytes, \
                              and {after} after it was restored"
            )))
        }
        Difference::Values if after.bytes == empty.bytes => {
            Err(fail("`restore` loses the state: its snapshot is that of a new instance"))
        }
        _ if before.version != after.version => {
            Err(fail("the version of the snapshot changes when it is restored"))
        }
        _ if before.bytes == empty.bytes => {
            Err(skip("its state is empty after the sample messages; give it some with --message"))
        }
        _ => Ok(()),
    }
}

fn running_sessions(bench: &Bench) -> Checked {
    let (mut app, clients) = with_state(bench)?;
    let count = app.members();
    app.hand_over()?;
    if app.members() != count {
        return Err(fail("`restore` closes connections"));
    }
    for client in clients {
        app.message(&client, &text("hello"))?;
        app.close(client)?;
    }
    let newcomer = app.client()?;
    app.message(&newcomer, &text("hello"))?;
    app.close(newcomer)?;
    app.end()
}

fn without_sessions(bench: &Bench) -> Checked {
    let (mut app, _clients) = with_state(bench)?;
    let state = app.state()?;
    let mut next = match restore(bench, &Arc::new(Site::new(default_bounds())), &state)? {
        Ok(next) => next,
        Err(text) => {
            return Err(fail(format!(
                "`restore` refuses the state once the host has restarted: \
                                     {text}"
            )));
        }
    };
    let client = next.client()?;
    for payload in samples(&bench.brief.messages) {
        next.message(&client, &payload)?;
    }
    next.close(client)?;
    next.snapshot().map(drop)
}

fn damaged(bench: &Bench) -> Checked {
    let (mut app, _clients) = with_state(bench)?;
    let (state, mut random) = (app.state()?, Random::new(bench.brief.seed));
    let mut states: Vec<Vec<u8>> = vec![Vec::new(), b"{}".into(), b"null".into(), vec![0xff; 64]];
    states.extend([1, 100, 100_000].map(|count| random.bytes(count)));
    for _ in 0..20 {
        let mut bytes = state.bytes.to_vec();
        if !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        states.push(bytes);
        states.push(state.bytes[..random.below(state.bytes.len() + 1)].to_vec());
    }
    for bytes in states {
        let damaged = Snapshot { version: state.version, bytes: Bytes::from(bytes) };
        restore(bench, &app.site, &damaged)?.ok();
    }
    for version in [0, state.version.saturating_sub(1), u32::MAX] {
        let other = Snapshot { version, bytes: state.bytes.clone() };
        restore(bench, &app.site, &other)?.ok();
    }
    Ok(())
}

fn refuses_cut(bench: &Bench) -> Checked {
    let (mut app, _clients) = with_state(bench)?;
    let state = app.state()?;
    let length = state.bytes.len();
    if length < 2 {
        return Err(skip("its snapshot is empty"));
    }
    for length in [length / 2, length - 1] {
        let cut = Snapshot { version: state.version, bytes: state.bytes.slice(..length) };
        if restore(bench, &app.site, &cut)?.is_ok() {
            let text = "`restore` accepts the beginning of a snapshot, so a damaged one would \
                        lose data unnoticed";
            return Err(warn(text));
        }
    }
    Ok(())
}

fn ten_times(bench: &Bench) -> Checked {
    let (mut app, clients) = with_state(bench)?;
    let before = app.snapshot()?;
    for _ in 0..10 {
        app.hand_over()?;
    }
    for client in &clients {
        app.message(client, &text("hello"))?;
    }
    let after = app.snapshot()?;
    match (before, after) {
        (Some(before), Some(after)) if compare(&before.bytes, &after.bytes) == Difference::Lost => {
            Err(fail("parts of the state are missing after ten reloads"))
        }
        (Some(_), None) => Err(fail("it has no snapshot after ten reloads")),
        _ => Ok(()),
    }
}
