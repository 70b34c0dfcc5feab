//! What a library leaves behind: threads, descriptors, memory, changes of the process.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Check, WRITES_NOTHING};
use crate::error::counted;
use crate::plugin::validate::driver::{App, Bench};
use crate::plugin::validate::generator::{samples, text};
use crate::plugin::validate::process::{
    Surroundings, descriptors, memory, pause, threads, wait_until_none,
};
use crate::plugin::validate::report::{Checked, excerpt, fail, warn};

pub(super) const CHECKS: &[Check] = &[
    Check::new("leaves-no-threads", "all threads end within 2 s after the drop", no_threads),
    Check::new(
        "is-silent-after-retirement",
        "no thread calls the host after the instance was dropped",
        silent,
    ),
    Check::new(
        "leaves-no-descriptors",
        "all file descriptors are closed within 2 s after the drop",
        no_descriptors,
    ),
    Check::new(
        "sessions-leave-nothing",
        "10,000 sessions leave at most 256 bytes each",
        sessions_leave_nothing,
    ),
    Check::new(
        "reloads-leave-nothing",
        "100 reloads leave at most 64 kB each",
        reloads_leave_nothing,
    ),
    Check::new(
        WRITES_NOTHING,
        "standard output belongs to the host: use `tracing`",
        writes_nothing,
    ),
    Check::new(
        "changes-no-process-state",
        "signal handlers, umask, current folder and environment stay as they are",
        process_state,
    ),
];

/// The time that threads have after the drop.
const LIMIT: Duration = Duration::from_secs(2);

/// Uses all callbacks of an instance, in two generations.
fn use_all(bench: &Bench) -> Checked<App<'_>> {
    let mut app = bench.serve()?;
    let client = app.client()?;
    for payload in samples(&bench.brief.messages) {
        app.message(&client, &payload)?;
    }
    if app.tick_every()?.is_some() {
        app.tick(std::time::SystemTime::now())?;
    }
    app.hand_over()?;
    app.message(&client, &text("hello"))?;
    app.close(client)?;
    Ok(app)
}

fn no_threads(bench: &Bench) -> Checked {
    let before = threads();
    use_all(bench)?.end()?;
    let left = wait_until_none(LIMIT, || {
        let now = threads().into_iter();
        now.filter(|(id, _)| !before.contains_key(id)).map(|(_, name)| name).collect()
    });
    if left.is_empty() {
        return Ok(());
    }
    let count = counted(left.len(), "thread");
    let names = excerpt(&left.join(", "));
    Err(fail(format!(
        "2 s after the drop, {count} still run ({names}); stop and join them in \
                      `Drop`"
    )))
}

fn silent(bench: &Bench) -> Checked {
    let app = use_all(bench)?;
    let calls = app.refused_calls();
    app.end()?;
    let Some(calls) = calls else { return Ok(()) };
    // What was under way ends.
    pause(Duration::from_millis(200));
    let before = calls.load(Ordering::Relaxed);
    pause(Duration::from_millis(200));
    match calls.load(Ordering::Relaxed) - before {
        0 => Ok(()),
        count => {
            let count = counted(usize::try_from(count).unwrap_or(usize::MAX), "call");
            let text = format!(
                "a thread continues to call the host after the drop ({count} in 200 ms); end it at \
                 `HostError::Retired`"
            );
            Err(warn(text))
        }
    }
}

fn no_descriptors(bench: &Bench) -> Checked {
    let before = descriptors();
    use_all(bench)?.end()?;
    let left = wait_until_none(LIMIT, || {
        let now = descriptors().into_iter();
        now.filter(|(number, _)| !before.contains_key(number)).map(|(_, name)| name).collect()
    });
    if left.is_empty() {
        return Ok(());
    }
    let count = counted(left.len(), "file descriptor");
    let names = excerpt(&left.join(", "));
    Err(fail(format!("2 s after the drop, {count} are still open ({names})")))
}

fn sessions_leave_nothing(bench: &Bench) -> Checked {
    const AT_ONCE: usize = 50;
    const ROUNDS: usize = 200;
    const LIMIT: usize = 256;
    let (mut app, samples) = (bench.serve()?, samples(&bench.brief.messages));
    let round = |app: &mut App<'_>| {
        let mut clients = Vec::with_capacity(AT_ONCE);
        for index in 0..AT_ONCE {
            let client = app.client()?;
            app.message(&client, &samples[index % samples.len()])?;
            clients.push(client);
        }
        clients.into_iter().try_for_each(|client| app.close(client))
    };
    // Collections grow to the size that they keep.
    for _ in 0..ROUNDS / 4 {
        round(&mut app)?;
    }
    let before = memory();
    for _ in 0..ROUNDS {
        round(&mut app)?;
    }
    let each = memory().saturating_sub(before) / (AT_ONCE * ROUNDS);
    if each <= LIMIT {
        return Ok(());
    }
    Err(fail(format!("each session leaves {each} bytes after its `close`")))
}

fn reloads_leave_nothing(bench: &Bench) -> Checked {
    const RELOADS: usize = 100;
    const LIMIT: usize = 64 * 1024;
    let mut app = bench.serve()?;
    let client = app.client()?;
    let reload = |app: &mut App<'_>| {
        app.hand_over()?;
        app.message(&client, &text("hello")).map(drop)
    };
    for _ in 0..10 {
        reload(&mut app)?;
    }
    let before = memory();
    for _ in 0..RELOADS {
        reload(&mut app)?;
    }
    let each = memory().saturating_sub(before) / RELOADS;
    if each <= LIMIT {
        return Ok(());
    }
    let kilobytes = each / 1024;
    Err(fail(format!("each reload leaves {kilobytes} kB; does an instance free all in its drop?")))
}

/// The parent reads the output.
fn writes_nothing(bench: &Bench) -> Checked {
    use_all(bench)?.end()
}

fn process_state(bench: &Bench) -> Checked {
    use_all(bench)?.end()?;
    let differences = Surroundings::now().differences(&bench.before);
    if differences.is_empty() {
        return Ok(());
    }
    let differences = differences.join(", ");
    Err(fail(format!("it changes what it shares with the host and all plugins: {differences}")))
}
