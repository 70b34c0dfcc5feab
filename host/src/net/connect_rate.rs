//! How often each address may come: so many in a second, a few at once. Pure; the time is told.
//!
//! An address is forgotten once it may have its whole burst again, and all of them when there are too many to remember.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// What counts as one address: an IPv4 address, or the network that one customer is given, an IPv6 /64.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// When each network was last here.
#[derive(Debug, Default)]
pub(crate) struct ConnectRateLimiter {
    /// The moment at which all that it has had is used up; in the past for one that may have its whole burst.
    used_up: HashMap<IpAddr, Instant>,
}

impl ConnectRateLimiter {
    /// Whether one more may come now. Those who may not are not counted: who waits a second may again.
    pub(crate) fn admit(&mut self, ip: IpAddr, per_second: NonZeroUsize, now: Instant) -> bool {
        let per_second = u32::try_from(per_second.get()).unwrap_or(u32::MAX);
        let each = Duration::from_secs(1) / per_second;
        let burst = each * per_second.max(BURST);
        let network = network(ip);
        if self.used_up.len() >= MOST && !self.used_up.contains_key(&network) {
            self.forget(now);
        }
        let used_up = self.used_up.entry(network).or_insert(now);
        let after = (*used_up).max(now) + each;
        if after > now + burst {
            return false;
        }
        *used_up = after;
        true
    }

    fn forget(&mut self, now: Instant) {
        self.used_up.retain(|_, used_up| *used_up > now);
        // So that this is not done for every newcomer. Everybody has the whole burst again: a flood from so many addresses is
        // no matter of one of them.
        if self.used_up.len() > MOST / 2 {
            self.used_up.clear();
        }
    }
}

/// So many may come at once, even if fewer may in a second: a page opens more than one connection.
const BURST: u32 = 5;
/// Networks that are remembered: some 3 MB.
const MOST: usize = 1 << 16;

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
    fn a_burst_and_then_so_many_in_a_second() {
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
            assert_eq!(admitted(100.0), burst, "all is forgotten");
        }
    }

    #[test]
    fn networks_do_not_use_up_each_other() {
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
    fn there_is_an_end_to_what_is_remembered() {
        let (mut connect_rate, start) = (ConnectRateLimiter::default(), Instant::now());
        for n in 0..300_000_u32 {
            // The first half within one moment, the other over time.
            let now = start + Duration::from_micros(u64::from(n.saturating_sub(150_000)) * 10);
            assert!(connect_rate.admit(std::net::Ipv4Addr::from(n).into(), rate(1), now));
            assert!(connect_rate.used_up.len() <= MOST);
        }
    }
}
