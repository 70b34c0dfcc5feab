//! Data of a connection, kept by the host across a reload.

use super::{Host, check, collect_bytes};
use crate::types::{ConnectionId, HostError};

impl Host {
    /// Stores data with a connection, at most 65,536 bytes, until it ends. It survives a reload
    /// without a snapshot. Empty bytes remove it. ABI step 3.
    ///
    /// [`Session::data`](crate::Session::data) and [`data`](Self::data) return it;
    /// [`SessionData`](crate::SessionData) stores values of a type.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.set_data(session.id(), b"seat 12")?;
    /// assert_eq!(session.data().as_deref(), Some(b"seat 12".as_slice()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::TooLarge`]; [`HostError::Retired`];
    /// [`HostError::Unsupported`] on an older host.
    pub fn set_data(&self, id: ConnectionId, data: &[u8]) -> Result<(), HostError> {
        let set_data = self.raw.table.set_data().ok_or(HostError::Unsupported)?;
        check(set_data(self.raw.context, id.0, data.into()))
    }

    /// Returns the data of a connection, or `None` if it has none. ABI step 3.
    ///
    /// # Errors
    /// [`HostError::Gone`]; [`HostError::Retired`]; [`HostError::Unsupported`] on an older host.
    pub fn data(&self, id: ConnectionId) -> Result<Option<Vec<u8>>, HostError> {
        let data = self.raw.table.data().ok_or(HostError::Unsupported)?;
        collect_bytes(|sink| data(self.raw.context, id.0, sink))
    }
}
