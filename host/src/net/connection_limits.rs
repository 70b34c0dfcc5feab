//! How many there are, how fast they come, and whether there is room for one more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugsocket_plugin::Kind;

use super::connect_rate::{ConnectRateLimiter, network};
use super::origin::Origin;
use crate::config::{Config, Limits};

/// How many connections there are, in total and from each address, and how many are about to be.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimits {
    counts: Mutex<ConnectionCounts>,
    /// Sockets whose request is awaited.
    handshaking: AtomicUsize,
    /// Sockets that are told why they are not served.
    rejecting: AtomicUsize,
    connect_rate: Mutex<ConnectRateLimiter>,
    /// When it was last said aloud that a proxy is not served.
    said_of_proxies: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    total: usize,
    /// Web clients, by network; also while there is no limit, which may be set at any time.
    per_ip: HashMap<IpAddr, usize>,
}

/// How long what goes on is not said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Which limit leaves no room.
#[derive(Debug)]
pub(crate) struct LimitReached(pub(crate) &'static str);

impl ConnectionLimits {
    /// Counts a socket among those whose request is awaited, even if there are too many: see [`Handshaking::check`].
    pub(crate) fn arrive(self: &Arc<Self>) -> Handshaking {
        self.handshaking.fetch_add(1, Ordering::Relaxed);
        Handshaking { connection_limits: self.clone(), since: Instant::now() }
    }

    /// Whether this address may come in now (`max_handshakes_per_ip`). Backends may always.
    pub(crate) fn check_rate(&self, ip: IpAddr, config: &Config) -> Result<(), LimitReached> {
        let Some(rate) = config.server.limits.max_handshakes_per_ip else { return Ok(()) };
        if config.server.access.allows_backend(ip) {
            return Ok(());
        }
        let mut connect_rate = self.connect_rate.lock().unwrap_or_else(PoisonError::into_inner);
        match connect_rate.admit(ip, rate, Instant::now()) {
            true => Ok(()),
            false => Err(LimitReached("too many new connections from this address")),
        }
    }

    /// Whether it is to be said aloud that a proxy is not served: when that begins, and once a minute while it goes on.
    pub(crate) fn is_news_of_proxies(&self) -> bool {
        let mut said = self.said_of_proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_news = said.is_none_or(|said| now - said >= SAY_AGAIN);
        if is_news {
            *said = Some(now);
        }
        is_news
    }

    /// Whether there is room for one more now. Where that is asked before somebody is known, [`count`](Self::count) decides
    /// afterwards.
    pub(crate) fn look(
        &self,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<(), LimitReached> {
        self.lock().room(origin, kind, &config.server.limits).map(drop)
    }

    /// Counts a connection that is let in.
    pub(crate) fn count(
        self: &Arc<Self>,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<ConnectionGuard, LimitReached> {
        let mut counts = self.lock();
        let ip = counts.room(origin, kind, &config.server.limits)?;
        if let Some(ip) = ip {
            *counts.per_ip.entry(ip).or_default() += 1;
        }
        counts.total += 1;
        Ok(ConnectionGuard { connection_limits: self.clone(), ip })
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionCounts {
    /// Whether there is room for one more, and the network for which it is to be counted.
    fn room(
        &self,
        origin: Origin,
        kind: Kind,
        limits: &Limits,
    ) -> Result<Option<IpAddr>, LimitReached> {
        if limits.max_connections.is_some_and(|max| self.total >= max.get()) {
            return Err(LimitReached("too many connections"));
        }
        let ip = origin.ip().filter(|_| kind == Kind::WebSocket).map(network);
        if let (Some(ip), Some(max)) = (ip, limits.max_per_ip)
            && self.per_ip.get(&ip).is_some_and(|count| *count >= max.get())
        {
            return Err(LimitReached("too many connections from this address"));
        }
        Ok(ip)
    }
}

/// Counts one socket whose request is awaited until it is dropped.
#[derive(Debug)]
pub(crate) struct Handshaking {
    connection_limits: Arc<ConnectionLimits>,
    since: Instant,
}

impl Handshaking {
    /// Whether there was room for it (`max_handshakes`).
    pub(crate) fn check(&self, limits: &Limits) -> Result<(), LimitReached> {
        let handshaking = self.connection_limits.handshaking.load(Ordering::Relaxed);
        match limits.max_handshakes {
            Some(max) if handshaking > max.get() => {
                Err(LimitReached("too many handshakes at a time"))
            }
            _ => Ok(()),
        }
    }

    /// When it will have had so much time from its first moment on.
    pub(crate) fn by(&self, limit: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.since + limit)
    }

    /// It is not awaited any more, and will not be served.
    pub(crate) fn leave(self) -> Rejecting {
        self.connection_limits.rejecting.fetch_add(1, Ordering::Relaxed);
        Rejecting { connection_limits: self.connection_limits.clone() }
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.connection_limits.handshaking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one socket that is told why it is not served, until it is dropped.
#[derive(Debug)]
pub(crate) struct Rejecting {
    connection_limits: Arc<ConnectionLimits>,
}

impl Rejecting {
    /// Whether it is waited for. As many are as may arrive at a time: to be refused must be no way to keep more sockets than that.
    pub(crate) fn may_take_time(&self, limits: &Limits) -> bool {
        let rejecting = self.connection_limits.rejecting.load(Ordering::Relaxed);
        limits.max_handshakes.is_none_or(|max| rejecting <= max.get())
    }
}

impl Drop for Rejecting {
    fn drop(&mut self) {
        self.connection_limits.rejecting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    connection_limits: Arc<ConnectionLimits>,
    ip: Option<IpAddr>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut counts = self.connection_limits.lock();
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
