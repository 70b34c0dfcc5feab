//! **feedback** forwards packets from the operator's scripts to one browser, and between browsers.
//!
//! A packet is a JSON object. Only `opcode`, `uuid` and `ident` are read; the text is forwarded
//! unchanged. The `fyi` that acknowledges a feedback is `delivered` or `gone`. The packets are
//! listed in `docs/reference/bundled-applications.md`.
//!
//! ```toml
//! [resources."/web"]
//! plugin = "feedback"
//!
//! [resources."/web".config]
//! # Opcodes that clients of kind `websocket` may send; scripts may send all. Default: all four.
//! web_opcodes = ["feedback", "echo", "quit"]
//! ```

mod envelope;

use std::collections::{HashMap, HashSet};

use plugsocket_plugin::{
    Audience, CloseCode, CloseReason, ConnectionId, Host, Message, Plugin, Refused, RestoreError,
    Session, Snapshot, StartError, Target, Verdict, export_plugin, read_config,
};
use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;

struct Feedback {
    host: Host,
    web_opcodes: Vec<Opcode>,
    /// The `fyi` of each connection, unless it is empty.
    verdicts: HashMap<ConnectionId, Verdict>,
    /// Connections whose first forbidden opcode has been logged.
    warned: HashSet<ConnectionId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    web_opcodes: Vec<Opcode>,
}

impl Default for Config {
    fn default() -> Self {
        Self { web_opcodes: vec![Opcode::Broadcast, Opcode::Feedback, Opcode::Echo, Opcode::Quit] }
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

impl Plugin for Feedback {
    const NEVER_BLOCKS: bool = true;

    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        let Config { web_opcodes } = read_config(config)?;
        Ok(Self { host, web_opcodes, verdicts: HashMap::new(), warned: HashSet::new() })
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let read = message.to_text().and_then(|text| Some((text, Envelope::read(text)?)));
        let Some((text, envelope)) = read else {
            tracing::warn!(from = session.address(), "message is not a JSON object");
            return Err(Refused::with_code(
                CloseCode::INVALID,
                r#"a message must be a JSON object, such as {"opcode":"echo","message":"hello"}"#,
            ));
        };
        let opcode = envelope.opcode.as_deref().and_then(Opcode::named);
        let verdict = match opcode.filter(|opcode| self.may_send(session, *opcode)) {
            Some(Opcode::Feedback) => Some(self.feedback(&envelope, text)),
            Some(opcode) => {
                self.forward(session.id(), opcode, text);
                None
            }
            None => None,
        };
        self.set_fyi(session.id(), verdict);
        Ok(())
    }

    fn close(&mut self, session: &Session<'_>, _: &CloseReason<'_>) {
        self.verdicts.remove(&session.id());
        self.warned.remove(&session.id());
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let fyi = self.verdicts.iter().map(|(id, v)| (id.0, *v == Verdict::Delivered)).collect();
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
        let mut before = HashMap::new();
        for (id, delivered) in serde_json::from_slice::<State>(&snapshot.bytes)?.fyi {
            before.insert(id, if delivered { Verdict::Delivered } else { Verdict::Gone });
        }
        let verdicts = &mut self.verdicts;
        self.host.sessions(|session| {
            if let Some(verdict) = before.get(&session.id().0) {
                verdicts.insert(session.id(), *verdict);
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

    /// Ignores errors: the client is gone or this instance has been replaced.
    fn forward(&self, sender: ConnectionId, opcode: Opcode, text: &str) {
        match opcode {
            Opcode::Broadcast => {
                let others = [sender];
                let audience = Audience::all().websockets().except(&others);
                let _ = self.host.broadcast(audience, text);
            }
            Opcode::Echo => {
                let _ = self.host.send(sender, text);
            }
            Opcode::Quit => {
                let _ = self.host.close(sender, CloseCode::NORMAL, "");
            }
            Opcode::Feedback => {}
        }
    }

    /// Sends to the client with the uuid, or else to the one with the ident.
    fn feedback(&self, envelope: &Envelope<'_>, text: &str) -> Verdict {
        let targets = [
            envelope.uuid.as_deref().map(Target::Uuid),
            envelope.ident.as_deref().map(Target::Ident),
        ];
        let mut targets = targets.into_iter().flatten();
        match targets.any(|target| self.host.feedback(target, text) == Ok(Verdict::Delivered)) {
            true => Verdict::Delivered,
            false => Verdict::Gone,
        }
    }

    /// Calls the host only when the `fyi` changes, which is rare.
    fn set_fyi(&mut self, id: ConnectionId, verdict: Option<Verdict>) {
        let before = match verdict {
            Some(verdict) => self.verdicts.insert(id, verdict),
            None => self.verdicts.remove(&id),
        };
        if before != verdict {
            let _ = self.host.set_fyi(id, verdict.map_or("", Verdict::as_str));
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

/// The snapshot. The host keeps each `fyi` across a reload, so the successor must know it.
#[derive(Serialize, Deserialize)]
struct State {
    /// Connections, and whether their last feedback was delivered.
    fyi: Vec<(u64, bool)>,
}

impl State {
    const VERSION: u32 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugsocket_plugin::testing::{Harness, Peer};

    fn app(config: &str) -> Harness<Feedback> {
        Harness::start(config).unwrap()
    }

    #[test]
    fn a_broadcast_reaches_every_other_browser_unchanged() {
        let mut app = app("{}");
        let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
        let script = app.open(Peer::backend()).unwrap();
        let packet = r#" {"x":1e999, "opcode":"broad\u0063ast","message":{"deep":[1,"\ud800"]}} "#;
        app.message(ann, packet).unwrap();
        assert_eq!(app.received(bob), [packet]);
        assert_eq!((app.received(ann).len(), app.received(script).len()), (0, 0));
        app.message(script, r#"{"opcode":"broadcast"}"#).unwrap();
        assert_eq!((app.received(ann).len(), app.received(bob).len()), (1, 1));
    }

    #[test]
    fn a_feedback_reaches_one_client_and_returns_its_verdict() {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        let script = app.open(Peer::backend().ident("import")).unwrap();
        let uuid = app.uuid(ann);
        for (packet, verdict, reached) in [
            (format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":1}}"#), "delivered", ann),
            (r#"{"opcode":"feedback","ident":"import"}"#.to_owned(), "delivered", script),
            (r#"{"opcode":"feedback","uuid":"","ident":"import"}"#.to_owned(), "delivered", script),
            (
                r#"{"opcode":"feedback","uuid":"x.y","ident":"import"}"#.to_owned(),
                "delivered",
                script,
            ),
            (
                format!(r#"{{"opcode":"feedback","uuid":"{uuid}","ident":"import"}}"#),
                "delivered",
                ann,
            ),
        ] {
            app.message(script, &packet).unwrap();
            assert_eq!(app.fyi(script), verdict, "{packet}");
            for id in [ann, script] {
                assert_eq!(app.received(id).len(), usize::from(id == reached), "{packet}");
            }
        }
        app.message(script, r#"{"opcode":"echo"}"#).unwrap();
        assert_eq!(app.fyi(script), "");
        app.close(ann);
        app.message(script, &format!(r#"{{"opcode":"feedback","uuid":"{uuid}"}}"#)).unwrap();
        assert_eq!(app.fyi(script), "gone");
    }

    #[test]
    fn a_uuid_or_ident_that_is_not_a_string_matches_no_client() {
        let mut app = app("{}");
        let script = app.open(Peer::backend().ident("0")).unwrap();
        let nameless = app.open(Peer::websocket().ident("")).unwrap();
        for address in [
            r#""uuid":true"#,
            r#""ident":0"#,
            r#""uuid":null,"ident":[ "0" ]"#,
            r#""ident":{"ident":"0"}"#,
            r#""ident":"""#,
            r#""uuid":"","ident":"""#,
            r#""message":1"#,
        ] {
            app.message(script, &format!(r#"{{"opcode":"feedback",{address}}}"#)).unwrap();
            assert_eq!(app.fyi(script), "gone", "{address}");
            assert_eq!(app.received(script).len() + app.received(nameless).len(), 0, "{address}");
        }
    }

    #[test]
    fn echo_returns_the_packet_and_quit_closes() {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        app.message(ann, &br#"{"opcode":"echo"}"#[..]).unwrap();
        assert_eq!(app.received(ann), [r#"{"opcode":"echo"}"#]);
        app.message(ann, r#"{"opcode":"quit"}"#).unwrap();
        assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, String::new())));
    }

    #[test]
    fn anything_but_a_json_object_closes_with_1007() {
        for text in
            ["", "hello", "[]", "1", "null", r#"{"opcode":"echo"} x"#, r#"{"opcode""#, "{'a':1}"]
        {
            let mut app = app("{}");
            let ann = app.open(Peer::websocket()).unwrap();
            assert_eq!(app.message(ann, text).unwrap_err().code, CloseCode::INVALID, "{text}");
        }
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        assert_eq!(app.message(ann, &[0xff][..]).unwrap_err().code, CloseCode::INVALID);
    }

    #[test]
    fn an_unknown_opcode_is_ignored() {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        let bob = app.open(Peer::websocket()).unwrap();
        for packet in ["{}", r#"{"opcode":"shout"}"#, r#"{"opcode":1}"#, r#"{"opcode":["quit"]}"#] {
            app.message(ann, packet).unwrap();
        }
        assert_eq!(
            (app.received(ann).len(), app.received(bob).len(), app.closed(ann)),
            (0, 0, None)
        );
    }

    #[test]
    fn web_opcodes_restricts_browsers_but_not_scripts() {
        let mut app = app(r#"{"web_opcodes":["echo"]}"#);
        let ann = app.open(Peer::websocket()).unwrap();
        let bob = app.open(Peer::websocket()).unwrap();
        let script = app.open(Peer::backend()).unwrap();
        app.message(ann, r#"{"opcode":"broadcast"}"#).unwrap();
        assert_eq!(app.received(bob).len(), 0);
        app.message(script, r#"{"opcode":"broadcast"}"#).unwrap();
        assert_eq!(app.received(bob).len(), 1);
    }

    #[test]
    fn deeply_nested_json_is_harmless() {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        for key in ["message", "uuid", "opcode"] {
            let open = "[".repeat(200_000);
            let close = "]".repeat(200_000);
            app.message(ann, &format!(r#"{{"opcode":"echo","{key}":{open}{close}}}"#)).unwrap();
        }
        app.message(ann, &"[".repeat(200_000)).unwrap_err();
    }

    #[test]
    fn a_configuration_error_names_its_key() {
        for (config, expected) in [
            (r#"{"web_opcode":[]}"#, "unknown field `web_opcode`, expected `web_opcodes`"),
            (
                r#"{"web_opcodes":["shout"]}"#,
                "`web_opcodes`: unknown variant `shout`, expected one of `broadcast`, `feedback`, `echo`, `quit`",
            ),
            (
                r#"{"web_opcodes":"echo"}"#,
                r#"`web_opcodes`: invalid type: string "echo", expected a sequence"#,
            ),
        ] {
            assert_eq!(Harness::<Feedback>::start(config).err().unwrap().0, expected);
        }
    }

    #[test]
    fn a_verdict_from_before_a_reload_is_cleared() {
        let mut app = app("{}");
        let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
        app.message(ann, r#"{"opcode":"feedback"}"#).unwrap();
        app.message(bob, r#"{"opcode":"feedback"}"#).unwrap();
        app.close(bob);
        let mut app = app.reload::<Feedback>("{}").unwrap();
        assert_eq!((app.fyi(ann).as_str(), app.plugin().verdicts.len()), ("gone", 1));
        app.message(ann, r#"{"opcode":"echo"}"#).unwrap();
        assert_eq!((app.fyi(ann).as_str(), app.plugin().verdicts.len()), ("", 0));
    }

    #[test]
    fn a_closed_connection_leaves_no_state() {
        let mut app = app(r#"{"web_opcodes":["feedback"]}"#);
        let ann = app.open(Peer::websocket()).unwrap();
        app.message(ann, r#"{"opcode":"echo"}"#).unwrap();
        app.message(ann, r#"{"opcode":"feedback"}"#).unwrap();
        app.close(ann);
        assert!(app.plugin().verdicts.is_empty() && app.plugin().warned.is_empty());
    }
}
