//! The tables `[resources."/path"]`: which application serves a path or a pattern, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Number, Value as Json, json};
use toml::de::DeValue;

use super::auth::{Auth, auth};
use super::keys::{Settings, settings};
use super::policies::{OutboxSettings, RateSettings};
use super::rules::{Rule, choice, seconds_or_none, strings, switch, table, text};
use super::value::{self, Wrong, quoted, wrong, wrong_kind};
use super::{pattern, pattern::PathTree, raw::Node, server::ServerSettings};

settings! {
    /// Which application serves a path, and how. `/path` is an exact path, compared byte for byte,
    /// or a pattern: in `/app/{key}` the name stands for one whole segment that is not empty;
    /// `/files/*` matches `/files`, `/files/` and everything below. Of several keys that match, the
    /// host takes the most specific one: from left to right, a written segment comes before a name,
    /// and a name before `*`; so an exact path comes before every pattern. A path that spells a
    /// written segment with another percent-encoding matches no key, and a path that `*` matches
    /// only because of a doubled or encoded slash neither. The application gets the parts that a
    /// pattern leaves open.
    pub struct ResourceSettings in "" {
        /// Name of the plugin: the library is `lib<plugin>.so` in `plugin_dir`. Letters, digits,
        /// `_` and `-`.
        "plugin" => plugin: String =
            text(|text, _| value::plugin(text), "the name of a plugin", "echo")
            .required("plugin = \"NAME\" for libNAME.so in plugin_dir");
        /// Speak the dialog (`ready`, `next`, `close`) instead of plain WebSocket.
        "dialog" => dialog: bool = switch(true);
        /// Where callbacks run: on a thread of their own, or on the shared runtime, for an
        /// application that never blocks. Without the key: as the plugin declares.
        "lane" => lane: Option<LaneKind> =
            choice(&[("thread", LaneKind::Thread), ("shared", LaneKind::Shared)]).optional();
        /// WebSocket subprotocols of the resource.
        "subprotocols" => subprotocols: Vec<String> =
            strings(|text, _| subprotocol(text), &[], &["chat.v1"]);
        /// Time between two snapshots of the state on disk, which the host restores at the next
        /// start. 0: no snapshots.
        "snapshot_every" => snapshot_every: Option<Duration> =
            seconds_or_none(0.0, 0.1, "would do nothing but write", 60.0);
        /// Rate limit of each client.
        "rate" => rate: RateSettings = table::<RateSettings>().inherited();
        /// Authentication. Without this table, every client may connect. A change applies to new
        /// connections.
        "auth" => auth: Option<Auth> = auth();
        /// Settings that the host passes to the application, as the text of a JSON object with
        /// sorted keys; the application checks them.
        "config" => config: ApplicationSettings = json_object();
    }
    and {
        /// Messages that wait for a slow consumer.
        outbox: OutboxSettings;
    }
}

/// Where the callbacks of a resource run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKind {
    /// `"thread"`: a thread of its own, so that a blocking plugin delays no other.
    Thread,
    /// `"shared"`: a task on the shared runtime; faster, for plugins that never block.
    Shared,
}

impl LaneKind {
    /// Returns its name in `plugins.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Shared => "shared",
        }
    }
}

/// The settings of an application, and where they are. Comparison ignores the line.
#[derive(Debug, Clone, Eq)]
pub struct ApplicationSettings {
    /// The text of a JSON object.
    pub json: String,
    /// Line in `plugins.toml`, from 1: of the table, or without one that of its resource.
    pub line: usize,
}

impl PartialEq for ApplicationSettings {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

fn subprotocol(text: &str) -> Result<String, Wrong> {
    match value::is_token(text) {
        true => Ok(text.to_owned()),
        false => wrong!(
            "{} is not a subprotocol; use letters, digits and !#$%&'*+-.^_`|~ only, e.g. \"chat.v1\"",
            quoted(text)
        ),
    }
}

/// Reads all such tables. Rate limit and outbox of `server` are the defaults.
pub(super) fn read(
    node: &mut Node<'_, '_>,
    server: &ServerSettings,
) -> Result<BTreeMap<String, ResourceSettings>, Wrong> {
    let mut default = ResourceSettings::defaults(node.mistakes.base());
    default.rate = server.limits.flow.rate.clone();
    default.outbox.messages = server.limits.flow.outbox_messages;
    default.outbox.bytes = server.limits.flow.outbox_bytes;
    let mut resources = BTreeMap::new();
    let (mut seen, mut exact) = (PathTree::default(), BTreeMap::new());
    node.each_named("write a table, [resources.\"/path\"]", |path, node| {
        node.noting(|node| {
            let (plain, line) = (check_path(path, server)?, node.line());
            let same = |(other, line): (&str, &usize)| same_path(path, other, *line);
            seen.insert(path, line).map_err(same)?;
            // `%2F` is not a slash to the host, but to other programs.
            let earlier = (!pattern::is_pattern(path)).then(|| exact.insert(plain, (path, line)));
            earlier.flatten().map_or(Ok(()), |(other, line)| Err(same((other, &line))))
        });
        let right = format!("write a table, [{}], with the key plugin in it", node.name);
        node.table(&ResourceSettings::groups(), &right)?;
        let mut settings = ResourceSettings::read(node, &default);
        if settings.config.line == 0 {
            settings.config.line = node.line();
        }
        resources.insert(path.to_owned(), settings);
        Ok(())
    })?;
    Ok(resources)
}

/// Checks a path or pattern by itself, and against the host's own page; returns it without
/// percent-encoding.
fn check_path(path: &str, server: &ServerSettings) -> Result<Vec<u8>, Wrong> {
    let plain = value::resource_path(path)?;
    let of_health = server.health.as_ref().and_then(|health| plain.strip_prefix(health.as_bytes()));
    if let Some(b"/live" | b"/ready") = of_health {
        return wrong!("the host's health check has this path (server.health); use another path");
    }
    let below_page = plain.strip_prefix(PAGE.as_bytes());
    if server.page && below_page.is_some_and(|rest| [None, Some(&b'/')].contains(&rest.first())) {
        return wrong!(
            "{PAGE} and the paths below it are the host's own page; use another path, or set server.page = false"
        );
    }
    Ok(plain)
}

/// Returns the mistake of a key that matches the same paths as an earlier one.
fn same_path(path: &str, other: &str, line: usize) -> Wrong {
    let (what, how) = match pattern::is_pattern(path) {
        true => ("the same paths", "matches the same paths"),
        false => ("one path", "differs only in percent-encoding"),
    };
    let other = quoted(other);
    Wrong(format!("two resources on {what}; {other} in line {line} {how}, keep one of them"))
}

/// The path of the host's own page.
const PAGE: &str = "/plugsocket";

/// A table with keys of the application, as the text of a JSON object.
fn json_object() -> Rule<ApplicationSettings> {
    let none = ApplicationSettings { json: "{}".to_owned(), line: 0 };
    Rule::new("table", "", none, |node, _| match node.value.is_table() {
        true => {
            let line = node.line();
            json(node).map(|json| ApplicationSettings { json: json.to_string(), line })
        }
        false => Err(wrong_kind(node.value, &format!("write a table, [{}]", node.name))),
    })
    .schema(json!({ "type": "object" }))
}

/// Converts a value to JSON. A date becomes a string; a number that JSON does not have is a
/// mistake.
fn json(node: &mut Node<'_, '_>) -> Result<Json, Wrong> {
    Ok(match node.value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(boolean) => Json::Bool(*boolean),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Integer(number) => value::integer(number).map(Json::from).ok_or_else(|| {
            Wrong(format!("{number} has more than 64 bits; give a smaller integer, or a string"))
        })?,
        DeValue::Float(number) => {
            let finite = number.to_string().parse().ok().and_then(Number::from_f64);
            let right = "JSON has no such number; give a finite one, or a string";
            let wrong = || Wrong(format!("{number} cannot be passed to a plugin: {right}"));
            finite.map(Json::Number).ok_or_else(wrong)?
        }
        DeValue::Array(_) => {
            let mut items = Vec::new();
            node.each("", |item| json(item).map(|item| items.push(item)))?;
            Json::Array(items)
        }
        DeValue::Table(_) => {
            // Sorted: the order of lines makes no difference, even where serde_json keeps it.
            let mut members = BTreeMap::new();
            node.each_named("", |key, value| {
                members.insert(key.to_owned(), json(value)?);
                Ok(())
            })?;
            Json::Object(members.into_iter().collect())
        }
    })
}
