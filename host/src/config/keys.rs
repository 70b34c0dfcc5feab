//! How the keys of `plugins.toml` are declared: each of them once.
//!
//! [`settings!`] declares a struct whose fields are keys, and derives from it the reader, the
//! defaults, the comparison of two files, and the tables of docs/reference/configuration.md:
//!
//! ```text
//! /// Size of a request line and its headers.     meaning: for rustdoc and the reference page
//! "max_head" => max_head: usize = count("bytes", 256..=1 << 20, 16 << 10, "would refuse…");
//!    key        field      type   rule: unit, range and default, from `rules`
//! ```
//!
//! `[restart]` behind a key delays its changes until the next start. To add a key, add such a line
//! to the struct of its table and show the key in `plugins.toml`; tests compare that file and the
//! page with the declaration. The struct of a new table also goes into [`tables`].

use std::path::Path;

use super::value::{Wrong, nearest};
use super::{
    Certificate, MetricsSettings, PluginSettings, RateSettings, ReloadSettings, ResourceSettings,
};
use super::{ServerSettings, TlsSettings, WatchdogSettings, auth, raw::Node, rules::Description};

/// One key of `plugins.toml`.
pub(super) struct Declaration {
    pub(super) name: &'static str,
    /// The name in a comparison; under `[server]` it begins with the inner table, as in
    /// `reload.quiet`.
    pub(super) path: &'static str,
    pub(super) applies: Applies,
    /// The sentence on the reference page.
    pub(super) meaning: &'static str,
    pub(super) describe: fn() -> Description,
}

pub(super) type Key = &'static Declaration;

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    Live,
    AtRestart,
}

/// Keys that belong together, and what they are about.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub(super) about: &'static str,
    pub(super) keys: &'static [Declaration],
}

/// A kind of table, and its header in the file.
pub(super) struct TableKind {
    pub(super) header: &'static str,
    pub(super) groups: Vec<Group>,
}

/// A struct whose fields are the keys of a table. Implemented by [`settings!`].
pub(super) trait Settings: Clone + PartialEq + 'static {
    /// The keys of its own fields.
    const KEYS: &'static [Declaration];

    /// Returns its own keys and those of its groups.
    fn groups() -> Vec<Group>;

    /// Returns the values of an empty table. Relative paths are relative to `base`.
    fn defaults(base: &Path) -> Self;

    /// Reads a table; a key that is absent or wrong has its value in `default`.
    fn read(section: &mut Node<'_, '_>, default: &Self) -> Self;

    /// Reads a table that has the declared defaults.
    fn read_alone(section: &mut Node<'_, '_>) -> Self {
        let default = Self::defaults(section.mistakes.base());
        Self::read(section, &default)
    }

    /// Adds the keys whose values differ to `changed`, and keeps the old values of those that need
    /// a restart.
    fn merge(&self, new: &mut Self, changed: &mut Vec<Key>);

    /// Returns the declaration of a key of its own.
    fn key(name: &str) -> Key {
        Self::KEYS.iter().find(|key| key.name == name).expect("the macro passes declared keys")
    }
}

/// Declares a struct and its keys in the form that the module documentation shows. A group in `and
/// { … }` is another such struct, whose keys are in the same table. `checked by` names a function
/// with the rules between keys.
macro_rules! settings {
    (@applies) => { $crate::config::keys::Applies::Live };
    (@applies restart) => { $crate::config::keys::Applies::AtRestart };
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident $(: $default:ident)? in $prefix:literal $(, checked by $check:path)? {
            $($(#[doc = $meaning:literal])+
              $key:literal $([$applies:ident])? => $field:ident: $type:ty = $rule:expr;)*
        }
        $(and { $($(#[doc = $group_about:literal])+ $group:ident: $group_type:ty;)+ })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        $vis struct $name {
            $($(#[doc = $meaning])+ #[doc = concat!("\n\nKey `", $key, "`.")] $vis $field: $type,)*
            $($($(#[doc = $group_about])+ $vis $group: $group_type,)+)?
        }

        const _: () = {
            use std::path::Path;
            use $crate::config::{keys::{Declaration, Group, Key, Settings}, raw::Node};

            impl Settings for $name {
                const KEYS: &'static [Declaration] = &[$(Declaration {
                    name: $key,
                    path: concat!($prefix, $key),
                    applies: $crate::config::keys::settings!(@applies $($applies)?),
                    meaning: concat!($($meaning),+),
                    describe: || $rule.description,
                },)*];

                fn groups() -> Vec<Group> {
                    let own = vec![Group { about: concat!($($about),+), keys: Self::KEYS }];
                    [own $($(, <$group_type>::groups())+)?].concat()
                }

                fn defaults(base: &Path) -> Self {
                    Self {
                        $($field: ($rule.default)(base),)*
                        $($($group: <$group_type>::defaults(base),)+)?
                    }
                }

                fn read(section: &mut Node<'_, '_>, default: &Self) -> Self {
                    let settings = Self {
                        $($field: section.read($key, &$rule, &default.$field),)*
                        $($($group: <$group_type>::read(section, &default.$group),)+)?
                    };
                    $(let settings = $check(settings, section);)?
                    settings
                }

                fn merge(&self, new: &mut Self, changed: &mut Vec<Key>) {
                    $(($rule.merge)(&self.$field, &mut new.$field, Self::key($key), changed);)*
                    $($(self.$group.merge(&mut new.$group, changed);)+)?
                }
            }

            $(impl $default for $name {
                fn default() -> Self {
                    Self::defaults(Path::new("/"))
                }
            })?
        };
    };
}
pub(super) use settings;

/// All kinds of tables, in the order of the reference page.
pub(super) fn tables() -> Vec<TableKind> {
    let table = |header, groups| TableKind { header, groups };
    vec![
        table("[server]", ServerSettings::groups()),
        table("[server.tls]", TlsSettings::groups()),
        table("[[server.tls.certificates]]", Certificate::groups()),
        table("[server.metrics]", MetricsSettings::groups()),
        table("[server.rate]", RateSettings::groups()),
        table("[server.reload]", ReloadSettings::groups()),
        table("[server.watchdog]", WatchdogSettings::groups()),
        table("[resources.\"/path\"]", ResourceSettings::groups()),
        table("[resources.\"/path\".auth]", auth::groups()),
        table("[[resources.\"/path\".auth.keys]]", auth::KeyEntry::groups()),
        table("[plugins.NAME]", PluginSettings::groups()),
    ]
}

/// Returns what is wrong with a key that is not one of `here`.
pub(super) fn unknown(key: &str, here: &[&str]) -> Wrong {
    let near = nearest(key, here);
    // `plugins` beside `plugin` is a slip, not a table in the wrong place.
    if near.is_none_or(|near| !key.starts_with(near)) {
        let has_key = |table: &&TableKind| names(&table.groups).any(|name| name == key);
        let header = match TOP.contains(&key) {
            true => Some("the beginning of the file"),
            false => tables().iter().find(has_key).map(|table| table.header),
        };
        if let Some(header) = header {
            return Wrong(format!("this key belongs under {header}"));
        }
    }
    let known = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys here are {}", here.join(", ")),
    };
    Wrong(format!("unknown key; {known}"))
}

/// Returns the names of the keys.
pub(super) fn names(groups: &[Group]) -> impl Iterator<Item = &'static str> {
    groups.iter().flat_map(|group| group.keys).map(|key| key.name)
}

/// The keys at the top of the file.
pub(super) const TOP: [&str; 3] = ["server", "plugins", "resources"];
