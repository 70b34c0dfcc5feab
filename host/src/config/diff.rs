//! What a changed file means for a running host: which resources are touched, which keys apply at once.
//!
//! Pure; it only compares. Who applies a difference is not known here.

use std::collections::BTreeSet;

use super::{Access, Config, Limits, Rate, Reload, Resource, Server, Timeouts, Tls, Watchdog};

/// The difference between the running [`Config`] and a new one. Paths are in alphabetical order, keys in the order of
/// the shipped file. What is in no list is untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Paths that are new.
    pub added: Vec<String>,
    /// Paths that are no longer there.
    pub removed: Vec<String>,
    /// Paths that another plugin serves now, whether or not their config changed too.
    pub remapped: Vec<String>,
    /// Paths with the same plugin and another config.
    pub reconfigured: Vec<String>,
    /// Paths whose `auth` changed; a path can be here and in other lists.
    pub guarded: Vec<String>,
    /// Plugins whose table `[plugins.NAME]` changed.
    pub plugins: Vec<String>,
    /// Paths whose `dialog`, `lane`, `subprotocols`, `snapshot_every`, outbox or rate changed, their own or the server's; a path can be here and in one of the two lists before.
    pub reshaped: Vec<String>,
    /// Keys under `[server]` that changed and apply at once, such as `allowed_ips` or `reload.quiet`.
    pub server: Vec<&'static str>,
    /// Keys under `[server]` that changed and need a restart: `listen`, `tls`, `tls.listen`, `plugin_dir`, `staging_dir`,
    /// `state_dir`, `control`, `inbox_messages`.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// Puts the running values of the keys that need a restart ([`Diff::restart`]) into a new configuration.
    pub fn keep_until_restart(&self, new: &mut Self) {
        new.server.listen.clone_from(&self.server.listen);
        match (&self.server.tls, &mut new.server.tls) {
            (Some(old), Some(new)) => new.listen.clone_from(&old.listen),
            (old, new) => new.clone_from(old),
        }
        new.server.plugin_dir.clone_from(&self.server.plugin_dir);
        new.server.staging_dir.clone_from(&self.server.staging_dir);
        new.server.state_dir.clone_from(&self.server.state_dir);
        new.server.control.clone_from(&self.server.control);
        new.server.limits.inbox_messages = self.server.limits.inbox_messages;
    }
}

impl Diff {
    /// Whether the two configurations mean the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The plugin folder is watched from start to end, and a lane keeps its inbox for as long as it lives: to change
/// either under way is more machinery than an operator would ever notice.
const RESTART: [&str; 8] = [
    "listen",
    "tls",
    "tls.listen",
    "plugin_dir",
    "staging_dir",
    "state_dir",
    "control",
    "inbox_messages",
];

pub(super) fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    for (path, resource) in &new.resources {
        match old.resources.get(path) {
            None => diff.added.push(path.clone()),
            Some(before) => compare(path, before, resource, &mut diff),
        }
    }
    diff.removed =
        old.resources.keys().filter(|path| !new.resources.contains_key(*path)).cloned().collect();
    let names: BTreeSet<_> = old.plugins.keys().chain(new.plugins.keys()).collect();
    let differs = |name: &&&String| old.plugins.get(**name) != new.plugins.get(**name);
    diff.plugins = names.iter().filter(differs).map(|name| (*name).clone()).collect();
    let changed = server(&old.server, &new.server);
    (diff.restart, diff.server) = changed.into_iter().partition(|key| RESTART.contains(key));
    diff
}

fn compare(path: &str, old: &Resource, new: &Resource, diff: &mut Diff) {
    if old.plugin != new.plugin {
        diff.remapped.push(path.to_owned());
    } else if old.config != new.config {
        diff.reconfigured.push(path.to_owned());
    }
    if old.auth != new.auth {
        diff.guarded.push(path.to_owned());
    }
    let shape = |r: &Resource| (r.dialog, r.lane, r.subprotocols.clone(), r.snapshot_every);
    if shape(old) != shape(new) || (&old.outbox, &old.rate) != (&new.outbox, &new.rate) {
        diff.reshaped.push(path.to_owned());
    }
}

/// The keys that differ. The patterns are exhaustive, so that a new field cannot be forgotten here.
fn server(old: &Server, new: &Server) -> Vec<&'static str> {
    let Server {
        listen,
        tls,
        plugin_dir,
        staging_dir,
        state_dir,
        control,
        page,
        unknown_resource,
        proxy_protocol,
        access,
        limits,
        timeouts,
        rate,
        reload,
        watchdog,
    } = old;
    let Access { allowed_ips, allowed_origins, trusted_proxies, trusts_unix } = access;
    let own = [
        ("listen", *listen != new.listen),
        ("tls", tls.is_some() != new.tls.is_some()),
        ("plugin_dir", *plugin_dir != new.plugin_dir),
        ("staging_dir", *staging_dir != new.staging_dir),
        ("state_dir", *state_dir != new.state_dir),
        ("control", *control != new.control),
        ("page", *page != new.page),
        ("unknown_resource", *unknown_resource != new.unknown_resource),
        ("allowed_ips", *allowed_ips != new.access.allowed_ips),
        ("allowed_origins", *allowed_origins != new.access.allowed_origins),
        (
            "trusted_proxies",
            (trusted_proxies, trusts_unix)
                != (&new.access.trusted_proxies, &new.access.trusts_unix),
        ),
        ("proxy_protocol", *proxy_protocol != new.proxy_protocol),
    ];
    own.into_iter()
        .chain(tls.iter().zip(&new.tls).flat_map(|(old, new)| secured(old, new)))
        .chain(counts(limits, &new.limits))
        .chain(durations(timeouts, &new.timeouts))
        .chain(rates(rate, &new.rate))
        .chain(reloading(reload, &new.reload))
        .chain(watching(watchdog, &new.watchdog))
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect()
}

fn secured(old: &Tls, new: &Tls) -> [(&'static str, bool); 5] {
    let Tls { listen, certificates, client_ca, timeout, proxy_protocol } = old;
    [
        ("tls.listen", *listen != new.listen),
        ("tls.certificates", *certificates != new.certificates),
        ("tls.client_ca", *client_ca != new.client_ca),
        ("tls.tls_timeout", *timeout != new.timeout),
        ("tls.proxy_protocol", *proxy_protocol != new.proxy_protocol),
    ]
}

fn counts(old: &Limits, new: &Limits) -> [(&'static str, bool); 12] {
    let Limits {
        max_connections,
        max_per_ip,
        max_handshakes,
        max_handshakes_per_ip,
        max_head,
        max_message,
        max_chunks,
        max_frames,
        max_rooms,
        outbox_messages,
        outbox_bytes,
        inbox_messages,
    } = old;
    [
        ("max_connections", *max_connections != new.max_connections),
        ("max_per_ip", *max_per_ip != new.max_per_ip),
        ("max_handshakes", *max_handshakes != new.max_handshakes),
        ("max_handshakes_per_ip", *max_handshakes_per_ip != new.max_handshakes_per_ip),
        ("max_head", *max_head != new.max_head),
        ("max_message", *max_message != new.max_message),
        ("max_chunks", *max_chunks != new.max_chunks),
        ("max_frames", *max_frames != new.max_frames),
        ("max_rooms", *max_rooms != new.max_rooms),
        ("outbox_messages", *outbox_messages != new.outbox_messages),
        ("outbox_bytes", *outbox_bytes != new.outbox_bytes),
        ("inbox_messages", *inbox_messages != new.inbox_messages),
    ]
}

fn rates(old: &Rate, new: &Rate) -> [(&'static str, bool); 4] {
    let Rate { messages, bytes, burst, policy } = old;
    [
        ("rate.messages_per_second", *messages != new.messages),
        ("rate.bytes_per_second", *bytes != new.bytes),
        ("rate.burst", *burst != new.burst),
        ("rate.policy", *policy != new.policy),
    ]
}

fn durations(old: &Timeouts, new: &Timeouts) -> [(&'static str, bool); 9] {
    let Timeouts {
        head,
        message,
        write,
        close,
        ping_interval,
        idle,
        ready_delay,
        drain,
        retry_spread,
    } = old;
    [
        ("head_timeout", *head != new.head),
        ("message_timeout", *message != new.message),
        ("write_timeout", *write != new.write),
        ("close_timeout", *close != new.close),
        ("ping_interval", *ping_interval != new.ping_interval),
        ("idle_timeout", *idle != new.idle),
        ("ready_delay", *ready_delay != new.ready_delay),
        ("drain", *drain != new.drain),
        ("retry_spread", *retry_spread != new.retry_spread),
    ]
}

fn reloading(old: &Reload, new: &Reload) -> [(&'static str, bool); 11] {
    let Reload {
        quiet,
        rescan,
        preflight,
        start,
        restore,
        snapshot_limit,
        probation,
        probation_messages,
        probation_share,
        keep_generations,
        check_owner,
    } = old;
    [
        ("reload.quiet", *quiet != new.quiet),
        ("reload.rescan", *rescan != new.rescan),
        ("reload.preflight_timeout", *preflight != new.preflight),
        ("reload.start_timeout", *start != new.start),
        ("reload.restore_timeout", *restore != new.restore),
        ("reload.snapshot_limit", *snapshot_limit != new.snapshot_limit),
        ("reload.probation_time", *probation != new.probation),
        ("reload.probation_messages", *probation_messages != new.probation_messages),
        ("reload.probation_share", *probation_share != new.probation_share),
        ("reload.keep_generations", *keep_generations != new.keep_generations),
        ("reload.check_owner", *check_owner != new.check_owner),
    ]
}

fn watching(old: &Watchdog, new: &Watchdog) -> [(&'static str, bool); 4] {
    let Watchdog { callback_warn, callback_limit, max_panics, restart_pause } = old;
    [
        ("watchdog.callback_warn", *callback_warn != new.callback_warn),
        ("watchdog.callback_limit", *callback_limit != new.callback_limit),
        ("watchdog.max_panics", *max_panics != new.max_panics),
        ("watchdog.restart_pause", *restart_pause != new.restart_pause),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "[resources.'/a']\nplugin = 'one'\n[resources.'/a'.config]\nx = 1\ny = 2\n";

    fn check(old: &str, new: &str, expected: &Diff) {
        let parse = |text| Config::parse(text, "/etc/plugins.toml").unwrap();
        assert_eq!(&parse(old).diff(&parse(new)), expected, "{old}\n-->\n{new}");
    }

    #[test]
    fn resources_are_told_apart_by_what_must_be_done_with_them() {
        let a = || vec!["/a".to_owned()];
        check(OLD, OLD, &Diff::default());
        check("", OLD, &Diff { added: a(), ..Diff::default() });
        check(OLD, "", &Diff { removed: a(), ..Diff::default() });
        let remapped = Diff { remapped: a(), ..Diff::default() };
        check(OLD, &OLD.replace("one", "two"), &remapped);
        check(OLD, &OLD.replace("one", "two").replace("x = 1", "x = 3"), &remapped);
        let reconfigured = Diff { reconfigured: a(), ..Diff::default() };
        check(OLD, &OLD.replace("x = 1", "x = 3"), &reconfigured);
        check(OLD, "[resources.'/a']\nplugin = 'one'", &reconfigured);
        for shape in [
            "dialog = false",
            "snapshot_every = 60",
            "lane = 'shared'",
            "subprotocols = ['v1']",
            "outbox_policy = 'conflate'",
            "outbox_bytes = 999999",
            "rate = { burst = 3 }",
        ] {
            let reshaped = Diff { reshaped: a(), ..Diff::default() };
            check(OLD, &OLD.replace("plugin", &format!("{shape}\nplugin")), &reshaped);
        }
        let both = Diff { remapped: a(), reshaped: a(), ..Diff::default() };
        check(OLD, "resources.'/a' = { plugin = 'two', dialog = false }", &both);
        let moved = Diff { added: vec!["/b".to_owned()], removed: a(), ..Diff::default() };
        check(OLD, &OLD.replace("'/a'", "'/b'"), &moved);
    }

    #[test]
    fn order_and_spelling_are_no_difference() {
        check(
            OLD,
            &OLD.replace("x = 1\ny = 2", "# turned round\ny = 2\nx = 0x1"),
            &Diff::default(),
        );
        check("", "[server]\ndrain = 10.0\nmax_head = 16_384", &Diff::default());
        check(
            "[server]\nallowed_ips = ['::ffff:10.0.0.1']",
            "[server]\nallowed_ips = ['10.0.0.1/32']",
            &Diff::default(),
        );
    }

    #[test]
    fn what_needs_a_restart_is_said_apart() {
        let expected = Diff {
            server: vec!["page", "max_head", "reload.quiet"],
            restart: vec!["listen", "inbox_messages"],
            ..Diff::default()
        };
        let new = "[server]\nmax_head = 999\npage = false\ninbox_messages = 1\nlisten = ['[::1]:1']\n[server.reload]\nquiet = 1";
        check("", new, &expected);
        assert!(!expected.is_empty());
        assert!(Diff::default().is_empty());
    }

    #[test]
    fn the_keys_of_tls_are_compared_and_their_lines_are_not() {
        let entry = "certificates = [{ certificate = 'c', key = 'k' }]";
        let old = &format!("[server.tls]\nlisten = []\n{entry}");
        check(old, &format!("[server.tls]\n\n{entry}\nlisten = []"), &Diff::default());
        let expected = Diff { restart: vec!["tls"], ..Diff::default() };
        check(old, "", &expected);
        check("", old, &expected);
        for (new, key) in [
            (old.replace("[]", "['[::1]:1']"), "tls.listen"),
            (old.replace("'c'", "'d'"), "tls.certificates"),
            (old.replace("'k'", "'l'"), "tls.certificates"),
            (format!("{old}\nclient_ca = 'a'"), "tls.client_ca"),
            (format!("{old}\ntls_timeout = 9"), "tls.tls_timeout"),
            (format!("{old}\nproxy_protocol = true"), "tls.proxy_protocol"),
        ] {
            let (restart, server) = [key].into_iter().partition(|key| RESTART.contains(key));
            check(old, &new, &Diff { restart, server, ..Diff::default() });
        }
    }

    #[test]
    fn every_key_is_compared() {
        let values = [
            "listen = ['[::1]:1']",
            "plugin_dir = 'x'",
            "staging_dir = 'x'",
            "state_dir = 'x'",
            "control = 'x'",
            "page = false",
            "unknown_resource = '404'",
            "allowed_ips = []",
            "allowed_origins = ['http://x']",
            "trusted_proxies = ['::1']",
            "proxy_protocol = true",
            "max_connections = 9",
            "max_per_ip = 9",
            "max_handshakes = 9",
            "max_handshakes_per_ip = 9",
            "max_head = 999",
            "max_message = 999",
            "max_chunks = 9",
            "max_frames = 9",
            "max_rooms = 9",
            "outbox_messages = 9",
            "outbox_bytes = 99999999",
            "inbox_messages = 9",
            "head_timeout = 9",
            "message_timeout = 9",
            "write_timeout = 9",
            "close_timeout = 9",
            "ping_interval = 9",
            "idle_timeout = 9",
            "ready_delay = 9",
            "drain = 9",
            "retry_spread = 9",
            "rate.messages_per_second = 9",
            "rate.bytes_per_second = 9",
            "rate.burst = 9",
            "rate.policy = 'close'",
            "reload.quiet = 9",
            "reload.rescan = 9",
            "reload.preflight_timeout = 9",
            "reload.start_timeout = 9",
            "reload.restore_timeout = 9",
            "reload.snapshot_limit = 9",
            "reload.probation_time = 9",
            "reload.probation_messages = 9",
            "reload.probation_share = 9",
            "reload.keep_generations = 9",
            "reload.check_owner = false",
            "watchdog.callback_warn = 9",
            "watchdog.callback_limit = 9",
            "watchdog.max_panics = 9",
            "watchdog.restart_pause = 9",
        ];
        for value in values {
            let (key, _) = value.split_once(" = ").unwrap();
            let (restart, server) = [key].into_iter().partition(|key| RESTART.contains(key));
            check("", &format!("[server]\n{value}"), &Diff { restart, server, ..Diff::default() });
        }
    }
}
