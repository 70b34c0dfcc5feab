//! **chat** provides chat rooms with names and colors.
//!
//! A client is in one room at a time, at first in that of its query (`/chat?room=R&name=N`), else
//! in `lobby`. Text of clients is escaped for HTML. The packets are listed in
//! `docs/reference/bundled-applications.md`.
//!
//! ```toml
//! [resources."/chat"]
//! plugin = "chat"
//!
//! [resources."/chat".config]
//! max_text   = 2000    # characters of a message
//! max_name   = 40      # characters of a name or room, at most 64
//! history    = 20      # messages of the room that a new member receives, at most 500; default: 0
//! user_names = false   # true: a browser's name is that of its authenticated user
//! ```

mod rooms;

use std::borrow::Cow;
use std::collections::HashSet;

use plugsocket_plugin::{
    CloseReason, ConnectionId, Host, Json, Message, Packet, Plugin, Refused, RestoreError, Session,
    Snapshot, StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};

use crate::rooms::{ChatMessage, Rooms, Saved};

struct Chat {
    host: Host,
    config: Config,
    rooms: Rooms,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    max_text: usize,
    max_name: usize,
    history: usize,
    user_names: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_text: 2000, max_name: 40, history: 0, user_names: false }
    }
}

/// A packet from a client. Missing and null are the same.
struct Request<'a> {
    opcode: Option<Cow<'a, str>>,
    room: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
    color: Option<Cow<'a, str>>,
}

/// A packet to clients, in addition to [`ChatMessage`].
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Answer<'a> {
    Joined { room: Cow<'a, str>, name: Cow<'a, str>, members: Vec<Cow<'a, str>> },
    System { message: &'a str },
    History { messages: Vec<&'a ChatMessage> },
    Error { message: &'a str },
}

impl Plugin for Chat {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        for (key, value, most) in [
            ("max_text", config.max_text, 1_000_000),
            // The host limits room names to 256 bytes, and a character has at most 4.
            ("max_name", config.max_name, 64),
            ("history", config.history, 500),
        ] {
            let least = usize::from(key != "history");
            if value < least || value > most {
                let text = format!("`{key}` is {value}; it must be from {least} to {most}");
                return Err(StartError(text));
            }
        }
        let rooms = Rooms::new(config.history);
        Ok(Self { host, config, rooms })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let room = self.enter(session)?;
        self.send_history(session.id(), &room);
        self.announce(&room, &[], &format!("{} connected", session.address()));
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        // Unknown only after a predecessor that left no state.
        if self.rooms.member(session.id()).is_none() {
            self.enter(session)?;
        }
        let handled = read(message).and_then(|request| self.handle(session, request));
        if let Err(error) = &handled {
            self.send(session.id(), &Answer::Error { message: &escape(error) });
        }
        if session.kind().is_backend() {
            let _ = self.host.set_fyi(session.id(), if handled.is_ok() { "" } else { "refused" });
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if let Some(member) = self.rooms.leave(session.id()) {
            let text = format!("{} disconnected", session.address());
            self.announce(&member.room, &[session.id()], &text);
        }
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let bytes = serde_json::to_vec(&self.rooms.save()).ok()?;
        Some(Snapshot { version: SNAPSHOT_VERSION, bytes })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != SNAPSHOT_VERSION {
            let version = snapshot.version;
            return Err(RestoreError(format!(
                "chat reads snapshots of version {SNAPSHOT_VERSION}, not {version}"
            )));
        }
        let saved: Saved = serde_json::from_slice(&snapshot.bytes)?;
        let mut connected = HashSet::new();
        self.host.sessions(|session| {
            connected.insert(session.id());
        })?;
        self.rooms.load(saved, |id| connected.contains(&id));
        Ok(())
    }
}

export_plugin!(Chat);

impl Chat {
    /// Adds a connection to the room of its query, under the name of its query; returns the room.
    fn enter(&mut self, session: &Session<'_>) -> Result<String, Refused> {
        let given = |key: &str| session.query_value(key).filter(|value| !value.trim().is_empty());
        let room = match given("room") {
            Some(room) => self.validated(&room, "room").map_err(Refused::new)?,
            None => LOBBY.to_owned(),
        };
        let name = match given("name").filter(|_| self.may_choose_name(session)) {
            Some(name) => self.validated(&name, "name").map_err(Refused::new)?,
            None => self.default_name(session),
        };
        // Fails if the connection has ended; `close` follows then.
        let _ = self.host.join(session.id(), &room);
        self.rooms.enter(session.id(), room.clone(), name);
        Ok(room)
    }

    fn may_choose_name(&self, session: &Session<'_>) -> bool {
        session.kind().is_backend() || !self.config.user_names
    }

    fn default_name(&self, session: &Session<'_>) -> String {
        match session.user().filter(|_| !self.may_choose_name(session)) {
            Some(user) => user.chars().take(self.config.max_name).collect(),
            None => format!("guest-{}", session.uuid().chars().take(4).collect::<String>()),
        }
    }

    fn handle(&mut self, session: &Session<'_>, mut request: Request<'_>) -> Result<(), String> {
        let id = session.id();
        if !self.may_choose_name(session) {
            request.name = None;
        }
        match request.opcode.as_deref() {
            Some("join") => self.join(id, request),
            Some("name") if !self.may_choose_name(session) => {
                Err("names are those of the authenticated users here".to_owned())
            }
            Some("name") => self.rename(id, request),
            None | Some("message") => self.say(id, request),
            Some(_) => Err("unknown opcode; use join, name or message".to_owned()),
        }
    }

    fn join(&mut self, id: ConnectionId, request: Request<'_>) -> Result<(), String> {
        let room = self.validated(request.room.as_deref().unwrap_or_default(), "room")?;
        let name = request.name.map(|name| self.validated(&name, "name")).transpose()?;
        let Some(member) = self.rooms.member(id) else { return Ok(()) };
        let moves = member.room != room;
        if moves {
            let _ = self.host.leave(id, &member.room);
            let _ = self.host.join(id, &room);
            self.announce(&member.room, &[], &format!("{} left", escape(&member.name)));
        }
        let name = name.unwrap_or_else(|| member.name.clone());
        self.rooms.enter(id, room.clone(), name.clone());
        let members = self.rooms.names(&room, MAX_LISTED).into_iter().map(escape).collect();
        self.send(id, &Answer::Joined { room: escape(&room), name: escape(&name), members });
        if moves {
            self.send_history(id, &room);
        }
        self.announce(&room, &[id], &format!("{} joined", escape(&name)));
        Ok(())
    }

    fn rename(&mut self, id: ConnectionId, request: Request<'_>) -> Result<(), String> {
        let name = self.validated(request.name.as_deref().unwrap_or_default(), "name")?;
        let Some(before) = self.rooms.rename(id, name.clone()) else { return Ok(()) };
        if let Some(member) = self.rooms.member(id).filter(|_| before != name) {
            let text = format!("{} is now {}", escape(&before), escape(&name));
            self.announce(&member.room, &[], &text);
        }
        Ok(())
    }

    fn say(&mut self, id: ConnectionId, request: Request<'_>) -> Result<(), String> {
        let message = request.message.unwrap_or_default();
        let length = message.chars().count();
        if length == 0 || length > self.config.max_text {
            let most = self.config.max_text;
            return Err(format!("`message` has {length} characters; it must have 1 to {most}"));
        }
        let color = request.color.filter(|color| !color.is_empty()).map(Cow::into_owned);
        if color.as_deref().is_some_and(|color| !is_color(color)) {
            return Err("`color` must be # and 3 or 6 hex digits, such as #c0ffee".to_owned());
        }
        if let Some(name) = request.name.filter(|name| !name.trim().is_empty()) {
            let name = self.validated(&name, "name")?;
            self.rooms.rename(id, name);
        }
        let Some(member) = self.rooms.member(id) else { return Ok(()) };
        let name = escape(&member.name).into_owned();
        let room = member.room.clone();
        let packet = ChatMessage { name, message: escape(&message).into_owned(), color };
        self.rooms.remember(&room, &packet);
        let _ = self.host.publish(&room, &[], &json(&packet));
        Ok(())
    }

    /// Returns a name or room without surrounding spaces, or the error for the client.
    fn validated(&self, text: &str, key: &str) -> Result<String, String> {
        let text = text.trim();
        let length = text.chars().count();
        let most = self.config.max_name;
        if length == 0 || length > most {
            return Err(format!("`{key}` has {length} characters; it must have 1 to {most}"));
        }
        if text.contains(char::is_control) {
            return Err(format!("`{key}` contains a control character"));
        }
        Ok(text.to_owned())
    }

    fn send_history(&self, id: ConnectionId, room: &str) {
        let messages: Vec<&ChatMessage> = self.rooms.history(room).collect();
        if !messages.is_empty() {
            self.send(id, &Answer::History { messages });
        }
    }

    // The next two ignore errors: the client is gone or this instance has been replaced.

    fn announce(&self, room: &str, except: &[ConnectionId], text: &str) {
        let _ = self.host.publish(room, except, &json(&Answer::System { message: text }));
    }

    fn send(&self, id: ConnectionId, packet: &Answer<'_>) {
        let _ = self.host.send(id, &json(packet));
    }
}

fn read(message: Message<'_>) -> Result<Request<'_>, String> {
    let packet = Packet::read(message).map_err(|refused| refused.reason)?;
    let keys = ["opcode", "room", "name", "message", "color"];
    let mut texts = [const { None }; 5];
    for ((value, key), text) in packet.fields(keys).into_iter().zip(keys).zip(&mut texts) {
        let wrong = || format!("`{key}` must be a string");
        *text = value.map(|value: Json<'_>| value.to_text().ok_or_else(wrong)).transpose()?;
    }
    let [opcode, room, name, message, color] = texts;
    Ok(Request { opcode, room, name, message, color })
}

fn json(packet: &impl Serialize) -> String {
    serde_json::to_string(packet).expect("strings always have a JSON form")
}

fn is_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or_default();
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Escapes text for HTML: pages insert it into their markup.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['<', '>', '&', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

const LOBBY: &str = "lobby";
/// Names in a `joined` packet.
const MAX_LISTED: usize = 500;
const SNAPSHOT_VERSION: u32 = 1;

#[cfg(test)]
mod tests;
