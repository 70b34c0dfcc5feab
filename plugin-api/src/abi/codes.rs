//! The numbers that cross the plugin boundary. Values may be added, never changed.

/// Bits of [`super::Module::flags`].
pub mod flag {
    /// `Plugin::BATCHES`.
    pub const BATCHES: u64 = 1;
    /// `Plugin::HTTP`.
    pub const HTTP: u64 = 2;
}

/// Why a snapshot is taken.
pub mod why_snapshot {
    pub const REPLACED: u32 = 1;
    pub const RECONFIGURED: u32 = 2;
    pub const STORED: u32 = 3;
    pub const STOPPING: u32 = 4;
    pub const CHECKED: u32 = 5;
}

/// Why an instance retires.
pub mod why_retiring {
    pub const REPLACED: u32 = 1;
    pub const RECONFIGURED: u32 = 2;
    pub const REMOVED: u32 = 3;
    pub const DISABLED: u32 = 4;
    pub const STOPPING: u32 = 5;
}

/// What an instance did with a changed configuration.
pub mod config_change {
    pub const RESTART: u32 = 0;
    pub const APPLIED: u32 = 1;
}

/// Values of [`super::RawCompletion::kind`].
pub mod completion {
    /// With the connection's own `fyi`.
    pub const DONE: u32 = 1;
    /// With [`crate::abi::RawCompletion::text`] as `fyi`.
    pub const FYI: u32 = 2;
    /// Closes the connection with code and text.
    pub const REFUSED: u32 = 3;
    /// The application failed: closes the connection with 1011.
    pub const FAILED: u32 = 4;
}

/// Values of [`super::RawMetric::kind`].
pub mod metric {
    pub const COUNTER: u32 = 1;
    pub const GAUGE: u32 = 2;
    pub const HISTOGRAM: u32 = 3;
}

/// How a series changes.
pub mod metric_change {
    pub const ADD: u32 = 1;
    pub const SET: u32 = 2;
    pub const OBSERVE: u32 = 3;
}

/// Results of the host's functions.
pub mod status {
    pub const OK: u32 = 0;
    pub const GONE: u32 = 1;
    pub const RETIRED: u32 = 2;
    pub const TOO_LARGE: u32 = 3;
    /// Step 2. A plugin treats a status that it does not know as "unsupported".
    pub const TOO_MANY: u32 = 4;
    /// Step 3.
    pub const INVALID: u32 = 5;
}

/// Kinds of [`super::RawMessage`].
pub mod message {
    pub const TEXT: u32 = 1;
    pub const BINARY: u32 = 2;
}

/// Fields that [`super::RawSession::field`] returns.
pub mod field {
    pub const IDENT: u32 = 1;
    pub const ADDRESS: u32 = 2;
    pub const RESOURCE: u32 = 3;
    pub const QUERY: u32 = 4;
    /// The only field that takes a name.
    pub const HEADER: u32 = 5;
    /// Added after 1.0, as the next one. An older host returns none.
    pub const USER: u32 = 6;
    pub const CLAIMS: u32 = 7;
    /// Step 3, as the next one.
    pub const PATH: u32 = 8;
    /// Takes a name.
    pub const PARAMETER: u32 = 9;
}

/// Values of [`super::RawSession::kind`].
pub mod kind {
    pub const WEBSOCKET: u32 = 1;
    pub const BACKEND: u32 = 2;
    pub const TCP: u32 = 3;
}

/// Values of [`super::RawTarget::by`].
pub mod target {
    pub const UUID: u32 = 1;
    pub const IDENT: u32 = 2;
}

/// Values of [`super::RawAudience::scope`].
pub mod scope {
    pub const RESOURCE: u32 = 1;
    pub const ALL: u32 = 2;
}

/// Values of [`super::RawReason::by`].
pub mod closed_by {
    pub const PEER: u32 = 1;
    pub const PLUGIN: u32 = 2;
    pub const HOST: u32 = 3;
}
