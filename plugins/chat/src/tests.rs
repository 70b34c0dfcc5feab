use super::*;
use plugsocket_plugin::CloseCode;
use plugsocket_plugin::testing::{Harness, Peer};

type App = Harness<Chat>;

fn app(config: &str) -> App {
    Harness::start(config).unwrap()
}

/// Connects a client and discards what it has received so far.
fn enter(app: &mut App, query: &str) -> ConnectionId {
    let id = app.open(Peer::websocket().query(query)).unwrap();
    drop(app.received(id));
    id
}

fn system(text: &str) -> String {
    format!(r#"{{"type":"system","message":"{text}"}}"#)
}

/// Sends a packet and returns the error that answers it.
fn error(app: &mut App, id: ConnectionId, packet: &str) -> String {
    app.message(id, packet).unwrap();
    let [answer] = app.received(id).try_into().unwrap();
    let prefix = r#"{"type":"error","message":""#;
    answer.strip_prefix(prefix).and_then(|a| a.strip_suffix(r#""}"#)).unwrap().to_owned()
}

#[test]
fn connecting_and_disconnecting_is_announced_in_the_room() {
    let mut app = app("{}");
    let ann = app.open(Peer::websocket().address("192.0.2.7")).unwrap();
    assert_eq!(app.received(ann), [system("192.0.2.7 connected")]);
    let bob = app.open(Peer::websocket().query("room=lobby&name=Bob")).unwrap();
    let eve = app.open(Peer::websocket().query("room=cellar")).unwrap();
    for id in [ann, bob, eve] {
        assert_eq!(app.received(id), [system("192.0.2.1 connected")]);
    }
    app.close(bob);
    assert_eq!(app.received(ann), [system("192.0.2.1 disconnected")]);
    assert_eq!((app.received(bob).len(), app.received(eve).len()), (0, 0));
}

#[test]
fn a_message_reaches_all_members_including_the_sender() {
    let mut app = app("{}");
    let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
    let eve = enter(&mut app, "room=cellar");
    drop((app.received(ann), app.received(bob)));
    for (packet, expected) in [
        (
            r##"{"message":"hi","color":"#fff"}"##,
            r##"{"type":"usermsg","name":"Ann","message":"hi","color":"#fff"}"##,
        ),
        (
            r#"{"opcode":"message","message":"hi","name":"Anna","color":null}"#,
            r#"{"type":"usermsg","name":"Anna","message":"hi"}"#,
        ),
        (
            r#"{"message":"again","name":"","color":""}"#,
            r#"{"type":"usermsg","name":"Anna","message":"again"}"#,
        ),
    ] {
        app.message(ann, packet).unwrap();
        assert_eq!(
            (app.received(ann), app.received(bob)),
            (vec![expected.to_owned()], vec![expected.to_owned()])
        );
    }
    assert_eq!(app.received(eve).len(), 0);
}

#[test]
fn joining_a_room_leaves_the_previous_one() {
    let mut app = app("{}");
    let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
    let eve = enter(&mut app, "room=den&name=Eve");
    drop(app.received(ann));
    app.message(ann, r#"{"opcode":"join","room":" den ","name":"Anna"}"#).unwrap();
    assert_eq!(
        app.received(ann),
        [r#"{"type":"joined","room":"den","name":"Anna","members":["Eve","Anna"]}"#]
    );
    assert_eq!(app.received(eve), [system("Anna joined")]);
    assert_eq!(app.received(bob), [system("Ann left")]);
    app.message(bob, r#"{"message":"still here?"}"#).unwrap();
    assert_eq!((app.received(ann).len(), app.received(bob).len()), (0, 1));
    // The same room again, as a page does that joins the room it has connected to.
    app.message(eve, r#"{"opcode":"join","room":"den"}"#).unwrap();
    assert_eq!(app.received(ann), [system("Eve joined")]);
}

#[test]
fn a_new_name_is_announced_once() {
    let mut app = app("{}");
    let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
    drop(app.received(ann));
    for _ in 0..2 {
        app.message(ann, r#"{"opcode":"name","name":"Anna"}"#).unwrap();
    }
    assert_eq!(app.received(ann), [system("Ann is now Anna")]);
    assert_eq!(app.received(bob), [system("Ann is now Anna")]);
}

#[test]
fn markup_of_a_client_is_escaped() {
    let mut app = app(r#"{"history":1}"#);
    let evil = "<img src=x onerror='a&b'>";
    let query = "name=%3Cb%3E&room=%22r%22";
    let ann = app.open(Peer::websocket().query(query)).unwrap();
    for packet in [
        format!(r#"{{"message":"{evil}","name":"<i>"}}"#),
        format!(r#"{{"opcode":"name","name":"{evil}"}}"#),
        format!(r#"{{"opcode":"join","room":"{evil}","name":"{evil}"}}"#),
        format!(r#"{{"opcode":{{"{evil}":1}}}}"#),
        format!(r#"{{"opcode":["{evil}"]}}"#),
        evil.to_owned(),
    ] {
        app.message(ann, &packet).unwrap();
    }
    app.open(Peer::websocket().query(query)).unwrap();
    for text in app.received(ann) {
        assert!(!text.contains(['<', '>', '\'']), "{text}");
    }
    assert_eq!(escape("<>&\"'"), "&lt;&gt;&amp;&quot;&#39;");
}

#[test]
fn an_invalid_packet_is_answered_with_an_error_to_its_sender_only() {
    let mut app = app(r#"{"max_text":5,"max_name":4}"#);
    let [ann, bob] = ["name=Ann", "name=Bob"].map(|query| enter(&mut app, query));
    drop(app.received(ann));
    let color = "`color` must be # and 3 or 6 hex digits, such as #c0ffee";
    for (packet, expected) in [
        (r#"{"message":"sixsix"}"#, "`message` has 6 characters; it must have 1 to 5"),
        (r#"{"message":""}"#, "`message` has 0 characters; it must have 1 to 5"),
        ("{}", "`message` has 0 characters; it must have 1 to 5"),
        (r#"{"message":"x","color":"red"}"#, color),
        (r##"{"message":"x","color":"#12345"}"##, color),
        (r##"{"message":"x","color":"#ééé"}"##, color),
        (r#"{"message":"x","name":"Annabel"}"#, "`name` has 7 characters; it must have 1 to 4"),
        (r#"{"opcode":"name"}"#, "`name` has 0 characters; it must have 1 to 4"),
        (r#"{"opcode":"join","name":"A"}"#, "`room` has 0 characters; it must have 1 to 4"),
        (r#"{"opcode":"join","room":"a\u0000b"}"#, "`room` contains a control character"),
        (r#"{"message":true}"#, "`message` must be a string"),
        (r#"{"opcode":{"a":1}}"#, "`opcode` must be a string"),
        (r#"{"opcode":"shout"}"#, "unknown opcode; use join, name or message"),
        (r#"["join","den","Bob",null,null]"#, "a packet must be a JSON object"),
        (r#" "join""#, "a packet must be a JSON object"),
    ] {
        assert_eq!(error(&mut app, ann, packet), expected, "{packet}");
    }
    for packet in ["", "[]x", "{\"message\":[1]}", "\u{feff}{}", &"[".repeat(100_000)] {
        error(&mut app, ann, packet);
    }
    app.message(ann, &[0xff][..]).unwrap();
    assert_eq!(app.received(ann).len(), 1);
    assert_eq!(app.received(bob).len(), 0);
    // The limit counts characters, not bytes.
    app.message(ann, r#"{"message":"ééééé"}"#).unwrap();
    assert_eq!(app.received(bob).len(), 1);
}

#[test]
fn numbers_are_the_text_that_they_spell() {
    let mut app = app("{}");
    let ann = enter(&mut app, "name=Ann");
    app.message(ann, r#"{"opcode":"join","room":42,"name":7}"#).unwrap();
    let joined = r#"{"type":"joined","room":"42","name":"7","members":["7"]}"#;
    assert_eq!(app.received(ann), [joined]);
    for number in ["12345678901234567890123", "1.10", "1e400", "-0"] {
        app.message(ann, &format!(r#"{{"message":{number},"name":"Ann"}}"#)).unwrap();
        let expected = format!(r#"{{"type":"usermsg","name":"Ann","message":"{number}"}}"#);
        assert_eq!(app.received(ann), [expected]);
    }
}

#[test]
fn half_a_surrogate_pair_is_sent_as_a_replacement_character() {
    let mut app = app("{}");
    let ann = enter(&mut app, "name=Ann");
    app.message(ann, r#"{"message":"cut \ud83d"}"#).unwrap();
    assert_eq!(
        app.received(ann),
        ["{\"type\":\"usermsg\",\"name\":\"Ann\",\"message\":\"cut \u{fffd}\"}"]
    );
}

#[test]
fn a_refused_packet_of_a_script_has_a_fyi() {
    let mut app = app("{}");
    let script = app.open(Peer::backend()).unwrap();
    let ann = enter(&mut app, "");
    for (packet, fyi) in [(r#"{"opcode":"mesage"}"#, "refused"), (r#"{"message":"x"}"#, "")] {
        app.message(script, packet).unwrap();
        app.message(ann, packet).unwrap();
        assert_eq!((app.fyi(script).as_str(), app.fyi(ann).as_str()), (fyi, ""), "{packet}");
    }
}

#[test]
fn with_user_names_a_browser_cannot_choose_its_name() {
    let mut app = app(r#"{"user_names":true,"max_name":5}"#);
    for (peer, expected) in [
        (Peer::websocket().user("eve"), "eve"),
        (Peer::websocket().user("evelyne"), "evely"),
        (Peer::websocket(), "guest-0000"),
        (Peer::backend(), "Ann"),
    ] {
        let id = app.open(peer.clone().query("name=Ann")).unwrap();
        drop(app.received(id));
        app.message(id, r#"{"message":"hi","name":"Ann"}"#).unwrap();
        let expected = format!(r#"{{"type":"usermsg","name":"{expected}","message":"hi"}}"#);
        assert_eq!(app.received(id), [expected]);
        app.close(id);
    }
    let eve = app.open(Peer::websocket().user("eve")).unwrap();
    drop(app.received(eve));
    let refused = error(&mut app, eve, r#"{"opcode":"name","name":"Ann"}"#);
    assert_eq!(refused, "names are those of the authenticated users here");
    app.message(eve, r#"{"opcode":"join","room":"den","name":"Ann"}"#).unwrap();
    let joined = r#"{"type":"joined","room":"den","name":"eve","members":["eve"]}"#;
    assert_eq!(app.received(eve).last().map(String::as_str), Some(joined));
}

#[test]
fn an_invalid_query_refuses_the_connection() {
    let mut app = app(r#"{"max_name":4}"#);
    for (query, expected) in [
        ("room=cellar", "`room` has 6 characters; it must have 1 to 4"),
        ("name=a%00b", "`name` contains a control character"),
    ] {
        let refused = app.open(Peer::websocket().query(query)).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (CloseCode::POLICY, expected));
    }
    let ann = enter(&mut app, "room=&name=+");
    assert_eq!(app.plugin().rooms.member(ann).unwrap().name, "guest-0000");
}

#[test]
fn a_new_member_receives_the_history() {
    let mut app = app(r#"{"history":2}"#);
    let ann = enter(&mut app, "name=Ann");
    for text in ["1", "2", "3"] {
        app.message(ann, &format!(r#"{{"message":"{text}"}}"#)).unwrap();
    }
    let history = r#"{"type":"history","messages":[{"type":"usermsg","name":"Ann","message":"2"},{"type":"usermsg","name":"Ann","message":"3"}]}"#;
    let bob = app.open(Peer::websocket().query("room=den")).unwrap();
    assert_eq!(app.received(bob).len(), 1, "its room has no history");
    app.message(bob, r#"{"opcode":"join","room":"lobby"}"#).unwrap();
    assert_eq!(app.received(bob)[1], history);
    app.close(bob);
    app.message(ann, r#"{"opcode":"join","room":"lobby"}"#).unwrap();
    let eve = app.open(Peer::websocket()).unwrap();
    assert_eq!(app.received(eve), [history.to_owned(), system("192.0.2.1 connected")]);
}

#[test]
fn members_and_history_survive_a_reload() {
    let mut app = app(r#"{"history":9}"#);
    let ann = enter(&mut app, "name=Ann&room=den");
    let [bob, eve] = ["name=Bob&room=den"; 2].map(|query| enter(&mut app, query));
    app.message(ann, r#"{"message":"hi"}"#).unwrap();
    app.close(eve);
    let mut app = app.reload::<Chat>(r#"{"history":9}"#).unwrap();
    drop((app.received(ann), app.received(bob)));
    app.message(ann, r#"{"message":"back"}"#).unwrap();
    assert_eq!(app.received(bob), [r#"{"type":"usermsg","name":"Ann","message":"back"}"#]);
    assert_eq!(app.plugin().rooms.names("den", 9), ["Ann", "Bob"]);
    assert_eq!(app.plugin().rooms.history("den").len(), 2);
    app.close(bob);
    assert_eq!(app.received(ann).last(), Some(&system("192.0.2.1 disconnected")));
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
            r#"{"maxtext":1}"#,
            "unknown field `maxtext`, expected one of `max_text`, `max_name`, `history`, `user_names`",
        ),
        (r#"{"max_name":100}"#, "`max_name` is 100; it must be from 1 to 64"),
        (r#"{"max_text":0}"#, "`max_text` is 0; it must be from 1 to 1000000"),
        (r#"{"history":-1}"#, "`history`: invalid value: integer `-1`, expected usize"),
    ] {
        assert_eq!(Harness::<Chat>::start(config).err().unwrap().0, expected);
    }
}
