//! How long callbacks take.

use std::time::{Duration, Instant, SystemTime};

use plugsocket_plugin::RetireReason;

use super::Check;
use crate::plugin::Retirement;
use crate::plugin::validate::child::Sample;
use crate::plugin::validate::driver::Bench;
use crate::plugin::validate::generator::samples;
use crate::plugin::validate::report::{Checked, fail, skip, warn};

pub(super) const CHECKS: &[Check] = &[
    Check::new(
        "never-blocks",
        "with `NEVER_BLOCKS`, no callback waits or computes for longer than 10 ms",
        never_blocks,
    ),
    Check::new("returns-quickly", "no callback takes longer than a second", returns_quickly),
    Check::new("retires-in-time", "`retiring` returns before its deadline", retires),
    Check::new("drops", "an instance can be dropped, with and without clients", drops),
];

/// Makes each callback some times, and returns what they have used.
fn measured(bench: &Bench) -> Checked<Vec<Sample>> {
    let mut app = bench.serve()?;
    bench.progress.measure();
    let samples = samples(&bench.brief.messages);
    for _ in 0..5 {
        for payload in &samples {
            let client = app.client()?;
            app.message(&client, payload)?;
            app.tick_every()?;
            app.close(client)?;
        }
        app.tick(SystemTime::now())?;
        app.timer("unknown")?;
        app.event(b"")?;
        app.snapshot()?;
    }
    Ok(bench.progress.samples())
}

fn never_blocks(bench: &Bench) -> Checked {
    const LIMIT: Duration = Duration::from_millis(10);
    if !bench.generation()?.facts.never_blocks {
        return Err(skip("it does not declare NEVER_BLOCKS"));
    }
    let samples = measured(bench)?;
    let worst = |part: fn(&Sample) -> Duration| {
        let worst = samples.iter().max_by_key(|sample| part(sample))?;
        let count = samples.iter().filter(|sample| part(sample) > LIMIT).count();
        let share = format!("{count} of {} calls for more than 10 ms", samples.len());
        (count > 0).then(|| (worst.callback, part(worst).as_millis(), count, share))
    };
    if let Some((callback, millis, count, share)) = worst(|sample| sample.blocked) {
        let text = format!(
            "it declares NEVER_BLOCKS, but {callback} waited for {millis} ms, and {share}; other \
             resources wait with it"
        );
        // A single one may have waited for a page of the library.
        return Err(if count > 1 { fail(text) } else { warn(text) });
    }
    match worst(|sample| sample.ran) {
        Some((callback, millis, _, share)) => Err(warn(format!(
            "it declares NEVER_BLOCKS, but {callback} computed for {millis} ms, and {share}; other \
             resources wait meanwhile"
        ))),
        None => Ok(()),
    }
}

fn returns_quickly(bench: &Bench) -> Checked {
    let worst = measured(bench)?.into_iter().max_by_key(|sample| sample.time);
    match worst.filter(|sample| sample.time > Duration::from_secs(1)) {
        Some(Sample { callback, time, .. }) => {
            let millis = time.as_millis();
            Err(warn(format!("{callback} took {millis} ms; every client of the resource waits")))
        }
        None => Ok(()),
    }
}

fn retires(bench: &Bench) -> Checked {
    const LIMIT: Duration = Duration::from_millis(500);
    /// The machine may be busy.
    const LATE: Duration = Duration::from_millis(500);
    let mut app = bench.serve()?;
    let client = app.client()?;
    for payload in samples(&bench.brief.messages) {
        app.message(&client, &payload)?;
    }
    let begun = Instant::now();
    app.retire(Retirement { reason: RetireReason::Stopping, limit: LIMIT })?;
    if begun.elapsed() > LIMIT + LATE {
        let millis = begun.elapsed().as_millis();
        return Err(fail(format!("`retiring` took {millis} ms, and its deadline was 500 ms")));
    }
    app.drop_instance()
}

fn drops(bench: &Bench) -> Checked {
    bench.serve()?.end()?;
    let mut app = bench.serve()?;
    let client = app.client()?;
    for payload in samples(&bench.brief.messages) {
        app.message(&client, &payload)?;
    }
    app.end()
}
