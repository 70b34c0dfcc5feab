//! echo
use plugsocket_plugin::*;
struct Echo {
    host: Host,
}
impl Plugin for Echo {
    const NEVER_BLOCKS: bool = true;
    fn start(host: Host, _config: &str) -> Result<Self, StartError> {
        Ok(Self { host })
    }
    fn message(&mut self, session: &Session<'_>, message: Message<'_>) -> Result<(), Refused> {
        let _ = self.host.send(session.id(), message);
        Ok(())
    }
}
export_plugin!(Echo);
