//! Compiles the C library that the plugin needs, in two versions, into the folder of the libraries
//! that cargo builds.
#![allow(clippy::unwrap_used, reason = "a build script fails loudly")]

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // target/PROFILE/build/PACKAGE/out
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let deps = out.ancestors().nth(3).unwrap().join("deps");
    for (version, file) in [(1, "libtest_needed.so"), (2, "libtest_needed_v2.so")] {
        let source = out.join("needed.c");
        std::fs::write(&source, format!("int test_needed(void) {{ return {version}; }}")).unwrap();
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-Wl,-soname,libtest_needed.so", "-o"]);
        assert!(compile.arg(deps.join(file)).arg(source).status().unwrap().success());
    }
    println!("cargo::rustc-link-search=native={}", deps.display());
    println!("cargo::rustc-link-lib=dylib=test_needed");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN");
}
