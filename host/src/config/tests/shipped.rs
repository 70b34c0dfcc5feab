//! The shipped `plugins.toml`: what it serves, and that it shows every key with its default.

use super::keys::tables;
use super::*;

pub(super) const SHIPPED: &str = include_str!("../../../../plugins.toml");

#[test]
fn the_shipped_file_maps_the_bundled_applications() {
    let config = Config::parse(SHIPPED, FILE).unwrap();
    let plugins: Vec<_> =
        config.resources.iter().map(|(path, r)| (&**path, &*r.plugin, r.dialog)).collect();
    assert_eq!(
        plugins,
        [
            ("/", "feedback", true),
            ("/chat", "chat", true),
            ("/echo", "echo", false),
            ("/jobs", "jobs", true),
            ("/locks", "locks", true),
            ("/php", "feedback", true),
            ("/talk", "echo", true),
            ("/web", "feedback", true),
        ],
        "plugins.toml was edited: it maps other resources than the bundled ones"
    );
    assert_eq!(config.resources["/jobs"].config.json, r#"{"demo":true}"#, "{EDITED}");
    assert!(config.resources["/talk"].config.json.contains(r#""prefix":"You have entered: ""#));
}

const EDITED: &str = "plugins.toml was edited: it has another value than the default";

/// The lines of the shipped file, of which those that begin with a # and no space show a key.
fn shown() -> impl Iterator<Item = &'static str> {
    SHIPPED.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| !c.is_whitespace()) => key,
        _ => line,
    })
}

#[test]
fn the_shipped_file_changes_no_default() {
    let mut defaults = Config::parse("", FILE).unwrap().server;
    let shipped = Config::parse(SHIPPED, FILE).unwrap();
    defaults.folders.plugin_dir = "/etc/plugsocket/target/release".into();
    assert_eq!(shipped.server, defaults, "{EDITED}");

    let text = shown().collect::<Vec<_>>().join("\n");
    let mut uncommented = Config::parse(&text, FILE).unwrap();
    let mine = uncommented.resources.remove("/mine").unwrap();
    let tokens = resource(
        "auth = { keys = [{ algorithm = 'HS256', file = 'secret.key' }], issuer = 'https://login.example.org' }",
    );
    let bare =
        ResourceSettings { plugin: "mine".to_owned(), lane: Some(LaneKind::Thread), ..tokens };
    assert_eq!(mine, bare, "{EDITED}");
    let tls = uncommented.server.tls.take().unwrap();
    assert_eq!(tls.certificates.len(), 1);
    let example = "[server.tls]\nlisten = ['0.0.0.0:8443']\ncertificates = [{ certificate = 'fullchain.pem', key = 'privkey.pem' }]";
    let expected = Config::parse(example, FILE).unwrap().server.tls;
    assert_eq!(Some(TlsSettings { client_ca: None, ..tls }), expected, "{EDITED}");
    let ours = uncommented.resources.remove("/ours").unwrap();
    let endpoint = resource("auth = { url = 'http://127.0.0.1/auth.php' }");
    assert_eq!(ours, ResourceSettings { plugin: "ours".to_owned(), ..endpoint }, "{EDITED}");
    assert_eq!(uncommented.plugins.remove("mine").unwrap().sha256.len(), 1);
    assert_eq!(uncommented, shipped, "{EDITED}");
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    // Each line with the header of its table, in the form of the declarations.
    let mut header = String::new();
    let lines: Vec<_> = shown()
        .map(|line| {
            if line.starts_with('[') {
                header = line.replace("/mine", "/path").replace("/ours", "/path");
                header = header.replace("[plugins.mine]", "[plugins.NAME]");
            }
            (header.clone(), line)
        })
        .collect();
    let bare = |header: &str| header.trim_matches(['[', ']']).to_owned();
    for table in tables() {
        for key in table.groups.iter().flat_map(|group| group.keys) {
            let description = (key.describe)();
            let inner = format!("{}.{}", bare(table.header), key.name);
            let start = format!("{} = ", key.name);
            let is_shown = lines.iter().any(|(header, line)| {
                // An entry of `keys` is an inline table.
                let is_entry = table.header.contains(".keys") && line.contains(&start);
                is_entry
                    || description.takes.contains("table") && bare(header) == inner
                    || *header == table.header
                        && match &*description.default {
                            // The bundled plugins are in another folder.
                            _ if key.name == "plugin_dir" => line.starts_with(&start),
                            "" => line.starts_with(&start),
                            default => *line == format!("{start}{default}"),
                        }
            });
            let default = description.default;
            assert!(
                is_shown,
                "plugins.toml was edited: it does not show {start}{default} under {}",
                table.header
            );
        }
    }
}
