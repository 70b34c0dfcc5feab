use super::*;

#[test]
fn a_connection_closed_in_any_callback_gets_close() {
    let (mut app, ann) = script();
    let bob = app.open(Peer::websocket().query("do=close+1")).unwrap();
    assert_eq!(notes(&app), ["open 2", "close 1 1000 closed "]);
    assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, "closed".to_owned())));
    assert_eq!(app.message(ann, "hello").unwrap_err().code, CloseCode::NORMAL);
    host(&mut app).close(bob, CloseCode(5), "odd").unwrap();
    app.run();
    assert_eq!(notes(&app), ["close 2 1008 odd "]);
    app.close(bob);
    assert!(notes(&app).is_empty());
    assert_eq!(host(&mut app).close(bob, CloseCode::NORMAL, ""), Err(HostError::Gone));
}

#[test]
fn a_refused_connection_gets_no_close_and_no_message() {
    let (mut app, _) = script();
    let refused = app.open(Peer::websocket().query("do=refuse+full")).unwrap_err();
    assert_eq!(refused, Refused::new("full"));
    assert_eq!(notes(&app), ["open 2"]);
    let mut count = 0;
    host(&mut app).sessions(|_| count += 1).unwrap();
    assert_eq!(count, 1);
}

#[test]
fn a_broken_connection_is_an_error_first() {
    let (mut app, ann) = script();
    app.suspend(ann);
    app.resume(ann);
    app.fail(ann, "reset");
    assert_eq!(notes(&app), ["suspended", "resumed", "error 1 reset", "close 1 1006 reset "]);
    assert_eq!(app.closed(ann), None);
}

#[test]
fn a_message_above_the_limit_closes_the_connection() {
    let limits = Limits { max_message: 4, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits, "{}").unwrap();
    let ann = app.open(Peer::websocket()).unwrap();
    app.messages(ann, ["a", "hello", "b"]).unwrap();
    assert_eq!(app.closed(ann).unwrap().0, CloseCode::TOO_BIG);
    assert_eq!(notes(&app)[..2], ["open 1", "a"]);
}

#[test]
fn a_slow_client_is_closed_at_the_limits_of_its_outbox() {
    let limits = Limits { outbox_messages: 3, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits, "{}").unwrap();
    let ann = app.open(Peer::websocket().slow()).unwrap();
    let host = host(&mut app);
    app.message(ann, "x").unwrap();
    assert_eq!([host.send(ann, "a"), host.send_latest(ann, "k", "b")], [Ok(()); 2]);
    assert_eq!((app.waiting(ann), app.received(ann).len()), (3, 0));
    assert_eq!(host.send(ann, "c"), Err(HostError::Gone));
    drop(notes(&app));
    app.run();
    assert_eq!(app.closed(ann).unwrap().0, CloseCode::TRY_AGAIN);
    assert!(notes(&app)[0].starts_with("error 1 too slow"));
}

#[test]
fn bytes_that_wait_are_limited_beside_one_large_message() {
    let limits = Limits { outbox_bytes: 1000, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits, "{}").unwrap();
    let ann = app.open(Peer::websocket().slow()).unwrap();
    let host = host(&mut app);
    for size in [100_000, 400, 400] {
        host.send(ann, &vec![0; size][..]).unwrap();
    }
    assert_eq!(host.send(ann, &[0; 100][..]), Err(HostError::Gone));
}

#[test]
fn other_policies_keep_a_slow_client() {
    let limits = |outbox_policy| Limits { outbox_messages: 8, outbox_policy, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits(OutboxPolicy::DropOldest), "{}").unwrap();
    let ann = app.open(Peer::websocket().slow()).unwrap();
    for number in 0..9 {
        host(&mut app).send(ann, &number.to_string()).unwrap();
    }
    app.slow(ann, false);
    assert_eq!(app.received(ann), ["1", "2", "3", "4", "5", "6", "7", "8"]);

    let mut app = Harness::<Script>::start_with(limits(OutboxPolicy::Conflate), "{}").unwrap();
    let ann = app.open(Peer::websocket().slow()).unwrap();
    for number in 0..20 {
        host(&mut app).send_latest(ann, "n", &number.to_string()).unwrap();
    }
    host(&mut app).send(ann, "end").unwrap();
    app.slow(ann, false);
    assert_eq!(app.received(ann), ["19", "end"]);
}

#[test]
fn an_expected_panic_closes_its_connection_only() {
    let (mut app, ann) = script();
    app.expect_panics(true);
    assert_eq!(app.message(ann, "panic at once").unwrap_err().code, CloseCode::ERROR);
    assert_eq!(app.open(Peer::websocket().query("do=panic")).unwrap_err().code, CloseCode::ERROR);
    assert_eq!(app.panics(), ["at once", ""]);
    assert_eq!(notes(&app), ["close 1 1011 the application failed ", "open 2"]);
    let refused = app.try_reload::<Script>("panic").unwrap_err();
    assert_eq!(refused.error.0, "start has panicked");
    let mut app = refused.harness;
    assert!(app.open(Peer::websocket()).is_ok());
}

#[test]
#[should_panic(expected = "at once")]
fn another_panic_fails_the_test() {
    let (mut app, ann) = script();
    drop(app.message(ann, "panic at once"));
}

#[test]
#[should_panic(expected = "a bad visit")]
fn a_panic_of_a_visitor_is_one_of_its_callback() {
    let (mut app, _) = script();
    app.open(Peer::websocket()).unwrap();
    host(&mut app).sessions(|_| panic!("a bad visit")).unwrap();
}
