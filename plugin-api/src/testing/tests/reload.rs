use super::*;
use crate::ConfigChange;

#[test]
fn a_retiring_instance_reaches_connections_and_nothing_else() {
    let (mut app, ann) = script();
    let old = host(&mut app);
    let app = app.reload::<Script>("{}").unwrap();
    let retired = ["retiring Replaced", "send Ok(()), join Err(Retired)", "dropped"];
    assert_eq!(notes(&app)[0], "snapshot Replaced");
    drop(app.logged());
    assert_eq!(app.received(ann), ["farewell"]);
    assert_eq!(old.send(ann, "late"), Err(HostError::Retired));
    let app = app.replace::<Script>("{}").unwrap();
    let notes = notes(&app);
    assert_eq!(notes[0], "close 1 1001 another application serves this resource now ");
    assert_eq!(notes[1], "open 1");
    assert_eq!(notes[2..], retired);
}

#[test]
fn a_refused_successor_changes_nothing() {
    let (mut app, ann) = script();
    host(&mut app).post_value(5_u32).unwrap();
    let refused = app.try_reload::<Script>("wrong").unwrap_err();
    assert_eq!(refused.error.0, "wrong");
    let refused = refused.harness.try_reload::<App>("{}").unwrap_err();
    assert!(refused.error.0.contains("does not restore state"));
    let mut app = refused.harness;
    assert_eq!(notes(&app), ["dropped", "snapshot Replaced"]);
    app.message(ann, "hello").unwrap();
    app.run();
    assert_eq!(notes(&app), ["hello", "value 5"]);
}

#[test]
fn another_application_opens_each_connection_and_may_refuse_it() {
    let (mut app, ann) = script();
    let bob = app.open(Peer::websocket().query("name=bob")).unwrap();
    host(&mut app).set_data(bob, b"x").unwrap();
    host(&mut app).post(b"x").unwrap();
    host(&mut app).counter("bids", "Bids.", &[]).add(1.0);
    let app = app.replace::<App>("{}").unwrap();
    assert_eq!(app.closed(ann).unwrap().1, "say who you are");
    assert_eq!((app.closed(bob), app.data(bob), app.waiting_events()), (None, None, 0));
    assert_eq!((app.members("all"), app.metric("bids", &[])), (vec![bob], None));
}

#[test]
fn the_end_closes_every_connection_and_requests_the_last_snapshot() {
    let (mut app, _) = script();
    assert!(app.snapshot(SnapshotReason::Stored).is_some());
    let probe = app.lease.host.clone();
    assert_eq!(app.stop().unwrap().version, 1);
    let texts: Vec<_> = probe.lock().log.drain(..).map(|(_, text)| text).collect();
    let expected = [
        "snapshot Stored",
        "close 1 1001 the host stops ",
        "snapshot Stopping",
        "retiring Stopping",
        "send Err(Gone), join Err(Retired)",
        "dropped",
    ];
    assert_eq!(texts, expected);

    let (app, _) = script();
    let probe = app.lease.host.clone();
    app.remove(RetireReason::Disabled);
    assert_eq!(probe.lock().log[1].1, "retiring Disabled");
}

struct Configured(String);

impl Plugin for Configured {
    const CONFIG_SCHEMA: &'static str = "{}";

    fn start(_: Host, config: &str) -> Result<Self, StartError> {
        Ok(Self(format!("started with {config}")))
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn config_changed(&mut self, config: &str) -> Result<ConfigChange, StartError> {
        match config {
            "restart" => return Ok(ConfigChange::Restart),
            "wrong" => return Err(StartError::new("wrong")),
            _ => self.0 = config.to_owned(),
        }
        Ok(ConfigChange::Applied)
    }
}

#[test]
fn a_changed_configuration_is_applied_or_restarts() {
    let mut app = Harness::<Configured>::start("{}").unwrap();
    assert_eq!(app.configure("live"), Ok(ConfigChange::Applied));
    assert_eq!(app.plugin().0, "live");
    assert!(app.configure("wrong").is_err());
    assert_eq!(app.plugin().0, "live");
    assert_eq!(app.configure("restart"), Ok(ConfigChange::Restart));
    assert_eq!(app.plugin().0, "started with restart");
    let mut app = Harness::<Configured>::start_on_step(2, "{}").unwrap();
    assert_eq!(app.configure("live"), Ok(ConfigChange::Restart));

    let (mut app, _) = script();
    assert_eq!(app.configure("{}"), Ok(ConfigChange::Restart));
    let notes = notes(&app);
    assert_eq!(notes[..2], ["snapshot Reconfigured", "retiring Reconfigured"]);
    assert!(app.configure("wrong").is_err());
}

#[test]
fn a_copy_on_disk_is_restored_without_connections() {
    let snapshot = Snapshot { version: 1, bytes: 7_u64.to_le_bytes().to_vec() };
    let mut app = Harness::<Script>::start_from(snapshot, "{}").unwrap();
    let ticket = app.plugin().tickets.pop().unwrap();
    assert_eq!(ticket.complete(), Err(HostError::Gone));
}

#[test]
fn an_older_host_has_none_of_the_later_functions() {
    let mut app = Harness::<Script>::start_on_step(2, "{}").unwrap();
    let ann = app.open(Peer::websocket().path("/test/1").parameter("n", "1")).unwrap();
    let host = host(&mut app);
    let unsupported = Err(HostError::Unsupported);
    assert_eq!(host.abi_step(), 2);
    assert_eq!(host.post(b"x"), unsupported);
    assert_eq!(host.post_value(1), unsupported);
    assert_eq!(host.spawn_blocking(|| 1), unsupported);
    assert_eq!(host.after(Duration::ZERO, "x"), unsupported);
    assert_eq!(host.cancel("x"), Err(HostError::Unsupported));
    assert_eq!(host.members("x", |_| {}), unsupported);
    assert_eq!(host.room_count("x"), Err(HostError::Unsupported));
    assert_eq!(host.set_data(ann, b"x"), unsupported);
    assert!(app.message(ann, "defer").is_err());
    host.counter("c", "C.", &[]).add(1.0);
    assert_eq!(app.metric("c", &[]), None);
    host.sessions(|session| {
        assert_eq!((session.path(), session.parameter("n")), ("/test", None));
        assert_eq!(session.data(), None);
    })
    .unwrap();
    let app = app.reload::<Script>("{}");
    // Neither `snapshot_for` nor `retiring` is called.
    assert!(!notes(&app.unwrap()).iter().any(|note| note.contains("Replaced")));
    assert_eq!(Harness::<Script>::start_on_step(1, "{}").unwrap().plugin().host.abi_step(), 1);
}
