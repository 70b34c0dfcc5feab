//! Libraries that are written against `plugsocket.h`. They are compiled here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use plugsocket_tests::markdown::root;
use plugsocket_tests::{Client, Line, Next, Request, Setup, TestHost, plugin_path, skip};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");
/// No compiler may warn about the header, or about an example.
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
const EXAMPLES: &str = "plugin-api/examples/c";

/// A folder for what a test compiles.
struct Build(PathBuf);

impl Drop for Build {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Build {
    /// Creates the folder, or skips the test if a compiler is missing.
    fn new(test: &str, compilers: &[&str]) -> Option<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        for compiler in compilers {
            if !exists(compiler) {
                skip(test, &format!("{compiler} is missing"), "apt-get install gcc g++ clang");
                return None;
            }
        }
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("plugsocket-c-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Some(Self(folder))
    }

    /// Compiles a file of the repository; returns the path of the library.
    fn library(&self, compiler: &str, source: &str, options: &[&str]) -> PathBuf {
        let name = Path::new(source).file_stem().unwrap().to_str().unwrap();
        let library = self.0.join(format!("lib{name}.so"));
        let output = library.to_str().unwrap();
        let link = ["-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-o", output];
        compile(compiler, source, &[&link, options].concat());
        library
    }

    /// Compiles a file of the repository with the C compiler; returns the content of the library.
    fn c(&self, source: &str, options: &[&str]) -> Vec<u8> {
        std::fs::read(self.library("cc", source, options)).unwrap()
    }
}

fn exists(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a compiler, for the standard that the name of the compiler or of the source implies.
fn compile(compiler: &str, source: &str, options: &[&str]) {
    let is_cpp = compiler.ends_with("++");
    let standard = if is_cpp { ["-std=c++17", "-xc++"] } else { ["-std=c11", "-xc"] };
    let mut command = Command::new(compiler);
    command.args(standard).args(STRICT).arg("-O1").args(options).current_dir(root());
    command.args(["-I", "plugin-api/include", source]);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler} {options:?} {source}:\n{errors}");
}

#[test]
fn header_and_examples_compile_without_warnings_and_have_the_layout_of_the_host() {
    let compilers = ["cc", "c++", "gcc", "g++", "clang", "clang++"];
    let test = "header_and_examples_compile_without_warnings_and_have_the_layout_of_the_host";
    let Some(build) = Build::new(test, &compilers) else { return };
    for compiler in compilers {
        compile(compiler, "tests/c/layout.c", &["-fsyntax-only"]);
        match compiler.ends_with("++") {
            true => drop(build.library(compiler, &format!("{EXAMPLES}/echo.cpp"), &[])),
            false => {
                build.library(compiler, &format!("{EXAMPLES}/counter.c"), &[]);
                build.library(compiler, "tests/c/everything.c", &[]);
            }
        }
    }
}

#[test]
fn the_example_in_the_header_compiles() {
    let test = "the_example_in_the_header_compiles";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let header = std::fs::read_to_string(root().join("plugin-api/include/plugsocket.h")).unwrap();
    let (_, example) = header.split_once(" *         #include <stdlib.h>\n").unwrap();
    let (example, _) = example.split_once(" * MEMORY").unwrap();
    let lines = example.lines().map(|line| line.trim_start_matches(" *"));
    let text = format!("#include <stdlib.h>\n{}\n", lines.collect::<Vec<_>>().join("\n"));
    let source = build.0.join("back.c");
    std::fs::write(&source, text).unwrap();
    build.library("cc", source.to_str().unwrap(), &[]);
}

/// Sends a message to a counter; returns which build counted it, and the total.
async fn count(client: &mut Client) -> (String, u64) {
    client.send("x").await;
    let packet = client.until_next().await.packets.remove(0);
    (packet["by"].as_str().unwrap().to_owned(), packet["total"].as_u64().unwrap())
}

fn counted(by: &str, total: u64) -> (String, u64) {
    (by.to_owned(), total)
}

#[tokio::test]
async fn the_counter_keeps_its_state_across_builds_and_languages() {
    let test = "the_counter_keeps_its_state_across_builds_and_languages";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let source = &format!("{EXAMPLES}/counter.c");
    let (first, second) = (build.c(source, &[]), build.c(source, &["-DBY=\"c2\""]));
    let setup = Setup::new(PROGRAM).resource("/app", "app").file("app", &first);
    let mut host = setup.config("/app", "first", "10").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, counted("c", 11));
    let line = host.wait_for_log("the load", |line| line.message() == "plugin loaded").await;
    let facts = ["package", "version", "build"].map(|name| line.field(name));
    assert_eq!(facts, ["counter", "1.0.0", "c"]);

    replace(&host, &second).await;
    assert_eq!(count(&mut client).await, counted("c2", 12));
    // The Rust counter knows no `first`.
    let setup = host.setup().remove("/app").resource("/app", "app");
    let position = host.log_position();
    host.apply(setup).await;
    served_anew(&host, position).await;
    assert_eq!(count(&mut client).await, counted("c2", 13));
    replace(&host, &std::fs::read(plugin_path("counter_v1")).unwrap()).await;
    assert_eq!(count(&mut client).await, counted("v1", 14));
    replace(&host, &first).await;
    assert_eq!(count(&mut client).await, counted("c", 15));
}

/// Replaces the library of `app` and waits until it serves.
async fn replace(host: &TestHost, library: &[u8]) {
    let position = host.log_position();
    host.put_library("app", library);
    host.wait_for_reload(position).await;
    served_anew(host, position).await;
}

async fn served_anew(host: &TestHost, position: usize) {
    let is_match = |line: &Line| line.starts_with("resource is served by a new instance");
    host.wait_for_log_since(position, "the new instance", is_match).await;
}

#[tokio::test]
async fn a_library_of_c_is_rolled_back_and_its_state_survives_a_restart() {
    let test = "a_library_of_c_is_rolled_back_and_its_state_survives_a_restart";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let source = &format!("{EXAMPLES}/counter.c");
    let folder = std::env::temp_dir().join(format!("plugsocket-c-state-{}", std::process::id()));
    let setup = Setup::new(PROGRAM).resource("/app", "app").key("/app", "snapshot_every", "3600");
    let setup = setup.server("state_dir", &format!("{folder:?}"));
    let setup = setup.file("app", &build.c(source, &[]));
    let mut host = setup.clone().start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, counted("c", 1));
    replace(&host, &build.c(source, &["-DBY=\"c2\""])).await;
    assert_eq!(count(&mut client).await, counted("c2", 2));
    let position = host.log_position();
    let (code, output) = host.command(&["plugin", "rollback", "app"]).await;
    assert_eq!(code, 0, "{output}");
    served_anew(&host, position).await;
    assert_eq!(count(&mut client).await, counted("c", 3));
    host.signal("TERM");
    assert!(host.exited().await.success());
    let host = setup.start().await;
    assert_eq!(count(&mut host.connect("/app").await).await.1, 4);
    drop(host);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_cpp_example_serves_rooms() {
    let Some(build) = Build::new("the_cpp_example_serves_rooms", &["c++"]) else { return };
    let library = build.library("c++", &format!("{EXAMPLES}/echo.cpp"), &[]);
    let setup = Setup::new(PROGRAM).plain("/echo", "echo");
    let host = setup.file("echo", &std::fs::read(library).unwrap()).start().await;
    let mut ann = host.open(Request::to("/echo?room=a")).await;
    let mut bob = host.open(Request::to("/echo?room=a")).await;
    let mut eve = host.open(Request::to("/echo")).await;
    ann.send("to a").await;
    assert_eq!(bob.receive_text().await, "to a");
    assert_eq!(ann.receive_text().await, "to a");
    eve.send("to the lobby").await;
    assert_eq!(eve.receive_text().await, "to the lobby");
}

#[tokio::test]
async fn the_zig_example_serves() {
    if Command::new("zig").arg("version").output().is_err() {
        return skip("the_zig_example_serves", "zig is missing", "");
    }
    let Some(build) = Build::new("the_zig_example_serves", &[]) else { return };
    let zig = |arguments: &[&str]| {
        let mut command = Command::new("zig");
        command.env("ZIG_LOCAL_CACHE_DIR", build.0.join("local"));
        let output = command.args(arguments).current_dir(root()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let header = "plugin-api/include/plugsocket.h";
    std::fs::write(build.0.join("plugsocket.zig"), zig(&["translate-c", "-lc", header])).unwrap();
    let library = build.0.join("libecho.so");
    let module = format!("-Mplugsocket={}", build.0.join("plugsocket.zig").display());
    let emit = format!("-femit-bin={}", library.display());
    let source = format!("-Mecho={EXAMPLES}/echo.zig");
    zig(&["build-lib", "-dynamic", "-lc", "--dep", "plugsocket", &source, &module, &emit]);
    let setup = Setup::new(PROGRAM).plain("/echo", "echo");
    let host = setup.file("echo", &std::fs::read(library).unwrap()).start().await;
    let mut client = host.open(Request::to("/echo")).await;
    client.send("from Zig").await;
    assert_eq!(client.receive_text().await, "from Zig");
}

/// The test plugin `everything` on `/app`.
fn everything(build: &Build, options: &[&str]) -> Setup {
    let library = build.c("tests/c/everything.c", options);
    Setup::new(PROGRAM).resource("/app", "app").file("app", &library)
}

fn text(packet: &Value) -> String {
    packet["r"].as_str().unwrap_or_else(|| panic!("no answer: {packet}")).to_owned()
}

/// Sends a command to `everything`; returns its answer, and the packets before it.
async fn ask_all(client: &mut Client, command: &str) -> (String, Vec<Value>) {
    client.send(command).await;
    let Next { mut packets, .. } = client.until_next().await;
    let answer = packets.pop().unwrap_or_else(|| panic!("no answer to {command}"));
    (text(&answer), packets)
}

async fn ask(client: &mut Client, command: &str) -> String {
    ask_all(client, command).await.0
}

/// Checks the answer to a command.
async fn expect_answer(client: &mut Client, command: &str, expected: &str) {
    let answer = ask(client, command).await;
    assert_eq!(answer, expected, "{command}");
}

#[tokio::test]
async fn each_function_that_sends_works_in_c() {
    let test = "each_function_that_sends_works_in_c";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let mut ann = host.connect("/app").await;
    let mut bob = host.connect("/app").await;
    assert_eq!(ask(&mut ann, "host").await, "step 3 magic 1 size 1 has 1");

    for (command, answer, to) in [
        ("broadcast", "0 2", "resource"),
        ("publish room", "0 2", "room"),
        ("publish-latest room", "0 2", "latest"),
        ("broadcast-latest", "0 2", "latest"),
    ] {
        for client in [&mut ann, &mut bob] {
            assert_eq!(ask(client, "join room").await, "0");
        }
        let (answered, packets) = ask_all(&mut ann, command).await;
        assert_eq!((&*answered, packets), (answer, vec![json!({"to": to})]), "{command}");
        assert_eq!(bob.receive_json().await, json!({"to": to}));
    }
    assert_eq!(ask(&mut ann, "others").await, "0 1");
    assert_eq!(bob.receive_json().await, json!({"to": "others"}));
    let feedback = format!("feedback {}", bob.uuid());
    assert_eq!(ask(&mut ann, &feedback).await, "0");
    assert_eq!(bob.receive_json().await, json!({"to": "uuid"}));
    assert_eq!(ask(&mut ann, "feedback-ident nobody").await, "1");
    let latest = ask_all(&mut ann, "latest").await;
    assert_eq!(latest, ("0".to_owned(), vec![json!({"to": "latest"})]));
    assert_eq!(ask(&mut bob, "leave room").await, "0");
    assert_eq!(ask_all(&mut ann, "publish room").await.0, "0 1");
}

#[tokio::test]
async fn each_function_for_rooms_and_sessions_works_in_c() {
    let test = "each_function_for_rooms_and_sessions_works_in_c";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let request = Request::to("/app?q=1").header("X-Name", "value");
    let mut ann = host.open(request).await.ready().await;
    let _bob = host.connect("/app").await;
    assert_eq!(ask(&mut ann, "join room").await, "0");
    assert_eq!(ask(&mut ann, "sessions").await, "0 2");
    expect_answer(&mut ann, "members room", "0 1").await;
    expect_answer(&mut ann, "count room", "0 1").await;
    expect_answer(&mut ann, "rooms", "0 1 room").await;
    expect_answer(&mut ann, "room-names", "0 1 room").await;
    expect_answer(&mut ann, "room-data room", "0 0").await;
    expect_answer(&mut ann, "set-room-data room", "0").await;
    expect_answer(&mut ann, "room-data room", "0 1 topic").await;
    expect_answer(&mut ann, "data", "0 0").await;
    expect_answer(&mut ann, "set-data", "0").await;
    expect_answer(&mut ann, "data", "0 1 seat").await;
    expect_answer(&mut ann, "session-data", "0 1 seat").await;
    expect_answer(&mut ann, "metric", "0 0").await;

    for (field, expected) in [
        ("1", "absent"),
        ("2", "is 127.0.0.1"),
        ("3", "is /app"),
        ("4", "is q=1"),
        ("5 x-name", "is value"),
        ("5 x-other", "absent"),
        ("6", "absent"),
        ("7", "absent"),
        ("99", "absent"),
    ] {
        assert_eq!(ask(&mut ann, &format!("field {field}")).await, expected, "{field}");
    }
}

#[tokio::test]
async fn c_sets_an_fyi_logs_and_closes() {
    let Some(build) = Build::new("c_sets_an_fyi_logs_and_closes", &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let mut ann = host.connect("/app").await;
    ann.send("fyi read").await;
    let Next { packets, fyi } = ann.until_next().await;
    assert_eq!((packets, &*fyi), (vec![json!({"r": "0"})], "read"));
    let position = host.log_position();
    assert_eq!(ask(&mut ann, "log").await, "0");
    for part in ["a broken \u{fffd} text", "of the library"] {
        let is_match = |line: &Line| line.level() == "WARN" && line.text().contains(part);
        host.wait_for_log_since(position, part, is_match).await;
    }
    ann.send("close").await;
    loop {
        let packet = ann.receive_json().await;
        if packet["opcode"] == "close" {
            assert_eq!(packet["error"], "as \u{fffd} requested");
            break;
        }
    }
    assert_eq!(ann.expect_close(4001).await, "as \u{fffd} requested");
    let closed = |line: &Line| line.text().contains("closed 4001 by 2: as \u{fffd} requested");
    host.wait_for_log("the end of the connection", closed).await;
}

#[tokio::test]
async fn arguments_that_are_not_valid_are_refused() {
    let test = "arguments_that_are_not_valid_are_refused";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(ask(&mut client, "invalid").await, "all are refused");
}

#[tokio::test]
async fn messages_are_deferred_refused_and_fail_in_c() {
    let test = "messages_are_deferred_refused_and_fail_in_c";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let mut client = host.connect("/app").await;
    client.send("defer").await;
    assert_eq!(client.expect_next().await, "late");
    assert_eq!(ask(&mut client, "defer-twice").await, "0 5 5");
    client.send("defer refuse").await;
    client.expect_close_packet(4004).await;

    let mut client = host.connect("/app").await;
    client.send("refuse not today").await;
    assert_eq!(client.expect_close_packet(4002).await["error"], "not today");
    let mut client = host.connect("/app").await;
    client.send("fail").await;
    client.expect_close_packet(1011).await;
    let is_match = |line: &Line| line.starts_with("callback failed without a reason");
    let line = host.wait_for_log("the failure", is_match).await;
    assert_eq!(["callback", "status"].map(|name| line.field(name)), ["message", "7"]);
    let mut client = host.open(Request::to("/app?refuse")).await;
    let packet = client.receive_json().await;
    assert_eq!(packet["error"], "this session is refused", "{packet}");
    client.expect_close(4003).await;
}

#[tokio::test]
async fn events_timers_and_ticks_reach_c() {
    let Some(build) = Build::new("events_timers_and_ticks_reach_c", &["cc"]) else { return };
    let host = everything(&build, &[]).config("/app", "tick", "true").start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(ask(&mut client, "early").await, "send 2 post 0 timer 0");
    for (command, late) in [
        ("post", "event posted"),
        ("thread", "event from a thread"),
        ("post-value", "value 42"),
        ("timer key", "timer key"),
    ] {
        client.send(command).await;
        let mut answers = vec![client.receive_json().await];
        while answers.len() < 3 {
            answers.push(client.receive_json().await);
        }
        let answers: Vec<&Value> = answers.iter().filter(|it| it["opcode"] != "next").collect();
        assert_eq!(answers, [&json!({"r": "0"}), &json!({"r": late})], "{command}");
    }
    assert_eq!(ask(&mut client, "cancel").await, "0 0 1 0 0");
    host.wait_for_log("a tick", |line| line.text().contains("tick 1")).await;
    for name in ["attach", "start", "open", "message", "event", "timer"] {
        assert!(ask(&mut client, "calls").await.contains(name), "{name}");
    }
}

#[tokio::test]
async fn a_value_that_is_not_received_is_freed_by_its_library() {
    let test = "a_value_that_is_not_received_is_freed_by_its_library";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = everything(&build, &["-DNO_EVENT"]).start().await;
    assert_eq!(ask(&mut host.connect("/app").await, "post-value").await, "0");
    host.wait_for_log("the value", |line| line.text().contains("value freed")).await;
}

#[tokio::test]
async fn a_batch_reaches_c_as_one_call() {
    let Some(build) = Build::new("a_batch_reaches_c_as_one_call", &["cc"]) else { return };
    let host = everything(&build, &["-DBATCHES"]).start().await;
    let mut client = host.connect("/app").await;
    // One message is a batch, too.
    let calls = ask(&mut client, "calls").await;
    assert!(calls.contains(" messages ") && !calls.contains(" message "), "{calls}");
    for _ in 0..10 {
        client.send("host").await;
    }
    for _ in 0..10 {
        while client.receive_json().await["opcode"] != "next" {}
    }
}

#[tokio::test]
async fn an_instance_of_c_is_reconfigured_replaced_and_retired() {
    let test = "an_instance_of_c_is_reconfigured_replaced_and_retired";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let setup = everything(&build, &[]);
    let mut host = setup.clone().start().await;
    let mut client = host.connect("/app").await;
    // Applied without a new instance.
    host.apply(setup.clone().config("/app", "applied", "true")).await;
    assert!(ask(&mut client, "calls").await.contains("config_changed"));
    for (word, sentence) in [
        ("refused", "the word refused is in its configuration"),
        ("no-start", "the word \u{fffd} no-start is in its configuration"),
    ] {
        let position = host.log_position();
        host.write_setup(setup.clone().config("/app", word, "true"));
        host.wait_for_error(position, sentence).await;
        host.wait_for_error(position, "configuration not applied").await;
    }
    // A new instance takes over.
    let position = host.log_position();
    host.apply(setup.config("/app", "other", "true")).await;
    served_anew(&host, position).await;
    let retired = |line: &Line| line.text().contains("retiring for 2: send 0, publish 2, time 1");
    host.wait_for_log_since(position, "the end of the instance", retired).await;
    assert_eq!(text(&client.receive_json().await), "last words");
    let calls = ask(&mut client, "calls").await;
    assert!(calls.contains("restore") && !calls.contains("open"), "{calls}");

    let position = host.log_position();
    replace(&host, &build.c("tests/c/everything.c", &["-DLATER"])).await;
    for part in ["snapshot for 1", "retiring for 1", "destroyed"] {
        host.wait_for_log_since(position, part, |line| line.text().contains(part)).await;
    }
    // A library without `restore` refuses the state, and this instance continues.
    let position = host.log_position();
    host.put_library("app", &build.c("tests/c/wrong.c", &[]));
    let sentence = "this application does not restore state (offered: 12 bytes of version 9)";
    host.wait_for_error(position, sentence).await;
    assert!(ask(&mut client, "calls").await.contains("restore"));
}

#[tokio::test]
async fn http_requests_reach_c() {
    let Some(build) = Build::new("http_requests_reach_c", &["cc"]) else { return };
    let host = everything(&build, &[]).start().await;
    let mut client = host.raw().await;
    client.write("PUT /app?x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
    let response = client.response().await;
    assert_eq!((response.status, &*response.body), (200, "PUT /app 1 4 host h content-length 4"));
    client.write("GET /app?fail HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.response().await.status, 500);
}

/// What is wrong with `tests/c/wrong.c`, by its case.
const REFUSED: [(u64, &str); 15] = [
    (1, "does not begin with PS_MAGIC"),
    (2, "the abi_version of its plugsocket_plugin_v1 is 0; it must be PS_ABI_VERSION"),
    (3, "its plugsocket.h is later and incompatible: its abi_version is 0x10003"),
    (4, "the size of its plugsocket_plugin_v1 is 232; it must be sizeof(struct ps_plugin)"),
    (5, "its plugsocket_plugin_v1 has no `start`"),
    (6, "its plugsocket_plugin_v1 has no `message`"),
    (7, "its plugsocket_plugin_v1 has no `destroy`"),
    (8, "the name in its plugsocket_plugin_v1 is not valid UTF-8"),
    (9, "the name in its plugsocket_plugin_v1 is empty"),
    (10, "the version in its plugsocket_plugin_v1 is not valid UTF-8"),
    (11, "the version in its plugsocket_plugin_v1 is empty"),
    (12, "it did not start: `start` returned null without an error"),
    (13, "`start` crashed: SIGABRT"),
    (14, "the drop of its instance crashed: SIGABRT"),
    (15, "its constructor crashed: SIGABRT"),
];

async fn plugin_check(library: &Path, more: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["plugin", "check", library.to_str().unwrap()], more].concat();
    let outcome = Setup::new(PROGRAM).run(&arguments).await;
    (outcome.code, outcome.stdout + &outcome.stderr)
}

#[tokio::test]
async fn wrong_tables_and_crashes_are_refused_with_their_reason() {
    let test = "wrong_tables_and_crashes_are_refused_with_their_reason";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let setup = Setup::new(PROGRAM).resource("/app", "app");
    let setup = setup.file("app", &build.c(&format!("{EXAMPLES}/counter.c"), &[]));
    let host = setup.start().await;
    let mut client = host.connect("/app").await;
    assert_eq!(count(&mut client).await, counted("c", 1));
    for (number, sentence) in REFUSED {
        let case = format!("-DCASE={number}");
        let library = build.library("cc", "tests/c/wrong.c", &[&case]);
        let (code, output) = plugin_check(&library, &[]).await;
        assert!(code == Some(1) && output.contains(sentence), "{case}: {code:?} {output}");
        let position = host.log_position();
        host.put_library("app", &std::fs::read(library).unwrap());
        host.wait_for_error(position, sentence).await;
        assert_eq!(count(&mut client).await, counted("c", number + 1));
    }
    let library = build.library("cc", "tests/c/wrong.c", &["-DCASE=16"]);
    let position = host.log_position();
    host.put_library("app", &std::fs::read(library).unwrap());
    host.wait_for_error(position, "`restore` returned 3 without a reason").await;
    assert_eq!(count(&mut client).await, counted("c", 17));
}

#[tokio::test]
async fn plugin_check_accepts_libraries_of_c() {
    let Some(build) = Build::new("plugin_check_accepts_libraries_of_c", &["cc"]) else { return };
    let counter = build.library("cc", &format!("{EXAMPLES}/counter.c"), &[]);
    let (code, output) = plugin_check(&counter, &["--settings", r#"{"first": 3}"#]).await;
    assert!(code == Some(0) && output.ends_with("fine: it starts\n"), "{code:?} {output}");
    let (code, output) = plugin_check(&counter, &["--settings", r#"{"first": "x"}"#]).await;
    let sentence = "the configuration of the counter is {} or { first = NUMBER }";
    assert!(code == Some(1) && output.contains(sentence), "{code:?} {output}");
}

#[tokio::test]
async fn a_folder_lists_libraries_of_c_and_no_other_libraries() {
    let test = "a_folder_lists_libraries_of_c_and_no_other_libraries";
    let Some(build) = Build::new(test, &["cc"]) else { return };
    let host = Setup::new(PROGRAM).resource("/echo", "echo").start().await;
    let plain = build.0.join("plain.c");
    std::fs::write(&plain, "int plain(void);\nint plain(void) { return 1; }\n").unwrap();
    let plain = build.c(plain.to_str().unwrap(), &[]);
    std::fs::write(host.library("plain"), plain).unwrap();
    std::fs::write(host.library("counter"), build.c(&format!("{EXAMPLES}/counter.c"), &[]))
        .unwrap();
    let (_, list) = host.command(&["plugin", "list"]).await;
    assert!(list.contains("counter") && !list.contains("plain"), "{list}");
}
