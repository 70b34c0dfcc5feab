//! Shared libraries behind the ABI: opens and checks them, and calls their instances.
//!
//! This module must not know how a library was found, copied or approved. An opened library is
//! never closed, because its threads, its thread-locals and the layouts kept by abi_stable point
//! into it. A [`Generation`] therefore consists of `'static` parts and costs about 50 kB after it
//! was retired. Host contexts are leaked for the same reason: a thread of an old plugin may call
//! the host later.

mod c_entry;
mod config_schema;
mod host_table;
mod instance;
mod loader;
mod open;
mod pageout;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plugsocket_plugin::CloseCode;
use plugsocket_plugin::abi::{LogSink, ModuleRef, flag};

pub(crate) use self::host_table::set_log_level;
pub(crate) use self::loader::on_loader;
pub(crate) use self::open::{LoadError, PLUGIN_SYMBOLS, open_module};

use self::c_entry::{CInstance, CModule};
use self::host_table::InstanceContext;
use self::instance::DylibInstance;
use super::{Failure, Instance};
use crate::routing::resource::Resource;
use crate::routing::router::Router;

/// An opened and checked library: the n-th copy of a plugin.
pub(crate) struct Generation {
    pub(crate) plugin: String,
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) facts: PluginFacts,
    /// Live instances, and snapshots in the library's memory.
    references: AtomicUsize,
    module: Module,
}

/// The functions of a library.
#[derive(Clone, Copy)]
pub(crate) enum Module {
    /// Of `export_plugin!`.
    Rust(ModuleRef),
    /// Of `plugsocket.h`.
    C(&'static CModule),
}

/// What a library declares about itself.
pub(crate) struct PluginFacts {
    /// Package name and version of the plugin.
    pub(crate) package: String,
    pub(crate) version: String,
    /// `PLUGSOCKET_BUILD` at build time; may be empty.
    pub(crate) build: String,
    pub(crate) never_blocks: bool,
    /// A JSON schema of the configuration; may be empty.
    pub(crate) config_schema: String,
    /// Whether its instances answer plain HTTP requests.
    pub(crate) http: bool,
}

impl Generation {
    /// Opens the library at `path`: a private copy whose path was never opened before. Called on
    /// a thread that never ends ([`on_loader`]).
    ///
    /// # Errors
    /// The library is not a plugin or is incompatible. Only a library that passed the preflight
    /// child can be opened without risk for the host.
    pub(crate) fn open(plugin: &str, number: u64, path: &Path) -> Result<Self, LoadError> {
        let module = open_module(path)?;
        module.attach(host_table::log_sink(plugin, number));
        let facts = module.facts();
        let (plugin, path, references) = (plugin.to_owned(), path.to_owned(), AtomicUsize::new(0));
        Ok(Self { plugin, number, path, facts, references, module })
    }

    /// Creates an instance for `resource`; blocks for as long as the plugin's `start` takes.
    ///
    /// # Errors
    /// The configuration violates the plugin's schema; the plugin refused to start, or panicked.
    pub(crate) fn start(
        self: &Arc<Self>,
        resource: Arc<Resource>,
        router: Arc<Router>,
        config: &str,
    ) -> Result<Box<dyn Instance>, Failure> {
        config_schema::check(&self.facts.config_schema, config).map_err(refused)?;
        let context = InstanceContext::leak(self.clone(), resource, router);
        self.retain();
        let started = self.module.start(context, config);
        started.inspect_err(|_| {
            context.retire();
            drop(context.take_early_requests());
            self.release();
        })
    }

    fn retain(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an instance or a snapshot less, and pages the library out with the last one. Earlier,
    /// running code would fetch the pages again.
    fn release(&self) {
        if self.references.fetch_sub(1, Ordering::AcqRel) == 1 {
            pageout::page_out(&self.path);
        }
    }
}

fn refused(text: String) -> Failure {
    Failure::Refused(CloseCode::POLICY, text)
}

impl Module {
    fn attach(self, sink: LogSink) {
        match self {
            Self::Rust(module) => module.attach()(sink),
            Self::C(module) => module.attach(sink),
        }
    }

    fn facts(self) -> PluginFacts {
        match self {
            Self::Rust(module) => PluginFacts {
                package: module.name().as_str().to_owned(),
                version: module.version().as_str().to_owned(),
                build: module.build().as_str().to_owned(),
                never_blocks: module.never_blocks(),
                config_schema: module
                    .config_schema()
                    .map_or_else(String::new, |schema| schema.into()),
                http: module.flags().is_some_and(|flags| flags & flag::HTTP != 0),
            },
            Self::C(module) => module.facts(),
        }
    }

    fn start(
        self,
        context: &'static InstanceContext,
        config: &str,
    ) -> Result<Box<dyn Instance>, Failure> {
        Ok(match self {
            Self::Rust(module) => Box::new(DylibInstance::start(module, context, config)?),
            Self::C(module) => Box::new(CInstance::start(module, context, config)?),
        })
    }
}
