//! The public API of plugsocket-plugin only grows, as plugin-api/public-api.txt records it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::path::Path;
use std::process::Command;

/// With `UPDATE_DOCS=1` additions are written to the file instead.
#[test]
#[ignore = "compiles the documentation; .ci/run runs it"]
fn the_plugin_api_only_grows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = root.join("target/public-api");
    let built = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["rustdoc", "--locked", "--quiet", "--package=plugsocket-plugin", "--lib"])
        .arg("--target-dir")
        .arg(&target)
        .args(["--", "-Zunstable-options", "--output-format=json"])
        // Allows the unstable option on the stable compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .status();
    assert!(built.unwrap().success());
    let api = public_api::Builder::from_rustdoc_json(target.join("doc/plugsocket_plugin.json"))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap();
    let now: Vec<String> = api.items().map(ToString::to_string).collect();
    let file = root.join("plugin-api/public-api.txt");
    let recorded = std::fs::read_to_string(&file).unwrap_or_default();
    let removed: Vec<&str> =
        recorded.lines().filter(|line| !now.iter().any(|l| l == line)).collect();
    assert!(
        removed.is_empty(),
        "removed or changed, which breaks the source of plugins:\n{}",
        removed.join("\n")
    );
    let text = now.join("\n") + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, text).unwrap();
    } else {
        assert!(recorded == text, "run this test with UPDATE_DOCS=1 to record what was added");
    }
}
