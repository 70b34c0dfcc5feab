//! Per-address connection rate limit (GCRA). Pure: the caller passes the clock.
//!
//! An address is removed once its whole burst is available again, and all addresses are removed
//! when the table is full.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Returns what counts as one address: an IPv4 address, or the /64 network of an IPv6 address,
/// which is what one customer is assigned.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Rate limiter of all networks.
#[derive(Debug, Default)]
pub(crate) struct ConnectRateLimiter {
    /// Theoretical arrival times: in the past for a network whose whole burst is available.
    arrivals: HashMap<IpAddr, Instant>,
}

impl ConnectRateLimiter {
    /// Returns whether one more connection is within the limit. A rejected one does not count.
    pub(crate) fn admit(&mut self, ip: IpAddr, per_second: NonZeroUsize, now: Instant) -> bool {
        let per_second = u32::try_from(per_second.get()).unwrap_or(u32::MAX);
        let each = Duration::from_secs(1) / per_second;
        let burst = each * per_second.max(BURST);
        let network = network(ip);
        if self.arrivals.len() >= MAX_NETWORKS && !self.arrivals.contains_key(&network) {
            self.evict(now);
        }
        let arrival = self.arrivals.entry(network).or_insert(now);
        let next = (*arrival).max(now) + each;
        if next > now + burst {
            return false;
        }
        *arrival = next;
        true
    }

    fn evict(&mut self, now: Instant) {
        self.arrivals.retain(|_, arrival| *arrival > now);
        // Keeps eviction rare. Every network has its whole burst again: a per-address limit does
        // not stop a flood from this many addresses.
        if self.arrivals.len() > MAX_NETWORKS / 2 {
            self.arrivals.clear();
        }
    }
}

/// Smallest burst, whatever the rate: a page opens more than one connection.
const BURST: u32 = 5;
/// Size of the table: about 3 MB.
const MAX_NETWORKS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: usize) -> NonZeroUsize {
        NonZeroUsize::new(per_second).unwrap()
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_mapped_ones_as_ipv4() {
        for (ip, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
            ("::1", "::"),
        ] {
            assert_eq!(network(ip.parse().unwrap()).to_string(), expected, "{ip}");
        }
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate_per_second() {
        for (per_second, burst) in [(1, 5), (5, 5), (20, 20)] {
            let (mut connect_rate, start) = (ConnectRateLimiter::default(), Instant::now());
            let ip = "192.0.2.1".parse().unwrap();
            let mut admitted = |after: f64| {
                let now = start + Duration::from_secs_f64(after);
                (0..1000).filter(|_| connect_rate.admit(ip, rate(per_second), now)).count()
            };
            assert_eq!(admitted(0.0), burst);
            assert_eq!(admitted(0.0), 0);
            assert_eq!(admitted(1.0), per_second);
            assert_eq!(admitted(100.0), burst, "the whole burst is available again");
        }
    }

    #[test]
    fn networks_do_not_share_a_limit() {
        let (mut connect_rate, now) = (ConnectRateLimiter::default(), Instant::now());
        let mut count = |ip: &str| {
            (0..100).filter(|_| connect_rate.admit(ip.parse().unwrap(), rate(5), now)).count()
        };
        assert_eq!(count("2001:db8::1"), 5);
        assert_eq!(count("2001:db8::2"), 0);
        assert_eq!(count("2001:db8:0:1::2"), 5);
        assert_eq!(count("192.0.2.1"), 5);
        assert_eq!(count("::ffff:192.0.2.1"), 0);
    }

    #[test]
    fn the_table_of_networks_is_bounded() {
        let (mut connect_rate, start) = (ConnectRateLimiter::default(), Instant::now());
        for n in 0..300_000_u32 {
            // The first half at one moment, the second over time.
            let now = start + Duration::from_micros(u64::from(n.saturating_sub(150_000)) * 10);
            assert!(connect_rate.admit(std::net::Ipv4Addr::from(n).into(), rate(1), now));
            assert!(connect_rate.arrivals.len() <= MAX_NETWORKS);
        }
    }
}
