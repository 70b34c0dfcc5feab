//! Comparison of two configurations: what changes for a running host.
//!
//! Pure; does not know who applies a difference.

use std::collections::BTreeSet;

use super::keys::{Applies, Settings};
use super::{Config, ResourceSettings};

/// The difference between the running [`Config`] and a new one. Paths are in alphabetical order.
/// What is in no list did not change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Paths that are new.
    pub added: Vec<String>,
    /// Paths that are no longer there.
    pub removed: Vec<String>,
    /// Paths that another plugin serves now, whether or not their config changed, too.
    pub remapped: Vec<String>,
    /// Paths with the same plugin and another config.
    pub reconfigured: Vec<String>,
    /// Paths whose `auth` changed; a path can also be in other lists.
    pub guarded: Vec<String>,
    /// Plugins whose table `[plugins.NAME]` changed.
    pub plugins: Vec<String>,
    /// Paths with a change in another key, including an outbox or rate of `[server]`; a path can
    /// also be in other lists.
    pub reshaped: Vec<String>,
    /// Keys under `[server]` that changed and apply at once, such as `allowed_ips` or
    /// `reload.quiet`.
    pub server: Vec<&'static str>,
    /// Keys under `[server]` that changed and need a restart.
    pub restart: Vec<&'static str>,
}

impl Diff {
    /// Returns whether the two configurations mean the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Config {
    /// Compares the running configuration with a new one.
    pub fn diff(&self, new: &Self) -> Diff {
        let mut diff = Diff::default();
        for (path, resource) in &new.resources {
            match self.resources.get(path) {
                None => diff.added.push(path.clone()),
                Some(before) => compare(path, before, resource, &mut diff),
            }
        }
        let is_removed = |path: &&String| !new.resources.contains_key(*path);
        diff.removed = self.resources.keys().filter(is_removed).cloned().collect();
        let names: BTreeSet<_> = self.plugins.keys().chain(new.plugins.keys()).collect();
        let differs = |name: &&String| self.plugins.get(*name) != new.plugins.get(*name);
        diff.plugins = names.into_iter().filter(differs).cloned().collect();
        let mut changed = Vec::new();
        self.server.merge(&mut new.server.clone(), &mut changed);
        // The keys of inner tables come last, as in the file.
        changed.sort_by_key(|key| key.path.contains('.'));
        for key in changed {
            match key.applies {
                Applies::Live => diff.server.push(key.path),
                Applies::AtRestart => diff.restart.push(key.path),
            }
        }
        diff
    }

    /// Replaces the values in `new` that need a restart ([`Diff::restart`]) by the running ones.
    pub fn keep_until_restart(&self, new: &mut Self) {
        self.server.merge(&mut new.server, &mut Vec::new());
    }
}

fn compare(path: &str, old: &ResourceSettings, new: &ResourceSettings, diff: &mut Diff) {
    if old.plugin != new.plugin {
        diff.remapped.push(path.to_owned());
    } else if old.config != new.config {
        diff.reconfigured.push(path.to_owned());
    }
    if old.auth != new.auth {
        diff.guarded.push(path.to_owned());
    }
    let (plugin, config, auth) = (new.plugin.clone(), new.config.clone(), new.auth.clone());
    if (ResourceSettings { plugin, config, auth, ..old.clone() }) != *new {
        diff.reshaped.push(path.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plugin folder is watched from start to end, and a lane keeps its inbox for as long as it
    /// lives.
    const RESTART: [&str; 6] =
        ["listen", "plugin_dir", "staging_dir", "state_dir", "control", "inbox_messages"];
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
            let (restart, server) = [key].into_iter().partition(|key| *key == "tls.listen");
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
