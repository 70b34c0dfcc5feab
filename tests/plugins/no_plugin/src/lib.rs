//! A shared library that is not a plugin, as if copied to the plugin folder by mistake.
#![expect(unsafe_code, reason = "exports a symbol, as any C library does")]

/// Exported so that the library has a symbol.
// SAFETY: no other item uses this name.
#[unsafe(no_mangle)]
pub extern "C" fn no_plugin_add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}
