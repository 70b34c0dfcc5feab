use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn timers_fire_when_they_are_due() {
    let (mut app, _) = script();
    let host = host(&mut app);
    host.after(2 * SECOND, "later").unwrap();
    host.after(SECOND, "replaced").unwrap();
    host.after(3 * SECOND, "replaced").unwrap();
    host.every(SECOND, "each").unwrap();
    host.after(SECOND, "cancelled").unwrap();
    assert_eq!((host.cancel("cancelled"), host.cancel("cancelled")), (Ok(true), Ok(false)));
    assert_eq!(app.timers(), ["each", "later", "replaced"]);
    let begun = app.now();
    app.advance(2 * SECOND);
    assert_eq!(notes(&app), ["timer each", "timer later", "timer each"]);
    app.advance(SECOND);
    assert_eq!(notes(&app), ["timer replaced", "timer each"]);
    assert_eq!(app.now(), begun + 3 * SECOND);
    assert_eq!(host.after(SECOND, &"k".repeat(257)), Err(HostError::TooLarge));
}

#[test]
fn missed_calls_are_not_repeated() {
    let (mut app, _) = script();
    host(&mut app).every(SECOND, "each").unwrap();
    app.plugin().tick = Some(SECOND);
    app.stall(10 * SECOND);
    assert_eq!(notes(&app), ["timer each", "tick"]);
    app.advance(SECOND);
    assert_eq!(notes(&app), ["timer each", "tick"]);
}

#[test]
fn ticks_come_at_the_interval_that_the_application_wants() {
    let (mut app, _) = script();
    app.advance(SECOND);
    assert!(notes(&app).is_empty());
    app.plugin().tick = Some(SECOND / 2);
    app.advance(2 * SECOND);
    assert_eq!(notes(&app), ["tick"; 4]);
    app.plugin().tick = None;
    app.advance(2 * SECOND);
    assert!(notes(&app).is_empty());
    app.tick(SystemTime::now());
    assert_eq!(notes(&app), ["tick"]);
}

#[test]
fn a_reload_keeps_timers_and_a_replacement_removes_them() {
    let (mut app, _) = script();
    host(&mut app).after(SECOND, "kept").unwrap();
    let app = app.reload::<Script>("{}").unwrap();
    assert_eq!(app.timers(), ["kept"]);
    let mut app = app.replace::<Script>("{}").unwrap();
    assert!(app.timers().is_empty());
    host(&mut app).after(SECOND, "kept").unwrap();
    app.expect_panics(true);
    host(&mut app).after(SECOND, "panic").unwrap();
    host(&mut app).after(2 * SECOND, "after it").unwrap();
    drop(notes(&app));
    app.advance(2 * SECOND);
    assert_eq!(notes(&app), ["timer kept", "timer panic", "timer after it"]);
    assert_eq!(app.panics().len(), 1);
}
