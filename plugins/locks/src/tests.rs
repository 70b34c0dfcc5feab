use super::*;
use plugsocket_plugin::testing::{Harness, Peer};

type App = Harness<Locks>;

fn app(config: &str) -> App {
    Harness::start(config).unwrap()
}

fn enter(app: &mut App, query: &str) -> ConnectionId {
    app.open(Peer::websocket().query(query)).unwrap()
}

fn ask(app: &mut App, id: ConnectionId, packet: &str) -> Vec<String> {
    app.message(id, packet).unwrap();
    app.received(id)
}

fn after(app: &mut App, seconds: u64) {
    app.plugin().expire(Instant::now() + Duration::from_secs(seconds));
}

const ANN: &str = "holder=a-secret&name=Ann";
const BOB: &str = "holder=another&name=Bob";

#[test]
fn a_lock_is_reported_to_its_holder_and_to_the_others() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    assert_eq!(
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["b-2",1,"b-2"]}"#),
        [r#"{"opcode":"locks","mine":["1","b-2"],"locked":[]}"#]
    );
    assert_eq!(app.received(bob), [r#"{"opcode":"locked","ids":["1","b-2"],"by":"Ann"}"#]);
    assert_eq!(
        ask(&mut app, bob, r#"{"opcode":"lock","ids":["b-2","b-3"]}"#),
        [r#"{"opcode":"locks","mine":["b-3"],"locked":[{"id":"b-2","by":"Ann"}]}"#]
    );
    assert_eq!(app.received(ann), [r#"{"opcode":"locked","ids":["b-3"],"by":"Bob"}"#]);
    assert_eq!(
        ask(&mut app, ann, r#"{"opcode":"list"}"#),
        [r#"{"opcode":"locks","mine":["1","b-2"],"locked":[{"id":"b-3","by":"Bob"}]}"#]
    );
    assert_eq!(
        ask(&mut app, ann, r#"{"opcode":"unlock","ids":["1","b-3"]}"#),
        [r#"{"opcode":"locks","mine":["b-2"],"locked":[{"id":"b-3","by":"Bob"}]}"#]
    );
    assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["1"]}"#]);
    assert_eq!(
        ask(&mut app, ann, r#"{"opcode":"unlock"}"#),
        [r#"{"opcode":"locks","mine":[],"locked":[]}"#]
    );
    assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["b-2"]}"#]);
}

#[test]
fn a_request_without_effect_is_reported_to_its_sender_only() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    assert_eq!(app.received(bob).len(), 1);
    for packet in [
        r#"{"opcode":"lock","ids":["x"]}"#,
        r#"{"opcode":"lock","ids":[]}"#,
        r#"{"opcode":"unlock","ids":["y"]}"#,
        r#"{"opcode":"renew"}"#,
        r#"{"opcode":"list"}"#,
    ] {
        let answer = ask(&mut app, ann, packet);
        assert_eq!(answer, [r#"{"opcode":"locks","mine":["x"],"locked":[]}"#], "{packet}");
        assert_eq!(app.received(bob).len(), 0, "{packet}");
    }
}

#[test]
fn a_page_reload_keeps_the_locks_and_a_closed_tab_releases_them() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    app.close(ann);
    let ann = enter(&mut app, ANN);
    after(&mut app, 60);
    assert_eq!(app.received(bob).len(), 1, "only `locked`");
    assert!(ask(&mut app, ann, r#"{"opcode":"list"}"#)[0].contains(r#""mine":["x"]"#));
    app.close(ann);
    after(&mut app, 4);
    assert_eq!(app.received(bob).len(), 0);
    after(&mut app, 6);
    assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
}

#[test]
fn without_a_token_the_connection_is_the_holder() {
    let mut app = app("{}");
    let [ann, bob] = ["name=Ann", ""].map(|query| enter(&mut app, query));
    ask(&mut app, bob, r#"{"opcode":"lock","ids":["x"]}"#);
    assert_eq!(app.received(ann), [r#"{"opcode":"locked","ids":["x"],"by":"guest-0000"}"#]);
    app.close(bob);
    assert_eq!(app.received(ann), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
}

#[test]
fn an_expired_lease_is_reported_to_holder_and_others() {
    let mut app = app(r#"{"lease":60}"#);
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    drop(app.received(bob));
    app.tick(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40));
    assert_eq!(app.received(ann).len(), 0, "a jump of the wall clock expires nothing");
    after(&mut app, 61);
    assert_eq!(app.received(ann), [r#"{"opcode":"expired","ids":["x"]}"#]);
    assert_eq!(app.received(bob), [r#"{"opcode":"unlocked","ids":["x"]}"#]);
}

#[test]
fn two_tabs_with_one_token_are_one_holder() {
    let mut app = app("{}");
    let [ann, too] = [ANN, ANN].map(|query| enter(&mut app, query));
    let answer = ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    assert_eq!(app.received(too), answer);
    app.close(ann);
    after(&mut app, 60);
    assert!(ask(&mut app, too, r#"{"opcode":"list"}"#)[0].contains(r#""mine":["x"]"#));
}

#[test]
fn clients_never_receive_the_token_of_another() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    ask(&mut app, bob, r#"{"opcode":"lock","ids":["x"]}"#);
    app.message(bob, r#"{"opcode":"list"}"#).unwrap();
    after(&mut app, 400);
    assert!(app.received(bob).iter().all(|packet| !packet.contains("a-secret")));
}

#[test]
fn an_invalid_packet_is_answered_with_an_error() {
    let mut app = app(r#"{"max_locks":2,"max_total":3}"#);
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    ask(&mut app, bob, r#"{"opcode":"lock","ids":["1","2"]}"#);
    drop(app.received(ann));
    let opcode = "`opcode` must be lock, unlock, renew or list";
    let id = "each of `ids` must be a string or a number of 1 to 200 characters";
    for (packet, expected) in [
        ("{}", opcode),
        (r#"["lock",["1"]]"#, "a packet must be a JSON object"),
        (r#"{"opcode":"steal"}"#, opcode),
        (r#"{"opcode":"lock"}"#, "`ids` is missing: an array of the ids to lock"),
        (r#"{"opcode":"lock","ids":[""]}"#, id),
        (r#"{"opcode":"lock","ids":[true]}"#, id),
        (r#"{"opcode":"lock","ids":"x"}"#, "`ids` must be an array"),
        (&format!(r#"{{"opcode":"lock","ids":["{}"]}}"#, "x".repeat(201)), id),
        (&format!(r#"{{"opcode":"lock","ids":[{}]}}"#, "9".repeat(201)), id),
        (
            &format!(r#"{{"opcode":"lock","ids":[{}1]}}"#, "1,".repeat(500)),
            "`ids` has 501 entries; the limit is 500",
        ),
        (
            r#"{"opcode":"lock","ids":["3","4","5"]}"#,
            "this exceeds your limit of 2 locks; unlock some first",
        ),
        (
            r#"{"opcode":"lock","ids":["3","4"]}"#,
            "this exceeds the limit of 3 locks in total; try again later",
        ),
    ] {
        let expected = format!(r#"{{"opcode":"error","error":"{expected}"}}"#);
        assert_eq!(ask(&mut app, ann, packet), [expected], "{packet}");
    }
    for packet in ["", "null", "\u{feff}{}", &"[".repeat(100_000)] {
        assert!(ask(&mut app, ann, packet)[0].starts_with(r#"{"opcode":"error""#), "{packet}");
    }
    assert_eq!(app.received(bob).len(), 0);
    let long = format!("holder={}", "x".repeat(201));
    assert!(app.open(Peer::websocket().query(&long)).is_err());
}

#[test]
fn an_id_is_the_text_that_the_client_wrote() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    for (one, other) in [
        ("9007199254740993", "9007199254740992"),
        ("12345678901234567890123", "12345678901234567890124"),
        ("18446744073709551615", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775808"),
        ("1.10", "1.1"),
        ("0.1", "0.10000000000000000001"),
        ("1e400", "1e401"),
        ("-0", "0"),
    ] {
        let lock = |id: &str| format!(r#"{{"opcode":"lock","ids":[{id}]}}"#);
        for (holder, id) in [(ann, one), (bob, other)] {
            let locks = ask(&mut app, holder, &lock(id)).pop().unwrap();
            assert!(locks.contains(&format!(r#""mine":["{id}"]"#)), "{id}: {locks}");
            assert!(locks.ends_with(r#""locked":[]}"#), "{id}: {locks}");
        }
        // A number and the string that spells it are one id.
        let locks = ask(&mut app, bob, &lock(&format!(r#""{one}""#))).pop().unwrap();
        assert!(locks.contains(&format!(r#""locked":[{{"id":"{one}","#)), "{one}: {locks}");
        for holder in [ann, bob] {
            ask(&mut app, holder, r#"{"opcode":"unlock"}"#);
            drop(app.received(holder));
        }
        drop((app.received(ann), app.received(bob)));
    }
}

#[test]
fn half_a_surrogate_pair_in_an_id_is_a_replacement_character() {
    let mut app = app("{}");
    let ann = enter(&mut app, ANN);
    assert_eq!(
        ask(&mut app, ann, r#"{"opcode":"lock","ids":["cut \ud83d"]}"#),
        ["{\"opcode\":\"locks\",\"mine\":[\"cut \u{fffd}\"],\"locked\":[]}"]
    );
}

#[test]
fn a_refused_packet_of_a_script_has_a_fyi() {
    let mut app = app("{}");
    let script = app.open(Peer::backend()).unwrap();
    let ann = enter(&mut app, ANN);
    for (packet, fyi) in [(r#"{"opcode":"lok"}"#, "refused"), (r#"{"opcode":"list"}"#, "")] {
        ask(&mut app, script, packet);
        ask(&mut app, ann, packet);
        assert_eq!((app.fyi(script).as_str(), app.fyi(ann).as_str()), (fyi, ""), "{packet}");
    }
}

#[test]
fn with_user_names_a_browser_cannot_choose_its_name() {
    let mut app = app(r#"{"user_names":true}"#);
    let watcher = enter(&mut app, "");
    for (peer, expected) in [
        (Peer::websocket().user("eve"), "eve"),
        (Peer::websocket(), "guest-0000"),
        (Peer::backend(), "Ann"),
    ] {
        let id = app.open(peer.query("name=Ann")).unwrap();
        ask(&mut app, id, r#"{"opcode":"lock","ids":["x"]}"#);
        let by = format!(r#"{{"opcode":"locked","ids":["x"],"by":"{expected}"}}"#);
        assert_eq!(app.received(watcher), [by]);
        app.close(id);
        drop(app.received(watcher));
    }
}

#[test]
fn locks_survive_a_reload() {
    let mut app = app("{}");
    let [ann, bob] = [ANN, BOB].map(|query| enter(&mut app, query));
    let guest = enter(&mut app, "");
    ask(&mut app, ann, r#"{"opcode":"lock","ids":["x"]}"#);
    ask(&mut app, bob, r#"{"opcode":"lock","ids":["y"]}"#);
    ask(&mut app, guest, r#"{"opcode":"lock","ids":["z"]}"#);
    app.close(bob);
    let mut app = app.reload::<Locks>("{}").unwrap();
    drop((app.received(ann), app.received(guest)));
    let bob = enter(&mut app, BOB);
    for (id, mine) in [(ann, "x"), (bob, "y"), (guest, "z")] {
        let answer = ask(&mut app, id, r#"{"opcode":"list"}"#);
        assert!(answer[0].contains(&format!(r#""mine":["{mine}"]"#)), "{answer:?}");
    }
    app.close(guest);
    assert_eq!(app.received(ann), [r#"{"opcode":"unlocked","ids":["z"]}"#]);
    after(&mut app, 301);
    assert!(app.received(ann).contains(&r#"{"opcode":"expired","ids":["x"]}"#.to_owned()));
}

#[test]
fn a_configuration_error_names_its_key() {
    for (config, expected) in [
        (
            r#"{"leese":1}"#,
            "unknown field `leese`, expected one of `lease`, `grace`, `max_locks`, `max_total`, `user_names`",
        ),
        (r#"{"lease":0}"#, "`lease` is 0; it must be from 0.1 to 86400 seconds"),
        (r#"{"grace":-1}"#, "`grace` is -1; it must be from 0 to 86400 seconds"),
        (r#"{"grace":"5s"}"#, r#"`grace`: invalid type: string "5s", expected f64"#),
        (r#"{"max_locks":0}"#, "`max_locks` is 0; it must be from 1 to 1000000"),
    ] {
        assert_eq!(Harness::<Locks>::start(config).err().unwrap().0, expected);
    }
}
