//! Rooms and their members.

use super::{Host, check, collect_bytes, collect_texts, count};
use crate::Session;
use crate::types::{ConnectionId, HostError};

impl Host {
    /// Calls `visit` for every member of a room, in no particular order. ABI step 3.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # fn f(host: &Host) -> Result<(), HostError> {
    /// let mut names = Vec::new();
    /// host.members("lobby", |session| names.extend(session.user().map(str::to_owned)))?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HostError::Retired`]; [`HostError::Unsupported`] on an older host.
    pub fn members(
        &self,
        room: &str,
        mut visit: impl FnMut(&Session<'_>),
    ) -> Result<(), HostError> {
        let members = self.raw.table.members().ok_or(HostError::Unsupported)?;
        self.visit(&mut visit, |visitor| members(self.raw.context, room.into(), visitor))
    }

    /// Returns the number of members of a room, 0 if it does not exist. ABI step 3.
    ///
    /// # Errors
    /// Those of [`members`](Self::members).
    pub fn room_count(&self, room: &str) -> Result<usize, HostError> {
        let room_count = self.raw.table.room_count().ok_or(HostError::Unsupported)?;
        count(room_count(self.raw.context, room.into()))
    }

    /// Returns the rooms of a connection, in the order in which it joined them. ABI step 3.
    ///
    /// # Errors
    /// [`HostError::Gone`]; those of [`members`](Self::members).
    pub fn rooms(&self, id: ConnectionId) -> Result<Vec<String>, HostError> {
        let rooms = self.raw.table.rooms().ok_or(HostError::Unsupported)?;
        collect_texts(|sink| rooms(self.raw.context, id.0, sink))
    }

    /// Returns the names of all rooms of this resource, in no particular order. ABI step 3.
    ///
    /// # Errors
    /// Those of [`members`](Self::members).
    pub fn room_names(&self) -> Result<Vec<String>, HostError> {
        let room_names = self.raw.table.room_names().ok_or(HostError::Unsupported)?;
        collect_texts(|sink| room_names(self.raw.context, sink))
    }

    /// Stores data with a room, at most 65,536 bytes, until its last member leaves. It survives a
    /// reload. Empty bytes remove it. ABI step 3.
    ///
    /// ```
    /// # use plugsocket_plugin::*;
    /// # fn f(host: &Host, session: &Session<'_>) -> Result<(), HostError> {
    /// host.join(session.id(), "lobby")?;
    /// host.set_room_data("lobby", b"topic: rust")?;
    /// assert_eq!(host.room_data("lobby")?.as_deref(), Some(b"topic: rust".as_slice()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`HostError::Gone`] if the room does not exist; [`HostError::TooLarge`]; those of
    /// [`members`](Self::members).
    pub fn set_room_data(&self, room: &str, data: &[u8]) -> Result<(), HostError> {
        let set_room_data = self.raw.table.set_room_data().ok_or(HostError::Unsupported)?;
        check(set_room_data(self.raw.context, room.into(), data.into()))
    }

    /// Returns the data of a room, or `None` if it has none or does not exist. ABI step 3.
    ///
    /// # Errors
    /// Those of [`members`](Self::members).
    pub fn room_data(&self, room: &str) -> Result<Option<Vec<u8>>, HostError> {
        let room_data = self.raw.table.room_data().ok_or(HostError::Unsupported)?;
        collect_bytes(|sink| room_data(self.raw.context, room.into(), sink))
    }
}
