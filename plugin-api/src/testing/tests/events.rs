use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how often it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn events_arrive_in_order_and_when_the_test_runs_them() {
    let (mut app, _) = script();
    let host = host(&mut app);
    host.post(b"a").unwrap();
    host.post_value(7_u32).unwrap();
    assert_eq!((notes(&app).len(), app.waiting_events()), (0, 2));
    assert_eq!(app.run(), 2);
    assert_eq!(notes(&app), ["event a", "value 7"]);
    assert_eq!(app.run(), 0);
}

#[test]
fn the_inbox_is_bounded() {
    let limits = Limits { inbox_messages: 2, max_message: 3, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits, "{}").unwrap();
    let host = host(&mut app);
    assert_eq!(host.post(b"long"), Err(HostError::TooLarge));
    assert_eq!([host.post(b"a"), host.post(b"b")], [Ok(()); 2]);
    let dropped = Arc::new(AtomicUsize::new(0));
    assert_eq!(host.post_value(Counted(dropped.clone())), Err(HostError::TooMany));
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    app.run();
    assert_eq!(host.post(b"c"), Ok(()));
}

#[test]
fn spawned_work_waits_while_the_inbox_is_full() {
    let limits = Limits { inbox_messages: 1, ..Limits::default() };
    let mut app = Harness::<Script>::start_with(limits, "{}").unwrap();
    for number in 0..3_u32 {
        host(&mut app).spawn_blocking(move || number).unwrap();
    }
    assert_eq!(app.run_events(3, SOON), 3);
    let mut notes = notes(&app);
    notes.sort();
    assert_eq!(notes, ["value 0", "value 1", "value 2"]);
    assert_eq!(app.run_events(1, Duration::ZERO), 0);
    assert!(!app.run_until(Duration::ZERO, |_| false));
}

#[test]
fn bytes_go_to_the_successor_and_values_are_dropped() {
    let (mut app, _) = script();
    let old = host(&mut app);
    let dropped = Arc::new(AtomicUsize::new(0));
    old.post(b"for the next").unwrap();
    old.post_value(Counted(dropped.clone())).unwrap();
    let mut app = app.reload::<Script>("{}").unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert_eq!(old.post(b"late"), Err(HostError::Retired));
    drop(notes(&app));
    app.run();
    assert_eq!(notes(&app), ["event for the next"]);

    host(&mut app).post_value(Counted(dropped.clone())).unwrap();
    drop(app);
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

struct Early(Host);

impl Plugin for Early {
    fn start(host: Host, config: &str) -> Result<Self, StartError> {
        host.post(b"early")?;
        host.after(Duration::from_secs(1), "early")?;
        host.log(Level::Info, &format!("{:?}", host.broadcast(Audience::resource(), "x")));
        host.log(Level::Info, &format!("{:?}", host.members("room", |_| {})));
        host.counter("starts", "Starts.", &[]).add(1.0);
        if config == "{}" { Ok(Self(host)) } else { Err(StartError::new("no")) }
    }

    fn message(&mut self, _: &Session<'_>, _: Message<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn event(&mut self, event: Event) {
        self.0.log(Level::Info, &String::from_utf8_lossy(event.bytes().unwrap()));
    }

    fn timer(&mut self, key: &str) {
        self.0.log(Level::Info, &format!("timer {key}"));
    }
}

#[test]
fn what_start_does_counts_once_the_instance_serves() {
    let mut app = Harness::<Early>::start("{}").unwrap();
    assert_eq!(notes(&app), ["Err(Retired)", "Err(Retired)"]);
    app.advance(Duration::from_millis(500));
    assert_eq!(notes(&app), ["early"]);
    let refused = app.try_reload::<Early>("[]").unwrap_err();
    let app = refused.harness;
    assert_eq!((app.timers().len(), app.waiting_events()), (1, 0));
    drop(notes(&app));
    let mut app = app.reload::<Early>("{}");
    let app = app.as_mut().unwrap_or_else(|e| panic!("{}", e.0));
    drop(notes(app));
    app.advance(Duration::from_millis(999));
    assert_eq!(notes(app), ["early"]);
    app.advance(Duration::from_millis(1));
    assert_eq!(notes(app), ["timer early"]);
    assert_eq!(app.metric("starts", &[]), Some(Metric::Counter(3.0)));
}
