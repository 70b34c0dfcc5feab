//! Connection limits: counts handshakes, rejections and connections, and compares with the limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plugsocket_plugin::Kind;
use tokio::sync::watch;

use super::connect_rate::{ConnectRateLimiter, network};
use super::origin::Origin;
use crate::config::{Config, ConnectionSettings};

/// Counters of the whole host.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimits {
    counts: Mutex<ConnectionCounts>,
    /// Cloned for each socket whose request has not been read, also if it is not the first one.
    handshaking: Arc<()>,
    /// Cloned for each socket that is being rejected.
    rejecting: Arc<()>,
    /// Whether keep-alive has ended, because the host stops.
    draining: watch::Sender<bool>,
    connect_rate: Mutex<ConnectRateLimiter>,
    /// When the rejection of a proxy was last logged as a warning.
    proxy_warned: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    total: usize,
    /// Web clients by network, also without a limit, as a reload can set one.
    per_ip: HashMap<IpAddr, usize>,
}

const PROXY_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The limit that was reached, as text for the client.
#[derive(Debug)]
pub(crate) struct LimitReached(pub(crate) &'static str);

impl ConnectionLimits {
    /// Counts a socket as handshaking, even past the limit: see [`Handshaking::check`].
    pub(crate) fn start_handshake(self: &Arc<Self>) -> Handshaking {
        let counted = self.handshaking.clone();
        Handshaking { connection_limits: self.clone(), counted, since: Instant::now() }
    }

    /// Ends keep-alive: no connection waits for another request any more.
    pub(crate) fn end_keep_alive(&self) {
        self.draining.send_replace(true);
    }

    /// Waits until [`end_keep_alive`](Self::end_keep_alive).
    pub(crate) async fn keep_alive_ended(&self) {
        // Fails only without a sender, which `self` owns.
        self.draining.subscribe().wait_for(|is_draining| *is_draining).await.ok();
    }

    /// Checks `max_handshakes_per_ip`, from which backends are exempt.
    pub(crate) fn check_rate(&self, ip: IpAddr, config: &Config) -> Result<(), LimitReached> {
        let lock = || self.connect_rate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = config.server.limits.connections.max_handshakes_per_ip
            && !config.server.access.allows_backend(ip)
            && !lock().admit(ip, rate, Instant::now())
        {
            return Err(LimitReached("too many new connections from this address"));
        }
        Ok(())
    }

    /// Returns whether to log the rejection of a proxy as a warning: at most once a minute.
    pub(crate) fn should_warn_of_proxy(&self) -> bool {
        let mut warned = self.proxy_warned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = warned.is_none_or(|at| now - at >= PROXY_WARNING_INTERVAL);
        if is_due {
            *warned = Some(now);
        }
        is_due
    }

    /// Checks whether one more connection fits, without counting it. After authentication,
    /// [`count`](Self::count) checks again.
    pub(crate) fn check(
        &self,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<(), LimitReached> {
        self.lock().check(origin, kind, &config.server.limits.connections).map(drop)
    }

    /// Counts one more connection, if it fits.
    pub(crate) fn count(
        self: &Arc<Self>,
        origin: Origin,
        kind: Kind,
        config: &Config,
    ) -> Result<ConnectionGuard, LimitReached> {
        let mut counts = self.lock();
        let ip = counts.check(origin, kind, &config.server.limits.connections)?;
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
    /// Returns the network that one more connection counts for.
    fn check(
        &self,
        origin: Origin,
        kind: Kind,
        limits: &ConnectionSettings,
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

/// Counts one socket as handshaking until it is dropped.
#[derive(Debug)]
pub(crate) struct Handshaking {
    connection_limits: Arc<ConnectionLimits>,
    counted: Arc<()>,
    since: Instant,
}

impl Handshaking {
    /// Checks `max_handshakes`.
    pub(crate) fn check(&self, limits: &ConnectionSettings) -> Result<(), LimitReached> {
        match limits.max_handshakes {
            Some(max) if clones(&self.counted) > max.get() => {
                Err(LimitReached("too many handshakes at a time"))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether the connection may wait for another request. At most half of `max_handshakes`
    /// may, so that there is room for new connections.
    pub(crate) fn may_keep_alive(&self, limits: &ConnectionSettings) -> bool {
        let has_room =
            limits.max_handshakes.is_none_or(|max| clones(&self.counted) <= max.get().div_ceil(2));
        has_room && !*self.connection_limits.draining.borrow()
    }

    /// Returns the moment `limit` after the socket was accepted.
    pub(crate) fn deadline(&self, limit: Duration) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.since + limit)
    }

    /// Counts the socket as rejecting from now on.
    pub(crate) fn reject(self) -> Rejecting {
        Rejecting { counted: self.connection_limits.rejecting.clone() }
    }
}

fn clones(counter: &Arc<()>) -> usize {
    Arc::strong_count(counter) - 1
}

/// Counts one socket as rejecting until it is dropped.
#[derive(Debug)]
pub(crate) struct Rejecting {
    counted: Arc<()>,
}

impl Rejecting {
    /// Returns whether the socket may linger. No more sockets may than `max_handshakes`, so that
    /// rejections do not hold more sockets than handshakes can.
    pub(crate) fn may_linger(&self, limits: &ConnectionSettings) -> bool {
        limits.max_handshakes.is_none_or(|max| clones(&self.counted) <= max.get())
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
