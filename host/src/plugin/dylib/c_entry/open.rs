//! Reads and checks the table that a library exports.
#![expect(unsafe_code, reason = "reads a table whose size the library states")]

use std::mem::{MaybeUninit, size_of};

use plugsocket_plugin::abi::{ABI_VERSION, InstancePtr, LogSink};

use super::super::PluginFacts;
use super::table::lend_log;
use super::types::{
    FIRST_SIZE, FIRST_STEP, MAGIC, MessageFn, MessagesFn, NEXT_MAJOR, PsHead, PsPlugin, PsStr,
    RequestFn, StartFn, flag, structure,
};

/// The symbol that a library defines with `plugsocket.h`, with a NUL.
pub(in crate::plugin::dylib) const C_SYMBOL: &str = "plugsocket_plugin_v1\0";

/// Why the table of a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    #[error(
        "its plugsocket_plugin_v1 does not begin with PS_MAGIC; it must be a `const struct \
         ps_plugin` of plugsocket.h"
    )]
    Magic,
    #[error(
        "the abi_version of its plugsocket_plugin_v1 is {0}; it must be PS_ABI_VERSION, at least \
         {FIRST_STEP}"
    )]
    Version(u32),
    #[error(
        "its plugsocket.h is later and incompatible: its abi_version is {0:#x}; build it with the \
         plugsocket.h of this host, PS_ABI_VERSION {ABI_VERSION}"
    )]
    Later(u32),
    #[error(
        "the size of its plugsocket_plugin_v1 is {0}; it must be sizeof(struct ps_plugin), at least \
         {FIRST_SIZE}"
    )]
    Size(usize),
    #[error("its plugsocket_plugin_v1 has no `{0}`; `start`, `message` and `destroy` are required")]
    Missing(&'static str),
    #[error("the {0} in its plugsocket_plugin_v1 is empty; use PS_STR_INIT(\"…\")")]
    Empty(&'static str),
    #[error("the {0} in its plugsocket_plugin_v1 is not valid UTF-8")]
    NotText(&'static str),
}

/// The table of a library, checked.
#[derive(Clone, Copy)]
pub(crate) struct CModule {
    /// What the library does not have is absent.
    pub(super) table: PsPlugin,
    pub(super) start: StartFn,
    pub(super) message: MessageFn,
    pub(super) destroy: extern "C" fn(InstancePtr),
    /// Called instead of `message`.
    pub(super) messages: Option<MessagesFn>,
    pub(super) request: Option<RequestFn>,
    name: &'static str,
    version: &'static str,
    build: &'static str,
    config_schema: &'static str,
}

impl CModule {
    /// Reads the table of an opened library, which is never closed; `symbol` is its address.
    ///
    /// # Errors
    /// The table is not one of `plugsocket.h`, or is not complete.
    pub(in crate::plugin::dylib) fn read(symbol: *const ()) -> Result<Self, TableError> {
        // SAFETY: a library that defines the symbol of plugsocket.h defines a table.
        let head = unsafe { structure(symbol.cast::<PsHead>()) }.ok_or(TableError::Magic)?;
        match *head {
            PsHead { magic, .. } if magic != MAGIC => return Err(TableError::Magic),
            PsHead { abi_version, .. } if abi_version < FIRST_STEP => {
                return Err(TableError::Version(abi_version));
            }
            PsHead { abi_version, .. } if abi_version >= NEXT_MAJOR => {
                return Err(TableError::Later(abi_version));
            }
            PsHead { size, .. } if size < FIRST_SIZE => return Err(TableError::Size(size)),
            PsHead { .. } => {}
        }
        let mut table = MaybeUninit::<PsPlugin>::zeroed();
        let size = head.size.min(size_of::<PsPlugin>());
        // SAFETY: the table has `size` bytes by its own account, and `PsPlugin` as many or more.
        unsafe { symbol.cast::<u8>().copy_to_nonoverlapping(table.as_mut_ptr().cast(), size) };
        // SAFETY: numbers, pointers and optional functions, all of which may be zero.
        let table = unsafe { table.assume_init() };
        let optional = |name, text: PsStr| text.text().ok_or(TableError::NotText(name));
        let required = |name, text: PsStr| match optional(name, text)? {
            "" => Err(TableError::Empty(name)),
            text => Ok(text),
        };
        Ok(Self {
            start: table.start.ok_or(TableError::Missing("start"))?,
            message: table.message.ok_or(TableError::Missing("message"))?,
            destroy: table.destroy.ok_or(TableError::Missing("destroy"))?,
            messages: table.messages.filter(|_| table.flags & flag::BATCHES != 0),
            request: table.request.filter(|_| table.flags & flag::HTTP != 0),
            name: required("name", table.name)?,
            version: required("version", table.version)?,
            build: optional("build", table.build)?,
            config_schema: optional("config_schema", table.config_schema)?,
            table,
        })
    }

    pub(in crate::plugin::dylib) fn attach(&self, sink: LogSink) {
        if let Some(attach) = self.table.attach {
            attach(lend_log(sink));
        }
    }

    pub(in crate::plugin::dylib) fn facts(&self) -> PluginFacts {
        PluginFacts {
            package: self.name.to_owned(),
            version: self.version.to_owned(),
            build: self.build.to_owned(),
            never_blocks: self.table.flags & flag::NEVER_BLOCKS != 0,
            config_schema: self.config_schema.to_owned(),
            http: self.request.is_some(),
        }
    }
}
