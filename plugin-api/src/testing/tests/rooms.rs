use super::*;

#[test]
fn rooms_and_data_have_the_limits_of_the_host() {
    let (mut app, ann) = script();
    let host = host(&mut app);
    for room in 0..100 {
        host.join(ann, &room.to_string()).unwrap();
    }
    assert_eq!(host.join(ann, "more"), Err(HostError::TooMany));
    assert_eq!(host.join(ann, "0"), Ok(()));
    assert_eq!(host.join(ann, &"r".repeat(257)), Err(HostError::TooLarge));
    assert_eq!(host.set_room_data("0", &[0; 65_537]), Err(HostError::TooLarge));
    assert_eq!(host.set_room_data("none", b"x"), Err(HostError::Gone));
    assert_eq!(host.set_data(ann, &[0; 65_537]), Err(HostError::TooLarge));
    assert_eq!(host.set_data(ConnectionId(9), b"x"), Err(HostError::Gone));
    assert_eq!(host.send_latest(ann, &"k".repeat(257), "x"), Err(HostError::TooLarge));
    host.send(ann, &[255][..]).unwrap();
    host.send(ann, "text").unwrap();
    let expected = [Received::Binary(vec![255]), Received::Text("text".to_owned())];
    assert_eq!(app.received_messages(ann), expected);
    app.set_limits(Limits { max_message: 10, outbox_bytes: 1, ..Limits::default() });
    let long = "x".repeat((4 << 20) + 11);
    assert_eq!(host.send(ann, &long), Err(HostError::TooLarge));
    assert_eq!(host.broadcast(Audience::all(), &long), Ok(0));
}

#[test]
fn rooms_tell_their_members_and_end_with_the_last_one() {
    let (mut app, ann) = script();
    let bob = app.open(Peer::websocket().user("bob")).unwrap();
    let host = host(&mut app);
    host.join(bob, "lobby").unwrap();
    host.join(ann, "lobby").unwrap();
    host.join(ann, "cellar").unwrap();
    host.set_room_data("lobby", b"topic").unwrap();
    let mut users = Vec::new();
    host.members("lobby", |session| {
        users.push(session.user().map(str::to_owned));
        // The visitor may call the host.
        assert_eq!(host.room_count("lobby"), Ok(2));
    })
    .unwrap();
    assert_eq!(users, [Some("bob".to_owned()), None]);
    assert_eq!(app.members("lobby"), [bob, ann]);
    assert_eq!(host.rooms(ann).unwrap(), ["lobby", "cellar"]);
    assert_eq!(app.rooms(ann), ["lobby", "cellar"]);
    assert_eq!(host.room_names().unwrap(), ["cellar", "lobby"]);
    host.leave(ann, "lobby").unwrap();
    assert_eq!(host.room_data("lobby").unwrap().as_deref(), Some(&b"topic"[..]));
    app.close(bob);
    assert_eq!((host.room_count("lobby"), host.room_data("lobby")), (Ok(0), Ok(None)));
    assert_eq!(app.room_data("lobby"), None);
    assert_eq!(host.rooms(bob), Err(HostError::Gone));
}

#[test]
fn data_of_a_connection_survives_a_reload_until_close() {
    let (mut app, ann) = script();
    host(&mut app).set_data(ann, b"seat 12").unwrap();
    let mut app = app.reload::<Script>("{}").unwrap();
    assert_eq!(host(&mut app).data(ann).unwrap().as_deref(), Some(&b"seat 12"[..]));
    drop(notes(&app));
    app.close(ann);
    assert_eq!(notes(&app), ["close 1 1001  seat 12"]);
    assert_eq!(app.data(ann).as_deref(), Some(&b"seat 12"[..]));
}

#[test]
fn series_follow_the_rules_of_the_host() {
    let (mut app, _) = script();
    let host = host(&mut app);
    let first = host.counter("bids", "Bids.", &[("b", "2"), ("a", "1")]);
    host.counter("bids", "Bids.", &[("a", "1"), ("b", "2")]).add(1.0);
    first.add(2.0);
    first.add(-1.0);
    assert_eq!(app.metric("bids", &[("a", "1"), ("b", "2")]), Some(Metric::Counter(3.0)));
    host.gauge("bids", "Bids.", &[]).set(1.0);
    host.counter("no-name", "Bids.", &[]).add(1.0);
    host.histogram("h", "H.", &[], &[2.0, 1.0]).observe(1.0);
    assert_eq!(notes(&app).len(), 3);
    let gauge = host.gauge("seats", "Seats.", &[]);
    gauge.set(5.0);
    gauge.add(-2.0);
    assert_eq!(app.metric("seats", &[]), Some(Metric::Gauge(3.0)));
    let histogram = host.histogram("wait", "Wait.", &[], &[1.0, 2.0]);
    histogram.observe(0.5);
    histogram.observe(1.5);
    histogram.observe(9.0);
    let (buckets, count, sum) = (vec![(1.0, 1), (2.0, 2)], 3, 11.0);
    assert_eq!(app.metric("wait", &[]), Some(Metric::Histogram { buckets, count, sum }));
    for label in 0..1000 {
        host.counter("many", "Many.", &[("n", &label.to_string())]).add(1.0);
    }
    assert!(app.metric("many", &[("n", "0")]).is_some());
    assert_eq!(app.metric("many", &[("n", "999")]), None);
}
