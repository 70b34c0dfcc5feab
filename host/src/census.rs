//! How many there are, and whether there is room for one more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plugsocket_plugin::Kind;

use crate::config::Config;
use crate::handshake::Origin;

/// How many connections there are, in total and from each address.
#[derive(Debug, Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    /// Only filled while `max_per_ip` is set.
    per_ip: HashMap<IpAddr, usize>,
}

/// Which limit leaves no room.
#[derive(Debug)]
pub(crate) struct Full(pub(crate) &'static str);

impl Census {
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
            (Origin::Ip(ip), Kind::WebSocket, Some(max)) => {
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
