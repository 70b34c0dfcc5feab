//! Opens a library and checks that its ABI is compatible with this host's.
#![expect(unsafe_code, reason = "opening a library runs its constructors and reads its symbols")]

use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    CheckingGlobals, check_layout_compatibility_with_globals,
};
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use plugsocket_plugin::abi::ModuleRef;

use super::Module;
use super::c_entry::{C_SYMBOL, CModule, TableError};

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the dynamic linker cannot open it: {0}")]
    Open(String),
    #[error(
        "it is not a plugsocket plugin: it does not call export_plugin!, nor does it define \
         plugsocket_plugin_v1 (plugsocket.h)"
    )]
    NoPlugin,
    #[error(
        "it was built with another abi_stable; rebuild it with plugsocket-plugin {API_VERSION}"
    )]
    Header(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its plugsocket-plugin is incompatible with this host's, {API_VERSION}: {difference}")]
    Layout { difference: String },
    #[error("its function table cannot be created: {0}")]
    Module(String),
    #[error(
        "it is built with panic = \"abort\", so that a panic would end the host; remove that from \
         its profile"
    )]
    PanicAborts,
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The symbols of plugins, each with a NUL: `export_plugin!` or `plugsocket.h` creates one.
pub(crate) const PLUGIN_SYMBOLS: [&str; 2] = [ROOT_MODULE_LOADER_NAME_WITH_NUL, C_SYMBOL];
/// The version of plugsocket-plugin with which this host was built.
const API_VERSION: &str = "1.0.0";

/// Opens and checks a library.
///
/// # Errors
/// As [`Generation::open`](super::Generation::open).
pub(crate) fn open_module(path: &Path) -> Result<Module, LoadError> {
    /// Keeps the library mapped whatever its reference count is.
    const RTLD_NODELETE: i32 = 0x1000;
    // SAFETY: opening runs the library's constructors; the preflight child has survived them.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) };
    let library = opened.map_err(|error| LoadError::Open(linker_message(&error, path)))?;
    let symbol = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: only abi_stable creates a symbol of this mangled name, and it has this type.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol) }.map(|symbol| *symbol);
    // SAFETY: an address of any type; `CModule::read` checks what is there.
    let table = unsafe { library.get::<*const ()>(C_SYMBOL.as_bytes()) }.map(|symbol| *symbol);
    // Never dropped, as RTLD_NODELETE has it.
    let _handle = library.into_raw();
    match (header, table) {
        (Ok(header), _) => Ok(Module::Rust(rust_module(header)?)),
        (Err(_), Ok(table)) => Ok(Module::C(Box::leak(Box::new(CModule::read(table)?)))),
        (Err(_), Err(_)) => Err(LoadError::NoPlugin),
    }
}

fn rust_module(header: AbiHeaderRef) -> Result<ModuleRef, LoadError> {
    let header: &'static LibHeader =
        header.upgrade().map_err(|error| LoadError::Header(error.to_string().into()))?;
    check_layout(header)?;
    // SAFETY: `check_layout` has accepted the layout.
    let module = unsafe { header.init_root_module_with_unchecked_layout::<ModuleRef>() }
        .map_err(|error| LoadError::Module(error.to_string()))?;
    if !module.unwinds() {
        return Err(LoadError::PanicAborts);
    }
    Ok(module)
}

/// Compares the layouts in both directions: either side may be older and have shorter tables.
fn check_layout(header: &'static LibHeader) -> Result<(), LoadError> {
    let ours = <ModuleRef as StableAbi>::LAYOUT;
    let Some(theirs) = header.layout() else {
        return Err(LoadError::Layout { difference: "it has no layout".to_owned() });
    };
    // Globals shared between checks would remember the tables of the first library of a process, and
    // refuse those of every later one that has longer tables.
    let check = |a, b| check_layout_compatibility_with_globals(a, b, &CheckingGlobals::new());
    let Err(error) = check(ours, theirs) else { return Ok(()) };
    check(theirs, ours).map_err(|_| LoadError::Layout { difference: summarize(&error.to_string()) })
}

/// Shortens a layout error of hundreds of lines to its blocks `Error:… Expected: … Found: …`.
fn summarize(error: &str) -> String {
    let mut lines = error.lines().map(str::trim);
    let mut differences: Vec<String> = Vec::new();
    while let Some(line) = lines.next() {
        let Some(error) = line.strip_prefix("Error:") else { continue };
        let block: Vec<&str> = lines.by_ref().take(4).collect();
        differences.push(match block.as_slice() {
            ["Expected:", expected, "Found:", found] => {
                format!("{error} (expected {expected}, found {found})")
            }
            _ => error.to_owned(),
        });
    }
    differences.dedup();
    differences.truncate(3);
    if differences.is_empty() { "the layouts differ".to_owned() } else { differences.join("; ") }
}

/// Returns the dynamic linker's message; libloading's own text is only "dlopen failed".
fn linker_message(error: &libloading::Error, path: &Path) -> String {
    let cause =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let prefix = format!("{}: ", path.display());
    cause.trim_matches('"').replace(&prefix, "")
}
