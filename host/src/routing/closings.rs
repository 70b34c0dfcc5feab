//! Counts the ends of connections by side and close code.

use std::sync::atomic::{AtomicU64, Ordering};

use plugsocket_plugin::ClosedBy;

use crate::protocol::close::CloseReason;

/// Codes with a count of their own. A client chooses its code, and could name thousands.
const CODES: [u16; 14] =
    [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
/// The other codes: those of libraries (RFC 6455 section 7.4.2), of applications, and the rest.
const RANGES: [&str; 3] = ["3000-3999", "4000-4999", "other"];
const SIDES: [&str; 3] = ["client", "host", "application"];
const COUNTS: usize = CODES.len() + RANGES.len();

/// How many connections ended, and how.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    counts: [[AtomicU64; COUNTS]; SIDES.len()],
    slow_consumers: AtomicU64,
}

impl Closings {
    pub(crate) fn add(&self, reason: &CloseReason) {
        let side = match reason.by {
            ClosedBy::Peer => 0,
            ClosedBy::Plugin => 2,
            _ => 1,
        };
        let code = reason.code.0;
        let index = CODES.iter().position(|known| *known == code).unwrap_or(match code {
            3000..=3999 => CODES.len(),
            4000..=4999 => CODES.len() + 1,
            _ => CODES.len() + 2,
        });
        self.counts[side][index].fetch_add(1, Ordering::Relaxed);
        if reason.is_slow_consumer() {
            self.slow_consumers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many slow consumers the host has closed.
    pub(crate) fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Relaxed)
    }

    /// Calls `act` with side, code and count of what has occurred.
    pub(crate) fn for_each(&self, mut act: impl FnMut(&'static str, &str, u64)) {
        for (side, counts) in SIDES.into_iter().zip(&self.counts) {
            for (index, count) in counts.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let code = CODES.get(index).map(u16::to_string);
                    act(
                        side,
                        code.as_deref().unwrap_or_else(|| RANGES[index - CODES.len()]),
                        count,
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::CloseCode;

    #[test]
    fn codes_that_a_client_chooses_share_a_count() {
        let closings = Closings::default();
        for (code, by) in [
            (1000, ClosedBy::Peer),
            (1000, ClosedBy::Peer),
            (3001, ClosedBy::Peer),
            (3999, ClosedBy::Peer),
            (999, ClosedBy::Peer),
            (1013, ClosedBy::Host),
            (4001, ClosedBy::Plugin),
        ] {
            closings.add(&CloseReason::new(CloseCode(code), by, ""));
        }
        let mut found = Vec::new();
        closings.for_each(|side, code, count| found.push(format!("{side} {code} {count}")));
        let expected = [
            "client 1000 2",
            "client 3000-3999 2",
            "client other 1",
            "host 1013 1",
            "application 4000-4999 1",
        ];
        assert_eq!(found, expected);
        assert_eq!(closings.slow_consumers(), 1);
        closings.add(&CloseReason::buffers_full());
        assert_eq!(closings.slow_consumers(), 1);
    }
}
