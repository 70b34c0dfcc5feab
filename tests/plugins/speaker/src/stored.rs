//! The commands for what the host stores: rooms, data and metrics.

use plugsocket_plugin::{ConnectionId, Host, HostError, Session};
use serde_json::{Value, json};

use super::{Command, Speaker, done};

impl Speaker {
    pub(super) fn perform_stored(
        &self,
        session: &Session<'_>,
        command: &Command,
    ) -> Result<Value, HostError> {
        let (host, room) = (&self.host, &command.room);
        let id = || self.id(session, command);
        Ok(match command.r#do.as_str() {
            "id" => json!(session.id().0),
            "members" => self.members(room)?,
            "empty-room" => self.empty(room)?,
            "room-count" => json!(host.room_count(room)?),
            "rooms" => json!(host.rooms(id()?)?),
            "room-names" => {
                let mut names = host.room_names()?;
                names.sort_unstable();
                json!(names)
            }
            "set-room-data" => host.set_room_data(room, &data(command)).map(done)?,
            "room-data" => shown(host.room_data(room)?),
            "set-data" => host.set_data(id()?, &data(command)).map(done)?,
            "data" => shown(host.data(id()?)?),
            "session-data" => shown(session.data()),
            "metric" => record(host, command),
            _ => json!({"error": "unknown command"}),
        })
    }

    fn members(&self, room: &str) -> Result<Value, HostError> {
        let mut found = Vec::new();
        self.host
            .members(room, |session| found.push((session.uuid().to_owned(), session.data())))?;
        found.sort_unstable();
        Ok(found
            .into_iter()
            .map(|(uuid, data)| json!({"uuid": uuid, "data": shown(data)}))
            .collect())
    }

    /// Makes each member leave while it is visited.
    fn empty(&self, room: &str) -> Result<Value, HostError> {
        let mut left = 0;
        self.host.members(room, |session| {
            left += u32::from(self.host.leave(session.id(), room).is_ok());
        })?;
        Ok(json!(left))
    }
}

/// Returns the message, or as many bytes as the command says.
fn data(command: &Command) -> Vec<u8> {
    match command.count {
        0 => command.message.clone().into_bytes(),
        count => vec![b'x'; usize::try_from(count).unwrap_or(usize::MAX)],
    }
}

/// Returns data as text; of long data, the length.
fn shown(data: Option<Vec<u8>>) -> Value {
    match data {
        None => Value::Null,
        Some(data) if data.len() > 1000 => json!(data.len()),
        Some(data) => json!(String::from_utf8_lossy(&data)),
    }
}

/// Registers a series and changes it.
fn record(host: &Host, command: &Command) -> Value {
    let Command { name, value, buckets, .. } = command;
    let labels = command.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let labels: Vec<(&str, &str)> = labels.collect();
    let help = command.message.as_str();
    match command.kind.as_str() {
        "counter" => host.counter(name, help, &labels).add(*value),
        "gauge" => host.gauge(name, help, &labels).set(*value),
        "gauge-add" => host.gauge(name, help, &labels).add(*value),
        "histogram" => host.histogram(name, help, &labels, buckets).observe(*value),
        _ => return json!({"error": "unknown kind"}),
    }
    done(())
}

/// Counts in a metric, whatever the state of the instance.
pub(super) fn count(host: &Host, name: &str) {
    host.counter(name, "Counted by the test plugin.", &[]).add(1.0);
}

/// Returns the results of calls that only an active instance may make.
pub(super) fn calls_of_active(host: &Host, id: ConnectionId) -> Vec<String> {
    let results = [
        host.set_data(id, b"late").err(),
        host.data(id).err(),
        host.rooms(id).err(),
        host.room_names().err(),
        host.room_count("r").err(),
        host.members("r", |_| {}).err(),
        host.set_room_data("r", b"late").err(),
        host.room_data("r").err(),
    ];
    results.map(|error| error.map_or("no error".to_owned(), |error| error.to_string())).into()
}
