use super::*;
use crate::types::{Audience, HostError, Target, Verdict};

struct App(Host);

impl Plugin for App {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        serde_json::from_str::<serde_json::Value>(config)?;
        Ok(Self(host))
    }

    fn open(&mut self, session: &Session<'_>) -> Result<(), Refused> {
        match session.query_value("name") {
            Some(_) => {
                self.0.join(session.id(), "all").unwrap();
                Ok(())
            }
            None => Err(Refused::new("say who you are")),
        }
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        match message.to_text() {
            Some("quit") => self.0.close(session.id(), CloseCode::NORMAL, "bye").unwrap(),
            Some("count") => {
                let mut count = 0;
                self.0.sessions(|_| count += 1).unwrap();
                self.0.send(session.id(), &count.to_string()).unwrap();
            }
            Some(uuid) if uuid.contains('.') => {
                let verdict = self.0.feedback(Target::Uuid(uuid), "for you").unwrap();
                self.0.set_fyi(session.id(), verdict.as_str()).unwrap();
            }
            Some(text) => drop(self.0.publish("all", &[session.id()], text).unwrap()),
            None => return Err(Refused::with_code(CloseCode::UNSUPPORTED, "text only")),
        }
        Ok(())
    }
}

#[test]
fn the_harness_behaves_like_the_host() {
    assert!(Harness::<App>::start("no json").is_err());
    let mut app = Harness::<App>::start("{}").unwrap();
    assert!(app.open(Peer::websocket()).is_err());
    let ann = app.open(Peer::websocket().query("name=ann")).unwrap();
    let bob = app.open(Peer::websocket().query("x&name=bob+b")).unwrap();
    app.message(ann, "hello").unwrap();
    assert_eq!((app.received(ann).len(), app.received(bob)), (0, vec!["hello".to_owned()]));
    app.message(ann, &app.uuid(bob)).unwrap();
    assert_eq!((app.fyi(ann).as_str(), app.received(bob).len()), ("delivered", 1));
    app.message(bob, &[0xff][..]).unwrap_err();
    app.message(ann, &app.uuid(bob)).unwrap();
    assert_eq!(app.fyi(ann), "gone");
    app.message(ann, "count").unwrap();
    assert_eq!(app.received(ann), ["1"]);

    let old = app.plugin().0.clone();
    let mut app = app.reload::<App>("{}").unwrap();
    assert_eq!(old.send(ann, "late"), Err(HostError::Retired));
    assert_eq!(old.broadcast(Audience::all(), "late"), Err(HostError::Retired));
    app.message(ann, "quit").unwrap();
    assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, "bye".to_owned())));
    assert_eq!(Verdict::Gone.as_str(), "gone");
}
