//! `plugsocket plugin validate`: a correct library has no fault, and the mistakes of authors are
//! found by the checks that are named for them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::process::Stdio;
use std::time::Duration;

use plugsocket_tests::markdown::root;
use plugsocket_tests::plugin_path;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Mistakes of the plugin `mistakes`, the check that finds each, its result, and a part of its text.
const MISTAKES: [(&str, &str, &str, &str); 37] = [
    ("unversioned", "snapshot-has-a-version", "fail", "begin with 1"),
    ("unversioned", "refuses-other-versions", "fail", "accepts version 1000"),
    ("blocks", "never-blocks", "fail", "`message` waited for"),
    ("computes", "never-blocks", "warn", "`message` computed for"),
    ("loses_data", "restores-its-snapshot", "fail", "loses"),
    ("accepts_cut", "refuses-cut-snapshots", "warn", "the beginning of a snapshot"),
    ("takes_state", "snapshot-keeps-the-state", "fail", "takes the state out"),
    ("starts_slowly", "starts-quickly", "warn", "`start` takes 3"),
    ("leaves_thread", "leaves-no-threads", "fail", "2 threads"),
    ("leaves_thread", "is-silent-after-retirement", "warn", "continues to call the host"),
    ("leaves_descriptor", "leaves-no-descriptors", "fail", "/stat"),
    ("crash_in_start", "starts", "fail", "`start` crashed: SIGABRT"),
    ("crash_in_message", "serves-one-session", "fail", "`message` crashed: SIGABRT"),
    ("crash_in_snapshot", "restores-its-snapshot", "fail", "`snapshot` crashed: SIGABRT"),
    ("crash_in_drop", "drops", "fail", "the drop of its instance crashed: SIGABRT"),
    ("hang_in_start", "starts", "fail", "`start` did not return within 1s"),
    ("hang_in_message", "serves-one-session", "fail", "`message` did not return within 1s"),
    ("hang_in_drop", "drops", "fail", "the drop of its instance did not return within 1s"),
    ("hang_in_retiring", "retires-in-time", "fail", "`retiring` did not return within 1s"),
    ("leak_per_session", "sessions-leave-nothing", "fail", "each session leaves"),
    ("leak_per_reload", "reloads-leave-nothing", "fail", "each reload leaves 2"),
    ("broadcasts_in_loop", "answers-are-bounded", "fail", "more than 1,000 messages"),
    ("writes_to_stdout", "writes-nothing-to-stdout", "fail", "a message"),
    ("exits", "serves-one-session", "fail", "`message` ended the process with exit code 3"),
    ("changes_folder", "changes-no-process-state", "fail", "the current folder"),
    ("refuses_without_reason", "refuses-a-connection", "fail", "without a reason"),
    ("loses_batches", "batches-equal-messages", "fail", "are missing"),
    ("panic_in_open", "serves-one-session", "fail", "`open` panicked at "),
    ("panic_in_message", "serves-one-session", "fail", "`message` panicked at "),
    ("panic_in_close", "serves-one-session", "fail", "`close` panicked at "),
    ("panic_in_tick", "takes-a-thousand-ticks", "fail", "`tick` panicked at "),
    ("panic_in_timer", "takes-unknown-timers", "fail", "`timer` panicked at "),
    ("panic_in_event", "takes-unknown-events", "fail", "`event` panicked at "),
    ("panic_in_snapshot", "restores-its-snapshot", "fail", "`snapshot` panicked at "),
    ("panic_in_restore", "restores-its-snapshot", "fail", "`restore` panicked at "),
    ("panic_in_retiring", "retires-in-time", "fail", "`retiring` panicked at "),
    ("panic_in_drop", "drops", "fail", "the drop of its instance panicked at "),
];

/// Messages of which the bundled applications keep something.
const MESSAGES: [(&str, &[&str]); 6] = [
    ("echo", &[]),
    ("chat", &[r#"{"opcode":"join","room":"a","name":"ann"}"#, r#"{"message":"hello"}"#]),
    ("feedback", &[r#"{"opcode":"broadcast","message":"x"}"#, r#"{"opcode":"echo"}"#]),
    ("jobs", &[r#"{"opcode":"start"}"#, r#"{"opcode":"watch","job":"a"}"#]),
    ("locks", &[r#"{"opcode":"lock","ids":["a","b"]}"#, r#"{"opcode":"list"}"#]),
    ("mistakes", &[]),
];

/// Runs a command of the program; returns the exit code, standard output and standard error.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    /// All checks take longer than other commands.
    const LIMIT: Duration = Duration::from_secs(180);
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(arguments).current_dir(std::env::temp_dir()).kill_on_drop(true);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    let output = tokio::time::timeout(LIMIT, command.output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs `plugin validate` for a built library; returns the exit code and all output.
async fn validate(library: &str, more: &[&str]) -> (Option<i32>, String) {
    let path = plugin_path(library);
    let (code, stdout, stderr) =
        run(&[&["plugin", "validate", path.to_str().unwrap()], more].concat()).await;
    (code, stdout + &stderr)
}

async fn validate_as_json(library: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (code, output) = validate(library, &[&["--json"], more].concat()).await;
    (code, serde_json::from_str(&output).unwrap_or_else(|_| panic!("{library}: {output}")))
}

/// Returns the checks of a report with a result, as name and text.
fn with_result<'r>(report: &'r Value, result: &str) -> Vec<(&'r str, &'r str)> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["result"] == result)
        .map(|check| (check["name"].as_str().unwrap(), check["text"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn the_bundled_applications_and_a_correct_one_have_no_fault() {
    for (library, messages) in MESSAGES {
        let messages: Vec<&str> = messages.iter().flat_map(|text| ["--message", text]).collect();
        let (code, report) = validate_as_json(library, &messages).await;
        assert_eq!(with_result(&report, "fail"), [], "{library}");
        assert_eq!(code, Some(0), "{library}");
        assert!(report["checks"].as_array().unwrap().len() >= 50, "{library}");
        if library == "mistakes" {
            assert_eq!(with_result(&report, "warn"), [], "{library}");
        }
    }
}

#[tokio::test]
async fn each_mistake_is_found_by_the_check_named_for_it() {
    let mut problems = Vec::new();
    for (mistake, check, result, part) in MISTAKES {
        let settings = format!(r#"{{"mistake":"{mistake}"}}"#);
        // Others have time, because the machine may be busy.
        let limit = if mistake.starts_with("hang") { "1" } else { "10" };
        let more = ["--settings", &settings, "--filter", check, "--timeout", limit];
        let (code, report) = validate_as_json("mistakes", &more).await;
        let found = with_result(&report, result);
        let is_found = found.iter().any(|(name, text)| *name == check && text.contains(part));
        if !is_found || code != Some(i32::from(result == "fail")) {
            problems.push(format!("{mistake}: {code:?} {report}"));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[tokio::test]
async fn a_library_that_cannot_be_opened_fails_the_first_check_and_the_others_are_skipped() {
    for (library, part) in [
        ("no_plugin", "it is not a plugsocket plugin"),
        ("ctor_crash", "its constructor crashed: SIGSEGV"),
        ("ctor_exit", "its constructor ended the process with exit code 3"),
    ] {
        let (code, report) = validate_as_json(library, &[]).await;
        assert_eq!(code, Some(1), "{library}");
        let failed = with_result(&report, "fail");
        assert!(failed[0].0 == "opens" && failed[0].1.contains(part), "{library}: {failed:?}");
        assert!(with_result(&report, "skip").len() > 40, "{library}: {report}");
    }
    let more = ["--timeout", "1", "--filter", "opens"];
    let (code, output) = validate("ctor_hang", &more).await;
    assert!(code == Some(1) && output.contains("its constructor did not return"), "{output}");
}

#[tokio::test]
async fn the_output_has_a_line_for_each_check_and_a_summary() {
    let more = ["--filter", "opens", "--filter", "starts", "--seed", "42"];
    let (code, output) = validate("echo", &more).await;
    assert_eq!(code, Some(0), "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with("pass  opens  (") && lines[0].ends_with(" ms)"), "{output}");
    assert!(lines.last().unwrap().ends_with(" skipped; seed 42"), "{output}");
    let settings = ["--filter", "starts", "--settings", r#"{"prefix":1}"#];
    let (code, output) = validate("echo", &settings).await;
    assert!(code == Some(1) && output.contains("FAIL  starts  `start` refused"), "{output}");

    let (code, report) = validate_as_json("echo", &more).await;
    assert_eq!(code, Some(0));
    assert_eq!(report["seed"], 42);
    let checks = report["checks"].as_array().unwrap();
    let first = &checks[0];
    assert_eq!((&first["name"], &first["result"]), (&"opens".into(), &"pass".into()));
    assert!(first["seconds"].as_f64().unwrap() < 60.0 && first["text"] == "", "{first}");
    let sum: u64 = report["summary"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(sum, checks.len() as u64);
}

#[tokio::test]
async fn the_same_seed_makes_the_same_random_events() {
    let settings = ["--settings", r#"{"mistake":"panic_in_event"}"#];
    let more = [&settings[..], &["--filter", "takes-random-events", "--seed", "5"]].concat();
    let (_, first) = validate_as_json("mistakes", &more).await;
    let (_, second) = validate_as_json("mistakes", &more).await;
    let failed = with_result(&first, "fail");
    assert!(failed[0].1.contains("of --seed 5)"), "{first}");
    assert_eq!(failed, with_result(&second, "fail"));
}

#[tokio::test]
async fn bad_settings_must_be_refused() {
    for (settings, code, result) in [
        (r#"{"prefix":1}"#, 0, "pass  refuses-bad-settings"),
        (r#"{"prefix":"x"}"#, 1, "FAIL  refuses-bad-settings  `start` accepts"),
    ] {
        let more = ["--filter", "bad-settings", "--bad-settings", settings];
        let (found, output) = validate("echo", &more).await;
        assert!(found == Some(code) && output.starts_with(result), "{output}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_refused() {
    for (more, part) in [
        (["--filter", "nonsense"], "no check has a name with nonsense"),
        (["--settings", "[]"], "--settings is not a JSON object"),
    ] {
        let (code, output) = validate("echo", &more).await;
        assert!(code == Some(1) && output.contains(part), "{output}");
    }
    let command = ["plugin", "validate", "/nowhere/libx.so"];
    let (code, _, stderr) = run(&command).await;
    assert!(code == Some(1) && stderr.contains("cannot read /nowhere/libx.so"), "{stderr}");
    assert_eq!(run(&command[..2]).await.0, Some(2));
}

#[tokio::test]
async fn the_page_on_the_command_line_lists_the_checks() {
    let (code, table, _) = run(&["plugin", "validate", "--list"]).await;
    assert_eq!(code, Some(0));
    let page = std::fs::read_to_string(root().join("docs/reference/command-line.md")).unwrap();
    assert!(page.contains(&table), "insert into the page:\n{table}");
}
