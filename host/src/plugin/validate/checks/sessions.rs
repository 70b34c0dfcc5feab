//! Connections: how they open and end.

use plugsocket_plugin::{CloseCode, ClosedBy, Kind};

use super::Check;
use crate::plugin::validate::child::on_thread;
use crate::plugin::validate::driver::{Answer, Bench};
use crate::plugin::validate::generator::{samples, text};
use crate::plugin::validate::report::{Checked, fail, skip};
use crate::plugin::validate::site::Opening;
use crate::protocol::close::CloseReason;

pub(super) const CHECKS: &[Check] = &[
    Check::new("serves-one-session", "a client connects, sends messages and leaves", one_session),
    Check::new(
        "serves-a-hundred-sessions",
        "a hundred clients are connected at once and send messages by turns",
        hundred_sessions,
    ),
    Check::new("serves-backends", "a client of kind backend is served or refused", backends),
    Check::new("serves-tcp", "a client of kind tcp is served or refused", tcp),
    Check::new(
        "refuses-a-connection",
        "after `open` has refused a connection, another one is served",
        refused_connection,
    ),
    Check::new(
        "refuses-a-message",
        "after `message` has refused a message, `close` follows and another client is served",
        refused_message,
    ),
    Check::new("takes-errors", "`error` and then `close` end a broken connection", errors),
    Check::new("takes-every-close", "a connection may end for every reason", closes),
    Check::new(
        "takes-odd-queries",
        "`open` takes every query: empty, long, malformed, not UTF-8",
        odd_queries,
    ),
    Check::new(
        "runs-on-any-thread",
        "an instance may be called from different threads, one at a time",
        any_thread,
    ),
];

fn one_session(bench: &Bench) -> Checked {
    session_of(bench, Kind::WebSocket)
}

fn backends(bench: &Bench) -> Checked {
    session_of(bench, Kind::Backend)
}

fn tcp(bench: &Bench) -> Checked {
    session_of(bench, Kind::Tcp)
}

/// Serves a client of a kind, several times; it sends the samples.
fn session_of(bench: &Bench, kind: Kind) -> Checked {
    let mut app = bench.serve()?;
    for payload in samples(&bench.brief.messages) {
        let client = app.client_of(kind)?;
        app.message(&client, &payload)?;
        app.message(&client, &text("hello"))?;
        app.close(client)?;
    }
    match app.members() {
        0 => Ok(()),
        left => Err(fail(format!("{left} connections are left"))),
    }
}

fn hundred_sessions(bench: &Bench) -> Checked {
    let (mut app, samples) = (bench.serve()?, samples(&bench.brief.messages));
    let mut clients = Vec::new();
    for index in 0..100 {
        let kind = [Kind::WebSocket, Kind::WebSocket, Kind::Backend, Kind::Tcp][index % 4];
        if let Ok(client) = app.open(&bench.opening(kind))? {
            clients.push(client);
        }
    }
    if clients.is_empty() {
        return Err(skip("it refuses clients of every kind; --query sets a query"));
    }
    for (index, client) in clients.iter().chain(&clients).enumerate() {
        app.message(client, &samples[index % samples.len()])?;
    }
    // In another order than they came.
    while !clients.is_empty() {
        app.close(clients.swap_remove(clients.len() / 2))?;
    }
    Ok(())
}

/// Queries of which an application may refuse some.
fn queries() -> Vec<String> {
    let mut queries: Vec<String> = [
        "",
        "x",
        "=",
        "&&&",
        "room=",
        "room=%",
        "room=%zz&room=a",
        "a=%ff%fe",
        "name=%00",
        "%00=1",
    ]
    .map(str::to_owned)
    .into();
    for key in ["room", "name", "holder", "id", "token"] {
        queries.push(format!("{key}={}", "x".repeat(5000)));
        queries.push(format!("{key}=%F0%9F%98%80%0A"));
    }
    queries
}

fn odd_queries(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    for query in queries() {
        for kind in [Kind::WebSocket, Kind::Backend] {
            if let Ok(client) = app.open(&Opening { kind, query: query.clone() })? {
                app.message(&client, &text("hello"))?;
                app.close(client)?;
            }
        }
    }
    Ok(())
}

fn refused_connection(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let first = app.client()?;
    let mut refusals = 0;
    for query in queries() {
        match app.open(&Opening { kind: Kind::WebSocket, query: query.clone() })? {
            Ok(client) => app.close(client)?,
            Err(text) if text.trim().is_empty() => {
                return Err(fail(format!("`open` refuses the query {query:?} without a reason")));
            }
            Err(_) => refusals += 1,
        }
    }
    if refusals == 0 {
        return Err(skip("it refuses no connection"));
    }
    app.message(&first, &text("hello"))?;
    let second = app.client()?;
    app.message(&second, &text("hello"))?;
    app.close(second)?;
    app.close(first)
}

fn refused_message(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let first = app.client()?;
    let mut refusals = 0;
    for payload in samples(&bench.brief.messages) {
        let client = app.client()?;
        match app.message(&client, &payload)? {
            Answer::Refused(text) if text.trim().is_empty() => {
                return Err(fail("`message` refuses a message without a reason"));
            }
            Answer::Refused(text) => {
                refusals += 1;
                // The rest of what the client has sent is dropped.
                app.message(&client, &payload)?;
                let code = CloseCode::POLICY;
                app.close_for(client, &CloseReason::new(code, ClosedBy::Plugin, text))?;
            }
            _ => app.close(client)?,
        }
    }
    app.message(&first, &text("hello"))?;
    app.close(first)?;
    if refusals == 0 { Err(skip("it refuses none of the sample messages")) } else { Ok(()) }
}

fn errors(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let other = app.client()?;
    for (code, text) in [
        (CloseCode::ABNORMAL, "the connection broke"),
        (CloseCode::PROTOCOL, "a frame violates the protocol"),
        (CloseCode::TOO_BIG, ""),
    ] {
        let client = app.client()?;
        let reason = match code {
            CloseCode::ABNORMAL => CloseReason::peer(code, text),
            _ => CloseReason::host(code, text),
        };
        app.close_for(client, &reason)?;
    }
    app.message(&other, &text("hello"))?;
    app.close(other)
}

fn closes(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    for by in [ClosedBy::Peer, ClosedBy::Plugin, ClosedBy::Host] {
        for code in [0, 1000, 1001, 1005, 1006, 1008, 1011, 1013, 3000, 4999, 65535] {
            let client = app.client()?;
            app.message(&client, &text("hello"))?;
            let reason = CloseReason::new(CloseCode(code), by, "\u{1f600}\0".repeat(30));
            app.close_for(client, &reason)?;
        }
    }
    Ok(())
}

fn any_thread(bench: &Bench) -> Checked {
    let mut app = bench.serve()?;
    let samples = samples(&bench.brief.messages);
    for _ in 0..4 {
        on_thread("lane", || {
            let client = app.client()?;
            for payload in &samples {
                app.message(&client, payload)?;
            }
            app.close(client)
        })??;
    }
    app.end()
}
