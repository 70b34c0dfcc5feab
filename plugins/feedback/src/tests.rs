use super::*;
use plugsocket_plugin::testing::{Harness, Peer};

fn app(config: &str) -> Harness<Feedback> {
    Harness::start(config).unwrap()
}

#[test]
fn a_broadcast_reaches_every_other_browser_unchanged() {
    let mut app = app("{}");
    let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
    let script = app.open(Peer::backend()).unwrap();
    let packet = r#" {"x":1e999, "opcode":"broad\u0063ast","message":{"deep":[1,"\ud800"]}} "#;
    app.message(ann, packet).unwrap();
    assert_eq!(app.received(bob), [packet]);
    assert_eq!((app.received(ann).len(), app.received(script).len()), (0, 0));
    app.message(script, r#"{"opcode":"broadcast"}"#).unwrap();
    assert_eq!((app.received(ann).len(), app.received(bob).len()), (1, 1));
}

#[test]
fn a_feedback_reaches_one_client_and_returns_its_verdict() {
    let mut app = app("{}");
    let ann = app.open(Peer::websocket()).unwrap();
    let script = app.open(Peer::backend().ident("import")).unwrap();
    let uuid = app.uuid(ann);
    for (packet, verdict, reached) in [
        (format!(r#"{{"opcode":"feedback","uuid":"{uuid}","message":1}}"#), "delivered", ann),
        (r#"{"opcode":"feedback","ident":"import"}"#.to_owned(), "delivered", script),
        (r#"{"opcode":"feedback","uuid":"","ident":"import"}"#.to_owned(), "delivered", script),
        (r#"{"opcode":"feedback","uuid":"x.y","ident":"import"}"#.to_owned(), "delivered", script),
        (format!(r#"{{"opcode":"feedback","uuid":"{uuid}","ident":"import"}}"#), "delivered", ann),
    ] {
        app.message(script, &packet).unwrap();
        assert_eq!(app.fyi(script), verdict, "{packet}");
        for id in [ann, script] {
            assert_eq!(app.received(id).len(), usize::from(id == reached), "{packet}");
        }
    }
    app.message(script, r#"{"opcode":"echo"}"#).unwrap();
    assert_eq!(app.fyi(script), "");
    app.close(ann);
    app.message(script, &format!(r#"{{"opcode":"feedback","uuid":"{uuid}"}}"#)).unwrap();
    assert_eq!(app.fyi(script), "gone");
}

#[test]
fn a_number_is_the_ident_that_it_spells() {
    let mut app = app("{}");
    let [script, other] = ["42", "12345678901234567890123"]
        .map(|ident| app.open(Peer::backend().ident(ident)).unwrap());
    let ann = app.open(Peer::websocket()).unwrap();
    for (address, reached) in [
        (r#""ident":42"#, script),
        (r#""uuid":"","ident":"42""#, script),
        (r#""uuid":7,"ident": 42 "#, script),
        (r#""ident":12345678901234567890123"#, other),
    ] {
        app.message(ann, &format!(r#"{{"opcode":"feedback",{address}}}"#)).unwrap();
        assert_eq!(app.fyi(ann), "delivered", "{address}");
        for id in [script, other] {
            assert_eq!(app.received(id).len(), usize::from(id == reached), "{address}");
        }
    }
    for address in [r#""ident":42.0"#, r#""ident":12345678901234567890124"#, r#""ident":4.2e1"#] {
        app.message(ann, &format!(r#"{{"opcode":"feedback",{address}}}"#)).unwrap();
        assert_eq!(app.fyi(ann), "gone", "{address}");
    }
}

#[test]
fn a_feedback_without_a_target_reaches_no_client() {
    let mut app = app("{}");
    let script = app.open(Peer::backend().ident("0")).unwrap();
    let nameless = app.open(Peer::websocket().ident("")).unwrap();
    let absent = "no uuid and no ident";
    for (address, in_script, in_browser) in [
        (r#""uuid":true"#, absent, "gone"),
        (r#""uuid":null,"ident":[ "0" ]"#, absent, "gone"),
        (r#""ident":{"ident":"0"}"#, absent, "gone"),
        (r#""uuid":"","ident":"""#, absent, "gone"),
        (r#""message":1"#, absent, "gone"),
        (r#""uuid":1e999"#, "malformed uuid", "malformed uuid"),
        (r#""uuid":"x.y","ident":"1""#, "malformed uuid", "malformed uuid"),
        (r#""ident":"\ud800""#, "gone", "gone"),
    ] {
        for (id, expected) in [(script, in_script), (nameless, in_browser)] {
            app.message(id, &format!(r#"{{"opcode":"feedback",{address}}}"#)).unwrap();
            assert_eq!(app.fyi(id), expected, "{address}");
        }
        assert_eq!(app.received(script).len() + app.received(nameless).len(), 0, "{address}");
    }
}

#[test]
fn a_uuid_of_another_form_is_malformed_and_not_gone() {
    let mut app = app("{}");
    let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
    let uuid = app.uuid(bob);
    assert_eq!(uuid.len(), 101);
    app.close(bob);
    for (uuid, expected) in [
        (uuid.clone(), "gone"),
        (format!("{}f", &uuid[..100]), "gone"),
        (uuid[..36].to_owned(), "malformed uuid"),
        (uuid[..100].to_owned(), "malformed uuid"),
        (format!("{uuid}0"), "malformed uuid"),
        (format!(" {uuid}"), "malformed uuid"),
        (uuid.replace('-', "+"), "malformed uuid"),
        (format!("{}F", &uuid[..100]), "malformed uuid"),
        (uuid.replacen('4', "1", 1), "malformed uuid"),
        ("undefined".to_owned(), "malformed uuid"),
        (r"\ud83d".to_owned(), "malformed uuid"),
    ] {
        app.message(ann, &format!(r#"{{"opcode":"feedback","uuid":"{uuid}"}}"#)).unwrap();
        assert_eq!(app.fyi(ann), expected, "{uuid}");
    }
}

#[test]
fn echo_returns_the_packet_and_quit_closes() {
    let mut app = app("{}");
    let ann = app.open(Peer::websocket()).unwrap();
    app.message(ann, &br#"{"opcode":"echo"}"#[..]).unwrap();
    assert_eq!(app.received(ann), [r#"{"opcode":"echo"}"#]);
    app.message(ann, r#"{"opcode":"quit"}"#).unwrap();
    assert_eq!(app.closed(ann), Some((CloseCode::NORMAL, String::new())));
}

#[test]
fn anything_but_a_json_object_closes_with_1007() {
    for text in
        ["", "hello", "[]", "1", "null", r#"{"opcode":"echo"} x"#, r#"{"opcode""#, "{'a':1}"]
    {
        let mut app = app("{}");
        let ann = app.open(Peer::websocket()).unwrap();
        assert_eq!(app.message(ann, text).unwrap_err().code, CloseCode::INVALID, "{text}");
    }
    let mut app = app("{}");
    let ann = app.open(Peer::websocket()).unwrap();
    assert_eq!(app.message(ann, &[0xff][..]).unwrap_err().code, CloseCode::INVALID);
}

#[test]
fn an_unknown_opcode_is_reported_to_scripts_and_ignored_from_browsers() {
    let mut app = app("{}");
    let script = app.open(Peer::backend()).unwrap();
    let ann = app.open(Peer::websocket()).unwrap();
    let bob = app.open(Peer::websocket()).unwrap();
    for packet in ["{}", r#"{"opcode":"shout"}"#, r#"{"opcode":1}"#, r#"{"opcode":["quit"]}"#] {
        for (id, fyi) in [(ann, ""), (script, "unknown opcode")] {
            app.message(id, packet).unwrap();
            assert_eq!(app.fyi(id), fyi, "{packet}");
        }
    }
    assert_eq!((app.received(ann).len(), app.received(bob).len(), app.closed(ann)), (0, 0, None));
    app.message(script, r#"{"opcode":"broadcast"}"#).unwrap();
    assert_eq!((app.fyi(script).as_str(), app.received(bob).len()), ("", 1));
}

#[test]
fn a_browser_cannot_send_as_another_one() {
    let mut app = app("{}");
    let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
    let script = app.open(Peer::backend()).unwrap();
    let [from_ann, from_bob] = [ann, bob].map(|id| app.uuid(id));
    for opcode in [r#""broadcast""#.to_owned(), format!(r#""feedback","uuid":"{from_bob}""#)] {
        let packet = |from: &str| format!(r#"{{"opcode":{opcode},"fromUUID":"{from}"}}"#);
        for (sender, from, received) in [
            (ann, &from_ann, &from_ann),
            (ann, &from_bob, &from_ann),
            (script, &from_ann, &from_ann),
        ] {
            app.message(sender, &packet(from)).unwrap();
            assert_eq!(app.received(bob), [packet(received)]);
        }
    }
    let echo = format!(r#"{{"opcode":"echo","fromUUID":"{from_bob}"}}"#);
    app.message(ann, &echo).unwrap();
    assert_eq!(app.received(ann).last(), Some(&echo));
    let mut app = app.reload::<Feedback>(r#"{"web_sender":"keep","web_strip":["role"]}"#).unwrap();
    app.message(ann, r#"{"opcode":"broadcast","role":"admin","fromUUID":"x"}"#).unwrap();
    assert_eq!(app.received(bob), [r#"{"opcode":"broadcast","fromUUID":"x"}"#]);
}

#[test]
fn web_opcodes_restricts_browsers_but_not_scripts() {
    let mut app = app(r#"{"web_opcodes":["echo"]}"#);
    let ann = app.open(Peer::websocket()).unwrap();
    let bob = app.open(Peer::websocket()).unwrap();
    let script = app.open(Peer::backend()).unwrap();
    app.message(ann, r#"{"opcode":"broadcast"}"#).unwrap();
    assert_eq!(app.received(bob).len(), 0);
    app.message(script, r#"{"opcode":"broadcast"}"#).unwrap();
    assert_eq!(app.received(bob).len(), 1);
}

#[test]
fn deeply_nested_json_is_harmless() {
    let mut app = app("{}");
    let ann = app.open(Peer::websocket()).unwrap();
    for key in ["message", "uuid", "opcode"] {
        let open = "[".repeat(200_000);
        let close = "]".repeat(200_000);
        app.message(ann, &format!(r#"{{"opcode":"echo","{key}":{open}{close}}}"#)).unwrap();
    }
    app.message(ann, &"[".repeat(200_000)).unwrap_err();
}

#[test]
fn a_configuration_error_names_its_key() {
    for (config, expected) in [
        (
            r#"{"web_opcode":[]}"#,
            "unknown field `web_opcode`, expected one of `web_opcodes`, `web_sender`, `web_strip`",
        ),
        (
            r#"{"web_sender":"trust"}"#,
            "`web_sender`: unknown variant `trust`, expected one of `replace`, `stamp`, `keep`",
        ),
        (r#"{"web_strip":["uuid"]}"#, "`web_strip`: `uuid` routes a packet and cannot be removed"),
        (
            r#"{"web_opcodes":["shout"]}"#,
            "`web_opcodes`: unknown variant `shout`, expected one of `broadcast`, `feedback`, `echo`, `quit`",
        ),
        (
            r#"{"web_opcodes":"echo"}"#,
            r#"`web_opcodes`: invalid type: string "echo", expected a sequence"#,
        ),
    ] {
        assert_eq!(Harness::<Feedback>::start(config).err().unwrap().0, expected);
    }
}

#[test]
fn a_verdict_from_before_a_reload_is_cleared() {
    let mut app = app("{}");
    let [ann, bob] = [(); 2].map(|()| app.open(Peer::websocket()).unwrap());
    app.message(ann, r#"{"opcode":"feedback"}"#).unwrap();
    app.message(bob, r#"{"opcode":"feedback"}"#).unwrap();
    app.close(bob);
    let mut app = app.reload::<Feedback>("{}").unwrap();
    assert_eq!((app.fyi(ann).as_str(), app.plugin().fyi.len()), ("gone", 1));
    app.message(ann, r#"{"opcode":"echo"}"#).unwrap();
    assert_eq!((app.fyi(ann).as_str(), app.plugin().fyi.len()), ("", 0));
}

#[test]
fn a_closed_connection_leaves_no_state() {
    let mut app = app(r#"{"web_opcodes":["feedback"]}"#);
    let ann = app.open(Peer::websocket()).unwrap();
    app.message(ann, r#"{"opcode":"echo"}"#).unwrap();
    app.message(ann, r#"{"opcode":"feedback"}"#).unwrap();
    app.close(ann);
    assert!(app.plugin().fyi.is_empty() && app.plugin().warned.is_empty());
}
