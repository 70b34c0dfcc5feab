//! Opens libraries and calls what is in them: the only unsafe code of the host.
//!
//! A library that was opened is never closed: its threads, thread-locals and the layouts that abi_stable keeps of it point
//! into it. The [`Generation`] is therefore made of `'static` parts, and costs some 50 kB once it is retired and its
//! pages are given back. Host contexts (*voices*) are leaked for the same reason: a thread of an old plugin may speak at any time.
#![expect(unsafe_code, reason = "calls functions of libraries and reads what they were lent")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RVec};
use bytes::Bytes;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use plugsocket_plugin::abi::{
    self, Count, HostContext, HostRef, HostTable, HostTableRef, InstancePtr, LogSink, ModuleRef,
    Opaque, RawAudience, RawMessage, RawReason, RawSession, RawSnapshot, RawTarget, Visitor,
    status,
};
use plugsocket_plugin::{CloseCode, ClosedBy, ConnectionId, HostError, Kind, Scope, Target};
use tracing::level_filters::LevelFilter;

use super::lane::health;
use super::{Event, Failure, Instance, Snapshot};
use crate::protocol::payload::Payload;
use crate::routing::registry::Peer;
use crate::routing::resource::Resource;
use crate::routing::router::{Command, Router};

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("the linker cannot open it: {0}")]
    Open(String),
    #[error("it is no plugsocket plugin: it does not call export_plugin!")]
    NoPlugin,
    #[error(
        "it was built with another abi_stable; rebuild it against plugsocket-plugin {}",
        Generation::API
    )]
    Header(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its plugsocket-plugin does not fit this host's, {api}: {difference}", api = Generation::API)]
    Layout { difference: String },
    #[error("its table of functions cannot be made: {0}")]
    Module(String),
    #[error(
        "it is built with panic = \"abort\", so a panic of it would end the host; remove that from its profile"
    )]
    PanicAborts,
}

/// A library that was opened and checked: the n-th copy of a plugin.
pub(crate) struct Generation {
    pub(crate) plugin: String,
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) facts: PluginFacts,
    /// How many instances of it there are, and states in its memory.
    living: AtomicUsize,
    module: ModuleRef,
}

/// What a library says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginFacts {
    /// Package name and version of the plugin.
    pub(crate) package: String,
    pub(crate) version: String,
    /// `PLUGSOCKET_BUILD` when it was built; may be empty.
    pub(crate) build: String,
    pub(crate) never_blocks: bool,
    pub(crate) abi: u32,
}

impl Generation {
    /// The version of plugin-api that this host was built with.
    const API: &'static str = "1.0.0";

    /// Opens the library at `path`, which must be a private copy under a path never opened before.
    ///
    /// # Errors
    /// It is no plugin, or none that fits. The host is unharmed, provided that the preflight child survived the same.
    pub(crate) fn open(plugin: &str, number: u64, path: &Path) -> Result<Self, LoadError> {
        let module = open_module(path)?;
        module.attach()(LogSink {
            context: leak(CallOrigin { plugin: plugin.to_owned(), generation: number }),
            max_level: max_level(),
            log: log_of_library,
        });
        let facts = PluginFacts {
            package: module.name().as_str().to_owned(),
            version: module.version().as_str().to_owned(),
            build: module.build().as_str().to_owned(),
            never_blocks: module.never_blocks(),
            abi: module.abi_version(),
        };
        let (plugin, path, living) = (plugin.to_owned(), path.to_owned(), AtomicUsize::new(0));
        Ok(Self { plugin, number, path, facts, living, module })
    }

    /// Makes an instance for `resource`. May block for as long as the plugin likes.
    ///
    /// # Errors
    /// What the plugin says, or that it panicked.
    pub(crate) fn start(
        self: &Arc<Self>,
        resource: Arc<Resource>,
        router: Arc<Router>,
        config: &str,
    ) -> Result<DylibInstance, Failure> {
        let instance_context: &'static InstanceContext = Box::leak(Box::new(InstanceContext {
            state: AtomicU8::new(InstanceContext::CANDIDATE),
            generation: self.clone(),
            resource,
            router,
        }));
        let context = HostContext(std::ptr::from_ref(instance_context).cast());
        let host = HostRef { context, table: host_table() };
        self.living.fetch_add(1, Ordering::Relaxed);
        match self.module.start()(host, config.into()).into_result() {
            Ok(pointer) => Ok(DylibInstance { pointer, instance_context }),
            Err(raw) => {
                let failure = failure(raw);
                self.depart();
                Err(failure)
            }
        }
    }

    /// An instance or a state of it is gone. With the last one go the pages, whether it was replaced, refused or never started;
    /// not earlier, because what still runs would fetch them again.
    fn depart(&self) {
        if self.living.fetch_sub(1, Ordering::AcqRel) == 1 {
            page_out(&self.path);
        }
    }
}

/// Opens a library the way the host will, and checks it, in the preflight child.
///
/// # Errors
/// As [`Generation::open`].
pub(crate) fn try_open(path: &Path) -> Result<(), LoadError> {
    open_module(path).map(drop)
}

fn open_module(path: &Path) -> Result<ModuleRef, LoadError> {
    /// Never unload, whatever the reference count says.
    const RTLD_NODELETE: i32 = 0x1000;
    // SAFETY: opening runs the library's constructors; a child process has run them before and survived.
    let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) };
    let library = opened.map_err(|error| LoadError::Open(linker_text(&error, path)))?;
    let symbol = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: a symbol of this mangled name is only ever made by abi_stable, with this type.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol) }.map(|symbol| *symbol);
    // The library stays mapped anyway (RTLD_NODELETE); this says so.
    let _handle = library.into_raw();
    let header = header.map_err(|_| LoadError::NoPlugin)?;
    let header: &'static LibHeader =
        header.upgrade().map_err(|error| LoadError::Header(error.to_string().into()))?;
    check_layout(header)?;
    // SAFETY: the layout was checked just now.
    let module = unsafe { header.init_root_module_with_unchecked_layout::<ModuleRef>() }
        .map_err(|error| LoadError::Module(error.to_string()))?;
    if !module.unwinds() {
        return Err(LoadError::PanicAborts);
    }
    Ok(module)
}

/// Either side may be the older one, whose tables are the shorter ones.
fn check_layout(header: &'static LibHeader) -> Result<(), LoadError> {
    let mine = <ModuleRef as StableAbi>::LAYOUT;
    let Some(theirs) = header.layout() else {
        return Err(LoadError::Layout { difference: "it carries no layout".to_owned() });
    };
    let Err(error) = check_layout_compatibility(mine, theirs) else { return Ok(()) };
    check_layout_compatibility(theirs, mine)
        .map_err(|_| LoadError::Layout { difference: gist(&error.to_string()) })
}

/// Layout errors run to hundreds of lines; what says something are the blocks `Error:… Expected: … Found: …`, a line each.
fn gist(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let mut said: Vec<String> = Vec::new();
    while let Some(line) = lines.next() {
        let Some(error) = line.strip_prefix("Error:") else { continue };
        let block: Vec<&str> = lines.by_ref().take(4).collect();
        said.push(match block.as_slice() {
            ["Expected:", expected, "Found:", found] => {
                format!("{error} (expected {expected}, found {found})")
            }
            _ => error.to_owned(),
        });
    }
    said.dedup();
    said.truncate(3);
    if said.is_empty() { "the layouts differ".to_owned() } else { said.join("; ") }
}

/// libloading's own text is only "dlopen failed"; the linker's is the cause.
fn linker_text(error: &libloading::Error, path: &Path) -> String {
    let cause =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let prefix = format!("{}: ", path.display());
    cause.trim_matches('"').replace(&prefix, "")
}

/// Gives the pages of a library back to the system: they come back from the staged copy should a thread of it still run.
fn page_out(path: &Path) {
    let Ok(maps) = std::fs::read("/proc/self/maps") else { return };
    for line in
        maps.split(|byte| *byte == b'\n').filter(|l| l.ends_with(path.as_os_str().as_bytes()))
    {
        let range = line.split(|b| *b == b' ').next().and_then(|r| std::str::from_utf8(r).ok());
        let Some((start, end)) = range.and_then(|range| range.split_once('-')) else { continue };
        let parse = |text| usize::from_str_radix(text, 16);
        if let (Ok(start), Ok(end)) = (parse(start), parse(end)) {
            advise_pageout(start, end - start);
        }
    }
}

fn advise_pageout(start: usize, length: usize) {
    const MADV_PAGEOUT: i32 = 21;
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    // SAFETY: MADV_PAGEOUT changes no content, whatever the range; a kernel that does not know it answers an error, which costs
    // only memory.
    let _unsupported =
        unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), length, MADV_PAGEOUT) };
}

/// An instance behind the boundary.
pub(crate) struct DylibInstance {
    pointer: InstancePtr,
    instance_context: &'static InstanceContext,
}

impl DylibInstance {
    fn module(&self) -> ModuleRef {
        self.instance_context.generation.module
    }
}

impl Instance for DylibInstance {
    fn handle(&mut self, event: Event<'_>) -> Result<(), Failure> {
        let module = self.module();
        let result = match event {
            Event::Message(peer, payload) => {
                let kind = if payload.is_text { abi::message::TEXT } else { abi::message::BINARY };
                let message = RawMessage { kind, bytes: payload.as_bytes().into() };
                in_presence_of(peer, || module.message()(self.pointer, raw_session(peer), message))
            }
            Event::Open(peer) => module.open()(self.pointer, raw_session(peer)),
            Event::Error(peer, text) => {
                module.error()(self.pointer, raw_session(peer), text.into())
            }
            Event::Close(peer, reason) => {
                let by = match reason.by {
                    ClosedBy::Peer => abi::closed_by::PEER,
                    ClosedBy::Plugin => abi::closed_by::PLUGIN,
                    _ => abi::closed_by::HOST,
                };
                let reason =
                    RawReason { code: reason.code.0, by, text: reason.text.as_str().into() };
                module.close()(self.pointer, raw_session(peer), reason)
            }
            Event::Tick(now) => module.tick()(self.pointer, unix_millis(now)),
        };
        result.into_result().map_err(failure)
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, Failure> {
        let taken = self.module().snapshot()(self.pointer).into_result().map_err(failure)?;
        let snapshot = |raw: RawSnapshot| {
            let generation = self.instance_context.generation.clone();
            generation.living.fetch_add(1, Ordering::Relaxed);
            let state = InstanceState { bytes: raw.bytes, generation };
            Snapshot { version: raw.version, bytes: Bytes::from_owner(state) }
        };
        Ok(taken.into_option().map(snapshot))
    }

    fn restore(&mut self, snapshot: Option<&Snapshot>) -> Result<(), Failure> {
        self.instance_context.state.store(InstanceContext::ACTIVE, Ordering::Release);
        let Some(Snapshot { version, bytes }) = snapshot else { return Ok(()) };
        self.module().restore()(self.pointer, *version, bytes.as_ref().into())
            .into_result()
            .map_err(failure)
    }

    fn retire(&mut self) {
        self.instance_context.state.store(InstanceContext::RETIRED, Ordering::Release);
    }

    fn revocation(&self) -> Option<(health::Revocation, u8)> {
        Some((&self.instance_context.state, InstanceContext::RETIRED))
    }

    fn tick_every(&mut self) -> Option<Duration> {
        match self.module().tick_every()(self.pointer) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    fn plugin(&self) -> &str {
        &self.instance_context.generation.plugin
    }

    fn generation(&self) -> u64 {
        self.instance_context.generation.number
    }
}

impl Drop for DylibInstance {
    fn drop(&mut self) {
        self.retire();
        if let RResult::RErr(failed) = self.module().destroy()(self.pointer) {
            let plugin = self.instance_context.generation.plugin.as_str();
            tracing::warn!(plugin, reason = failed.text.as_str(), "dropping an instance failed");
        }
        self.instance_context.generation.depart();
    }
}

/// The state that an instance gave, in memory that only its library can free: 100 MB are not copied once more for that.
struct InstanceState {
    bytes: RVec<u8>,
    generation: Arc<Generation>,
}

impl AsRef<[u8]> for InstanceState {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl Drop for InstanceState {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.bytes));
        self.generation.depart();
    }
}

fn failure(raw: abi::Failure) -> Failure {
    match raw.code {
        abi::Failure::REFUSED => Failure::Refused(CloseCode(raw.close_code), raw.text.into()),
        _ => Failure::Panicked(raw.text.into()),
    }
}

fn unix_millis(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What an instance speaks to the host with. Leaked: some 100 bytes for each instance ever started.
struct InstanceContext {
    state: AtomicU8,
    generation: Arc<Generation>,
    resource: Arc<Resource>,
    router: Arc<Router>,
}

impl InstanceContext {
    /// Not serving yet: it may log, and nothing else.
    const CANDIDATE: u8 = 0;
    const ACTIVE: u8 = 1;
    const RETIRED: u8 = 2;

    fn deliver(&self, command: Command<'_>) -> Count {
        if self.state.load(Ordering::Acquire) != Self::ACTIVE {
            return Count { status: status::RETIRED, count: 0 };
        }
        match self.router.deliver(&self.resource, command) {
            Ok(count) => Count { status: status::OK, count },
            Err(HostError::TooLarge) => Count { status: status::TOO_LARGE, count: 0 },
            Err(HostError::TooMany) => Count { status: status::TOO_MANY, count: 0 },
            Err(HostError::Retired) => Count { status: status::RETIRED, count: 0 },
            Err(_) => Count { status: status::GONE, count: 0 },
        }
    }
}

/// Who a line of the log is from, where no instance is known.
struct CallOrigin {
    plugin: String,
    generation: u64,
}

fn leak(origin: CallOrigin) -> HostContext {
    HostContext(std::ptr::from_ref(Box::leak(Box::new(origin))).cast())
}

fn instance_context(context: HostContext) -> &'static InstanceContext {
    // SAFETY: `Generation::start` made the context from a leaked `InstanceContext`; plugins hand it back unchanged.
    unsafe { &*context.0.cast::<InstanceContext>() }
}

fn host_table() -> HostTableRef {
    static TABLE: std::sync::OnceLock<HostTableRef> = std::sync::OnceLock::new();
    *TABLE.get_or_init(|| {
        let table = HostTable {
            send,
            broadcast,
            feedback,
            join,
            leave,
            publish,
            close,
            set_fyi,
            sessions,
            log,
            send_latest,
            broadcast_latest,
            publish_latest,
        };
        table.leak_into_prefix()
    })
}

fn payload(message: RawMessage<'_>) -> Payload {
    Payload::copied(message.kind == abi::message::TEXT, message.bytes.as_slice())
}

extern "C" fn send(context: HostContext, id: u64, message: RawMessage<'_>) -> u32 {
    let (instance_context, payload) = (instance_context(context), payload(message));
    let sent = with_present(|present| match present.filter(|peer| peer.id().0 == id) {
        Some(to) => instance_context.deliver(Command::Answer { to, payload }),
        None => {
            instance_context.deliver(Command::Send { to: ConnectionId(id), key: None, payload })
        }
    });
    sent.status
}

thread_local! {
    /// Whose message an application is handling on this thread, during the call: most messages are sent to who has just sent
    /// one, and need not be looked up.
    static PRESENT: Cell<*const Peer> = const { Cell::new(std::ptr::null()) };
}

/// Calls an application with a message of `peer`.
fn in_presence_of<T>(peer: &Peer, call: impl FnOnce() -> T) -> T {
    struct Before(*const Peer);
    impl Drop for Before {
        fn drop(&mut self) {
            PRESENT.set(self.0);
        }
    }
    let _before = Before(PRESENT.replace(peer));
    call()
}

fn with_present<T>(act: impl FnOnce(Option<&Peer>) -> T) -> T {
    // SAFETY: not null only during `in_presence_of` on this thread, which borrows the peer for that long.
    act(unsafe { PRESENT.get().as_ref() })
}

extern "C" fn send_latest(
    context: HostContext,
    id: u64,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> u32 {
    let (to, key) = (ConnectionId(id), Some(key.as_str()));
    instance_context(context).deliver(Command::Send { to, key, payload: payload(message) }).status
}

extern "C" fn broadcast(
    context: HostContext,
    to: RawAudience<'_>,
    message: RawMessage<'_>,
) -> Count {
    instance_context(context).deliver(broadcasting(&to, None, message))
}

extern "C" fn broadcast_latest(
    context: HostContext,
    to: RawAudience<'_>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    instance_context(context).deliver(broadcasting(&to, Some(key.as_str()), message))
}

fn broadcasting<'a>(
    to: &RawAudience<'a>,
    key: Option<&'a str>,
    message: RawMessage<'_>,
) -> Command<'a> {
    Command::Broadcast {
        scope: if to.scope == abi::scope::ALL { Scope::All } else { Scope::Resource },
        websockets_only: to.websockets_only,
        except: to.except.as_slice(),
        key,
        payload: payload(message),
    }
}

extern "C" fn feedback(context: HostContext, to: RawTarget<'_>, message: RawMessage<'_>) -> u32 {
    let to = match to.by {
        abi::target::UUID => Target::Uuid(to.text.as_str()),
        _ => Target::Ident(to.text.as_str()),
    };
    instance_context(context).deliver(Command::Feedback { to, payload: payload(message) }).status
}

extern "C" fn join(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    instance_context(context)
        .deliver(Command::Join { id: ConnectionId(id), room: room.as_str() })
        .status
}

extern "C" fn leave(context: HostContext, id: u64, room: RStr<'_>) -> u32 {
    instance_context(context)
        .deliver(Command::Leave { id: ConnectionId(id), room: room.as_str() })
        .status
}

extern "C" fn publish(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    message: RawMessage<'_>,
) -> Count {
    let (room, except, payload) = (room.as_str(), except.as_slice(), payload(message));
    instance_context(context).deliver(Command::Publish { room, except, key: None, payload })
}

extern "C" fn publish_latest(
    context: HostContext,
    room: RStr<'_>,
    except: RSlice<'_, u64>,
    key: RStr<'_>,
    message: RawMessage<'_>,
) -> Count {
    let (room, except, payload) = (room.as_str(), except.as_slice(), payload(message));
    instance_context(context).deliver(Command::Publish {
        room,
        except,
        key: Some(key.as_str()),
        payload,
    })
}

extern "C" fn close(context: HostContext, id: u64, code: u16, reason: RStr<'_>) -> u32 {
    let (id, code) = (ConnectionId(id), CloseCode(code));
    instance_context(context).deliver(Command::Close { id, code, reason: reason.as_str() }).status
}

extern "C" fn set_fyi(context: HostContext, id: u64, fyi: RStr<'_>) -> u32 {
    instance_context(context)
        .deliver(Command::SetFyi { id: ConnectionId(id), fyi: fyi.as_str() })
        .status
}

extern "C" fn sessions(context: HostContext, visitor: Visitor<'_>) -> u32 {
    let instance_context = instance_context(context);
    if instance_context.state.load(Ordering::Acquire) != InstanceContext::ACTIVE {
        return status::RETIRED;
    }
    for peer in instance_context.resource.members() {
        (visitor.visit)(visitor.context, raw_session(&peer));
    }
    status::OK
}

extern "C" fn log(context: HostContext, level: u32, _target: RStr<'_>, text: RStr<'_>) {
    let instance_context = instance_context(context);
    let Generation { plugin, number, .. } = &*instance_context.generation;
    crate::plugin::log::plugin_line(
        level,
        plugin,
        *number,
        &instance_context.resource.path,
        text.as_str(),
    );
}

extern "C" fn log_of_library(context: HostContext, level: u32, target: RStr<'_>, text: RStr<'_>) {
    // SAFETY: `Generation::open` made the context from a leaked `CallOrigin`; plugins hand it back unchanged.
    let origin = unsafe { &*context.0.cast::<CallOrigin>() };
    crate::plugin::log::plugin_line(
        level,
        &origin.plugin,
        origin.generation,
        target.as_str(),
        text.as_str(),
    );
}

/// What the host logs at all, as a number of the boundary.
fn max_level() -> u32 {
    match LevelFilter::current() {
        LevelFilter::OFF => 0,
        LevelFilter::ERROR => 1,
        LevelFilter::WARN => 2,
        LevelFilter::INFO => 3,
        LevelFilter::DEBUG => 4,
        _ => 5,
    }
}

/// Lends a peer to a plugin for one call.
fn raw_session(peer: &Peer) -> RawSession<'_> {
    RawSession {
        id: peer.id().0,
        kind: match peer.kind {
            Kind::Backend => abi::kind::BACKEND,
            Kind::Tcp => abi::kind::TCP,
            _ => abi::kind::WEBSOCKET,
        },
        // SAFETY: an identity is minted from ASCII only. It is lent with every message, so it is not checked each time.
        uuid: unsafe { std::str::from_utf8_unchecked(peer.identity.as_ascii()) }.into(),
        context: Opaque { pointer: std::ptr::from_ref(peer).cast(), life: PhantomData },
        field,
    }
}

extern "C" fn field<'a>(context: Opaque<'a>, field: u32, name: RStr<'_>) -> ROption<RStr<'a>> {
    // SAFETY: `raw_session` made it from a `&'a Peer`, and its lifetime is that of the reference.
    let peer: &'a Peer = unsafe { &*context.pointer.cast::<Peer>() };
    match field {
        abi::field::IDENT => peer.ident(),
        abi::field::ADDRESS => Some(&*peer.address),
        abi::field::RESOURCE => Some(peer.resource.path.as_str()),
        abi::field::QUERY => Some(peer.head.query()),
        abi::field::HEADER => peer.head.header(name.as_str()),
        abi::field::USER => peer.login.as_ref().and_then(|login| login.user.as_deref()),
        abi::field::CLAIMS => peer.login.as_ref().and_then(|login| login.claims.as_deref()),
        _ => None,
    }
    .map(RStr::from)
    .into()
}
