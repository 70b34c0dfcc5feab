//! Deep, long and extreme JSON does not harm the host or the bundled applications.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use plugsocket_tests::{Line, RawClient, Setup, masked, opcode};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
const APPLICATIONS: [&str; 5] = ["feedback", "chat", "locks", "jobs", "echo"];

/// Returns each extreme value, alone and as a field of a packet.
fn bombs() -> Vec<String> {
    const DEEP: usize = 100_000;
    let values = [
        "[".repeat(DEEP),
        "[".repeat(DEEP) + &"]".repeat(DEEP),
        "{\"a\":".repeat(DEEP) + "1" + &"}".repeat(DEEP),
        "1e999999".to_owned(),
        "-1e999999".to_owned(),
        "1e-999999".to_owned(),
        "9".repeat(DEEP),
        format!("0.{}1", "0".repeat(DEEP)),
        format!("\"{}\"", "\\ud800".repeat(1000)),
    ];
    let opcodes = ["broadcast", "feedback", "echo", "join", "lock", "watch", "progress", "message"];
    let mut bombs: Vec<String> = values.to_vec();
    for (value, opcode) in values.iter().zip(opcodes.iter().cycle()) {
        bombs.push(format!(
            "{{\"opcode\":\"{opcode}\",\"message\":{value},\"ids\":{value},\"job\":\"j\",\"percent\":{value},\"uuid\":{value}}}"
        ));
    }
    bombs
}

/// The answers are up to the application; host and application must keep running.
#[tokio::test]
async fn extreme_json_is_answered_or_refused_and_harms_nothing() {
    let setup = Setup::new(PROGRAM);
    let setup = APPLICATIONS.iter().fold(setup, |s, name| s.resource(&format!("/{name}"), name));
    let host = setup.start().await;
    for name in APPLICATIONS {
        let path = format!("/{name}");
        let mut bystander = host.connect(&path).await;
        for bomb in bombs() {
            let mut socket = host.raw().await.upgraded(&path).await;
            socket.write(masked(opcode::TEXT, bomb.as_bytes())).await;
            socket.write(masked(opcode::CLOSE, &1000u16.to_be_bytes())).await;
            socket.read_to_end().await;
            let mut post = host.raw().await;
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                bomb.len()
            );
            post.write(head + &bomb).await;
            let status = post.last_response().await.status;
            assert!([200, 422].contains(&status), "{name}: {status}");
            // Without a line feed, like old clients, and with one.
            for end in ["", "\n"] {
                let mut lines = RawClient::connect(host.address()).await;
                lines.write(format!("backend\nGET {path} HTTP/1.1\n\n")).await;
                lines.line().await;
                lines.write(format!("{bomb}{end}")).await;
                lines.finish().await;
                lines.read_to_end().await;
            }
        }
        bystander.send("{}").await;
        bystander.receive_text().await;
        host.connect(&path).await;
    }
    let panicked = |line: &&Line| line.text().contains("panicked");
    assert_eq!(host.log().iter().filter(panicked).count(), 0);
}
