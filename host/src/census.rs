//! How many there are, how fast they come, and whether there is room for one more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plugsocket_plugin::Kind;

use crate::config::{Config, Limits};
use crate::handshake::Origin;
use crate::turnstile::{Turnstile, network};

/// How many connections there are, in total and from each address, and how many are about to be.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
    /// Sockets whose request is awaited.
    arriving: AtomicUsize,
    turnstile: Mutex<Turnstile>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// By network. Only filled while `max_per_ip` is set.
    per_ip: HashMap<IpAddr, usize>,
}

/// Which limit leaves no room.
#[derive(Debug)]
pub(crate) struct Full(pub(crate) &'static str);

impl Census {
    /// Counts a socket among those whose request is awaited, even if there are too many: see [`Arriving::check`].
    pub(crate) fn arrive(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving { census: self.clone() }
    }

    /// Whether this address may come in now (`max_handshakes_per_ip`). Backends may always.
    pub(crate) fn pace(&self, ip: IpAddr, config: &Config) -> Result<(), Full> {
        let Some(rate) = config.server.limits.max_handshakes_per_ip else { return Ok(()) };
        if config.server.access.allows_backend(ip) {
            return Ok(());
        }
        let mut turnstile = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        match turnstile.admit(ip, rate, Instant::now()) {
            true => Ok(()),
            false => Err(Full("too many new connections from this address")),
        }
    }

    /// Counts a connection whose request has come.
    pub(crate) fn count(
        self: &Arc<Self>,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<Counted, Full> {
        let limits = &config.server.limits;
        let mut counts = self.lock();
        if limits.max_connections.is_some_and(|max| counts.total >= max.get()) {
            return Err(Full("too many connections"));
        }
        let ip = match (origin, kind, limits.max_per_ip) {
            (Origin::Ip(ip) | Origin::Certified(ip), Kind::WebSocket, Some(max)) => {
                let ip = network(ip);
                let count = counts.per_ip.entry(ip).or_default();
                if *count >= max.get() {
                    return Err(Full("too many connections from this address"));
                }
                *count += 1;
                Some(ip)
            }
            _ => None,
        };
        counts.total += 1;
        Ok(Counted { census: self.clone(), ip })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one socket whose request is awaited until it is dropped.
#[derive(Debug)]
pub(crate) struct Arriving {
    census: Arc<Census>,
}

impl Arriving {
    /// Whether there was room for it (`max_handshakes`).
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), Full> {
        let arriving = self.census.arriving.load(Ordering::Relaxed);
        match limits.max_handshakes {
            Some(max) if arriving > max.get() => Err(Full("too many handshakes at a time")),
            _ => Ok(()),
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.census.arriving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    census: Arc<Census>,
    ip: Option<IpAddr>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        counts.total -= 1;
        if let Some(ip) = self.ip
            && let Some(count) = counts.per_ip.get_mut(&ip)
        {
            *count -= 1;
            if *count == 0 {
                counts.per_ip.remove(&ip);
            }
        }
    }
}
