//! Messages of all kinds, ticks, timers and events.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Check;
use crate::plugin::validate::compare::{Difference, compare};
use crate::plugin::validate::driver::Bench;
use crate::plugin::validate::generator::{Random, binary, samples, text};
use crate::plugin::validate::report::{Checked, excerpt, fail, skip, warn};
use crate::plugin::validate::site::{Received, Site, default_bounds};
use crate::protocol::payload::Payload;
use crate::routing::outbox::OutboxBounds;

pub(super) const CHECKS: &[Check] = &[
    Check::new("takes-texts", "`message` takes texts", texts),
    Check::new("takes-binaries", "`message` takes binary messages", binaries),
    Check::new("takes-empty-messages", "`message` takes empty messages", empty),
    Check::new("takes-large-messages", "`message` takes 1 MiB, as text, binary and JSON", large),
    Check::new("takes-huge-messages", "`message` takes 16 MiB, the default `max_message`", huge),
    Check::new("takes-deep-json", "`message` takes JSON of 100,000 levels", deep_json),
    Check::new(
        "takes-malformed-json",
        "`message` takes JSON with every kind of mistake",
        malformed,
    ),
    Check::new(
        "takes-invalid-utf",
        "`message` takes binary messages that are not UTF-8",
        invalid_utf,
    ),
    Check::new("takes-control-characters", "`message` takes NUL and control characters", control),
    Check::new(
        "answers-are-bounded",
        "one message causes at most 1,000 messages and 64 MiB to each client",
        bounded_answers,
    ),
    Check::new(
        "batches-equal-messages",
        "with `BATCHES`, `messages` has the same effect as `message` for each one",
        batches,
    ),
    Check::new("takes-a-thousand-ticks", "`tick` runs a thousand times, with clients", ticks),
    Check::new("takes-clock-jumps", "`tick` takes a clock that jumps, also backwards", clock_jumps),
    Check::new("takes-unknown-timers", "`timer` takes keys that this build never set", timers),
    Check::new("takes-unknown-events", "`event` takes bytes that this build never posted", events),
];

/// Sends each payload from a client of its own, and expects that others are still served.
fn each(bench: &Bench, payloads: &[Payload]) -> Checked {
    let mut app = bench.serve()?;
    let other = app.client()?;
    for payload in payloads {
        let client = app.client()?;
        app.message(&client, payload)?;
        app.message(&client, payload)?;
        app.close(client)?;
        app.message(&other, &text("hello"))?;
    }
    app.close(other)
}

fn texts(bench: &Bench) -> Checked {
    let texts = ["a", "hello", "0", "{}", "\u{1f600}", "\u{202e}abc", "line\nline", "  "];
    let own = bench.brief.messages.iter().map(String::as_str);
    each(bench, &own.chain(texts).map(text).collect::<Vec<_>>())
}

fn binaries(bench: &Bench) -> Checked {
    let mut random = Random::new(bench.brief.seed);
    let mut payloads: Vec<Payload> = [&b"{}"[..], &[0; 8], b"text"].map(binary).into();
    payloads.extend([1, 2, 125, 126, 4096].map(|count| binary(&random.bytes(count))));
    each(bench, &payloads)
}

fn empty(bench: &Bench) -> Checked {
    each(bench, &[text(""), binary(b"")])
}

fn of_size(bytes: usize) -> [Payload; 3] {
    let json = format!(r#"{{"opcode":"message","message":"{}"}}"#, "x".repeat(bytes - 40));
    [text(&"x".repeat(bytes)), binary(&vec![0xa5; bytes]), text(&json)]
}

fn large(bench: &Bench) -> Checked {
    each(bench, &of_size(1 << 20))
}

fn huge(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    for payload in of_size(16 << 20) {
        let client = app.client()?;
        app.message(&client, &payload)?;
        app.close(client)?;
    }
    Ok(())
}

fn deep_json(bench: &Bench) -> Checked {
    const DEPTH: usize = 100_000;
    let arrays = "[".repeat(DEPTH) + &"]".repeat(DEPTH);
    let objects = r#"{"a":"#.repeat(DEPTH) + "1" + &"}".repeat(DEPTH);
    let within = format!(r#"{{"opcode":"message","message":{arrays}}}"#);
    each(bench, &[text(&arrays), text(&objects), text(&within), text(&"[".repeat(DEPTH))])
}

fn malformed(bench: &Bench) -> Checked {
    let texts = [
        "{",
        "}",
        "[",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "[1,]",
        "{a:1}",
        "{'a':1}",
        "\"",
        "\"\\",
        "\"\\u12",
        "\"\\ud800\"",
        "01",
        "1.",
        "+1",
        "NaN",
        "nul",
        "{}{}",
        "{}x",
        "\u{feff}{}",
        "{\"opcode\":}",
        "{\"opcode\":\"x\",\"opcode\":\"y\"}",
        "// comment",
    ];
    each(bench, &texts.map(text))
}

fn invalid_utf(bench: &Bench) -> Checked {
    let bytes: [&[u8]; 6] = [
        &[0xff],
        &[0xc0, 0x80],
        &[0xed, 0xa0, 0x80],
        &[0xf4, 0x90, 0x80, 0x80],
        b"{\"opcode\":\"\xff\"}",
        b"hello \xe2\x82",
    ];
    each(bench, &bytes.map(binary))
}

fn control(bench: &Bench) -> Checked {
    let all: String = (0_u8..0x20).map(char::from).chain(['\u{7f}', '\u{80}', '\u{9f}']).collect();
    let json = r#"{"opcode":"\u0000","message":"\u0007\u001b[2J"}"#;
    each(bench, &[text("\0"), text("a\0b"), text(&all), binary(all.as_bytes()), text(json)])
}

fn bounded_answers(bench: &Bench) -> Checked {
    const BYTES: usize = 64 << 20;
    let bounds = OutboxBounds { messages: 1000, bytes: BYTES, ..default_bounds() };
    let site = Arc::new(Site::new(bounds));
    let mut app = bench.serve_with(&site, &bench.brief.settings)?;
    app.keeps_answers = true;
    let others = [app.client()?, app.client()?];
    for payload in samples(&bench.brief.messages) {
        let client = app.client()?;
        others.iter().for_each(|other| drop(other.take()));
        app.message(&client, &payload)?;
        if others.iter().chain([&client]).any(|client| client.take().is_overfull) {
            let text = excerpt(&String::from_utf8_lossy(payload.as_bytes()));
            let text = format!(
                "the message {text:?} causes more than 1,000 messages or 64 MiB to one client; \
                 any client can close all others with it"
            );
            return Err(fail(text));
        }
        app.close(client)?;
    }
    Ok(())
}

fn batches(bench: &Bench) -> Checked {
    let (mut single, mut batched) = (bench.serve()?, bench.serve()?);
    if !batched.takes_batches() {
        return Err(skip("it does not declare BATCHES"));
    }
    single.keeps_answers = true;
    batched.keeps_answers = true;
    let texts = [text("one"), text("two"), text("{}"), binary(b"three")];
    let own = bench.brief.messages.iter().map(|message| text(message));
    let payloads: Vec<Payload> = own.chain(texts).collect();
    let (ann, bob) = (single.client()?, batched.client()?);
    for payload in &payloads {
        single.message(&ann, payload)?;
    }
    batched.batch(&bob, &payloads.iter().collect::<Vec<_>>())?;
    let neutral = |received: Received, uuid: &str| -> Vec<String> {
        let text =
            |payload: &Payload| String::from_utf8_lossy(payload.as_bytes()).replace(uuid, "UUID");
        received.payloads.iter().map(text).collect()
    };
    let answers = neutral(ann.take(), ann.uuid());
    let batch_answers = neutral(bob.take(), bob.uuid());
    if let (Some(before), Some(after)) = (single.snapshot()?, batched.snapshot()?)
        && compare(&before.bytes, &after.bytes) == Difference::Lost
    {
        return Err(fail("after `messages`, parts of the state are missing that `message` adds"));
    }
    if answers == batch_answers {
        return Ok(());
    }
    let (one, all) = (answers.len(), batch_answers.len());
    let text = format!(
        "`messages` answers otherwise than `message` ({all} and {one} answers); fine if intended"
    );
    Err(warn(text))
}

fn ticks(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let mut clients = Vec::new();
    for payload in samples(&bench.brief.messages) {
        let client = app.client()?;
        app.message(&client, &payload)?;
        clients.push(client);
    }
    let (mut now, mut count) = (SystemTime::now(), 0);
    for _ in 0..1000 {
        let Some(every) = app.tick_every()? else { break };
        if every.is_zero() {
            return Err(fail("`tick_every` returns no time; the minimum is one millisecond"));
        }
        now += every;
        app.tick(now)?;
        count += 1;
        if count % 100 == 0
            && let Some(client) = clients.pop()
        {
            app.close(client)?;
        }
    }
    for client in clients {
        app.close(client)?;
    }
    if count == 0 { Err(skip("it has no ticks")) } else { Ok(()) }
}

fn clock_jumps(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let client = app.client()?;
    for message in samples(&bench.brief.messages) {
        app.message(&client, &message)?;
    }
    if app.tick_every()?.is_none() {
        return Err(skip("it has no ticks"));
    }
    let (epoch, now) = (SystemTime::UNIX_EPOCH, SystemTime::now());
    let years = |years: u64| Duration::from_secs(years * 365 * 24 * 60 * 60);
    for time in [now, epoch, now, epoch + years(200), epoch + years(8000), now] {
        app.tick(time)?;
    }
    Ok(())
}

fn timers(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let client = app.client()?;
    for key in ["", "unknown", "0", "{}", "a\0b", "\u{1f600}", &"x".repeat(256)] {
        app.timer(key)?;
    }
    for message in samples(&bench.brief.messages) {
        app.message(&client, &message)?;
    }
    app.expire_timers()?;
    app.close(client)?;
    app.expire_timers().map(drop)
}

fn events(bench: &Bench) -> Checked {
    let (mut app, mut random) = (bench.serve()?, Random::new(bench.brief.seed));
    let client = app.client()?;
    for bytes in [&b""[..], b"unknown", b"{}", &[0xff, 0], &vec![0; 1 << 20], &random.bytes(100)] {
        app.event(bytes)?;
    }
    app.message(&client, &text("hello"))?;
    app.close(client)
}
