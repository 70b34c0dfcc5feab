//! The shipped `plugins.toml`: what it serves, and that it shows every key with its default. Resources
//! that a user adds to it do not matter here.

use std::io::Write as _;

use super::keys::tables;
use super::*;

pub(in crate::config) const SHIPPED: &str = include_str!("../../../../plugins.toml");

/// The beginning of a message about a file that is not as it is shipped.
const EDITED: &str = "plugins.toml was edited (`git checkout plugins.toml` restores it):";

/// Fails with `CI=true`. Otherwise the file may be that of a user who follows the documents.
fn check_unless_edited(is_as_shipped: bool, difference: &str) {
    assert!(is_as_shipped || std::env::var("CI").as_deref() != Ok("true"), "{EDITED} {difference}");
    if !is_as_shipped {
        // Directly, because the test harness hides the output of passing tests.
        drop(writeln!(io::stderr(), "skipped: {EDITED} {difference}"));
    }
}

#[test]
fn the_shipped_file_maps_the_bundled_applications() {
    let config = Config::parse(SHIPPED, FILE).unwrap();
    for (path, plugin, dialog) in [
        ("/", "feedback", true),
        ("/chat", "chat", true),
        ("/echo", "echo", false),
        ("/jobs", "jobs", true),
        ("/locks", "locks", true),
        ("/php", "feedback", true),
        ("/talk", "echo", true),
        ("/web", "feedback", true),
    ] {
        let found = config.resources.get(path).map(|found| (&*found.plugin, found.dialog));
        let is_as_shipped = found == Some((plugin, dialog));
        check_unless_edited(is_as_shipped, &format!("{path} is mapped to {found:?}"));
    }
    for (path, setting) in
        [("/jobs", r#""demo":true"#), ("/talk", r#""prefix":"You have entered: ""#)]
    {
        let json = config.resources.get(path).map_or("", |resource| &resource.config.json);
        check_unless_edited(json.contains(setting), &format!("{path} has the settings {json:?}"));
    }
}

#[test]
fn the_files_of_the_packages_are_valid() {
    for (name, text) in [
        ("debian", include_str!("../../../packaging/debian/plugins.toml")),
        ("container", include_str!("../../../packaging/container/plugins.toml")),
        ("compose", include_str!("../../../packaging/container/compose/plugins.toml")),
    ] {
        let config = Config::parse(text, FILE).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(config.resources.contains_key("/web"), "{name}");
    }
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_repository() {
    let toolchain: toml::Table =
        toml::from_str(include_str!("../../../../rust-toolchain.toml")).unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let image = include_str!("../../../packaging/container/Dockerfile");
    for line in [format!("library/rust:{channel}-slim"), format!("RUSTUP_TOOLCHAIN={channel}\n")] {
        assert!(image.contains(&line), "the Dockerfile has no {line:?}");
    }
}

/// A line of the shipped file.
enum ShippedLine {
    /// A table header or a key in effect.
    Active,
    /// A table header or a key behind a `#` without a space.
    Shown,
}

/// The lines that are a table header or a key, not a comment or a directive (`#:schema`), with their
/// number and the header of their table.
fn lines() -> impl Iterator<Item = (usize, ShippedLine, &'static str, &'static str)> {
    let mut header = "";
    SHIPPED.lines().zip(1..).filter_map(move |(line, number)| {
        let (kind, text) = match line.strip_prefix('#') {
            Some(text) if text.starts_with([' ', ':']) => return None,
            Some(text) => (ShippedLine::Shown, text),
            None => (ShippedLine::Active, line),
        };
        if text.starts_with('[') {
            header = text;
        }
        (!text.is_empty()).then_some((number, kind, header, text))
    })
}

fn is_server_key(header: &str, text: &str) -> bool {
    let is_server = header.starts_with("[server") || header.starts_with("[[server");
    is_server && !text.starts_with('[')
}

#[test]
fn the_shipped_file_sets_no_key_of_the_server_but_the_plugin_folder() {
    for (number, kind, header, text) in lines() {
        let is_set = matches!(kind, ShippedLine::Active) && is_server_key(header, text);
        let is_shipped = text == r#"plugin_dir = "target/release""#;
        let difference = format!("line {number} sets {text} in {header}");
        check_unless_edited(!is_set || is_shipped, &difference);
    }
}

#[test]
fn the_keys_that_the_shipped_file_shows_have_their_defaults() {
    let is_kept = |kind: &ShippedLine, header, text| {
        matches!(kind, ShippedLine::Shown) || !is_server_key(header, text)
    };
    let kept = lines().filter(|(_, kind, header, text)| is_kept(kind, header, text));
    let text: String = kept.map(|(_, _, _, text)| format!("{text}\n")).collect();
    let mut shown = Config::parse(&text, FILE).unwrap_or_else(|error| panic!("{EDITED} {error}"));
    let tls = shown.server.tls.take().unwrap();
    // Without the key there is none.
    assert_eq!(shown.server.health.take().as_deref(), Some("/health"), "{EDITED} another default");
    assert!(shown.server.metrics.take().is_some(), "{EDITED} another default");
    assert_eq!(shown.server, Config::parse("", FILE).unwrap().server, "{EDITED} another default");
    let example = "[server.tls]\nlisten = ['0.0.0.0:8443']\ncertificates = [{ certificate = 'fullchain.pem', key = 'privkey.pem' }]";
    let expected = Config::parse(example, FILE).unwrap().server.tls;
    assert_eq!(Some(TlsSettings { client_ca: None, ..tls }), expected, "{EDITED} another default");
    let tokens = resource(
        "auth = { keys = [{ algorithm = 'HS256', file = 'secret.key' }], issuer = 'https://login.example.org' }",
    );
    let mine =
        ResourceSettings { plugin: "mine".to_owned(), lane: Some(LaneKind::Thread), ..tokens };
    assert_eq!(shown.resources["/mine"], mine, "{EDITED} another default");
    let endpoint = resource("auth = { url = 'http://127.0.0.1/auth.php' }");
    let ours = ResourceSettings { plugin: "ours".to_owned(), ..endpoint };
    assert_eq!(shown.resources["/ours"], ours, "{EDITED} another default");
    assert_eq!(shown.plugins["mine"].sha256.len(), 1);
}

#[test]
fn the_shipped_file_shows_every_key_with_its_default() {
    // The headers of the declarations.
    let lines: Vec<_> = lines()
        .map(|(_, kind, header, line)| {
            let header = header.replace("/mine", "/path").replace("/ours", "/path");
            (kind, header.replace("[plugins.mine]", "[plugins.NAME]"), line)
        })
        .collect();
    let bare = |header: &str| header.trim_matches(['[', ']']).to_owned();
    for table in tables() {
        for key in table.groups.iter().flat_map(|group| group.keys) {
            let description = (key.describe)();
            let inner = format!("{}.{}", bare(table.header), key.name);
            let start = format!("{} = ", key.name);
            // An entry of `keys` is an inline table, also within a sentence.
            let is_entry = table.header.contains(".keys") && SHIPPED.contains(&start);
            let is_shown = is_entry
                || lines.iter().any(|(kind, header, line)| {
                    description.takes.contains("table") && bare(header) == inner
                        || *header == table.header
                            && match (kind, &*description.default) {
                                // Another test is about the keys in effect.
                                (ShippedLine::Active, _) | (_, "") => line.starts_with(&start),
                                (_, default) => *line == format!("{start}{default}"),
                            }
                });
            let default = description.default;
            assert!(is_shown, "{EDITED} it does not show {start}{default} under {}", table.header);
        }
    }
}
