//! Counters of the whole host, for operators. Never reset.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts each variant of an enumeration.
macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident => $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$of])* $variant,)+ }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

outcomes! {
    /// Why a connection or request was refused before an application saw it.
    Refused {
        /// Malformed, or a request that the path does not take.
        Request => "bad_request",
        /// Not complete in time.
        TimedOut => "timeout",
        /// By address or `Origin`.
        Forbidden => "forbidden",
        UnknownResource => "unknown_resource",
        Authentication => "authentication",
        /// One of the limits on connections.
        Limit => "limit",
        /// No application serves the resource.
        Unavailable => "unavailable",
    }
}

outcomes! {
    /// How TLS handshakes ended.
    TlsOutcome {
        Completed => "completed",
        Failed => "failed",
        TimedOut => "timeout",
    }
}

outcomes! {
    /// Why a library was refused.
    RefusalReason {
        Missing => "missing",
        RolledBack => "rolled_back",
        /// The file cannot be read, or its content, owner or digest is not accepted.
        File => "file",
        Preflight => "preflight",
        Load => "load",
        Start => "start",
        Configuration => "configuration",
        StartHung => "start_timeout",
        /// Nothing of the library: the host could not try it.
        Host => "host",
        /// The running instance could not hand over.
        Swap => "swap",
    }
}

/// Live counters.
#[derive(Debug, Default)]
pub(crate) struct HostCounters {
    refused: [AtomicU64; Refused::ALL.len()],
    tls: [AtomicU64; TlsOutcome::ALL.len()],
}

impl HostCounters {
    pub(crate) fn add_refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_tls(&self, outcome: TlsOutcome) {
        self.tls[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn tls(&self, outcome: TlsOutcome) -> u64 {
        self.tls[outcome as usize].load(Ordering::Relaxed)
    }
}
