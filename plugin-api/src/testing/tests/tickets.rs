use super::*;
use crate::HostError;

fn ticket(app: &mut Harness<Script>, from: ConnectionId) -> Ticket {
    app.message(from, "defer").unwrap();
    app.plugin().tickets.pop().unwrap()
}

#[test]
fn acknowledgements_keep_the_order_of_the_messages() {
    let (mut app, ann) = script();
    host(&mut app).set_fyi(ann, "own").unwrap();
    let first = ticket(&mut app, ann);
    let second = ticket(&mut app, ann);
    app.message(ann, "immediate").unwrap();
    second.complete_with("second").unwrap();
    assert_eq!((app.acknowledged(ann).len(), app.deferred(ann)), (0, 1));
    first.complete().unwrap();
    assert_eq!(app.acknowledged(ann), ["own", "second", "own"]);
}

#[test]
fn a_ticket_can_refuse_fail_or_expire() {
    let (mut app, ann) = script();
    let bob = app.open(Peer::websocket()).unwrap();
    let cat = app.open(Peer::websocket()).unwrap();
    drop(notes(&app));
    ticket(&mut app, ann).refuse(&Refused::new("no")).unwrap();
    drop(ticket(&mut app, bob));
    let late = ticket(&mut app, cat);
    let after = host(&mut app).defer_nth(cat, 0);
    assert_eq!(after.err(), Some(HostError::Invalid));
    app.run();
    assert_eq!(notes(&app), ["close 1 1008 no ", "close 2 1011 the application failed "]);
    app.advance(Duration::from_millis(29_999));
    assert_eq!(app.closed(cat), None);
    app.advance(Duration::from_millis(1));
    assert_eq!(app.closed(cat).unwrap().0, CloseCode::ERROR);
    assert_eq!(late.complete(), Err(HostError::Gone));
    assert_eq!(notes(&app), ["close 3 1011 the application failed "]);
}

#[test]
fn the_ticket_of_a_client_that_left_is_gone() {
    let (mut app, ann) = script();
    let ticket = ticket(&mut app, ann);
    app.close(ann);
    assert_eq!(ticket.complete(), Err(HostError::Gone));
    assert!(app.acknowledged(ann).is_empty());
}

#[test]
fn a_ticket_with_a_long_fyi_has_failed() {
    let (mut app, ann) = script();
    let long = "x".repeat(4097);
    assert_eq!(host(&mut app).set_fyi(ann, &long), Err(HostError::TooLarge));
    assert_eq!(ticket(&mut app, ann).complete_with(&long), Err(HostError::TooLarge));
    assert_eq!(app.closed(ann).unwrap().0, CloseCode::ERROR);
}

#[test]
fn another_thread_completes_a_ticket() {
    let (mut app, ann) = script();
    let ticket = ticket(&mut app, ann);
    let thread = std::thread::spawn(move || ticket.complete_with("done"));
    assert!(app.run_until(SOON, |app| app.deferred(ann) == 0));
    assert_eq!(app.acknowledged(ann), ["done"]);
    thread.join().unwrap().unwrap();
}

#[test]
fn a_ticket_outlives_its_instance() {
    let (mut app, ann) = script();
    let ticket = ticket(&mut app, ann);
    app.message(ann, "defer").unwrap();
    // The second ticket is handed over by its number; a thread keeps the first one.
    let (reloaded, waits) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        waits.recv().unwrap();
        ticket.complete_with("old")
    });
    let mut app = app.reload::<Script>("{}").unwrap();
    let second = app.plugin().tickets.pop().unwrap();
    second.complete_with("new").unwrap();
    assert!(app.acknowledged(ann).is_empty());
    reloaded.send(()).unwrap();
    thread.join().unwrap().unwrap();
    assert_eq!(app.acknowledged(ann), ["old", "new"]);
}

struct Batch {
    host: Host,
    tickets: Vec<Ticket>,
}

impl Plugin for Batch {
    const BATCHES: bool = true;

    fn start(host: Host, _: &str) -> Result<Self, StartError> {
        Ok(Self { host, tickets: Vec::new() })
    }

    fn messages(&mut self, session: &Session<'_>, batch: &[Message<'_>]) -> Result<(), Refused> {
        self.host.log(Level::Info, &format!("batch of {}", batch.len()));
        for (index, _) in batch.iter().enumerate().filter(|(_, m)| m.to_text() == Some("defer")) {
            self.tickets.push(self.host.defer_nth(session.id(), index)?);
            let again = self.host.defer_nth(session.id(), index);
            assert_eq!(again.err(), Some(HostError::Invalid));
        }
        assert!(self.host.defer_nth(session.id(), batch.len()).is_err());
        assert!(self.host.defer_nth(ConnectionId(99), 0).is_err());
        Ok(())
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        self.host.log(Level::Info, "message");
        Ok(())
    }
}

#[test]
fn a_batch_is_one_call_except_on_an_older_host() {
    let mut app = Harness::<Batch>::start("{}").unwrap();
    let ann = app.open(Peer::websocket()).unwrap();
    app.messages(ann, ["a", "defer", "b"]).unwrap();
    app.message(ann, "c").unwrap();
    assert_eq!(notes(&app), ["batch of 3", "batch of 1"]);
    assert_eq!(app.acknowledged(ann), [""]);
    app.plugin().tickets.pop().unwrap().complete_with("b").unwrap();
    assert_eq!(app.acknowledged(ann), ["b", "", ""]);

    let mut app = Harness::<Batch>::start_on_step(2, "{}").unwrap();
    let ann = app.open(Peer::websocket()).unwrap();
    app.messages(ann, ["a", "b"]).unwrap();
    assert_eq!(notes(&app), ["message", "message"]);
    assert_eq!(app.acknowledged(ann).len(), 2);
}
