//! Random events from a seed.

use std::time::{Duration, SystemTime};

use plugsocket_plugin::{CloseCode, Kind};

use super::Check;
use crate::plugin::validate::driver::{App, Bench};
use crate::plugin::validate::generator::{Random, samples};
use crate::plugin::validate::report::{Checked, Finding};
use crate::plugin::validate::site::Client;
use crate::protocol::close::CloseReason;
use crate::protocol::payload::Payload;

pub(super) const CHECKS: &[Check] = &[Check::new(
    "takes-random-events",
    "a thousand random events cause no panic; `--seed` repeats them",
    thousand,
)];

/// A run: the same seed makes the same events.
struct Run<'b> {
    app: App<'b>,
    clients: Vec<Client>,
    random: Random,
    samples: Vec<Payload>,
}

fn thousand(bench: &Bench) -> Checked {
    let seed = bench.brief.seed;
    let mut run = Run {
        app: bench.serve()?,
        clients: Vec::new(),
        random: Random::new(seed),
        samples: samples(&bench.brief.messages),
    };
    for number in 1..=1000 {
        run.step().map_err(|Finding { grade, text }| {
            let text = format!("{text} (event {number} of --seed {seed})");
            Finding { grade, text }
        })?;
    }
    run.clients.drain(..).try_for_each(|client| run.app.close(client))?;
    run.app.end()
}

impl Run<'_> {
    /// Connections at once.
    const MOST: usize = 20;

    fn step(&mut self) -> Checked {
        let Self { app, clients, random, samples } = self;
        match random.below(20) {
            0..=3 if clients.len() < Self::MOST => {
                let kind = *random.pick(&[Kind::WebSocket, Kind::Backend, Kind::Tcp]);
                let opening = app.bench().opening(kind);
                clients.extend(app.open(&opening)?.ok());
            }
            0..=11 if !clients.is_empty() => {
                let message = random.message(samples);
                app.message(random.pick(clients), &message)?;
            }
            12..=13 if !clients.is_empty() => {
                let client = clients.swap_remove(random.below(clients.len()));
                let reason = match random.below(3) {
                    0 => CloseReason::peer(CloseCode::ABNORMAL, "the connection broke"),
                    1 => CloseReason::host(CloseCode::AWAY, "the host stops"),
                    _ => CloseReason::peer(CloseCode::NORMAL, ""),
                };
                app.close_for(client, &reason)?;
            }
            14 => {
                let seconds = random.below(4_000_000_000) as u64;
                app.tick_every()?;
                app.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))?;
            }
            15 => drop(app.expire_timers()?),
            16 => {
                let count = random.below(100);
                app.event(&random.bytes(count))?;
            }
            17 => drop(app.snapshot()?),
            18 if random.below(5) == 0 => app.hand_over()?,
            _ => drop(app.tick_every()?),
        }
        Ok(())
    }
}
