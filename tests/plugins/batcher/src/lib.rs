//! Test plugin that takes the messages of one read at once.

use plugsocket_plugin::*;

struct Batcher {
    host: Host,
}

impl Plugin for Batcher {
    const NEVER_BLOCKS: bool = true;
    const BATCHES: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self { host })
    }

    /// Answers `N:first`; handles "refuse", "panic" and "defer" at any place.
    fn messages(&mut self, session: &Session<'_>, batch: &[Message<'_>]) -> Result<(), Refused> {
        let texts: Vec<&str> = batch.iter().filter_map(Message::to_text).collect();
        let _ = self.host.send(session.id(), &format!("{}:{}", batch.len(), texts[0]));
        for (index, text) in texts.iter().enumerate() {
            match *text {
                "refuse" => return Err(Refused::new("refused")),
                #[expect(clippy::panic, reason = "tests how the host handles it")]
                "panic" => panic!("as requested"),
                "defer" => {
                    let ticket = self.host.defer_nth(session.id(), index)?;
                    self.host.post_value(ticket)?;
                }
                "fyi" => self.host.set_fyi(session.id(), "set")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let text = message.to_text().unwrap_or_default();
        self.host.send(session.id(), &format!("single:{text}"))?;
        Ok(())
    }

    fn event(&mut self, event: Event) {
        if let Ok(ticket) = event.downcast::<Ticket>() {
            let _ = ticket.complete_with("later");
        }
    }
}

export_plugin!(Batcher);
