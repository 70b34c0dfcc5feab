//! **feedback** forwards packets from the operator's scripts to one browser, and between browsers.
//!
//! A packet is a JSON object. Only `opcode`, `uuid` and `ident` are read; the text is forwarded
//! unchanged, except that a browser cannot pretend to be another one (`web_sender`, `web_strip`).
//! The `fyi` says what became of a packet. Packets and `fyi` are listed in
//! `docs/reference/bundled-applications.md`.
//!
//! ```toml
//! [resources."/web"]
//! plugin = "feedback"
//!
//! [resources."/web".config]
//! # Opcodes that clients of kind `websocket` may send; scripts may send all. Default: all four.
//! web_opcodes = ["feedback", "echo", "quit"]
//! # The key `fromUUID` of packets from clients of kind `websocket`. "replace": where it is
//! # present, it is the sender's uuid. "stamp": it is always present. "keep": as it was written.
//! web_sender = "replace"
//! # Other keys to remove from their packets, such as one by which a page recognizes your scripts.
//! web_strip = []
//! ```

mod sender;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use plugsocket_plugin::{
    Audience, CloseCode, CloseReason, ConnectionId, Host, Json, Message, Packet, Plugin, Refused,
    RestoreError, Session, Snapshot, StartError, Target, Verdict, export_plugin, is_uuid,
    read_config,
};
use serde::{Deserialize, Serialize};

use crate::sender::Sender;

struct Feedback {
    host: Host,
    web_opcodes: Vec<Opcode>,
    sender: Sender,
    web_strip: Vec<String>,
    /// The `fyi` of each connection, unless it is empty.
    fyi: HashMap<ConnectionId, Fyi>,
    /// Connections whose first forbidden opcode has been logged.
    warned: HashSet<ConnectionId>,
    /// When an unknown opcode of a script was last logged.
    logged: Option<Instant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    web_opcodes: Vec<Opcode>,
    web_sender: Sender,
    web_strip: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            web_opcodes: vec![Opcode::Broadcast, Opcode::Feedback, Opcode::Echo, Opcode::Quit],
            web_sender: Sender::Replace,
            web_strip: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Opcode {
    Broadcast,
    Feedback,
    Echo,
    Quit,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fyi {
    Delivered,
    Gone,
    MalformedUuid,
    NoTarget,
    UnknownOpcode,
    /// One that a predecessor has set.
    Inherited,
}

impl Plugin for Feedback {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { web_opcodes, web_sender: sender, web_strip } = read_config(config)?;
        if let Some(key) = web_strip.iter().find(|key| ROUTING.contains(&key.as_str())) {
            let text = format!("`web_strip`: `{key}` routes a packet and cannot be removed");
            return Err(StartError(text));
        }
        let (fyi, warned) = (HashMap::new(), HashSet::new());
        Ok(Self { host, web_opcodes, sender, web_strip, fyi, warned, logged: None })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let packet = Packet::read(message).inspect_err(|refused| {
            let (from, reason) = (session.address(), &refused.reason);
            tracing::warn!(from, %reason, "message is not a JSON object");
        })?;
        let fields = packet.fields(ROUTING);
        let opcode = fields[0].and_then(Json::to_text);
        let known = opcode.as_deref().and_then(Opcode::named);
        let fyi = match known.filter(|opcode| self.may_send(session, *opcode)) {
            Some(Opcode::Feedback) => {
                let text = self.relayed(session, packet);
                Some(self.feedback(session, &fields, &text))
            }
            Some(Opcode::Broadcast) => {
                let text = self.relayed(session, packet);
                let others = [session.id()];
                let audience = Audience::all().websockets().except(&others);
                let _ = self.host.broadcast(audience, &*text);
                None
            }
            Some(Opcode::Echo) => {
                let _ = self.host.send(session.id(), packet.as_text());
                None
            }
            Some(Opcode::Quit) => {
                let _ = self.host.close(session.id(), CloseCode::NORMAL, "");
                None
            }
            None if known.is_none() && session.kind().is_backend() => {
                self.log_unknown(session, opcode.as_deref().unwrap_or_default());
                Some(Fyi::UnknownOpcode)
            }
            None => None,
        };
        self.set_fyi(session.id(), fyi);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.fyi.remove(&session.id());
        self.warned.remove(&session.id());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let fyi = self.fyi.iter().map(|(id, fyi)| (id.0, *fyi == Fyi::Delivered)).collect();
        let bytes = serde_json::to_vec(&State { fyi }).ok()?;
        Some(Snapshot { version: State::VERSION, bytes })
    }

    fn restore(&mut self, snapshot: Snapshot) -> Result<(), RestoreError> {
        if snapshot.version != State::VERSION {
            return Err(RestoreError::new(format!(
                "feedback reads snapshots of version {}, not {}",
                State::VERSION,
                snapshot.version
            )));
        }
        let before = serde_json::from_slice::<State>(&snapshot.bytes)?.fyi;
        let before: HashSet<u64> = before.into_iter().map(|(id, _)| id).collect();
        let fyi = &mut self.fyi;
        self.host.sessions(|session| {
            if before.contains(&session.id().0) {
                fyi.insert(session.id(), Fyi::Inherited);
            }
        })?;
        Ok(())
    }
}

export_plugin!(Feedback);

impl Feedback {
    fn may_send(&mut self, session: &Session<'_>, opcode: Opcode) -> bool {
        let may = session.kind().is_backend() || self.web_opcodes.contains(&opcode);
        // Once per connection, so that a client cannot fill the log.
        if !may && self.warned.insert(session.id()) {
            tracing::warn!(?opcode, from = session.address(), "opcode ignored: not in web_opcodes");
        }
        may
    }

    /// Logs at most one line a minute: a script may send many, each on a connection of its own.
    fn log_unknown(&mut self, session: &Session<'_>, opcode: &str) {
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_PAUSE) {
            self.logged = Some(Instant::now());
            let opcode: String = opcode.chars().take(MAX_LOGGED).collect();
            tracing::warn!(%opcode, from = session.address(), "unknown opcode of a backend");
        }
    }

    /// Returns the text that others receive of a packet.
    fn relayed<'t>(&self, session: &Session<'_>, packet: Packet<'t>) -> Cow<'t, str> {
        match session.kind().is_backend() {
            true => Cow::Borrowed(packet.as_text()),
            false => self.sender.apply(packet, session.uuid(), &self.web_strip),
        }
    }

    /// Sends to the client with the uuid, or else to the one with the ident. An error of the host
    /// counts as gone.
    fn feedback(
        &self,
        session: &Session<'_>,
        [_, uuid, ident]: &[Option<Json<'_>>; 3],
        text: &str,
    ) -> Fyi {
        let [uuid, ident] =
            [*uuid, *ident].map(|value| value.and_then(Json::to_text).filter(|t| !t.is_empty()));
        let reaches = |target| self.host.feedback(target, text) == Ok(Verdict::Delivered);
        if uuid.as_deref().map(Target::Uuid).is_some_and(reaches)
            || ident.as_deref().map(Target::Ident).is_some_and(reaches)
        {
            return Fyi::Delivered;
        }
        match uuid {
            Some(uuid) if !is_uuid(&uuid) => Fyi::MalformedUuid,
            None if ident.is_none() && session.kind().is_backend() => Fyi::NoTarget,
            _ => Fyi::Gone,
        }
    }

    /// Calls the host only when the `fyi` changes, which is rare.
    fn set_fyi(&mut self, id: ConnectionId, fyi: Option<Fyi>) {
        let before = match fyi {
            Some(fyi) => self.fyi.insert(id, fyi),
            None => self.fyi.remove(&id),
        };
        if before != fyi {
            let _ = self.host.set_fyi(id, fyi.map_or("", Fyi::as_str));
        }
    }
}

impl Opcode {
    fn named(name: &str) -> Option<Self> {
        match name {
            "broadcast" => Some(Self::Broadcast),
            "feedback" => Some(Self::Feedback),
            "echo" => Some(Self::Echo),
            "quit" => Some(Self::Quit),
            _ => None,
        }
    }
}

impl Fyi {
    fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => Verdict::Delivered.as_str(),
            Self::Gone => Verdict::Gone.as_str(),
            Self::MalformedUuid => "malformed uuid",
            Self::NoTarget => "no uuid and no ident",
            Self::UnknownOpcode => "unknown opcode",
            Self::Inherited => "",
        }
    }
}

/// The snapshot. The host keeps each `fyi` across a reload, so the successor must replace it.
#[derive(Serialize, Deserialize)]
struct State {
    /// Connections whose `fyi` is not empty, and whether their last feedback was delivered.
    fyi: Vec<(u64, bool)>,
}

impl State {
    const VERSION: u32 = 1;
}

/// The keys that route a packet.
const ROUTING: [&str; 3] = ["opcode", "uuid", "ident"];
/// Time between two lines of the log about unknown opcodes.
const LOG_PAUSE: Duration = Duration::from_secs(60);
/// Characters of an opcode in the log.
const MAX_LOGGED: usize = 40;

#[cfg(test)]
mod tests;
