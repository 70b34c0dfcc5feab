//! The keys of `plugins.toml`: which there are, what each may hold, and how they make a [`Config`].
//!
//! Owns the rules between keys. Rules of one value are in `value` and `address`, positions and unknown keys in `raw`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::raw::{self, Keys, Mistakes, Section, join};
use super::value::{self, Count, Seconds, Wrong, wrong, wrong_kind};
use super::{
    Access, Config, LaneKind, Limits, Listen, Outbox, Plugin, Rate, Reload, Resource, Server,
    Timeouts, UnknownResource, Watchdog, address, auth, terms, tls,
};

/// The path of the host's own page.
const PAGE: &str = "/plugsocket";

const FILE: Keys =
    Keys { table: "the beginning of the file", keys: &["server", "plugins", "resources"] };

const SERVER: Keys = Keys {
    table: "[server]",
    keys: &[
        "listen",
        "tls",
        "plugin_dir",
        "staging_dir",
        "state_dir",
        "control",
        "page",
        "unknown_resource",
        "allowed_ips",
        "allowed_origins",
        "trusted_proxies",
        "proxy_protocol",
        "max_connections",
        "max_per_ip",
        "max_handshakes",
        "max_handshakes_per_ip",
        "max_head",
        "max_message",
        "max_chunks",
        "max_frames",
        "max_rooms",
        "outbox_messages",
        "outbox_bytes",
        "inbox_messages",
        "head_timeout",
        "message_timeout",
        "write_timeout",
        "close_timeout",
        "ping_interval",
        "idle_timeout",
        "ready_delay",
        "drain",
        "retry_spread",
        "rate",
        "reload",
        "watchdog",
    ],
};

pub(super) const TLS: Keys = Keys {
    table: "[server.tls]",
    keys: &["listen", "certificates", "client_ca", "tls_timeout", "proxy_protocol"],
};

pub(super) const CERTIFICATE: Keys =
    Keys { table: "[[server.tls.certificates]]", keys: &["certificate", "key"] };

const RELOAD: Keys = Keys {
    table: "[server.reload]",
    keys: &[
        "quiet",
        "rescan",
        "preflight_timeout",
        "start_timeout",
        "restore_timeout",
        "snapshot_limit",
        "probation_time",
        "probation_messages",
        "probation_share",
        "keep_generations",
        "check_owner",
    ],
};

const WATCHDOG: Keys = Keys {
    table: "[server.watchdog]",
    keys: &["callback_warn", "callback_limit", "max_panics", "restart_pause"],
};

const RESOURCE: Keys = Keys {
    table: "[resources.\"/path\"]",
    keys: &[
        "plugin",
        "dialog",
        "lane",
        "subprotocols",
        "snapshot_every",
        "outbox_messages",
        "outbox_bytes",
        "outbox_policy",
        "rate",
        "auth",
        "config",
    ],
};

const PLUGIN: Keys = Keys { table: "[plugins.NAME]", keys: &["sha256"] };

pub(super) const ALL: [&Keys; 10] = [
    &FILE,
    &SERVER,
    &TLS,
    &CERTIFICATE,
    &terms::RATE,
    &RELOAD,
    &WATCHDOG,
    &RESOURCE,
    &PLUGIN,
    &auth::AUTH,
];

/// Every key that a file can have.
#[cfg(test)]
pub(super) fn all_keys() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|table| table.keys).copied()
}

/// Checks a whole text. `path` is absolute.
pub(super) fn config(text: &str, path: PathBuf) -> Result<Config, ConfigError> {
    let table = raw::document(text, &path)?;
    let mut mistakes = Mistakes::new(path.clone(), text);
    let base = path.parent().unwrap_or(&path).to_owned();
    let mut file = Section::new((String::new(), 0), &table, &FILE, &ALL, &mut mistakes);
    let server_table = file.table("server", "[server]");
    let resource_tables = file.table("resources", RESOURCE.table);
    let plugin_tables = file.table("plugins", PLUGIN.table);
    let empty = DeTable::new();
    let server = server(server_table.unwrap_or((&empty, 0)), &base, &mut mistakes);
    let resources = match resource_tables {
        Some((tables, _)) => resources(tables, (&base, &server), &mut mistakes),
        None => BTreeMap::new(),
    };
    let plugins = plugin_tables.map(|(tables, _)| plugins(tables, &mut mistakes));
    let plugins = plugins.unwrap_or_default();
    mistakes.result().map(|()| Config { path, server, resources, plugins })
}

fn server((table, at): (&DeTable<'_>, usize), base: &Path, mistakes: &mut Mistakes) -> Server {
    let mut s = Section::new(("server".to_owned(), at), table, &SERVER, &ALL, mistakes);
    let (plugin_dir, staging_dir) = directories(&mut s, base);
    let unknown = [("close", UnknownResource::Close), ("404", UnknownResource::NotFound)];
    let tls_table = s.table("tls", TLS.table);
    let server = Server {
        listen: listen(&mut s, tls_table.is_some_and(|(table, _)| tls::listens(table)), base),
        tls: None,
        plugin_dir,
        staging_dir,
        state_dir: state_dir(&mut s, base),
        control: control(&mut s, base),
        page: s.value("page", value::switch).unwrap_or(true),
        unknown_resource: s
            .value("unknown_resource", |value| value::choice(value, &unknown))
            .unwrap_or(UnknownResource::Close),
        proxy_protocol: s.value("proxy_protocol", value::switch).unwrap_or(false),
        access: access(&mut s),
        limits: limits(&mut s),
        timeouts: timeouts(&mut s),
        rate: Rate::default(),
        reload: Reload::default(),
        watchdog: Watchdog::default(),
    };
    let (reloading, watching) =
        (s.table("reload", RELOAD.table), s.table("watchdog", WATCHDOG.table));
    let rate = s.table("rate", terms::RATE.table).map(|(table, at)| {
        let name = "server.rate".to_owned();
        terms::rate((name, table, at), &ALL, &Rate::default(), mistakes)
    });
    Server {
        tls: tls_table.and_then(|table| tls::tls(table, base, mistakes)),
        rate: rate.unwrap_or_default(),
        reload: reloading.map_or_else(Reload::default, |table| reload(table, mistakes)),
        watchdog: watching.map_or_else(Watchdog::default, |table| watchdog(table, mistakes)),
        ..server
    }
}

fn listen(s: &mut Section<'_, '_>, may_be_empty: bool, base: &Path) -> Vec<Listen> {
    let example = "[\"127.0.0.1:8095\"]";
    s.value("listen", |value| match value.as_array() {
        Some(list) if list.is_empty() && !may_be_empty => {
            Err(Wrong(format!("the list is empty, so nobody could connect; give e.g. {example}")))
        }
        _ => Ok(()),
    });
    addresses(s, example, |text| address::listen(text, base))
        .unwrap_or_else(|| vec![Listen::Tcp { host: "127.0.0.1".to_owned(), port: 8095 }])
}

/// A list of addresses, none of them twice.
pub(super) fn addresses(
    s: &mut Section<'_, '_>,
    example: &str,
    listen: impl Fn(&str) -> Result<Listen, Wrong>,
) -> Option<Vec<Listen>> {
    let mut seen = Vec::new();
    let read = |text: &str| {
        let listen = listen(text)?;
        if seen.contains(&listen) && !matches!(listen, Listen::Tcp { port: 0, .. }) {
            return Err(Wrong(format!("{listen} is there twice; keep one of them")));
        }
        seen.push(listen.clone());
        Ok(listen)
    };
    s.texts("listen", example, read)
}

/// `plugin_dir` and `staging_dir`.
fn directories(s: &mut Section<'_, '_>, base: &Path) -> (PathBuf, PathBuf) {
    let read = |value: &DeValue<'_>, example: &str| match value {
        DeValue::String(text) => value::file(text, base, example),
        other => Err(wrong_kind(other, &format!("give a path in quotes, e.g. {example}"))),
    };
    let plugins = s
        .value("plugin_dir", |value| read(value, "\"plugins.d\""))
        .unwrap_or_else(|| base.join("plugins.d"));
    let apart = |staged: PathBuf| {
        let same = "plugin_dir and staging_dir are the same folder, so that each staged copy would count as a new \
                    plugin; name two folders";
        if staged == plugins { Err(Wrong(same.to_owned())) } else { Ok(staged) }
    };
    let default = base.join(".plugsocket/staged");
    if !s.has("staging_dir") {
        s.value("plugin_dir", |_| apart(default.clone()));
    }
    let staged =
        s.value("staging_dir", |value| read(value, "\".plugsocket/staged\"").and_then(apart));
    (plugins, staged.unwrap_or(default))
}

fn state_dir(s: &mut Section<'_, '_>, base: &Path) -> PathBuf {
    let example = "\".plugsocket/state\"";
    let read = |value: &DeValue<'_>| match value {
        DeValue::String(text) => value::file(text, base, example),
        other => Err(wrong_kind(other, &format!("give a path in quotes, e.g. {example}"))),
    };
    s.value("state_dir", read).unwrap_or_else(|| base.join(".plugsocket/state"))
}

fn control(s: &mut Section<'_, '_>, base: &Path) -> PathBuf {
    let example = "\".plugsocket/control\"";
    let read = |value: &DeValue<'_>| match value {
        DeValue::String(text) => value::file(text, base, example).and_then(address::socket),
        other => Err(wrong_kind(other, &format!("give a path in quotes, e.g. {example}"))),
    };
    s.value("control", read).unwrap_or_else(|| base.join(".plugsocket/control"))
}

fn access(s: &mut Section<'_, '_>) -> Access {
    let default = Access::default();
    let mut trusts_unix = false;
    let proxy = |text: &str| match text {
        "unix" => {
            trusts_unix = true;
            Ok(None)
        }
        text if text.starts_with("unix:") => Err(Wrong(format!(
            "{} names a socket, and all sockets of listen are meant; write \"unix\"",
            value::quoted(text)
        ))),
        text => address::net(text).map(Some),
    };
    let trusted = s.texts("trusted_proxies", "[\"127.0.0.1\"]", proxy).unwrap_or_default();
    Access {
        allowed_ips: s
            .texts("allowed_ips", "[\"127.0.0.1\", \"::1\"]", address::net)
            .unwrap_or(default.allowed_ips),
        allowed_origins: s
            .texts("allowed_origins", "[\"https://www.example.org\"]", address::origin)
            .unwrap_or_default(),
        trusted_proxies: trusted.into_iter().flatten().collect(),
        trusts_unix,
    }
}

fn limits(s: &mut Section<'_, '_>) -> Limits {
    const CONNECTIONS: Count = Count::new("connections", 0..=10_000_000, "");
    const RATE: Count = Count::new("connections in a second", 0..=1_000_000, "");
    const HEAD: Count = Count::new("bytes", 256..=1 << 20, "would refuse every request");
    // 125 bytes is what a frame without an extended length holds, and the least that any peer takes (RFC 6455 section 5.2).
    const MESSAGE: Count = Count::new("bytes", 125..=1 << 30, "would refuse every message");
    const CHUNKS: Count = Count::new("chunks", 1..=1_000_000, "would refuse every chunk");
    const FRAMES: Count = Count::new("frames", 1..=1 << 30, "would refuse every message");
    const ROOMS: Count = Count::new("rooms", 1..=1_000_000, "would let nobody into a room");
    const INBOX: Count = Count::new("messages", 1..=1_000_000, "would let no message in");
    let default = Limits::default();
    let outbox = (default.outbox_messages, default.outbox_bytes);
    let (outbox_messages, outbox_bytes) = terms::outbox_bounds(s, outbox);
    Limits {
        max_connections: NonZeroUsize::new(s.count("max_connections", &CONNECTIONS, 0)),
        max_per_ip: NonZeroUsize::new(s.count("max_per_ip", &CONNECTIONS, 0)),
        max_handshakes: NonZeroUsize::new(s.count(
            "max_handshakes",
            &CONNECTIONS,
            default.max_handshakes.map_or(0, NonZeroUsize::get),
        )),
        max_handshakes_per_ip: NonZeroUsize::new(s.count("max_handshakes_per_ip", &RATE, 0)),
        max_head: s.count("max_head", &HEAD, default.max_head),
        max_message: s.count("max_message", &MESSAGE, default.max_message),
        max_chunks: s.count("max_chunks", &CHUNKS, default.max_chunks),
        max_frames: s.count("max_frames", &FRAMES, default.max_frames),
        max_rooms: s.count("max_rooms", &ROOMS, default.max_rooms),
        outbox_messages,
        outbox_bytes,
        inbox_messages: s.count("inbox_messages", &INBOX, default.inbox_messages),
    }
}

fn timeouts(s: &mut Section<'_, '_>) -> Timeouts {
    const MILLI: Duration = Duration::from_millis(1);
    const HEAD: Seconds = Seconds { least: MILLI, less: "would refuse every request" };
    const MESSAGE: Seconds = Seconds { least: MILLI, less: "would refuse every message" };
    const WRITE: Seconds = Seconds { least: MILLI, less: "would close every connection" };
    const PING: Seconds = Seconds {
        least: Duration::from_millis(10),
        less: "would do nothing but ping, and 0 is none",
    };
    const ANY: Seconds = Seconds { least: Duration::ZERO, less: "" };
    let default = Timeouts::default();
    let ping = default.ping_interval.unwrap_or_default();
    let read = |value: &DeValue<'_>| match value::seconds(value, &ANY, ping)? {
        Duration::ZERO => Ok(None),
        _ => value::seconds(value, &PING, ping).map(Some),
    };
    const IDLE: Duration = Duration::from_secs(600);
    let idle = |value: &DeValue<'_>| match value::seconds(value, &ANY, IDLE)? {
        Duration::ZERO => Ok(None),
        _ => value::seconds(value, &WRITE, IDLE).map(Some),
    };
    Timeouts {
        head: s.seconds("head_timeout", &HEAD, default.head),
        message: s.seconds("message_timeout", &MESSAGE, default.message),
        write: s.seconds("write_timeout", &WRITE, default.write),
        close: s.seconds("close_timeout", &ANY, default.close),
        ping_interval: s.value("ping_interval", read).unwrap_or(default.ping_interval),
        idle: s.value("idle_timeout", idle).unwrap_or(default.idle),
        ready_delay: s.seconds("ready_delay", &ANY, default.ready_delay),
        drain: s.seconds("drain", &ANY, default.drain),
        retry_spread: s.seconds("retry_spread", &ANY, default.retry_spread),
    }
}

fn reload((table, at): (&DeTable<'_>, usize), mistakes: &mut Mistakes) -> Reload {
    const QUIET: Seconds = Seconds { least: Duration::ZERO, less: "" };
    const RESCAN: Seconds = Seconds {
        least: Duration::from_millis(10),
        less: "would do nothing but look at the folder",
    };
    const CHECK: Seconds =
        Seconds { least: Duration::from_millis(1), less: "would refuse every plugin" };
    const STATE: Count = Count::new("bytes", 0..=1 << 40, "");
    const MESSAGES: Count =
        Count::new("messages", 1..=1 << 40, "would watch nothing, and probation_time = 0 says so");
    const SHARE: Count = Count::new("percent", 0..=100, "");
    const KEEP: Count = Count::new("generations", 0..=1000, "");
    let mut s = Section::new(("server.reload".to_owned(), at), table, &RELOAD, &ALL, mistakes);
    let default = Reload::default();
    Reload {
        quiet: s.seconds("quiet", &QUIET, default.quiet),
        rescan: s.seconds("rescan", &RESCAN, default.rescan),
        preflight: s.seconds("preflight_timeout", &CHECK, default.preflight),
        start: s.seconds("start_timeout", &CHECK, default.start),
        restore: s.seconds("restore_timeout", &CHECK, default.restore),
        snapshot_limit: s.count("snapshot_limit", &STATE, default.snapshot_limit),
        probation: s.seconds("probation_time", &QUIET, default.probation),
        probation_messages: s.count("probation_messages", &MESSAGES, default.probation_messages),
        probation_share: s.count("probation_share", &SHARE, default.probation_share),
        keep_generations: s.count("keep_generations", &KEEP, default.keep_generations),
        check_owner: s.value("check_owner", value::switch).unwrap_or(default.check_owner),
    }
}

fn watchdog((table, at): (&DeTable<'_>, usize), mistakes: &mut Mistakes) -> Watchdog {
    const CALL: Seconds =
        Seconds { least: Duration::from_millis(10), less: "would be past with every callback" };
    const PAUSE: Seconds = Seconds { least: Duration::ZERO, less: "" };
    const PANICS: Count = Count::new("panics", 0..=1_000_000, "");
    let mut s = Section::new(("server.watchdog".to_owned(), at), table, &WATCHDOG, &ALL, mistakes);
    let default = Watchdog::default();
    let callback_warn = s.seconds("callback_warn", &CALL, default.callback_warn);
    let not_before = |limit: Duration| {
        if limit >= callback_warn {
            return Ok(limit);
        }
        Err(Wrong(format!(
            "{} seconds is less than callback_warn ({}); a callback is reported before it is given up",
            limit.as_secs_f64(),
            callback_warn.as_secs_f64()
        )))
    };
    let limit = |value: &DeValue<'_>| {
        value::seconds(value, &CALL, default.callback_limit).and_then(not_before)
    };
    let callback_limit =
        s.value("callback_limit", limit).unwrap_or(default.callback_limit.max(callback_warn));
    let panics = s.count("max_panics", &PANICS, default.max_panics.map_or(0, NonZeroUsize::get));
    Watchdog {
        callback_warn,
        callback_limit,
        max_panics: NonZeroUsize::new(panics),
        restart_pause: s.seconds("restart_pause", &PAUSE, default.restart_pause),
    }
}

fn plugins(tables: &DeTable<'_>, mistakes: &mut Mistakes) -> BTreeMap<String, Plugin> {
    let mut plugins = BTreeMap::new();
    for (key, value) in tables.iter() {
        let (name, at) = (&**key.get_ref(), value.span().start);
        let path = join("plugins", name);
        if let Err(wrong) = value::plugin(name) {
            mistakes.add(key.span().start, &path, wrong);
        }
        let DeValue::Table(table) = value.get_ref() else {
            let right = format!("write a table, [{path}]");
            mistakes.add(at, path, wrong_kind(value.get_ref(), &right));
            continue;
        };
        let mut s = Section::new((path, at), table, &PLUGIN, &ALL, mistakes);
        let is_one = table.get("sha256").is_some_and(|value| value.get_ref().as_str().is_some());
        let sha256 = if is_one {
            let one = s.value("sha256", |value| value::digest(value.as_str().unwrap_or_default()));
            one.into_iter().collect()
        } else {
            s.value("sha256", |value| match value.as_array() {
                Some(list) if list.is_empty() => wrong!(
                    "the list is empty, which would pin nothing; give a digest, or take the key out"
                ),
                _ => Ok(()),
            });
            s.texts("sha256", "[\"5891b5b5…\"]", value::digest).unwrap_or_default()
        };
        plugins.insert(name.to_owned(), Plugin { sha256 });
    }
    plugins
}

fn resources(
    tables: &DeTable<'_>,
    (base, server): (&Path, &Server),
    mistakes: &mut Mistakes,
) -> BTreeMap<String, Resource> {
    let mut resources = BTreeMap::new();
    let mut seen: BTreeMap<Vec<u8>, (&str, usize)> = BTreeMap::new();
    for (key, value) in tables.iter() {
        let (path, at) = (&**key.get_ref(), value.span().start);
        let name = join("resources", path);
        match free_path(path, server.page, &seen) {
            Ok(plain) => {
                seen.insert(plain, (path, mistakes.line(at)));
            }
            Err(wrong) => mistakes.add(key.span().start, &name, wrong),
        }
        let DeValue::Table(table) = value.get_ref() else {
            let right = format!("write a table, [{name}], with the key plugin in it");
            mistakes.add(at, name, wrong_kind(value.get_ref(), &right));
            continue;
        };
        if let Some(resource) = resource((name, at), table, (base, server), mistakes) {
            resources.insert(path.to_owned(), resource);
        }
    }
    resources
}

/// Checks a path by itself, against the host's own and against those `seen`; returns it with percent-encoding undone.
fn free_path(
    path: &str,
    page: bool,
    seen: &BTreeMap<Vec<u8>, (&str, usize)>,
) -> Result<Vec<u8>, Wrong> {
    let plain = value::resource_path(path)?;
    if page
        && plain
            .strip_prefix(PAGE.as_bytes())
            .is_some_and(|rest| [None, Some(&b'/')].contains(&rest.first()))
    {
        let problem = format!(
            "{PAGE} and what is under it is the host's own page; take another path, or set server.page = false"
        );
        return Err(Wrong(problem));
    }
    match seen.get(&plain) {
        None => Ok(plain),
        Some((other, line)) => Err(Wrong(format!(
            "two resources on one path; {} in line {line} differs only in percent-encoding, keep one of them",
            value::quoted(other)
        ))),
    }
}

fn resource(
    place: (String, usize),
    table: &DeTable<'_>,
    (base, server): (&Path, &Server),
    mistakes: &mut Mistakes,
) -> Option<Resource> {
    let (name, _) = place.clone();
    let mut s = Section::new(place, table, &RESOURCE, &ALL, mistakes);
    let absent = "this key is missing; write plugin = \"NAME\" for libNAME.so in plugin_dir";
    let plugin = s.required("plugin", absent, |value| match value {
        DeValue::String(text) => value::plugin(text),
        other => Err(wrong_kind(other, "give the name of a plugin in quotes, e.g. \"echo\"")),
    });
    let dialog = s.value("dialog", value::switch).unwrap_or(true);
    let lanes = [("thread", LaneKind::Thread), ("shared", LaneKind::Shared)];
    let lane = s.value("lane", |value| value::choice(value, &lanes));
    let subprotocols = s.texts("subprotocols", "[\"chat.v1\"]", value::token).unwrap_or_default();
    let snapshot_every = snapshot_every(&mut s);
    let outbox = terms::outbox(&mut s, &Outbox::of(&server.limits));
    let rate = s.table("rate", &format!("[{name}.rate]"));
    let config = s.table("config", &format!("[{name}.config]"));
    let auth = s.table("auth", &format!("[{name}.auth]"));
    let rate = match rate {
        Some((table, at)) => {
            terms::rate((format!("{name}.rate"), table, at), &ALL, &server.rate, mistakes)
        }
        None => server.rate.clone(),
    };
    // A wrong one is a mistake that is noted, so nothing is ever served without it.
    let auth = auth.and_then(|table| auth::auth(table, &name, base, mistakes));
    let config = match config {
        Some((table, _)) => json_object(table, &format!("{name}.config"), mistakes),
        None => serde_json::Map::new(),
    };
    let config = Json::Object(config).to_string();
    let make = |plugin| Resource {
        plugin,
        dialog,
        lane,
        subprotocols,
        snapshot_every,
        outbox,
        rate,
        auth,
        config,
    };
    plugin.map(make)
}

fn snapshot_every(s: &mut Section<'_, '_>) -> Option<Duration> {
    const ANY: Seconds = Seconds { least: Duration::ZERO, less: "" };
    const EVERY: Seconds = Seconds {
        least: Duration::from_millis(100),
        less: "would do nothing but write, and 0 is never",
    };
    const EXAMPLE: Duration = Duration::from_secs(60);
    let read = |value: &DeValue<'_>| match value::seconds(value, &ANY, EXAMPLE)? {
        Duration::ZERO => Ok(None),
        _ => value::seconds(value, &EVERY, EXAMPLE).map(Some),
    };
    s.value("snapshot_every", read).flatten()
}

fn json_object(
    table: &DeTable<'_>,
    name: &str,
    mistakes: &mut Mistakes,
) -> serde_json::Map<String, Json> {
    let mut entries: Vec<_> = table.iter().collect();
    // Sorted here, so that moving a line is no difference even where serde_json keeps the order.
    entries.sort_by_key(|(key, _)| key.get_ref());
    entries
        .into_iter()
        .map(|(key, value)| {
            let name = join(name, key.get_ref());
            (key.get_ref().to_string(), json(value, &name, mistakes))
        })
        .collect()
}

/// The value as JSON. A date becomes its text; a number that JSON does not know is a mistake.
fn json(value: &Spanned<DeValue<'_>>, name: &str, mistakes: &mut Mistakes) -> Json {
    match value.get_ref() {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(boolean) => Json::Bool(*boolean),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Array(list) => list.iter().map(|item| json(item, name, mistakes)).collect(),
        DeValue::Table(table) => Json::Object(json_object(table, name, mistakes)),
        number @ (DeValue::Integer(_) | DeValue::Float(_)) => match value::number(number) {
            Ok(number) => Json::Number(number),
            Err(wrong) => {
                mistakes.add(value.span().start, name, wrong);
                Json::Null
            }
        },
    }
}
