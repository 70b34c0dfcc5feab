//! Ownership and permissions of library files, and pinned hashes: untrusted libraries are not
//! loaded.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use plugsocket_tests::{Setup, TestHost, plugin_path, skip, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

fn setup() -> Setup {
    Setup::new(PROGRAM).resource("/count", "counter_v1")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Installs another library after `prepare`, and expects a refusal; the running generation
/// continues.
async fn expect_refusal(host: &TestHost, prepare: impl Fn(&Path), expected: &str) {
    let position = host.log_position();
    let next = host.folder().join("next");
    fs::copy(plugin_path("counter_v2"), &next).unwrap();
    prepare(&next);
    fs::rename(next, host.library("counter_v1")).unwrap();
    let line = host.wait_for_error(position, "plugin counter_v1 refused").await;
    assert!(line.message().contains(expected), "{line}");
    assert!(line.message().contains("generation 1 keeps serving"), "{line}");
    host.connect("/count").await;
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[tokio::test]
async fn a_world_writable_library_is_refused_until_its_mode_is_fixed() {
    let host = setup().start().await;
    expect_refusal(
        &host,
        |next| set_mode(next, 0o777),
        "can be written by every user, mode 777; `chmod go-w ",
    )
    .await;
    // The command in the message is sufficient.
    let position = host.log_position();
    set_mode(&host.library("counter_v1"), 0o755);
    host.wait_for_reload(position).await;
}

fn setfacl(arguments: &[&str], path: &Path) -> bool {
    let run = std::process::Command::new("setfacl").args(arguments).arg(path).status();
    run.is_ok_and(|status| status.success())
}

#[tokio::test]
async fn an_acl_with_other_writers_is_refused_until_removed() {
    const OTHERS: [&str; 2] = ["-m", "u:54321:rwx"];
    let host = setup().start().await;
    let folder = host.folder().join("plugins");
    if !setfacl(&OTHERS, &folder) {
        let test = "an_acl_with_other_writers_is_refused_until_removed";
        skip(test, "no setfacl (apt-get install acl), or no ACLs on this file system", "");
        return;
    }
    expect_refusal(&host, |_| {}, "plugins has an access control list that lets other users").await;
    assert!(setfacl(&["-b"], &folder));
    let others = |next: &Path| assert!(setfacl(&OTHERS, next));
    expect_refusal(&host, others, "; `setfacl -b ").await;
    let position = host.log_position();
    assert!(setfacl(&["-b"], &host.library("counter_v1")));
    host.wait_for_reload(position).await;
}

#[tokio::test]
async fn a_changed_library_with_the_same_size_and_time_is_loaded() {
    let [first, second] =
        ["counter_v1", "counter_v2"].map(|name| fs::read(plugin_path(name)).unwrap());
    let size = first.len().max(second.len());
    let padded = |mut library: Vec<u8>| {
        library.resize(size, 0);
        library
    };
    let host = setup().file("counter_v1", &padded(first)).start().await;
    let position = host.log_position();
    let library = host.library("counter_v1");
    let modified = fs::metadata(&library).unwrap().modified().unwrap();
    let mut file = fs::File::options().write(true).open(library).unwrap();
    file.write_all(&padded(second)).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    host.wait_for_reload(position).await;
}

#[tokio::test]
async fn a_world_writable_folder_is_refused_even_if_sticky() {
    let host = setup().start().await;
    let folder = host.folder().join("plugins");
    for bits in [0o777, 0o1777] {
        set_mode(&folder, bits);
        let expected = format!("plugins can be written by every user, mode {bits:o}; `chmod go-w ");
        expect_refusal(&host, |_| {}, &expected).await;
    }
    set_mode(&folder, 0o755);
    let (code, output) = host.command(&["plugin", "reload", "counter_v1"]).await;
    assert_eq!(code, 0, "{output}");
}

#[tokio::test]
async fn the_target_of_a_link_and_all_folders_on_the_way_are_checked() {
    let host = setup().start().await;
    let elsewhere = host.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    set_mode(&elsewhere, 0o777);
    let target = elsewhere.join("lib.so");
    let link = |next: &Path| {
        fs::rename(next, &target).unwrap();
        std::os::unix::fs::symlink(&target, next).unwrap();
    };
    expect_refusal(&host, link, "elsewhere can be written by every user").await;
    // A link to a link in a world-writable folder.
    let (real, mid) = (host.folder().join("real"), host.folder().join("mid"));
    for folder in [&real, &mid] {
        fs::create_dir(folder).unwrap();
    }
    set_mode(&mid, 0o1777);
    let twice = |next: &Path| {
        fs::rename(next, real.join("lib.so")).unwrap();
        std::os::unix::fs::symlink("../real/lib.so", mid.join("l")).unwrap();
        std::os::unix::fs::symlink("../mid/l", next).unwrap();
    };
    expect_refusal(&host, twice, "mid can be written by every user, mode 1777").await;
}

#[tokio::test]
async fn a_foreign_owner_or_shared_group_is_refused() {
    if !is_root() {
        let test = "a_foreign_owner_or_shared_group_is_refused";
        skip(test, "only root can give files away", "");
        return;
    }
    let mut host = setup().start().await;
    let given = |next: &Path| chown(next, Some(12345), None).unwrap();
    expect_refusal(
        &host,
        given,
        "belongs to user 12345, who is neither root nor the user that runs the host (0)",
    )
    .await;
    let shared = |next: &Path| {
        chown(next, Some(0), Some(12345)).unwrap();
        set_mode(next, 0o775);
    };
    expect_refusal(
        &host,
        shared,
        "can be written by the group 12345, which is not its owner's private group",
    )
    .await;
    // `check_owner = false` disables the check.
    host.apply(host.setup().reload("check_owner", "false")).await;
    let (code, output) = host.command(&["plugin", "reload", "counter_v1"]).await;
    assert_eq!(code, 0, "{output}");
}

/// The modes that `cargo build` and `cp` create with umask 002.
#[tokio::test]
async fn a_library_writable_by_a_private_group_is_loaded() {
    let host = setup().start().await;
    let position = host.log_position();
    let next = host.folder().join("next");
    fs::copy(plugin_path("counter_v2"), &next).unwrap();
    let meta = fs::metadata(&next).unwrap();
    if meta.uid() != meta.gid() {
        let test = "a_library_writable_by_a_private_group_is_loaded";
        skip(test, "this user has no private group", "");
        return;
    }
    set_mode(&next, 0o775);
    set_mode(&host.folder().join("plugins"), 0o775);
    fs::rename(next, host.library("counter_v1")).unwrap();
    host.wait_for_reload(position).await;
}

fn sha256(library: &str) -> String {
    let digest =
        ring::digest::digest(&ring::digest::SHA256, &fs::read(plugin_path(library)).unwrap());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_pinned_plugin_loads_only_pinned_hashes() {
    let (first, second) = (sha256("counter_v1"), sha256("counter_v2"));
    let setup = setup().plugin_key("counter_v1", "sha256", &format!("{first:?}"));
    let mut host = setup.start().await;
    expect_refusal(
        &host,
        |_| {},
        &format!("its SHA-256 is {second}, and [plugins.counter_v1] allows only {first}"),
    )
    .await;
    let (code, output) = host.command(&["plugin", "list"]).await;
    assert!(
        code == 0 && output.contains(&format!("counter_v1: pinned to SHA-256 {first}")),
        "{output}"
    );
    assert!(output.contains(&second), "{output}");
    // The refused library is loaded as soon as its hash is pinned.
    let position = host.log_position();
    let pins = format!("[{first:?}, {second:?}]");
    host.apply(host.setup().plugin_key("counter_v1", "sha256", &pins)).await;
    host.wait_for_reload(position).await;
    let (_, output) = host.command(&["plugin", "list", "--json"]).await;
    let list: serde_json::Value = serde_json::from_str(&output).unwrap();
    let plugin = list.as_array().unwrap().iter().find(|p| p["name"] == "counter_v1").unwrap();
    assert_eq!(plugin["generation"]["hash"], second, "{output}");
    assert_eq!(plugin["pinned"], serde_json::json!([first, second]));
}

#[tokio::test]
async fn a_pin_that_does_not_match_keeps_the_resource_closed() {
    let wrong = "0".repeat(64);
    let host = setup().plugin_key("counter_v1", "sha256", &format!("{wrong:?}")).start().await;
    host.wait_for_error(0, &format!("allows only {wrong}")).await;
    let mut raw = host.raw().await;
    assert_eq!(raw.try_handshake("/count").await, 101);
}

/// Returns everything below a folder that other users may access.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let meta = entry.path().symlink_metadata().unwrap();
        if meta.mode() & 0o077 != 0 {
            found.push(format!("{:o} {}", meta.mode(), entry.path().display()));
        }
        if meta.is_dir() {
            found.extend(open_to_others(&entry.path()));
        }
    }
    found
}

#[tokio::test]
async fn files_of_the_host_are_private_regardless_of_umask() {
    let setup = setup().key("/count", "snapshot_every", "600");
    let mut host = setup.launcher(&["sh", "-c", r#"umask 0; exec "$0" "$@""#]).start().await;
    host.reload("counter_v1", "counter_v2").await;
    // The staged copies are removed at the end, so they are checked first.
    let own = host.folder().join(".plugsocket");
    assert_eq!(open_to_others(&own.join("staged")), Vec::<String>::new());
    host.signal("TERM");
    assert!(host.exited().await.success());
    assert_eq!(fs::read_dir(own.join("state/snapshots")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(own.join("state/generations/counter_v1")).unwrap().count(), 2);
    assert_eq!(open_to_others(&own.join("state")), Vec::<String>::new());
    assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o755);
    for folder in ["state", "staged"] {
        assert_eq!(fs::metadata(own.join(folder)).unwrap().mode() & 0o777, 0o700, "{folder}");
    }
    assert_eq!(fs::metadata(own.join("control.lock")).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn lock_files_open_to_others_are_made_private() {
    let folder = setup().create_folder();
    let own = folder.join(".plugsocket");
    fs::create_dir_all(own.join("state")).unwrap();
    let locks = [own.join("control.lock"), own.join("state/lock")];
    for lock in &locks {
        fs::write(lock, "").unwrap();
        set_mode(lock, 0o666);
    }
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg("--config").arg(folder.join("plugins.toml")).kill_on_drop(true);
    let host = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let are_private = |locks: &[std::path::PathBuf]| {
        locks.iter().all(|lock| fs::metadata(lock).unwrap().mode() & 0o777 == 0o600)
    };
    let private = async {
        while !are_private(&locks) {
            tokio::task::yield_now().await
        }
    };
    within("the locks to be private", private).await;
    drop(host);
    fs::remove_dir_all(folder).unwrap();
}
