//! The behavior that `docs/reference/bundled-applications.md` describes.

use super::*;
use plugsocket_plugin::testing::{Harness, Peer};

type App = Harness<Jobs>;

fn app(config: &str) -> App {
    Harness::start(config).unwrap()
}

/// Connects a browser and a script.
fn both(app: &mut App) -> (ConnectionId, ConnectionId) {
    (app.open(Peer::websocket()).unwrap(), app.open(Peer::backend()).unwrap())
}

fn ask(app: &mut App, id: ConnectionId, packet: &str) -> Vec<String> {
    app.message(id, packet).unwrap();
    app.received(id)
}

/// Sends a report and returns the `fyi`.
fn report(app: &mut App, id: ConnectionId, packet: &str) -> String {
    assert_eq!(ask(app, id, packet), [""; 0], "{packet}");
    app.fyi(id)
}

fn after(app: &mut App, seconds: f64) {
    app.plugin().advance(Instant::now() + Duration::from_secs_f64(seconds));
}

fn error(app: &mut App, id: ConnectionId, packet: &str) -> String {
    let answers = ask(app, id, packet);
    let error = answers[0].strip_prefix(r#"{"opcode":"error","error":""#);
    error.and_then(|error| error.strip_suffix(r#""}"#)).unwrap().to_owned()
}

fn start(app: &mut App, id: ConnectionId) -> String {
    let [answer] = ask(app, id, r#"{"opcode":"start"}"#).try_into().unwrap();
    let job = answer.strip_prefix(r#"{"opcode":"job","job":""#).unwrap();
    job.strip_suffix(r#""}"#).unwrap().to_owned()
}

#[test]
fn a_browser_sees_what_the_script_reports() {
    let mut app = app(r#"{"interval":0}"#);
    let (ann, script) = both(&mut app);
    let job = start(&mut app, ann);
    assert_eq!(job.len(), 32);
    for (packet, expected) in [
        (
            r#""progress","text":"one","percent":12.34"#,
            r#""state":"running","text":"one","percent":12.3,"elapsed":0"#,
        ),
        (
            r#""progress","text":"two""#,
            r#""state":"running","text":"two","percent":null,"elapsed":0"#,
        ),
        (
            r#""progress","text":null,"percent":50,"uuid":null"#,
            r#""state":"running","text":"","percent":50,"elapsed":0"#,
        ),
        (r#""done","text":"all""#, r#""state":"done","text":"all","percent":100,"elapsed":0"#),
    ] {
        let fyi = report(&mut app, script, &format!(r#"{{"job":"{job}","opcode":{packet}}}"#));
        assert_eq!(fyi, "watched");
        let expected = format!(r#"{{"opcode":"progress","job":"{job}",{expected}}}"#);
        assert_eq!(app.received(ann), [expected]);
    }
    assert!(app.plugin().table.watchers(&job).is_empty());
}

#[test]
fn a_job_can_be_watched_before_and_after_its_reports() {
    let mut app = app("{}");
    let (ann, script) = both(&mut app);
    let watch = r#"{"opcode":"watch","job":"J"}"#;
    assert_eq!(
        ask(&mut app, ann, watch),
        [
            r#"{"opcode":"progress","job":"J","state":"unknown","text":"","percent":null,"elapsed":0}"#
        ]
    );
    assert_eq!(report(&mut app, script, r#"{"opcode":"failed","job":"J","text":"no"}"#), "watched");
    let failed = r#"{"opcode":"progress","job":"J","state":"failed","text":"no","percent":null,"elapsed":0}"#;
    assert_eq!(app.received(ann), [failed]);
    let bob = app.open(Peer::websocket()).unwrap();
    assert_eq!(ask(&mut app, bob, watch), [failed]);
    assert_eq!(report(&mut app, script, r#"{"opcode":"progress","job":"K"}"#), "unwatched");
}

#[test]
fn a_script_may_name_the_browser_that_watches() {
    let mut app = app(r#"{"interval":60}"#);
    let (ann, script) = both(&mut app);
    let bob = app.open(Peer::websocket()).unwrap();
    let [for_ann, for_bob] = [ann, bob].map(|id| {
        let uuid = app.uuid(id);
        format!(r#"{{"opcode":"progress","job":"J","uuid":"{uuid}"}}"#)
    });
    report(&mut app, script, r#"{"opcode":"progress","job":"J"}"#);
    assert_eq!(report(&mut app, script, &for_ann), "watched");
    assert_eq!(app.received(ann).len(), 1);
    assert_eq!(report(&mut app, script, &for_bob), "watched");
    assert_eq!(app.received(bob).len(), 1, "at once, independent of the interval");
    assert_eq!(app.received(ann).len(), 0);
    app.close(ann);
    assert_eq!(report(&mut app, script, &for_ann), "watched", "bob still watches");
    app.close(bob);
    assert_eq!(report(&mut app, script, &for_ann), "unwatched");
}

#[test]
fn of_many_reports_the_newest_and_the_last_arrive() {
    let mut app = app(r#"{"interval":60}"#);
    let (ann, script) = both(&mut app);
    assert_eq!(app.plugin().tick_every(), None);
    ask(&mut app, ann, r#"{"opcode":"watch","job":"J"}"#);
    assert_eq!(app.plugin().tick_every(), Some(IDLE));
    for n in 1..=1000 {
        report(&mut app, script, &format!(r#"{{"opcode":"progress","job":"J","text":"{n}"}}"#));
    }
    assert!(app.received(ann)[0].contains(r#""text":"1""#));
    assert_eq!(app.plugin().tick_every(), Some(Duration::from_secs(1)));
    after(&mut app, 59.0);
    assert_eq!(app.received(ann), [""; 0]);
    after(&mut app, 61.0);
    let [newest] = app.received(ann).try_into().unwrap();
    assert!(newest.contains(r#""text":"1000""#) && newest.contains(r#""elapsed":61"#), "{newest}");
    assert_eq!(app.plugin().tick_every(), Some(IDLE));
    report(&mut app, script, r#"{"opcode":"progress","job":"J"}"#);
    report(&mut app, script, r#"{"opcode":"done","job":"J","text":"last"}"#);
    let [last] = app.received(ann).try_into().unwrap();
    assert!(last.contains(r#""state":"done","text":"last""#), "{last}");
    after(&mut app, 1000.0);
    assert_eq!(app.received(ann), [""; 0]);
}

#[test]
fn the_next_report_returns_the_abort_to_the_script() {
    let mut app = app(r#"{"interval":60}"#);
    let (ann, script) = both(&mut app);
    let job = start(&mut app, ann);
    let say = |opcode: &str| format!(r#"{{"opcode":"{opcode}","job":"{job}","text":"t"}}"#);
    assert_eq!(report(&mut app, script, &say("progress")), "watched");
    drop(app.received(ann));
    let [aborting] = ask(&mut app, ann, &say("abort")).try_into().unwrap();
    assert!(aborting.contains(r#""state":"aborting""#));
    let bob = app.open(Peer::websocket()).unwrap();
    assert_eq!(
        ask(&mut app, bob, &say("abort")).len(),
        1,
        "a second request changes nothing for the others"
    );
    assert_eq!(app.received(ann), [""; 0]);
    assert_eq!(report(&mut app, script, &say("progress")), "abort");
    assert_eq!(report(&mut app, script, &say("aborted")), "watched");
    let [aborted] = app.received(ann).try_into().unwrap();
    assert!(aborted.contains(r#""state":"aborted""#));
    assert_eq!(error(&mut app, bob, r#"{"opcode":"abort","job":"else"}"#), "no job has this id");
}

#[test]
fn a_demo_simulates_a_script() {
    let mut app = app(r#"{"demo":true}"#);
    let ann = app.open(Peer::websocket()).unwrap();
    let [job, first] = ask(&mut app, ann, r#"{"opcode":"demo","seconds":20}"#).try_into().unwrap();
    assert!(job.contains(r#""opcode":"job""#));
    assert!(first.contains(r#""state":"running","text":"step 1 of 10","percent":0,"#), "{first}");
    assert_eq!(app.plugin().tick_every(), Some(Duration::from_millis(100)));
    after(&mut app, 7.0);
    let mut app = app.reload::<Jobs>("{}").unwrap();
    assert!(app.received(ann)[0].contains(r#""text":"step 4 of 10","percent":35,"elapsed":7}"#));
    after(&mut app, 21.0);
    assert!(
        app.received(ann)[0].contains(r#""state":"done","text":"the demo is over","percent":100"#)
    );
    assert!(app.plugin().demos.is_empty());

    let mut app = app.reload::<Jobs>(r#"{"demo":true}"#).unwrap();
    let job = ask(&mut app, ann, r#"{"opcode":"demo","seconds":20}"#)[0]
        .replace(r#""opcode":"job""#, r#""opcode":"abort""#);
    ask(&mut app, ann, &job);
    after(&mut app, 1.0);
    assert!(
        app.received(ann)[0]
            .contains(r#""state":"aborted","text":"stopped on request","percent":0"#)
    );
}

#[test]
fn only_scripts_may_report_unless_configured() {
    let progress = r#"{"opcode":"progress","job":"J"}"#;
    let mut closed = app("{}");
    let ann = closed.open(Peer::websocket()).unwrap();
    assert_eq!(
        error(&mut closed, ann, progress),
        "only scripts may report; `web_reports = true` allows browsers too"
    );
    assert_eq!((closed.fyi(ann).as_str(), closed.plugin().table.job("J").is_none()), ("", true));
    let mut open = app(r#"{"web_reports":true}"#);
    let ann = open.open(Peer::websocket()).unwrap();
    assert_eq!(report(&mut open, ann, progress), "unwatched");
}

#[test]
fn an_invalid_packet_is_answered_with_an_error_and_refused() {
    let mut app = app("{}");
    let (_, script) = both(&mut app);
    report(&mut app, script, r#"{"opcode":"done","job":"over"}"#);
    let job = "`job` must be a string of 1 to 100 characters";
    let uuid = "`uuid` must be the uuid that a browser received in `ready`";
    let opcode = "`opcode` must be start, watch, abort, demo, progress, done, failed or aborted";
    for (packet, expected) in [
        ("{}", opcode),
        (r#"["progress","J","text",1,null,null]"#, "a packet must be a JSON object"),
        (r#"{"opcode":"run"}"#, opcode),
        (r#"{"opcode":"progress"}"#, job),
        (r#"{"opcode":"progress","job":""}"#, job),
        (&format!(r#"{{"opcode":"done","job":"{}"}}"#, "x".repeat(101)), job),
        (&format!(r#"{{"opcode":"done","job":{}}}"#, "9".repeat(101)), job),
        (r#"{"opcode":"done","job":"J","uuid":"x"}"#, uuid),
        (&format!(r#"{{"opcode":"done","job":"J","uuid":"{}"}}"#, "0".repeat(101)), uuid),
        (r#"{"opcode":"progress","job":["J"]}"#, "`job` must be a string"),
        (r#"{"opcode":"progress","job":"J","text":true}"#, "`text` must be a string"),
        (r#"{"opcode":"progress","job":"J","percent":"50"}"#, "`percent` must be a number"),
        (r#"{"opcode":"progress","job":"over"}"#, "this job has ended; a new run needs a new id"),
        (r#"{"opcode":"watch","job":"J"}"#, "only clients of kind websocket can watch a job"),
        (r#"{"opcode":"demo","seconds":1}"#, "demos are disabled; `demo = true` enables them"),
    ] {
        assert_eq!(error(&mut app, script, packet), expected, "{packet}");
        assert_eq!(app.fyi(script), "refused", "{packet}");
    }
    for packet in ["", "[1]", "\u{feff}{}", &"[".repeat(100_000)] {
        error(&mut app, script, packet);
    }
    ask(&mut app, script, r#"{"opcode":"start"}"#);
    assert_eq!(app.fyi(script), "", "the previous `fyi` is cleared");
}

#[test]
fn a_job_is_the_text_that_the_client_wrote() {
    let mut app = app(r#"{"interval":0}"#);
    let (ann, script) = both(&mut app);
    let [one, other] = ["12345678901234567890123", "12345678901234567890124"];
    ask(&mut app, ann, &format!(r#"{{"opcode":"watch","job":"{one}"}}"#));
    let progress =
        |job: &str| format!(r#"{{"opcode":"progress","job":{job},"text":1.10,"percent":1e999}}"#);
    assert_eq!(report(&mut app, script, &progress(other)), "unwatched");
    assert_eq!(report(&mut app, script, &progress(one)), "watched");
    let [packet] = app.received(ann).try_into().unwrap();
    let expected = format!(
        r#"{{"opcode":"progress","job":"{one}","state":"running","text":"1.10","percent":100,"#
    );
    assert!(packet.starts_with(&expected), "{packet}");
}

#[test]
fn half_a_surrogate_pair_is_sent_as_a_replacement_character() {
    let mut app = app("{}");
    let (ann, script) = both(&mut app);
    ask(&mut app, ann, r#"{"opcode":"watch","job":"J"}"#);
    report(&mut app, script, r#"{"opcode":"progress","job":"J","text":"cut \ud83d"}"#);
    assert!(app.received(ann)[0].contains("\"text\":\"cut \u{fffd}\""));
}

#[test]
fn a_long_text_is_truncated_at_a_character() {
    let mut app = app("{}");
    let (ann, script) = both(&mut app);
    ask(&mut app, ann, r#"{"opcode":"watch","job":"J"}"#);
    let long = "é".repeat(MAX_TEXT + 1);
    report(&mut app, script, &format!(r#"{{"opcode":"done","job":"J","text":"{long}"}}"#));
    assert!(app.received(ann)[0].contains(&format!(r#""{}""#, "é".repeat(MAX_TEXT))));
}

#[test]
fn browsers_cannot_block_scripts_by_filling_the_table() {
    let mut app = app(r#"{"max_jobs":3}"#);
    let (ann, script) = both(&mut app);
    let jobs = [(); 3].map(|()| start(&mut app, ann));
    let full = "the limit of 3 jobs is reached; try again later";
    assert_eq!(error(&mut app, ann, r#"{"opcode":"start"}"#), full);
    assert_eq!(error(&mut app, ann, r#"{"opcode":"watch","job":"J"}"#), full);
    assert_eq!(report(&mut app, script, r#"{"opcode":"progress","job":"J"}"#), "unwatched");
    app.close(ann);
    assert!(jobs.iter().all(|job| app.plugin().table.job(job).is_none()));
}

#[test]
fn a_silent_job_is_sent_again_and_removed_after_its_last_watcher() {
    let mut app = app(r#"{"keep":60}"#);
    let (ann, script) = both(&mut app);
    ask(&mut app, ann, r#"{"opcode":"watch","job":"J"}"#);
    report(&mut app, script, r#"{"opcode":"progress","job":"J"}"#);
    drop(app.received(ann));
    after(&mut app, 61.0);
    assert!(app.received(ann)[0].contains(r#""state":"running""#));
    app.close(ann);
    after(&mut app, 119.0);
    assert!(app.plugin().table.job("J").is_some());
    after(&mut app, 122.0);
    assert!(app.plugin().table.job("J").is_none());
}

#[test]
fn jobs_and_their_watchers_survive_a_reload() {
    let mut app = app(r#"{"interval":60}"#);
    let (ann, script) = both(&mut app);
    let bob = app.open(Peer::websocket()).unwrap();
    for id in [ann, bob] {
        ask(&mut app, id, r#"{"opcode":"watch","job":"J"}"#);
    }
    for n in [1, 2] {
        report(&mut app, script, &format!(r#"{{"opcode":"progress","job":"J","text":"{n}"}}"#));
    }
    ask(&mut app, ann, r#"{"opcode":"watch","job":"K"}"#);
    ask(&mut app, ann, r#"{"opcode":"abort","job":"K"}"#);
    app.close(bob);
    drop(app.received(ann));
    let mut app = app.reload::<Jobs>(r#"{"interval":60}"#).unwrap();
    after(&mut app, 1.0);
    let [newest] = app.received(ann).try_into().unwrap();
    assert!(newest.contains(r#""text":"2""#), "{newest}");
    assert_eq!(report(&mut app, script, r#"{"opcode":"progress","job":"K"}"#), "abort");
    app.close(ann);
    assert_eq!(report(&mut app, script, r#"{"opcode":"done","job":"J"}"#), "unwatched");
}

#[test]
fn an_unknown_snapshot_is_refused() {
    let mut app = app("{}");
    let plugin = app.plugin();
    assert!(plugin.restore(Snapshot { version: 2, bytes: b"{}".to_vec() }).is_err());
    assert!(plugin.restore(Snapshot { version: 1, bytes: b"{}".to_vec() }).is_err());
}

#[test]
fn a_configuration_error_names_its_key() {
    for (config, expected) in [
        (
            r#"{"intervall":1}"#,
            "unknown field `intervall`, expected one of `interval`, `keep`, `max_jobs`, `demo`, `web_reports`",
        ),
        (r#"{"interval":-1}"#, "`interval` is -1; it must be from 0 to 60 seconds"),
        (r#"{"keep":0}"#, "`keep` is 0; it must be from 1 to 604800 seconds"),
        (r#"{"max_jobs":0}"#, "`max_jobs` is 0; it must be from 1 to 1000000"),
        (r#"{"demo":"yes"}"#, r#"`demo`: invalid type: string "yes", expected a boolean"#),
    ] {
        assert_eq!(Harness::<Jobs>::start(config).err().unwrap().0, expected);
    }
}
