//! A shared library that has nothing to do with plugsocket: it lies in the plugin folder by mistake.
#![expect(unsafe_code, reason = "an exported symbol, as any C library has some")]

/// Exported, so that the library has a symbol at all.
// SAFETY: the name is used nowhere else.
#[unsafe(no_mangle)]
pub extern "C" fn no_plugin_add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}
