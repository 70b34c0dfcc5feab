//! The ABI museum: libraries that earlier steps of the plugin ABI have built, in today's host.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;
use std::process::Command;

use plugsocket_tests::{Address, Client, Request, Setup, TestHost, plugin_path, within};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// The exhibits, oldest first; tests/museum/README.md describes them.
const STEPS: [&str; 3] = ["step-1", "step-1-claims", "step-2"];

/// Those with tables of their own.
const LAYOUTS: [&str; 2] = ["step-1", "step-2"];

/// Returns the library of an exhibit.
fn exhibit(step: &str, plugin: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("museum").join(step);
    let file = file.join(format!("lib{plugin}.so.gz"));
    let unpacked = Command::new("gzip").arg("-dc").arg(&file).output().unwrap();
    assert!(unpacked.status.success(), "{}", file.display());
    unpacked.stdout
}

fn today(plugin: &str) -> Vec<u8> {
    std::fs::read(plugin_path(plugin)).unwrap()
}

/// Sends one message; returns the total that the counter answers.
async fn count(client: &mut Client) -> u64 {
    client.send("x").await;
    let total = client.receive_json().await["total"].as_u64().unwrap();
    client.expect_next().await;
    total
}

/// Replaces the library of a plugin and waits until it is loaded.
async fn swap(host: &TestHost, plugin: &str, library: &[u8]) {
    let position = host.log_position();
    host.put_library(plugin, library);
    let line = host.wait_for_reload(position).await;
    assert_eq!(line.field("plugin"), plugin);
}

#[tokio::test]
async fn each_step_serves_every_call() {
    for step in STEPS {
        let setup = Setup::new(PROGRAM).resource("/speak", "speaker");
        let host = setup.file("speaker", &exhibit(step, "speaker")).start().await;
        let mut ann = host.connect("/speak").await;
        let mut bob = host.connect("/speak").await;
        let to = bob.uuid().to_owned();
        let me = ann.uuid().to_owned();
        for (command, result, at_bob) in [
            (json!({"do": "send", "to": to, "message": "1"}), json!(true), "1"),
            (json!({"do": "broadcast", "message": "2", "except": [me]}), json!(1), "2"),
            (json!({"do": "all", "message": "3", "except": [me]}), json!(1), "3"),
            (json!({"do": "feedback_uuid", "target": to, "message": "4"}), json!("delivered"), "4"),
            (json!({"do": "join", "to": to, "room": "r"}), json!(true), ""),
            (json!({"do": "publish", "room": "r", "message": "5"}), json!(1), "5"),
            (json!({"do": "leave", "to": to, "room": "r"}), json!(true), ""),
            (json!({"do": "publish", "room": "r", "message": "no"}), json!(0), ""),
            (
                json!({"do": "feedback_ident", "target": "unknown", "message": "no"}),
                json!("gone"),
                "",
            ),
            (json!({"do": "fyi", "fyi": ""}), json!(true), ""),
            (json!({"do": "log", "message": "said"}), json!(true), ""),
            (json!({"do": "thread", "count": 0, "message": ""}), json!(true), ""),
            (json!({"do": "close", "to": to, "code": 4000, "reason": "told"}), json!(true), ""),
        ] {
            assert_eq!(ann.ask(&command).await, result, "{step}: {command}");
            if !at_bob.is_empty() {
                assert_eq!(bob.receive_text().await, at_bob, "{step}: {command}");
            }
        }
        assert_eq!(bob.expect_close_packet(4000).await["error"], "told", "{step}");
        bob.close().await;
        let who = ann.ask(&json!({"do": "whoami"})).await;
        assert_eq!((&who["uuid"], &who["resource"]), (&json!(me), &json!("/speak")), "{step}");
        let calls = ann.ask(&json!({"do": "log-of-calls"})).await;
        let closes = |call: &&Value| call["call"] == "close" && call["code"] == 4000;
        assert_eq!(calls.as_array().unwrap().iter().filter(closes).count(), 1, "{step}: {calls}");
        ann.send(json!({"do": "refuse", "reason": "no more"}).to_string()).await;
        assert_eq!(ann.expect_close_packet(1008).await["error"], "no more", "{step}");
    }
}

#[tokio::test]
async fn all_steps_run_in_one_host_and_hand_their_state_over_and_back() {
    let mut libraries: Vec<Vec<u8>> = LAYOUTS.map(|step| exhibit(step, "counter_v1")).into();
    libraries.push(today("counter_v1"));
    // The host loads plugins in the order of their names: oldest first, then newest first.
    for is_reversed in [false, true] {
        let mut setup = Setup::new(PROGRAM);
        let mut order: Vec<&Vec<u8>> = libraries.iter().collect();
        if is_reversed {
            order.reverse();
        }
        for (index, library) in order.iter().enumerate() {
            let plugin = format!("plugin{index}");
            setup = setup.resource(&format!("/{index}"), &plugin).file(&plugin, library);
        }
        let host = setup.start().await;
        for (index, library) in order.iter().enumerate() {
            let plugin = format!("plugin{index}");
            let mut client = host.connect(&format!("/{index}")).await;
            assert_eq!(count(&mut client).await, 1, "{plugin}");
            for (at, next) in libraries.iter().filter(|next| next != library).enumerate() {
                swap(&host, &plugin, next).await;
                assert_eq!(count(&mut client).await, 2 * at as u64 + 2, "{plugin}");
                swap(&host, &plugin, library).await;
                assert_eq!(count(&mut client).await, 2 * at as u64 + 3, "{plugin}");
            }
        }
    }
}

/// Libraries of today's source, built with other compiler flags by tests/museum/flags.
#[tokio::test]
#[ignore = "tests/museum/flags builds the libraries"]
async fn other_compiler_flags_make_no_difference() {
    let folder = std::env::var("PLUGSOCKET_MUSEUM_VARIANTS").expect("set by tests/museum/flags");
    let variants = std::fs::read_dir(folder).unwrap().map(|variant| variant.unwrap().path());
    for variant in variants {
        let library =
            |plugin: &str| std::fs::read(variant.join(format!("lib{plugin}.so"))).unwrap();
        println!("{}", variant.display());
        let setup = Setup::new(PROGRAM).resource("/count", "counter").resource("/speak", "speaker");
        let host = setup.file("counter", &today("counter_v1")).library("speaker", "speaker");
        let host = host.start().await;
        let mut client = host.connect("/count").await;
        assert_eq!(count(&mut client).await, 1);
        if variant.ends_with("panic-abort") {
            let position = host.log_position();
            host.put_library("counter", &library("counter_v1"));
            host.wait_for_error(position, "it is built with panic").await;
            assert_eq!(count(&mut client).await, 2);
            continue;
        }
        swap(&host, "counter", &library("counter_v1")).await;
        assert_eq!(count(&mut client).await, 2);
        swap(&host, "counter", &today("counter_v2")).await;
        assert_eq!(count(&mut client).await, 3);
        swap(&host, "counter", &library("counter_v1")).await;
        assert_eq!(count(&mut client).await, 4);
        let mut ann = host.connect("/speak").await;
        swap(&host, "speaker", &library("speaker")).await;
        let me = ann.uuid().to_owned();
        for (command, result) in [
            (json!({"do": "broadcast", "message": "1", "except": [me]}), json!(0)),
            (json!({"do": "join", "to": me, "room": "r"}), json!(true)),
            (json!({"do": "feedback_ident", "target": "unknown", "message": ""}), json!("gone")),
        ] {
            assert_eq!(ann.ask(&command).await, result, "{command}");
        }
    }
}

/// Today's plugins in a host of the past, which tests/museum/older-hosts builds.
#[tokio::test]
#[ignore = "tests/museum/older-hosts builds the host"]
async fn an_older_host_serves_todays_plugins() {
    let program = std::env::var("PLUGSOCKET_OLDER_HOST").expect("set by tests/museum/older-hosts");
    let step = std::env::var("PLUGSOCKET_OLDER_FOLDER").unwrap();
    let folder = std::env::temp_dir().join(format!("plugsocket-older-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("plugins")).unwrap();
    let put = |plugin: &str, library: &[u8]| {
        std::fs::write(folder.join("next"), library).unwrap();
        let file = folder.join(format!("plugins/lib{plugin}.so"));
        std::fs::rename(folder.join("next"), file).unwrap();
    };
    put("counter", &exhibit(&step, "counter_v1"));
    put("speaker", &today("speaker"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        "[server]\nlisten = [\"{port}\"]\nplugin_dir = \"plugins\"\n\
         [resources.\"/count\"]\nplugin = \"counter\"\n\
         [resources.\"/speak\"]\nplugin = \"speaker\"\n"
    );
    std::fs::write(folder.join("plugins.toml"), config).unwrap();
    let mut host = tokio::process::Command::new(program);
    host.arg("--config").arg(folder.join("plugins.toml")).kill_on_drop(true);
    let host = host.spawn().unwrap();
    within("the older host to listen", async {
        while tokio::net::TcpStream::connect(port).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let address = Address::Tcp(port);
    let mut client = Client::open(&address, Request::to("/count")).await.ready().await;
    assert_eq!(count(&mut client).await, 1);
    let mut total = 1;
    for (library, by) in [(today("counter_v2"), "v2"), (exhibit(&step, "counter_v1"), "v1")] {
        put("counter", &library);
        within("the swap", async {
            loop {
                client.send("x").await;
                let answer = client.receive_json().await;
                client.expect_next().await;
                total += 1;
                assert_eq!(answer["total"], total, "no message is lost");
                if answer["by"] == by {
                    break;
                }
            }
        })
        .await;
    }
    // What the host does not have is refused or falls back.
    let mut ann = Client::open(&address, Request::to("/speak")).await.ready().await;
    let me = ann.uuid().to_owned();
    assert_eq!(ann.ask(&json!({"do": "join", "to": me, "room": "r"})).await, json!(true));
    let result = ann.ask(&json!({"do": "room-count", "room": "r"})).await;
    assert_eq!(result, json!({"error": "not supported by this host"}));
    drop(host);
    std::fs::remove_dir_all(&folder).unwrap();
}
