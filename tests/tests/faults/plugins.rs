//! Plugins that misbehave, and files in the plugin folder that are not loadable libraries.

use std::fs;
use std::path::Path;

use plugsocket_tests::attack::Process;
use plugsocket_tests::{Client, Line, Setup, TestHost, plugin_path};
use serde_json::Value;

use crate::{PROGRAM, count, counter, echoes, skip};

#[tokio::test]
async fn a_flooding_plugin_keeps_memory_bounded_and_reaches_clients_that_read() {
    let host =
        Setup::new(PROGRAM).resource("/rogue", "rogue").resource("/talk", "echo").start().await;
    let mut bystander = host.connect("/talk").await;
    let mut non_reader = host.raw().await.upgraded("/rogue").await;
    non_reader.expect_text().await;
    let mut reader = host.connect("/rogue").await;
    let before = host.resident_bytes();
    for _ in 0..50 {
        reader.send("flood 500").await;
        // The sender reads all messages.
        assert_eq!(reader.until_next().await.packets.len(), 500);
    }
    echoes(&mut bystander).await;
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown}");
    drop(non_reader);
}

#[tokio::test]
async fn threads_of_a_plugin_do_not_delay_its_callbacks() {
    let host = Setup::new(PROGRAM).resource("/rogue", "rogue").start().await;
    let mut client = host.connect("/rogue").await;
    client.send("threads 200").await;
    assert_eq!(client.receive_text().await, "threads 200");
    client.expect_next().await;
    echoes(&mut client).await;
    assert!(Process(host.pid()).threads() >= 200);
}

/// Returns files that are not loadable libraries, each with a description.
fn invalid_libraries() -> Vec<(String, Vec<u8>)> {
    let good = fs::read(plugin_path("counter_v2")).unwrap();
    let mut files = vec![
        ("empty".to_owned(), Vec::new()),
        ("text".to_owned(), b"plugin = \"counter\"\n".to_vec()),
        ("script".to_owned(), b"#!/bin/sh\nexit 1\n".to_vec()),
        ("archive".to_owned(), b"!<arch>\n".to_vec()),
        ("only magic".to_owned(), b"\x7fELF".to_vec()),
        ("zeros".to_owned(), vec![0; 100_000]),
        ("ones".to_owned(), vec![0xff; 100_000]),
        ("an executable".to_owned(), fs::read("/proc/self/exe").unwrap()),
    ];
    // Truncated in the header, and at even distances up to the end.
    let ends = (0..64).chain((1..60).map(|part| good.len() / 60 * part));
    files.extend(ends.map(|end| (format!("truncated at {end}"), good[..end].to_vec())));
    // Damaged header fields: class, byte order, version, type, machine, position and size of the
    // tables.
    for at in (4..7).chain([16, 17, 18, 19, 20]).chain(32..64) {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            files.push((format!("byte {at} of the header xor {flip:#x}"), bytes));
        }
    }
    files
}

#[tokio::test]
async fn hundreds_of_invalid_libraries_lose_no_message_and_crash_nothing() {
    let host = counter().reload("quiet", "0.02").reload("preflight_timeout", "2").start().await;
    let mut client = host.connect("/count").await;
    let invalid = invalid_libraries();
    assert!(invalid.len() >= 220, "{}", invalid.len());
    let mut sent = 0;
    for (what, content) in &invalid {
        let position = host.log_position();
        host.put_library("counter", content);
        let is_verdict = |line: &Line| {
            line.starts_with("plugin counter refused")
                || line.message() == "plugin loaded"
                || line.starts_with("library touched")
        };
        let verdict = host.wait_for_log_since(position, what, is_verdict);
        tokio::pin!(verdict);
        loop {
            tokio::select! {
                line = &mut verdict => {
                    // A changed byte that no loader checks is harmless, but must not lose the
                    // state.
                    let is_harmless = what.contains("header") && line.message() != "";
                    assert!(line.starts_with("plugin counter refused") || is_harmless, "{what}: {line}");
                    break;
                }
                seq = count(&mut client) => {
                    sent += 1;
                    assert_eq!(seq, sent, "{what}");
                }
            }
        }
        // A message whose future was dropped by `select!` has been sent and is counted.
        sent = resynchronized(&mut client, sent).await;
    }
    assert!(
        host.log().iter().filter(|line| line.starts_with("plugin counter refused")).count() >= 200
    );
}

/// Sends another message and reads all outstanding answers; returns the number of the last.
async fn resynchronized(client: &mut Client, sent: u64) -> u64 {
    client.send("mark").await;
    let mut last = sent;
    loop {
        let packet: Value = client.receive_json().await;
        if packet["opcode"] == "next" {
            continue;
        }
        let seq = packet["seq"].as_u64().unwrap();
        assert_eq!(seq, last + 1, "{packet}");
        last = seq;
        if packet["message"] == "mark" {
            client.expect_next().await;
            return last;
        }
    }
}

#[tokio::test]
async fn folders_pipes_links_and_sparse_files_in_place_of_a_library_are_refused() {
    let host = counter().reload("rescan", "0.2").start().await;
    let mut client = host.connect("/count").await;
    let place = host.library("counter");
    type Create = fn(&Path);
    let cases: [(&str, Create); 6] = [
        ("a folder", |place| fs::create_dir(place).unwrap()),
        ("a pipe", |place| {
            assert!(std::process::Command::new("mkfifo").arg(place).status().unwrap().success());
        }),
        ("a dangling link", |place| std::os::unix::fs::symlink("/nowhere", place).unwrap()),
        ("a link to itself", |place| std::os::unix::fs::symlink(place, place).unwrap()),
        ("an endless device", |place| std::os::unix::fs::symlink("/dev/zero", place).unwrap()),
        ("a sparse file of a terabyte", |place| {
            fs::File::create(place).unwrap().set_len(1 << 40).unwrap();
        }),
    ];
    for (number, (what, create)) in cases.into_iter().enumerate() {
        remove(&place);
        create(&place);
        let (code, output) = host.command(&["plugin", "reload", "counter"]).await;
        assert!(code == 1 && output.contains("counter"), "{what}: {code} {output}");
        assert_eq!(count(&mut client).await, number as u64 + 1, "{what}");
    }
    remove(&place);
    let position = host.log_position();
    host.replace_library("counter", "counter_v2");
    host.wait_for_reload(position).await;
    assert_eq!(count(&mut client).await, 7);
}

fn remove(place: &Path) {
    if fs::remove_file(place).is_err() {
        fs::remove_dir(place).unwrap();
    }
}

#[tokio::test]
async fn a_library_with_missing_symbols_or_harmful_constructors_is_refused() {
    let host: TestHost = counter().start().await;
    let mut client = host.connect("/count").await;
    for (source, arguments) in [
        // An undefined symbol.
        ("int nowhere(void); int here(void) { return nowhere(); }", &[][..]),
        // A missing dependency.
        ("int here(void) { return 1; }", &["-Wl,--no-as-needed", "-lgone"]),
        // Constructors that fork, or close all file descriptors.
        (FORKING, &[]),
        (CLOSING, &[]),
    ] {
        let Some(library) = compiled(host.folder(), source, arguments) else {
            let test = "a_library_with_missing_symbols_or_harmful_constructors_is_refused";
            skip(test, "cc is missing", "apt-get install gcc libc6-dev");
            return;
        };
        let position = host.log_position();
        host.put_library("counter", &library);
        host.wait_for_error(position, "plugin counter refused").await;
        count(&mut client).await;
    }
}

const FORKING: &str = "#include <unistd.h>\n\
    __attribute__((constructor)) static void c(void) { if (fork() == 0) _exit(0); }";
const CLOSING: &str = "#include <unistd.h>\n\
    __attribute__((constructor)) static void c(void) { for (int i = 0; i < 64; i++) close(i); }";

/// Compiles a C source to a shared library; None without a compiler.
fn compiled(folder: &Path, source: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let at = folder.join("made");
    fs::create_dir_all(&at).unwrap();
    let gone = at.join("libgone.so");
    fs::write(at.join("gone.c"), "int gone(void) { return 1; }").unwrap();
    fs::write(at.join("made.c"), source).unwrap();
    let cc = |input: &str, output: &Path, more: &[&str]| {
        let mut command = std::process::Command::new("cc");
        command.args(["-shared", "-fPIC", "-o"]).arg(output).arg(at.join(input)).arg("-L").arg(&at);
        command.args(more).status().ok()?.success().then_some(())
    };
    cc("gone.c", &gone, &[])?;
    let made = at.join("made.so");
    cc("made.c", &made, arguments)?;
    fs::remove_file(gone).unwrap();
    fs::read(made).ok()
}
