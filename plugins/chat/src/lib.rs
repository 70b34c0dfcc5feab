//! **chat** is rooms, names and colours.
//!
//! A client is in one room at a time: that of its query (`/chat?room=R&name=N`), else `lobby`. `docs/applications.md`
//! has the table of packets. What comes from a client is escaped for HTML before others read it.
//!
//! ```toml
//! [resources."/chat"]
//! plugin = "chat"
//!
//! [resources."/chat".config]
//! max_text = 2000   # characters of a message
//! max_name = 40     # characters of a name or of a room's name, at most 64
//! history  = 20     # a room's last messages that a newcomer is sent, at most 500; default: 0
//! ```

mod hall;

use std::borrow::Cow;
use std::collections::HashSet;

use plugsocket_plugin::{
    CloseReason, ConnectionId, Host, Message, Plugin, Refused, RestoreError, Session, Snapshot,
    StartError, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};

use crate::hall::{Hall, Said, Saved};

struct Chat {
    host: Host,
    config: Config,
    hall: Hall,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    max_text: usize,
    max_name: usize,
    history: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_text: 2000, max_name: 40, history: 0 }
    }
}

/// What a client says. Absent and null are the same.
#[derive(Deserialize)]
struct Wish {
    opcode: Option<String>,
    room: Option<String>,
    name: Option<String>,
    message: Option<String>,
    color: Option<String>,
}

/// What a client reads, beside [`Said`].
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Packet<'a> {
    Joined { room: Cow<'a, str>, name: Cow<'a, str>, members: Vec<Cow<'a, str>> },
    System { message: &'a str },
    History { messages: Vec<&'a Said> },
    Error { message: &'a str },
}

impl Plugin for Chat {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let config: Config = read_config(config)?;
        for (key, value, most) in [
            ("max_text", config.max_text, 1_000_000),
            // A room's name is at most 256 bytes for the host, and a character at most 4.
            ("max_name", config.max_name, 64),
            ("history", config.history, 500),
        ] {
            let least = usize::from(key != "history");
            if value < least || value > most {
                let text = format!("`{key}` is {value}, it must be from {least} to {most}");
                return Err(StartError(text));
            }
        }
        let hall = Hall::new(config.history);
        Ok(Self { host, config, hall })
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        let room = self.enter(session)?;
        self.tell_history(session.id(), &room);
        self.announce(&room, &[], &format!("{} connected", session.address()));
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        // Known since `open`, but for a predecessor that left no state.
        if self.hall.member(session.id()).is_none() {
            self.enter(session)?;
        }
        let wish = message.to_text().ok_or_else(|| "a packet is JSON in UTF-8".to_owned());
        let wish = wish.and_then(read);
        if let Err(why) = wish.and_then(|wish| self.grant(session.id(), wish)) {
            let shown: String = why.chars().take(MAX_ERROR).collect();
            self.send(session.id(), &Packet::Error { message: &escape(&shown) });
        }
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        if let Some(member) = self.hall.leave(session.id()) {
            let text = format!("{} disconnected", session.address());
            self.announce(&member.room, &[session.id()], &text);
        }
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let bytes = serde_json::to_vec(&self.hall.save()).ok()?;
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
        let mut here = HashSet::new();
        self.host.sessions(|session| {
            here.insert(session.id());
        })?;
        self.hall.load(saved, |id| here.contains(&id));
        Ok(())
    }
}

export_plugin!(Chat);

impl Chat {
    /// Puts a connection where its query says; answers the room.
    fn enter(&mut self, session: &Session<'_>) -> Result<String, Refused> {
        let given = |key: &str| session.query_value(key).filter(|value| !value.trim().is_empty());
        let room = match given("room") {
            Some(room) => self.checked(&room, "room").map_err(Refused::new)?,
            None => LOBBY.to_owned(),
        };
        let name = match given("name") {
            Some(name) => self.checked(&name, "name").map_err(Refused::new)?,
            None => format!("guest-{}", session.uuid().chars().take(4).collect::<String>()),
        };
        // Gone, should it be gone: then nothing sent to the room reaches it, and `close` follows.
        let _ = self.host.join(session.id(), &room);
        self.hall.enter(session.id(), room.clone(), name);
        Ok(room)
    }

    fn grant(&mut self, id: ConnectionId, wish: Wish) -> Result<(), String> {
        match wish.opcode.as_deref() {
            Some("join") => self.join(id, wish),
            Some("name") => self.rename(id, wish),
            None | Some("message") => self.say(id, wish),
            Some(_) => Err("unknown opcode; there are join, name and message".to_owned()),
        }
    }

    fn join(&mut self, id: ConnectionId, wish: Wish) -> Result<(), String> {
        let room = self.checked(wish.room.as_deref().unwrap_or_default(), "room")?;
        let name = wish.name.map(|name| self.checked(&name, "name")).transpose()?;
        let Some(member) = self.hall.member(id) else { return Ok(()) };
        let is_new = member.room != room;
        if is_new {
            let _ = self.host.leave(id, &member.room);
            let _ = self.host.join(id, &room);
            self.announce(&member.room, &[], &format!("{} left", escape(&member.name)));
        }
        let name = name.unwrap_or_else(|| member.name.clone());
        self.hall.enter(id, room.clone(), name.clone());
        let members = self.hall.names(&room, MAX_LISTED).into_iter().map(escape).collect();
        self.send(id, &Packet::Joined { room: escape(&room), name: escape(&name), members });
        if is_new {
            self.tell_history(id, &room);
        }
        self.announce(&room, &[id], &format!("{} joined", escape(&name)));
        Ok(())
    }

    fn rename(&mut self, id: ConnectionId, wish: Wish) -> Result<(), String> {
        let name = self.checked(wish.name.as_deref().unwrap_or_default(), "name")?;
        let Some(before) = self.hall.rename(id, name.clone()) else { return Ok(()) };
        if let Some(member) = self.hall.member(id).filter(|_| before != name) {
            let text = format!("{} is now {}", escape(&before), escape(&name));
            self.announce(&member.room, &[], &text);
        }
        Ok(())
    }

    fn say(&mut self, id: ConnectionId, wish: Wish) -> Result<(), String> {
        let message = wish.message.unwrap_or_default();
        let length = message.chars().count();
        if length == 0 || length > self.config.max_text {
            let most = self.config.max_text;
            return Err(format!("`message` has {length} characters; it must have 1 to {most}"));
        }
        let color = wish.color.filter(|color| !color.is_empty());
        if color.as_deref().is_some_and(|color| !is_color(color)) {
            return Err("`color` must be # and 3 or 6 hex digits, such as #c0ffee".to_owned());
        }
        if let Some(name) = wish.name.filter(|name| !name.trim().is_empty()) {
            let name = self.checked(&name, "name")?;
            self.hall.rename(id, name);
        }
        let Some(member) = self.hall.member(id) else { return Ok(()) };
        let name = escape(&member.name).into_owned();
        let room = member.room.clone();
        let said = Said { name, message: escape(&message).into_owned(), color };
        self.hall.remember(&room, &said);
        let _ = self.host.publish(&room, &[], &json(&said));
        Ok(())
    }

    /// A name or a room's name without the spaces around it, or what is wrong with it.
    fn checked(&self, text: &str, key: &str) -> Result<String, String> {
        let text = text.trim();
        let length = text.chars().count();
        let most = self.config.max_name;
        if length == 0 || length > most {
            return Err(format!("`{key}` has {length} characters; it must have 1 to {most}"));
        }
        if text.contains(char::is_control) {
            return Err(format!("`{key}` has a control character in it; letters are better"));
        }
        Ok(text.to_owned())
    }

    fn tell_history(&self, id: ConnectionId, room: &str) {
        let messages: Vec<&Said> = self.hall.said(room).collect();
        if !messages.is_empty() {
            self.send(id, &Packet::History { messages });
        }
    }

    // These two fail when somebody is gone or this instance replaced: nothing is left to do then.

    fn announce(&self, room: &str, except: &[ConnectionId], text: &str) {
        let _ = self.host.publish(room, except, &json(&Packet::System { message: text }));
    }

    fn send(&self, id: ConnectionId, packet: &Packet<'_>) {
        let _ = self.host.send(id, &json(packet));
    }
}

/// What a packet says. For serde, a list of the values in the order of the fields would be one, too.
fn read(text: &str) -> Result<Wish, String> {
    if !text.trim_start().starts_with('{') {
        return Err("a packet is one JSON object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn json(packet: &impl Serialize) -> String {
    serde_json::to_string(packet).expect("texts always have a JSON form")
}

fn is_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or_default();
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// As HTML has it, for pages that put what they get into their markup.
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
/// Names in a `joined`.
const MAX_LISTED: usize = 500;
/// Characters of an error, which may quote the packet.
const MAX_ERROR: usize = 200;
const SNAPSHOT_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::CloseCode;
    use plugsocket_plugin::testing::{Harness, Peer};

    type App = Harness<Chat>;

    fn app(config: &str) -> App {
        Harness::start(config).unwrap()
    }

    /// Somebody in the lobby who has read everything so far.
    fn enter(app: &mut App, query: &str) -> ConnectionId {
        let id = app.open(Peer::websocket().query(query)).unwrap();
        drop(app.received(id));
        id
    }

    fn system(text: &str) -> String {
        format!(r#"{{"type":"system","message":"{text}"}}"#)
    }

    /// The errors that this packet is answered with.
    fn error(app: &mut App, id: ConnectionId, packet: &str) -> String {
        app.message(id, packet).unwrap();
        let [answer] = app.received(id).try_into().unwrap();
        let prefix = r#"{"type":"error","message":""#;
        answer.strip_prefix(prefix).and_then(|a| a.strip_suffix(r#""}"#)).unwrap().to_owned()
    }

    #[test]
    fn coming_and_going_is_told_to_everybody_in_the_room() {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket().address("192.0.2.7")).unwrap();
        assert_eq!(app.received(ann), [system("192.0.2.7 connected")]);
        let bob = app.open(Peer::websocket().query("room=lobby&name=Bob")).unwrap();
        let eve = app.open(Peer::websocket().query("room=cellar")).unwrap();
        for id in [ann, bob, eve] {
            assert_eq!(app.received(id), [system("192.0.2.1 connected")]);
        }
        app.close(bob);
        assert_eq!(app.received(ann), [system("192.0.2.1 disconnected")]);
        assert_eq!((app.received(bob).len(), app.received(eve).len()), (0, 0));
    }

    #[test]
    fn a_message_reaches_all_in_the_room_the_sender_included() {
        let mut app = app("{}");
        let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
        let eve = enter(&mut app, "room=cellar");
        drop((app.received(ann), app.received(bob)));
        for (packet, expected) in [
            (
                r##"{"message":"hi","color":"#fff"}"##,
                r##"{"type":"usermsg","name":"Ann","message":"hi","color":"#fff"}"##,
            ),
            (
                r#"{"opcode":"message","message":"hi","name":"Anna","color":null}"#,
                r#"{"type":"usermsg","name":"Anna","message":"hi"}"#,
            ),
            (
                r#"{"message":"again","name":"","color":""}"#,
                r#"{"type":"usermsg","name":"Anna","message":"again"}"#,
            ),
        ] {
            app.message(ann, packet).unwrap();
            assert_eq!(
                (app.received(ann), app.received(bob)),
                (vec![expected.to_owned()], vec![expected.to_owned()])
            );
        }
        assert_eq!(app.received(eve).len(), 0);
    }

    #[test]
    fn joining_leaves_the_room_before() {
        let mut app = app("{}");
        let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
        let eve = enter(&mut app, "room=den&name=Eve");
        drop(app.received(ann));
        app.message(ann, r#"{"opcode":"join","room":" den ","name":"Anna"}"#).unwrap();
        assert_eq!(
            app.received(ann),
            [r#"{"type":"joined","room":"den","name":"Anna","members":["Eve","Anna"]}"#]
        );
        assert_eq!(app.received(eve), [system("Anna joined")]);
        assert_eq!(app.received(bob), [system("Ann left")]);
        app.message(bob, r#"{"message":"still here?"}"#).unwrap();
        assert_eq!((app.received(ann).len(), app.received(bob).len()), (0, 1));
        // Once more the same room, as a page does that has just connected to the lobby.
        app.message(eve, r#"{"opcode":"join","room":"den"}"#).unwrap();
        assert_eq!(app.received(ann), [system("Eve joined")]);
    }

    #[test]
    fn another_name_is_told_to_the_room_once() {
        let mut app = app("{}");
        let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
        drop(app.received(ann));
        for _ in 0..2 {
            app.message(ann, r#"{"opcode":"name","name":"Anna"}"#).unwrap();
        }
        assert_eq!(app.received(ann), [system("Ann is now Anna")]);
        assert_eq!(app.received(bob), [system("Ann is now Anna")]);
    }

    #[test]
    fn no_markup_of_one_client_reaches_another() {
        let mut app = app(r#"{"history":1}"#);
        let evil = "<img src=x onerror='a&b'>";
        let query = "name=%3Cb%3E&room=%22r%22";
        let ann = app.open(Peer::websocket().query(query)).unwrap();
        for packet in [
            format!(r#"{{"message":"{evil}","name":"<i>"}}"#),
            format!(r#"{{"opcode":"name","name":"{evil}"}}"#),
            format!(r#"{{"opcode":"join","room":"{evil}","name":"{evil}"}}"#),
            format!(r#"{{"opcode":{{"{evil}":1}}}}"#),
            format!(r#"{{"opcode":["{evil}"]}}"#),
            evil.to_owned(),
        ] {
            app.message(ann, &packet).unwrap();
        }
        app.open(Peer::websocket().query(query)).unwrap();
        for text in app.received(ann) {
            assert!(!text.contains(['<', '>', '\'']), "{text}");
        }
        assert_eq!(escape("<>&\"'"), "&lt;&gt;&amp;&quot;&#39;");
    }

    #[test]
    fn what_cannot_be_used_is_explained_to_the_sender_alone() {
        let mut app = app(r#"{"max_text":5,"max_name":4}"#);
        let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
        drop(app.received(ann));
        let color = "`color` must be # and 3 or 6 hex digits, such as #c0ffee";
        for (packet, expected) in [
            (r#"{"message":"sixsix"}"#, "`message` has 6 characters; it must have 1 to 5"),
            (r#"{"message":""}"#, "`message` has 0 characters; it must have 1 to 5"),
            ("{}", "`message` has 0 characters; it must have 1 to 5"),
            (r#"{"message":"x","color":"red"}"#, color),
            (r##"{"message":"x","color":"#12345"}"##, color),
            (r##"{"message":"x","color":"#ééé"}"##, color),
            (r#"{"message":"x","name":"Annabel"}"#, "`name` has 7 characters; it must have 1 to 4"),
            (r#"{"opcode":"name"}"#, "`name` has 0 characters; it must have 1 to 4"),
            (r#"{"opcode":"join","name":"A"}"#, "`room` has 0 characters; it must have 1 to 4"),
            (
                r#"{"opcode":"join","room":"a\u0000b"}"#,
                "`room` has a control character in it; letters are better",
            ),
            (r#"{"opcode":"shout"}"#, "unknown opcode; there are join, name and message"),
            (r#"["join","den","Bob",null,null]"#, "a packet is one JSON object"),
            (r#" "join""#, "a packet is one JSON object"),
        ] {
            assert_eq!(error(&mut app, ann, packet), expected, "{packet}");
        }
        for packet in ["", "[]x", "{\"message\":1}", &"[".repeat(100_000)] {
            error(&mut app, ann, packet);
        }
        app.message(ann, &[0xff][..]).unwrap();
        assert_eq!(app.received(ann).len(), 1);
        assert_eq!(app.received(bob).len(), 0);
        // A message of multi-byte characters is as long as it looks.
        app.message(ann, r#"{"message":"ééééé"}"#).unwrap();
        assert_eq!(app.received(bob).len(), 1);
    }

    #[test]
    fn a_query_that_cannot_be_used_refuses_the_connection() {
        let mut app = app(r#"{"max_name":4}"#);
        for (query, expected) in [
            ("room=cellar", "`room` has 6 characters; it must have 1 to 4"),
            ("name=a%00b", "`name` has a control character in it; letters are better"),
        ] {
            let refused = app.open(Peer::websocket().query(query)).unwrap_err();
            assert_eq!((refused.code, refused.reason.as_str()), (CloseCode::POLICY, expected));
        }
        let ann = enter(&mut app, "room=&name=+");
        assert_eq!(app.plugin().hall.member(ann).unwrap().name, "guest-0000");
    }

    #[test]
    fn a_newcomer_reads_the_last_messages() {
        let mut app = app(r#"{"history":2}"#);
        let ann = enter(&mut app, "name=Ann");
        for text in ["1", "2", "3"] {
            app.message(ann, &format!(r#"{{"message":"{text}"}}"#)).unwrap();
        }
        let history = r#"{"type":"history","messages":[{"type":"usermsg","name":"Ann","message":"2"},{"type":"usermsg","name":"Ann","message":"3"}]}"#;
        let bob = app.open(Peer::websocket().query("room=den")).unwrap();
        assert_eq!(app.received(bob).len(), 1, "its room has none");
        app.message(bob, r#"{"opcode":"join","room":"lobby"}"#).unwrap();
        assert_eq!(app.received(bob)[1], history);
        app.close(bob);
        app.message(ann, r#"{"opcode":"join","room":"lobby"}"#).unwrap();
        let eve = app.open(Peer::websocket()).unwrap();
        assert_eq!(app.received(eve), [history.to_owned(), system("192.0.2.1 connected")]);
    }

    #[test]
    fn after_a_reload_everybody_is_where_he_was() {
        let mut app = app(r#"{"history":9}"#);
        let ann = enter(&mut app, "name=Ann&room=den");
        let [bob, eve] = ["name=Bob&room=den"; 2].map(|query| enter(&mut app, query));
        app.message(ann, r#"{"message":"hi"}"#).unwrap();
        app.close(eve);
        let mut app = app.reload::<Chat>(r#"{"history":9}"#).unwrap();
        drop((app.received(ann), app.received(bob)));
        app.message(ann, r#"{"message":"back"}"#).unwrap();
        assert_eq!(app.received(bob), [r#"{"type":"usermsg","name":"Ann","message":"back"}"#]);
        assert_eq!(app.plugin().hall.names("den", 9), ["Ann", "Bob"]);
        assert_eq!(app.plugin().hall.said("den").len(), 2);
        app.close(bob);
        assert_eq!(app.received(ann).last(), Some(&system("192.0.2.1 disconnected")));
    }

    #[test]
    fn a_snapshot_that_it_cannot_read_is_refused() {
        let mut app = app("{}");
        let plugin = app.plugin();
        assert!(plugin.restore(Snapshot { version: 2, bytes: b"{}".to_vec() }).is_err());
        assert!(plugin.restore(Snapshot { version: 1, bytes: b"{}".to_vec() }).is_err());
    }

    #[test]
    fn a_mistake_in_the_configuration_is_named() {
        for (config, expected) in [
            (
                r#"{"maxtext":1}"#,
                "unknown field `maxtext`, expected one of `max_text`, `max_name`, `history`",
            ),
            (r#"{"max_name":100}"#, "`max_name` is 100, it must be from 1 to 64"),
            (r#"{"max_text":0}"#, "`max_text` is 0, it must be from 1 to 1000000"),
            (r#"{"history":-1}"#, "`history`: invalid value: integer `-1`, expected usize"),
        ] {
            assert_eq!(Harness::<Chat>::start(config).err().unwrap().0, expected);
        }
    }
}
