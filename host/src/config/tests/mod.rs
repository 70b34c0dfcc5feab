//! What `plugins.toml` may say, what it may not, and the sentence that each mistake gets.

use super::*;
use shipped::SHIPPED;

mod mistakes;
pub(super) mod shipped;
mod values;

const FILE: &str = "/etc/plugsocket/plugins.toml";

/// `expected`: the lines of the error without the name of the file, or nothing where the text is
/// right.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match Config::parse(text, FILE) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let expected: Vec<_> = expected.iter().map(|line| format!("{FILE}:{line}")).collect();
    assert_eq!(found, expected.join("\n"), "\n{text}");
}

fn server(keys: &str) -> ServerSettings {
    Config::parse(&format!("[server]\n{keys}"), FILE).unwrap().server
}

fn resource(keys: &str) -> ResourceSettings {
    let text = format!("[resources.'/web']\nplugin = 'x'\n{keys}");
    Config::parse(&text, FILE).unwrap().resources.remove("/web").unwrap()
}

const TYPOGRAPHIC_IN_LINE_2: &[&str] =
    &["2: this line has typographic quotes (“ ”); write straight ones, \"…\""];
/// Each row is a whole file, and the lines that are said of it.
#[rustfmt::skip] // One mistake, one line.
const FILES: &[(&str, &[&str])] = &[
    (r#"[server.reload]
rescan = 0"#, &["2: server.reload.rescan: 0 seconds would do nothing but scan the folder; give a number of seconds from 0.01 to 86400, e.g. 3"]),
    (r#"[server.reload]
quiet = -1"#, &["2: server.reload.quiet: -1 seconds is negative; give a number of seconds from 0 to 86400, e.g. 0.15"]),
    (r#"[server.reload]
start_timeout = 0"#, &["2: server.reload.start_timeout: 0 seconds would refuse every plugin; give a number of seconds from 0.001 to 86400, e.g. 10"]),
    (r#"[server.reload]
preflight_time = 5"#, &["2: server.reload.preflight_time: unknown key; did you mean preflight_timeout?"]),
    (r#"[server.watchdog]
callback_warn = 0"#, &["2: server.watchdog.callback_warn: 0 seconds would report every callback; give a number of seconds from 0.01 to 86400, e.g. 1"]),
    (r#"[server.watchdog]
callback_limit = 0.5"#, &["2: server.watchdog.callback_limit: 0.5 seconds is less than callback_warn (1); give at least as many"]),
    (r#"[server.reload]
drain = 5"#, &["2: server.reload.drain: this key belongs under [server]"]),
    (r#"listen = ["127.0.0.1:1"]"#, &["1: listen: this key belongs under [server]"]),
    (r#"[resource."/web"]
plugin = "x""#, &["1: resource: unknown key; did you mean resources?"]),
    (r#"[servers]
page = true"#, &["1: servers: unknown key; did you mean server?"]),
    ("server = 5", &["1: server: 5 is an integer; write a table, [server]"]),
    ("resources = []", &[r#"1: resources: this is an array; write a table, [resources."/path"]"#]),
    (r#"[[resources]]
plugin = "x""#, &[r#"1: resources: this is an array; write a table, [resources."/path"]"#]),
    (r#"[resources]
"/web" = "echo""#, &[r#"2: resources."/web": "echo" is a string; write a table, [resources."/web"], with the key plugin in it"#]),
    (r#"[resources."/web"]"#, &[r#"1: resources."/web".plugin: this key is missing; write plugin = "NAME" for libNAME.so in plugin_dir"#]),
    (r#"[resources."/web".config]
x = 1"#, &[r#"1: resources."/web".plugin: this key is missing; write plugin = "NAME" for libNAME.so in plugin_dir"#]),
    (r#"[resources."/web"]
plugin = 5"#, &[r#"2: resources."/web".plugin: 5 is an integer; give the name of a plugin in quotes, e.g. "echo""#]),
    (r#"[resources."/web"]
plugin = "x"
subprotocols = ["v1",
  5]"#, &[r#"4: resources."/web".subprotocols: 5 is an integer; give an array of strings, e.g. ["chat.v1"]"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config]
a = nan"#, &[r#"4: resources."/web".config.a: nan cannot be passed to a plugin: JSON has no such number; give a finite one, or a string"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config.b]
"c d" = [1, inf]"#, &[r#"4: resources."/web".config.b."c d": inf cannot be passed to a plugin: JSON has no such number; give a finite one, or a string"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config]
a = 99999999999999999999"#, &[r#"4: resources."/web".config.a: 99999999999999999999 has more than 64 bits; give a smaller integer, or a string"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/w%65b"]
plugin = "y""#, &[r#"3: resources."/w%65b": two resources on one path; "/web" in line 1 differs only in percent-encoding, keep one of them"#]),
    (r#"[resources."/web"]
plugin = "x"

[resources."/web"]
plugin = "y""#, &[r#"4: resources."/web": two resources on one path; keep one of them"#]),
    (r#"[resources]
"/a" = { plugin = "x" }
'/a' = { plugin = "x" }"#, &[r#"3: resources."/a": two resources on one path; keep one of them"#]),
    (r#"[resources./web]
plugin = "x""#, &[r#"1: a path must be in quotes; write [resources."/path"]"#]),
    (r#"[server]
page = true
page = false"#, &["3: page: this key is there twice; keep one of them"]),
    (r#"[server]
page = true
[resources."/a"]
plugin = "x"
[server]
drain = 1"#, &["5: the table [server] is there twice; join the two"]),
    (r#"[server]
page = http://me:secret@host/?secret"#, &[r#"2: http://…@host/?… is not a value; write a string in quotes, "http://…@host/?…", or a boolean as true or false"#]),
    (r#"[server]
page = yes"#, &[r#"2: yes is not a value; write a string in quotes, "yes", or a boolean as true or false"#]),
    (r#"[resources."/web"]
plugin = “echo”"#, TYPOGRAPHIC_IN_LINE_2),
    (r#"[resources."/web"]
plugin = ”echo”"#, TYPOGRAPHIC_IN_LINE_2),
    (r#"[server]
plugin_dir = ‘plugins’"#, TYPOGRAPHIC_IN_LINE_2),
    (r#"[server]
plugin_dir = "plugins”"#, TYPOGRAPHIC_IN_LINE_2),
    (r#"[server]
listen = [“127.0.0.1:80”]"#, TYPOGRAPHIC_IN_LINE_2),
    (r#"
[resources.“/web”]
plugin = "echo""#, TYPOGRAPHIC_IN_LINE_2),
    (r#"[server]
page = True"#, &[r#"2: True is not a value; write a string in quotes, "True", or a boolean as true or false"#]),
    (r#"[server]
page ="#, &["2: the value is missing after the equals sign"]),
    (r#"[server]
listen = ["#, &["2: this is not TOML: unclosed array, expected `]`"]),
    (r#"[server]
plugin_dir = "a"#, &[r#"2: this is not TOML: invalid basic string, expected `"`"#]),
    (r#"[server
page = true"#, &["1: this is not TOML: unclosed table, expected `]`"]),
    ("x y", &["1: this is not TOML: key with no value, expected `=`"]),
    (r#"[server]
listen = ["localhost:80",
"localhost:80"]"#, &["3: server.listen: \"localhost:80\" is there twice; keep one of them"]),
    (r#"[server]
plugin_dir = "x"
staging_dir = "./x/""#, &["3: server.staging_dir: plugin_dir and staging_dir are the same folder, so that each staged copy would count as a new plugin; name two folders"]),
    (r#"[server]
page = 1
drain = -1
[server.reload]
rescan = "x"
[resources."/a b"]
plugin = "libx.so"
dialog = 0
[resource]"#, &["2: server.page: 1 is an integer; write true or false, without quotes", "3: server.drain: -1 seconds is negative; give a number of seconds from 0 to 86400, e.g. 10", r#"5: server.reload.rescan: "x" is a string; give a number of seconds from 0.01 to 86400, e.g. 3"#, r#"6: resources."/a b": "/a b" must be written as a browser sends it, "/a%20b""#, r#"7: resources."/a b".plugin: "libx.so" is a file; write only the name, "x", for libx.so in plugin_dir"#, r#"8: resources."/a b".dialog: 0 is an integer; write true or false, without quotes"#, "9: resource: unknown key; did you mean resources?"]),
    (r#"[server]
page = yes
[resources."/a"]
plugin = echo"#, &[r#"2: yes is not a value; write a string in quotes, "yes", or a boolean as true or false"#, r#"4: echo is not a value; write a string in quotes, "echo", or a boolean as true or false"#]),
    (r#"[resources."/a"]
plugin = "x"
[resources."/a"]
plugin = "y"
dialog = true
[server]
page = true
page = true"#, &[r#"3: resources."/a": two resources on one path; keep one of them"#, "8: page: this key is there twice; keep one of them"]),
    (r#"[resources."/a"]
plugin = "x"
[resources."/a".config]
b = 1
[resources."/a".config]
b = 2"#, &[r#"5: the table [resources."/a".config] is there twice; join the two"#]),
    (r#"[resources."/a%2Fb"]
plugin = "x"
[resources."/a/b"]
plugin = "x""#, &[r#"3: resources."/a/b": two resources on one path; "/a%2Fb" in line 1 differs only in percent-encoding, keep one of them"#]),
    (r#"[resources."/app/{key}"]
plugin = "x"
[resources."/app/{id}"]
plugin = "x"
[resources."/%61/*"]
plugin = "x"
[resources."/a/*"]
plugin = "x""#, &[
        r#"3: resources."/app/{id}": two resources on the same paths; "/app/{key}" in line 1 matches the same paths, keep one of them"#,
        r#"7: resources."/a/*": two resources on the same paths; "/%61/*" in line 5 matches the same paths, keep one of them"#,
    ]),
];

#[test]
fn a_mistake_in_the_file_is_explained() {
    for (text, expected) in FILES {
        check(text, expected);
    }
}
#[test]
fn line_ends_of_windows_and_a_byte_order_mark_are_fine() {
    check(
        "\u{feff}[server]\r\ndrain = 5\r\n\r\npage = 1\r\n",
        &["4: server.page: 1 is an integer; write true or false, without quotes"],
    );
}

#[test]
fn load_says_what_it_could_not_read() {
    let dir = std::env::temp_dir().join(format!("plugsocket-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("plugins.toml");
    let error = |path: &Path| Config::load(path).unwrap_err().to_string();
    let missing = format!(
        "{}: there is no such file; name the configuration with --config FILE or PLUGSOCKET_CONFIG",
        file.display()
    );
    assert_eq!(error(&file), missing);
    assert_eq!(
        error(&dir),
        format!("{}: cannot be read; name another configuration with --config FILE", dir.display())
    );
    std::fs::write(&file, b"# one\n# \xff\n").unwrap();
    assert_eq!(
        error(&file),
        format!("{}:2: this is not UTF-8 text; save the file as UTF-8", file.display())
    );
    std::fs::write(&file, "[server]\ndrain = 1").unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!((config.path, config.server.folders.plugin_dir), (file, dir.join("plugins.d")));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn no_text_makes_the_reading_panic_or_an_error_of_no_line() {
    let junk = ["", "é", "\"", "[", "'''", "=", "\r", "\u{0}", "{", "\n", "99", "#"];
    let places = SHIPPED.char_indices().map(|(at, _)| at).step_by(11);
    for (at, junk) in places.zip(junk.into_iter().cycle()) {
        let (before, after) = SHIPPED.split_at(at);
        for text in [format!("{before}{junk}"), format!("{before}{junk}{after}")] {
            let error = Config::parse(&text.replace("\n#", "\n"), FILE).err();
            let lines = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(lines.lines().all(|line| line.starts_with(FILE)), "{lines}");
        }
    }
}

#[test]
fn a_mistake_is_one_line_without_control_characters() {
    for text in ["[n = 1\r[x\n[n = 1\r[x", "[server]\n[server]\r[x", "[server]\npage = t\u{7}x"] {
        let error = Config::parse(text, FILE).unwrap_err();
        let ConfigError::Invalid { problems, .. } = error else { panic!("{error:?}") };
        for problem in problems {
            assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
        }
    }
}
