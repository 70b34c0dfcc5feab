//! What `plugins.toml` may say, what it may not, and the sentence that each mistake gets.

use super::*;

const FILE: &str = "/etc/plugsocket/plugins.toml";

/// `expected`: the lines of the error without the name of the file, or nothing where the text is right.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match Config::parse(text, FILE) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let expected: Vec<_> = expected.iter().map(|line| format!("{FILE}:{line}")).collect();
    assert_eq!(found, expected.join("\n"), "\n{text}");
}

fn server(keys: &str) -> Server {
    Config::parse(&format!("[server]\n{keys}"), FILE).unwrap().server
}

fn resource(keys: &str) -> Resource {
    let text = format!("[resources.'/web']\nplugin = 'x'\n{keys}");
    Config::parse(&text, FILE).unwrap().resources.remove("/web").unwrap()
}

/// Each row is one line below `[server]`, and what is said of it.
#[rustfmt::skip] // One mistake, one line.
const SERVER: &[(&str, &str)] = &[
    ("max_message = 0", "max_message: 0 bytes would refuse every message; give a number of bytes of at least 125, e.g. 16777216"),
    ("max_message = 64", "max_message: 64 bytes is too little; give a number of bytes of at least 125, e.g. 16777216"),
    ("max_message = -5", "max_message: -5 bytes cannot be; give a number of bytes of at least 125, e.g. 16777216"),
    ("max_message = 2000000000", "max_message: 2000000000 bytes is too much; give a number of bytes of at most 1073741824, e.g. 16777216"),
    ("max_message = 99999999999999999999", "max_message: 99999999999999999999 bytes is too much; give a number of bytes of at most 1073741824, e.g. 16777216"),
    (r#"max_message = "16MiB""#, r#"max_message: "16MiB" is a text; give a whole number of bytes, e.g. 16777216"#),
    ("max_message = 1.5", "max_message: 1.5 is a number with a fraction; give a whole number of bytes, e.g. 16777216"),
    ("outbox_bytes = 0", "outbox_bytes: 0 bytes could not hold any answer; give a number of bytes of at least 262144, e.g. 1048576"),
    ("outbox_bytes = 65536", "outbox_bytes: 65536 bytes is too little; give a number of bytes of at least 262144, e.g. 1048576"),
    ("outbox_messages = 1", "outbox_messages: 1 messages is too little; give a number of messages of at least 2, e.g. 1024"),
    ("inbox_messages = 0", "inbox_messages: 0 messages would let no message in; give a number of messages of at least 1, e.g. 256"),
    ("max_connections = -1", "max_connections: -1 connections cannot be; give a number of connections of at least 0, e.g. 0"),
    ("max_per_ip = true", "max_per_ip: true is a boolean; give a whole number of connections, e.g. 0"),
    ("max_chunks = 0", "max_chunks: 0 chunks would refuse every chunk; give a number of chunks of at least 1, e.g. 100"),
    ("max_frames = 0", "max_frames: 0 frames would refuse every message; give a number of frames of at least 1, e.g. 131072"),
    ("max_rooms = 0", "max_rooms: 0 rooms would let nobody into a room; give a number of rooms of at least 1, e.g. 100"),
    ("max_head = 10", "max_head: 10 bytes is too little; give a number of bytes of at least 256, e.g. 16384"),
    ("head_timeout = 0", "head_timeout: 0 seconds would refuse every request; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -1", "head_timeout: -1 seconds cannot be; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -0.5", "head_timeout: -0.5 seconds cannot be; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = nan", "head_timeout: nan is not a length of time; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -inf", "head_timeout: -inf seconds cannot be; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = 1e300", "head_timeout: 1e300 is not a length of time; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = 86401", "head_timeout: 86401 seconds is more than a day; give a number of seconds from 0.001 to 86400, e.g. 5"),
    (r#"head_timeout = "10s""#, r#"head_timeout: "10s" is a text; give a number of seconds, e.g. 5"#),
    ("head_timeout = 1979-05-27", "head_timeout: 1979-05-27 is a date or time; give a number of seconds, e.g. 5"),
    ("message_timeout = 0.0001", "message_timeout: 0.0001 seconds would refuse every message; give a number of seconds from 0.001 to 86400, e.g. 25"),
    ("write_timeout = 0", "write_timeout: 0 seconds would close every connection; give a number of seconds from 0.001 to 86400, e.g. 10"),
    ("ping_interval = -1", "ping_interval: -1 seconds cannot be; give a number of seconds from 0 to 86400, e.g. 30"),
    ("ping_interval = 0.0001", "ping_interval: 0.0001 seconds would do nothing but ping, and 0 is none; give a number of seconds from 0.01 to 86400, e.g. 30"),
    ("quiet = 5", "quiet: this key belongs under [server.reload]"),
    (r#"plugin = "echo""#, r#"plugin: this key belongs under [resources."/path"]"#),
    ("lisen = []", "lisen: unknown key; did you mean listen?"),
    ("maxMessage = 5", "maxMessage: unknown key; did you mean max_message?"),
    ("MAX_MESSAGE = 5", "MAX_MESSAGE: unknown key; did you mean max_message?"),
    ("tls = true", "tls: true is a boolean; write a table, [server.tls]"),
    ("zzz = true", "zzz: unknown key; the keys here are listen, tls, plugin_dir, staging_dir, state_dir, control, page, unknown_resource, allowed_ips, allowed_origins, trusted_proxies, proxy_protocol, max_connections, max_per_ip, max_handshakes, max_handshakes_per_ip, max_head, max_message, max_chunks, max_frames, max_rooms, outbox_messages, outbox_bytes, inbox_messages, head_timeout, message_timeout, write_timeout, close_timeout, ping_interval, idle_timeout, ready_delay, drain, retry_spread, rate, reload, watchdog"),
    (r#"listen = "127.0.0.1:8095""#, r#"listen: "127.0.0.1:8095" is a text; give a list of texts, e.g. listen = ["127.0.0.1:8095"]"#),
    ("listen = []", r#"listen: the list is empty, so nobody could connect; give e.g. ["127.0.0.1:8095"]"#),
    ("listen = [8095]", r#"listen: 8095 is a whole number; give a list of texts, e.g. listen = ["127.0.0.1:8095"]"#),
    (r#"listen = ["8095"]"#, r#"listen: "8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = [":8095"]"#, r#"listen: ":8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = [":8\u0011::1]"]"#, r#"listen: ":8\u{11}::1]" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = ["*:8095"]"#, r#"listen: "*:8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = ["127.0.0.1"]"#, r#"listen: "127.0.0.1" lacks the port; write "127.0.0.1:8095""#),
    (r#"listen = ["127.0.0.1:"]"#, r#"listen: "127.0.0.1:" lacks the port; write "127.0.0.1:8095""#),
    (r#"listen = ["[::1]"]"#, r#"listen: "[::1]" lacks the port; write "[::1]:8095""#),
    (r#"listen = ["::1:8095"]"#, r#"listen: "::1:8095" is ambiguous; write an IPv6 address in brackets, "[::1]:8095""#),
    (r#"listen = ["::1"]"#, r#"listen: "::1" is no address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["::"]"#, r#"listen: "::" is no address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["[::1:8095"]"#, r#"listen: "[::1:8095" is no address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["[127.0.0.1]:80"]"#, r#"listen: "[127.0.0.1]:80" has no address that could be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["256.0.0.1:80"]"#, r#"listen: "256.0.0.1:80" has no address that could be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["a b:80"]"#, r#"listen: "a b:80" has no address that could be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = [""]"#, r#"listen: the text is empty; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["localhost:70000"]"#, r#"listen: "70000" is no port; give a number from 1 to 65535, or 0 for any free port"#),
    (r#"listen = ["localhost:http"]"#, r#"listen: "http" is no port; give a number from 1 to 65535, or 0 for any free port"#),
    (r#"listen = ["ws://me:secret@localhost:8095/a?token=secret"]"#, r#"listen: "ws://…@localhost:8095/a?…" is a URL; write only the address and port, "localhost:8095""#),
    (r#"listen = ["ws://me:sec?ret@localhost:8095"]"#, r#"listen: "ws://…" is a URL; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"max_head = "http://me:secret@localhost""#, r#"max_head: "http://…@localhost" is a text; give a whole number of bytes, e.g. 16384"#),
    (r#"listen = ["ws://localhost:8095/"]"#, r#"listen: "ws://localhost:8095/" is a URL; write only the address and port, "localhost:8095""#),
    (r#"listen = ["unix:"]"#, r#"listen: the path is empty; give a path, e.g. "unix:/run/plugsocket.sock""#),
    (r#"listen = ["unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]"#, r#"listen: "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" is 123 bytes long; the path of a socket may have 107"#),
    (r#"plugin_dir = """#, r#"plugin_dir: the path is empty; give a path, e.g. "plugins.d""#),
    ("plugin_dir = 5", r#"plugin_dir: 5 is a whole number; give a path in quotes, e.g. "plugins.d""#),
    (r#"plugin_dir = "a\u0000b""#, r#"plugin_dir: "a\0b" contains a control character; give a path, e.g. "plugins.d""#),
    (r#"plugin_dir = ".plugsocket/staged""#, "plugin_dir: plugin_dir and staging_dir are the same folder, so that each staged copy would count as a new plugin; name two folders"),
    (r#"unknown_resource = "open""#, r#"unknown_resource: "open" is not known; write "close" or "404""#),
    ("unknown_resource = 404", r#"unknown_resource: 404 is a whole number; write "close" or "404""#),
    (r#"allowed_ips = "127.0.0.1""#, r#"allowed_ips: "127.0.0.1" is a text; give a list of texts, e.g. allowed_ips = ["127.0.0.1", "::1"]"#),
    (r#"allowed_ips = ["localhost"]"#, r#"allowed_ips: "localhost" is a name, and names are not looked up here; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0.0/33"]"#, r#"allowed_ips: "10.0.0.0/33" is no address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0.1/8"]"#, r#"allowed_ips: "10.0.0.1/8" is one address with the mask of a network; write "10.0.0.0/8" or "10.0.0.1""#),
    (r#"allowed_ips = ["10.0.*"]"#, r#"allowed_ips: "10.0.*" is no address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0"]"#, r#"allowed_ips: "10.0.0" is no address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["fe80::g"]"#, r#"allowed_ips: "fe80::g" is no address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = [""]"#, r#"allowed_ips: "" is no address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"trusted_proxies = ["unix:/run/x"]"#, r#"trusted_proxies: "unix:/run/x" names a socket, and all sockets of listen are meant; write "unix""#),
    ("trusted_proxies = [127]", r#"trusted_proxies: 127 is a whole number; give a list of texts, e.g. trusted_proxies = ["127.0.0.1"]"#),
    (r#"allowed_origins = ["*"]"#, r#"allowed_origins: "*" is no origin; to let in every origin leave the list empty"#),
    (r#"allowed_origins = ["example.org"]"#, r#"allowed_origins: "example.org" lacks its scheme; write "https://example.org""#),
    (r#"allowed_origins = ["https://a,https://b"]"#, r#"allowed_origins: "https://a,https://b" is no origin; put quotes around each, ["https://www.example.org", "https://example.org"]"#),
    (r#"allowed_origins = ["https://:/x"]"#, r#"allowed_origins: "https://:/x" has more than an origin; write scheme://host, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://example.org/"]"#, r#"allowed_origins: "https://example.org/" has more than an origin; write "https://example.org""#),
    (r#"allowed_origins = ["https://*.example.org"]"#, r#"allowed_origins: "https://*.example.org" has a wildcard; name each origin, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["wss://example.org"]"#, r#"allowed_origins: "wss://example.org" is where a socket goes; the origin is the page's, write "https://example.org""#),
    (r#"allowed_origins = ["https://exämple.org"]"#, r#"allowed_origins: "https://exämple.org" must be written as a browser sends it, with the host in its ASCII form (xn--…)"#),
    (r#"allowed_origins = ["https://example.org:99999"]"#, r#"allowed_origins: "https://example.org:99999" is no origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://"]"#, r#"allowed_origins: "https://" is no origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://user@example.org"]"#, r#"allowed_origins: "https://…@example.org" has more than an origin; write "https://example.org""#),
    (r#"allowed_origins = [""]"#, r#"allowed_origins: the text is empty; write e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["1x://a"]"#, r#"allowed_origins: "1x://a" is no origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    ("ping_interval = 86401", "ping_interval: 86401 seconds is more than a day; give a number of seconds from 0 to 86400, e.g. 30"),
    ("reload = 5", "reload: 5 is a whole number; write a table, [server.reload]"),
    ("max_head = 0xFFFFFFFF", "max_head: 0xFFFFFFFF bytes is too much; give a number of bytes of at most 1048576, e.g. 16384"),
    (r#"page = "true""#, r#"page: "true" is a text; write true or false, without quotes"#),
    (r#"allowed_ips = ["2001:db8::1/32"]"#, r#"allowed_ips: "2001:db8::1/32" is one address with the mask of a network; write "2001:db8::/32" or "2001:db8::1""#),
    (r#"allowed_origins = ["http://example.org?x"]"#, r#"allowed_origins: "http://example.org?…" has more than an origin; write "http://example.org""#),
    ("ready_delay = []", "ready_delay: this is a list; give a number of seconds, e.g. 0.01"),
    ("close_timeout = false", "close_timeout: false is a boolean; give a number of seconds, e.g. 3"),
    (r#"listen = ["[::1]:x"]"#, r#"listen: "x" is no port; give a number from 1 to 65535, or 0 for any free port"#),
];

#[test]
fn a_mistake_in_the_server_table_is_explained() {
    for (line, expected) in SERVER {
        check(&format!("[server]\n{line}"), &[&format!("2: server.{expected}")]);
    }
}

/// Each row is one line below a resource, and what is said of it.
#[rustfmt::skip] // One mistake, one line.
const RESOURCE: &[(&str, &str)] = &[
    (r#"plugins = "y""#, "plugins: unknown key; did you mean plugin?"),
    ("dialogue = false", "dialogue: unknown key; did you mean dialog?"),
    (r#"prefix = "y""#, "prefix: unknown key; the keys here are plugin, dialog, lane, subprotocols, snapshot_every, outbox_messages, outbox_bytes, outbox_policy, rate, auth, config"),
    (r#"dialog = "yes""#, r#"dialog: "yes" is a text; write true or false, without quotes"#),
    ("dialog = 1", "dialog: 1 is a whole number; write true or false, without quotes"),
    (r#"lane = "own""#, r#"lane: "own" is not known; write "thread" or "shared""#),
    ("lane = true", r#"lane: true is a boolean; write "thread" or "shared""#),
    ("snapshot_every = 0.01", "snapshot_every: 0.01 seconds would do nothing but write, and 0 is never; give a number of seconds from 0.1 to 86400, e.g. 60"),
    (r#"subprotocols = "v1""#, r#"subprotocols: "v1" is a text; give a list of texts, e.g. subprotocols = ["chat.v1"]"#),
    (r#"subprotocols = ["v1", "v 2"]"#, r#"subprotocols: "v 2" cannot be a subprotocol; give letters, digits and !#$%&'*+-.^_`|~ only, e.g. "chat.v1""#),
    (r#"outbox_policy = "drop""#, r#"outbox_policy: "drop" is not known; write "close" or "drop_oldest" or "conflate""#),
    ("outbox_bytes = 1", "outbox_bytes: 1 bytes is too little; give a number of bytes of at least 262144, e.g. 1048576"),
    ("rate = 5", r#"rate: 5 is a whole number; write a table, [resources."/web".rate]"#),
    ("rate.burst = -1", "rate.burst: -1 seconds cannot be; give a number of seconds from 0 to 86400, e.g. 1"),
    (r#"rate.policy = "drop""#, r#"rate.policy: "drop" is not known; write "delay" or "close""#),
    (r#"config = "{}""#, r#"config: "{}" is a text; write a table, [resources."/web".config]"#),
];

#[test]
fn a_mistake_in_a_resource_is_explained() {
    for (line, expected) in RESOURCE {
        let text = format!("[resources.'/web']\nplugin = 'x'\n{line}");
        check(&text, &[&format!("3: resources.\"/web\".{expected}")]);
    }
}

/// Each row is the name of a plugin, and what is said of it.
#[rustfmt::skip] // One mistake, one line.
const PLUGINS: &[(&str, &str)] = &[
    ("", r#"is no plugin; give letters, digits, _ and - only: "NAME" stands for libNAME.so in plugin_dir"#),
    ("libecho.so", r#"is a file; write only the name, "echo", which stands for libecho.so in plugin_dir"#),
    ("echo.so", r#"is a file; write only the name, "echo", which stands for libecho.so in plugin_dir"#),
    ("./target/release/libecho.so", r#"is a file; write only the name, "echo", which stands for libecho.so in plugin_dir"#),
    ("plugins/echo", r#"is a file; write only the name, "echo", which stands for libecho.so in plugin_dir"#),
    ("my echo", r#"is no plugin; give letters, digits, _ and - only: "NAME" stands for libNAME.so in plugin_dir"#),
    ("écho", r#"is no plugin; give letters, digits, _ and - only: "NAME" stands for libNAME.so in plugin_dir"#),
];

#[test]
fn a_plugin_is_a_name_and_no_file() {
    for (name, expected) in PLUGINS {
        let text = format!("[resources.'/web']\nplugin = '{name}'");
        check(&text, &[&format!("2: resources.\"/web\".plugin: {name:?} {expected}")]);
    }
}

/// Each row is a path, and what is said of it.
#[rustfmt::skip] // One mistake, one line.
const PATHS: &[(&str, &str)] = &[
    ("web", r#"{} does not begin with a slash; write [resources."/web"]"#),
    ("/web/", r#"{} has a slash at its end; write "/web""#),
    ("//web", r#"{} has two slashes in a row; write "/web""#),
    ("//", r#"{} has two slashes in a row; write "/""#),
    ("/a//b/", r#"{} has two slashes in a row; write "/a/b""#),
    ("/a/../b", r#"{} has a segment "." or "..", which a browser resolves before it asks; write the resolved path"#),
    ("/a/%2E./b", r#"{} has a segment "." or "..", which a browser resolves before it asks; write the resolved path"#),
    ("/.", r#"{} has a segment "." or "..", which a browser resolves before it asks; write the resolved path"#),
    ("/a?room=1", r#"{} has a query, which never selects a resource; write "/a""#),
    ("/a#top", r#"{} has a fragment, which never selects a resource; write "/a""#),
    ("/a b", r#"{} must be written as a browser sends it, "/a%20b""#),
    ("/a\tb", "{} contains a control character; use letters, digits and - . _ ~ only"),
    ("/a%0Ab", "{} contains a control character; use letters, digits and - . _ ~ only"),
    ("/a%zz", "{} has a % without two hexadecimal digits; write %25 for the character itself"),
    ("/a%2", "{} has a % without two hexadecimal digits; write %25 for the character itself"),
    ("/café", r#"{} must be written as a browser sends it, "/caf%C3%A9""#),
    ("/a\\b", r#"{} has a backslash, which a browser turns into a slash; write "/a/b""#),
    ("", r#"{} does not begin with a slash; write [resources."/"]"#),
    ("http://host/web", r#"{} does not begin with a slash; write [resources."/web"]"#),
    ("/plugsocket", "/plugsocket and what is under it is the host's own page; take another path, or set server.page = false"),
    ("/plugsocket/a", "/plugsocket and what is under it is the host's own page; take another path, or set server.page = false"),
    ("/%70lugsocket", "/plugsocket and what is under it is the host's own page; take another path, or set server.page = false"),
];

#[test]
fn a_path_is_what_a_browser_asks_for() {
    for (path, expected) in PATHS {
        let text = format!("[resources.{path:?}]\nplugin = 'x'");
        let key =
            if *path == "web" { "resources.web".to_owned() } else { format!("resources.{path:?}") };
        check(&text, &[&format!("1: {key}: {}", expected.replace("{}", &format!("{path:?}")))]);
    }
}

/// Each row is a whole file, and the lines that are said of it.
#[rustfmt::skip] // One mistake, one line.
const FILES: &[(&str, &[&str])] = &[
    (r#"[server.reload]
rescan = 0"#, &["2: server.reload.rescan: 0 seconds would do nothing but look at the folder; give a number of seconds from 0.01 to 86400, e.g. 3"]),
    (r#"[server.reload]
quiet = -1"#, &["2: server.reload.quiet: -1 seconds cannot be; give a number of seconds from 0 to 86400, e.g. 0.15"]),
    (r#"[server.reload]
start_timeout = 0"#, &["2: server.reload.start_timeout: 0 seconds would refuse every plugin; give a number of seconds from 0.001 to 86400, e.g. 10"]),
    (r#"[server.reload]
preflight = 5"#, &["2: server.reload.preflight: unknown key; did you mean preflight_timeout?"]),
    (r#"[server.watchdog]
callback_warn = 0"#, &["2: server.watchdog.callback_warn: 0 seconds would be past with every callback; give a number of seconds from 0.01 to 86400, e.g. 1"]),
    (r#"[server.watchdog]
callback_limit = 0.5"#, &["2: server.watchdog.callback_limit: 0.5 seconds is less than callback_warn (1); a callback is reported before it is given up"]),
    (r#"[server.reload]
drain = 5"#, &["2: server.reload.drain: this key belongs under [server]"]),
    (r#"listen = ["127.0.0.1:1"]"#, &["1: listen: this key belongs under [server]"]),
    (r#"[resource."/web"]
plugin = "x""#, &["1: resource: unknown key; did you mean resources?"]),
    (r#"[servers]
page = true"#, &["1: servers: unknown key; did you mean server?"]),
    ("server = 5", &["1: server: 5 is a whole number; write a table, [server]"]),
    ("resources = []", &[r#"1: resources: this is a list; write a table, [resources."/path"]"#]),
    (r#"[[resources]]
plugin = "x""#, &[r#"1: resources: this is a list; write a table, [resources."/path"]"#]),
    (r#"[resources]
"/web" = "echo""#, &[r#"2: resources."/web": "echo" is a text; write a table, [resources."/web"], with the key plugin in it"#]),
    (r#"[resources."/web"]"#, &[r#"1: resources."/web".plugin: this key is missing; write plugin = "NAME" for libNAME.so in plugin_dir"#]),
    (r#"[resources."/web".config]
x = 1"#, &[r#"1: resources."/web".plugin: this key is missing; write plugin = "NAME" for libNAME.so in plugin_dir"#]),
    (r#"[resources."/web"]
plugin = 5"#, &[r#"2: resources."/web".plugin: 5 is a whole number; give the name of a plugin in quotes, e.g. "echo""#]),
    (r#"[resources."/web"]
plugin = "x"
subprotocols = ["v1",
  5]"#, &[r#"4: resources."/web".subprotocols: 5 is a whole number; give a list of texts, e.g. subprotocols = ["chat.v1"]"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config]
a = nan"#, &[r#"4: resources."/web".config.a: nan cannot be handed to a plugin, JSON has no such number; give a finite one, or a text"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config.b]
"c d" = [1, inf]"#, &[r#"4: resources."/web".config.b."c d": inf cannot be handed to a plugin, JSON has no such number; give a finite one, or a text"#]),
    (r#"[resources."/web"]
plugin = "x"
[resources."/web".config]
a = 99999999999999999999"#, &[r#"4: resources."/web".config.a: 99999999999999999999 is too large a number; give one of 64 bits, or a text"#]),
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
plugin = "x""#, &[r#"1: a path stands in quotes; write [resources."/path"]"#]),
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
page = http://me:secret@host/?secret"#, &[r#"2: http://…@host/?… is no value; write a text in quotes, "http://…@host/?…", or a boolean as true or false"#]),
    (r#"[server]
page = yes"#, &[r#"2: yes is no value; write a text in quotes, "yes", or a boolean as true or false"#]),
    (r#"[server]
page = True"#, &[r#"2: True is no value; write a text in quotes, "True", or a boolean as true or false"#]),
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
"localhost:80"]"#, &["3: server.listen: localhost:80 is there twice; keep one of them"]),
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
[resource]"#, &["2: server.page: 1 is a whole number; write true or false, without quotes", "3: server.drain: -1 seconds cannot be; give a number of seconds from 0 to 86400, e.g. 10", r#"5: server.reload.rescan: "x" is a text; give a number of seconds, e.g. 3"#, r#"6: resources."/a b": "/a b" must be written as a browser sends it, "/a%20b""#, r#"7: resources."/a b".plugin: "libx.so" is a file; write only the name, "x", which stands for libx.so in plugin_dir"#, r#"8: resources."/a b".dialog: 0 is a whole number; write true or false, without quotes"#, "9: resource: unknown key; did you mean resources?"]),
    (r#"[server]
page = yes
[resources."/a"]
plugin = echo"#, &[r#"2: yes is no value; write a text in quotes, "yes", or a boolean as true or false"#, r#"4: echo is no value; write a text in quotes, "echo", or a boolean as true or false"#]),
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
        &["4: server.page: 1 is a whole number; write true or false, without quotes"],
    );
}

#[test]
fn tls_names_its_files_and_the_lines_in_which_they_stand() {
    let entry = "{ certificate = 'c.pem', key = '/k.pem' }";
    let text = format!(
        "[server]\nlisten = []\n[server.tls]\nlisten = ['[::]:8443']\nclient_ca = 'ca'\ncertificates = [\n{entry},\n{entry}]"
    );
    let server = Config::parse(&text, FILE).unwrap().server;
    assert_eq!(server.listen, []);
    let tls = server.tls.unwrap();
    assert_eq!((tls.timeout, tls.proxy_protocol), (Duration::from_secs(5), false));
    let ca = tls.client_ca.unwrap();
    assert_eq!((ca.path, ca.line), ("/etc/plugsocket/ca".into(), 5));
    let places = tls.certificates.into_iter().map(|entry| (entry.certificate, entry.key));
    let places: Vec<_> = places.collect();
    let lines: Vec<_> = places.iter().map(|(c, k)| (c.line, k.line)).collect();
    assert_eq!(lines, [(7, 7), (8, 8)]);
    assert_eq!(places[0].0.path, Path::new("/etc/plugsocket/c.pem"));
    assert_eq!(places[0].1.path, Path::new("/k.pem"));
    let table = text.replace(
        "certificates = [",
        "[[server.tls.certificates]]\ncertificate = 'x'\nkey = 'y'\n#",
    );
    let (table, _) = table.split_once("#").unwrap();
    assert_eq!(Config::parse(table, FILE).unwrap().server.tls.unwrap().certificates.len(), 1);
}

#[test]
#[rustfmt::skip] // One mistake, one line.
fn mistakes_in_tls_are_told() {
    for (keys, said) in [
        ("", vec![r#"1: server.tls.listen: this key is missing; write e.g. listen = ["0.0.0.0:8443"], or [] where systemd opens the sockets"#, r#"1: server.tls.certificates: this key is missing; write e.g. certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = []", vec![r#"3: server.tls.certificates: the list is empty; give a list of tables, e.g. certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = ['unix:/x']\ncertificates = [{ certificate = 'c', key = 'k' }]", vec!["2: server.tls.listen: a Unix socket never leaves the machine and needs no TLS; move it to listen under [server]"]),
        ("listen = []\ncertificates = 'c'", vec![r#"3: server.tls.certificates: "c" is a text; give a list of tables, e.g. certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = ['c']", vec![r#"3: server.tls.certificates: "c" is a text; give a list of tables, e.g. certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = [{ certificate = 'c' }]", vec![r#"3: server.tls.certificates[0].key: this key is missing; write { certificate = "fullchain.pem", key = "key.pem" }, with key in it"#]),
        ("listen = []\ntls_timeout = 0\ncertificates = [{ certificate = 5, key = '' }]", vec![
            "3: server.tls.tls_timeout: 0 seconds would refuse every client; give a number of seconds from 0.001 to 86400, e.g. 5",
            r#"4: server.tls.certificates[0].certificate: 5 is a whole number; give a path in quotes, e.g. "fullchain.pem""#,
            r#"4: server.tls.certificates[0].key: the path is empty; give a path, e.g. "key.pem""#,
        ]),
        ("listen = []\ncertificate = 'c'\ncertificates = [{ certificate = 'c', key = 'k' }]", vec!["3: server.tls.certificate: this key belongs under [[server.tls.certificates]]"]),
    ] {
        check(&format!("[server.tls]\n{keys}"), &said);
    }
}

#[test]
fn an_empty_file_is_legal_and_means_the_defaults() {
    let config = Config::parse("", FILE).unwrap();
    let server = Server {
        listen: vec![Listen::Tcp { host: "127.0.0.1".to_owned(), port: 8095 }],
        tls: None,
        plugin_dir: "/etc/plugsocket/plugins.d".into(),
        staging_dir: "/etc/plugsocket/.plugsocket/staged".into(),
        state_dir: "/etc/plugsocket/.plugsocket/state".into(),
        control: "/etc/plugsocket/.plugsocket/control".into(),
        page: true,
        unknown_resource: UnknownResource::Close,
        proxy_protocol: false,
        access: Access::default(),
        limits: Limits::default(),
        timeouts: Timeouts::default(),
        rate: Rate::default(),
        reload: Reload::default(),
        watchdog: Watchdog::default(),
    };
    assert_eq!(
        config,
        Config { path: FILE.into(), server, resources: BTreeMap::new(), plugins: BTreeMap::new() }
    );
}

#[test]
fn every_kind_of_value_is_taken_as_it_is_meant() {
    assert_eq!(server("drain = 1").timeouts.drain, Duration::from_secs(1));
    assert_eq!(server("drain = 0.010").timeouts.drain, Duration::from_millis(10));
    assert_eq!(server("drain = 86400").timeouts.drain, Duration::from_secs(86400));
    assert_eq!(server("drain = -0.0").timeouts.drain, Duration::ZERO);
    assert_eq!(server("ping_interval = 0").timeouts.ping_interval, None);
    assert_eq!(
        server("ping_interval = 0.5").timeouts.ping_interval,
        Some(Duration::from_millis(500))
    );
    assert_eq!(server("reload = { quiet = 1_0.5 }").reload.quiet, Duration::from_millis(10_500));
    assert_eq!(server("max_head = 0x10_00").limits.max_head, 4096);
    assert_eq!(server("max_per_ip = +5").limits.max_per_ip, NonZeroUsize::new(5));
    assert_eq!(server("max_connections = 0").limits.max_connections, None);
    assert_eq!(server("unknown_resource = '404'").unknown_resource, UnknownResource::NotFound);
    assert_eq!(server("plugin_dir = '/opt/x'").plugin_dir, Path::new("/opt/x"));
    assert_eq!(server("plugin_dir = '../x'").plugin_dir, Path::new("/etc/plugsocket/../x"));
}

#[test]
fn a_resource_says_what_is_else_than_on_the_server() {
    let text = "[server]\noutbox_messages = 9\nrate = { messages_per_second = 5, burst = 2 }\n\
                [resources.'/a']\nplugin = 'x'\n[resources.'/b']\nplugin = 'x'\noutbox_policy = 'conflate'\n\
                outbox_bytes = 300000\nrate = { messages_per_second = 7, policy = 'close' }";
    let resources = Config::parse(text, FILE).unwrap().resources;
    let (a, b) = (&resources["/a"], &resources["/b"]);
    let outbox = |messages, bytes, policy| Outbox { messages, bytes, policy };
    assert_eq!(a.outbox, outbox(9, 1 << 20, OutboxPolicy::Close));
    assert_eq!(b.outbox, outbox(9, 300_000, OutboxPolicy::Conflate));
    let rate = |messages, policy| Rate {
        messages: NonZeroUsize::new(messages),
        bytes: None,
        burst: Duration::from_secs(2),
        policy,
    };
    assert_eq!((&a.rate, &b.rate), (&rate(5, RatePolicy::Delay), &rate(7, RatePolicy::Close)));
}

#[test]
fn listen_prints_the_form_of_the_file() {
    for form in [
        "127.0.0.1:8095",
        "[::1]:80",
        "[::]:0",
        "[fe80::1%eth0]:80",
        "localhost:1",
        "a_b-c.example:65535",
        "unix:/run/x.sock",
    ] {
        let listen = server(&format!("listen = ['{form}']")).listen;
        assert_eq!(listen[0].to_string(), form);
    }
    let relative = server("listen = ['unix:x.sock', '127.0.0.1:0', '127.0.0.1:0']").listen;
    assert_eq!(relative[0], Listen::Unix("/etc/plugsocket/x.sock".into()));
    assert_eq!(relative.len(), 3);
}

#[test]
fn addresses_are_matched_by_network_and_mapped_ones_count_as_ipv4() {
    let nets = "['10.0.0.0/8', '192.0.2.7', '2001:db8::/32', '::ffff:198.51.100.0/120']";
    let access = server(&format!("allowed_ips = {nets}\ntrusted_proxies = ['0.0.0.0/0']")).access;
    assert!(!access.trusts_unix && server("trusted_proxies = ['unix']").access.trusts_unix);
    let allowed = |ip: &str| access.allows_backend(ip.parse().unwrap());
    for ip in [
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "192.0.2.7",
        "2001:db8:1::1",
        "198.51.100.9",
        "::ffff:198.51.100.9",
    ] {
        assert!(allowed(ip), "{ip}");
    }
    for ip in ["11.0.0.0", "192.0.2.8", "2001:db9::1", "::1", "198.51.101.0", "::10.1.2.3"] {
        assert!(!allowed(ip), "{ip}");
    }
    assert!(access.is_trusted_proxy("::ffff:1.2.3.4".parse().unwrap()));
    assert!(!access.is_trusted_proxy("::1".parse().unwrap()));
    let default = Access::default();
    assert!(default.allows_backend("127.0.0.1".parse().unwrap()));
    assert!(default.allows_backend("::1".parse().unwrap()));
    assert!(default.allows_backend("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!default.allows_backend("127.0.0.2".parse().unwrap()));
    assert!(!default.is_trusted_proxy("127.0.0.1".parse().unwrap()));
    assert!(!server("allowed_ips = []").access.allows_backend("127.0.0.1".parse().unwrap()));
}

#[test]
fn origins_are_compared_as_browsers_mean_them() {
    let any = Access::default();
    assert!(any.allows_origin(None) && any.allows_origin(Some("https://evil.example")));
    let list = "['HTTPS://Example.org:443', 'http://a.example:8080', 'null', 'http://[::1]:80', 'moz-extension://ab-c']";
    let access = server(&format!("allowed_origins = {list}")).access;
    assert_eq!(
        access.allowed_origins,
        [
            "https://example.org",
            "http://a.example:8080",
            "null",
            "http://[::1]",
            "moz-extension://ab-c"
        ]
    );
    for origin in [
        "https://example.org",
        "https://EXAMPLE.org",
        "HTTPS://example.org:443",
        "http://A.example:8080",
        "null",
        "http://[::1]",
        "moz-extension://ab-c",
    ] {
        assert!(access.allows_origin(Some(origin)), "{origin}");
    }
    for origin in [
        "http://example.org",
        "https://example.org:80",
        "https://example.org.evil.example",
        "https://www.example.org",
        "http://a.example",
        "http://a.example:8080:80",
        "http://[::1]:80:80",
        "https://example.org:443:443",
        "https://example.org/",
        "",
    ] {
        assert!(!access.allows_origin(Some(origin)), "{origin}");
    }
    assert!(!access.allows_origin(None));
}

#[test]
fn a_resource_has_defaults_and_takes_all_keys() {
    let plain = resource("");
    let expected = Resource {
        plugin: "x".to_owned(),
        dialog: true,
        lane: None,
        subprotocols: vec![],
        snapshot_every: None,
        outbox: Outbox::of(&Limits::default()),
        rate: Rate::default(),
        auth: None,
        config: "{}".to_owned(),
    };
    assert_eq!(plain, expected);
    let full =
        resource("dialog = false\nlane = 'shared'\nsubprotocols = ['chat.v1', 'a!#']\nconfig = {}");
    assert_eq!((full.dialog, full.lane), (false, Some(LaneKind::Shared)));
    assert_eq!(
        (full.subprotocols, full.config),
        (vec!["chat.v1".to_owned(), "a!#".to_owned()], "{}".to_owned())
    );
    assert_eq!(resource("lane = 'thread'").lane, Some(LaneKind::Thread));
}

#[test]
fn a_config_table_becomes_json() {
    let config = |keys: &str| resource(&format!("[resources.'/web'.config]\n{keys}")).config;
    assert_eq!(config("b = 1\na = 'ä\"'"), r#"{"a":"ä\"","b":1}"#);
    assert_eq!(
        config("d = 1979-05-27T07:32:00Z\nt = 07:32:00"),
        r#"{"d":"1979-05-27T07:32:00Z","t":"07:32:00"}"#
    );
    assert_eq!(
        config("f = 1.5\ni = 0x0\nbig = 9223372036854775807\ny = true"),
        r#"{"big":9223372036854775807,"f":1.5,"i":0,"y":true}"#
    );
    assert_eq!(
        config("l = [1, ['a'], { b = [] }]\ns.t.u = 1_000"),
        r#"{"l":[1,["a"],{"b":[]}],"s":{"t":{"u":1000}}}"#
    );
}

#[test]
fn paths_of_every_kind_are_taken() {
    let paths = [
        "/",
        "/a",
        "/a/b.c~d-e_f",
        "/plugsocketed",
        "/Plugsocket",
        "/a/...",
        "/caf%C3%A9",
        "/a@b:c,d;e=f!(g)*'$&+",
    ];
    for path in paths {
        let config = Config::parse(&format!("[resources.\"{path}\"]\nplugin = 'x'"), FILE).unwrap();
        assert!(config.resources.contains_key(path), "{path}");
    }
    check("[server]\npage = false\n[resources.'/plugsocket']\nplugin = 'x'", &[]);
    check("[resources.'/a']\nplugin = 'x'\n[resources.'/A']\nplugin = 'x'", &[]);
}

#[test]
fn load_says_what_it_could_not_read() {
    let dir = std::env::temp_dir().join(format!("plugsocket-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("plugins.toml");
    let error = |path: &Path| Config::load(path).unwrap_err().to_string();
    let missing = format!(
        "{}: there is no such file; name the configuration with --config FILE",
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
    assert_eq!((config.path, config.server.plugin_dir), (file, dir.join("plugins.d")));
    std::fs::remove_dir_all(&dir).unwrap();
}

const SHIPPED: &str = include_str!("../../../plugins.toml");

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
        ]
    );
    assert_eq!(config.resources["/jobs"].config, r#"{"demo":true}"#);
    assert!(config.resources["/talk"].config.contains(r#""prefix":"You have entered: ""#));
}

#[test]
fn the_shipped_file_names_every_key_with_its_default() {
    let defaults = Config::parse("", FILE).unwrap().server;
    let shipped = Config::parse(SHIPPED, FILE).unwrap();
    let defaults = Server { plugin_dir: "/etc/plugsocket/target/release".into(), ..defaults };
    assert_eq!(shipped.server, defaults);

    let shown: Vec<_> = SHIPPED
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|key| key.starts_with(|c: char| !c.is_whitespace()))
                .unwrap_or(line)
        })
        .collect();
    let mut uncommented = Config::parse(&shown.join("\n"), FILE).unwrap();
    let mine = uncommented.resources.remove("/mine").unwrap();
    let tokens = resource(
        "auth = { keys = [{ algorithm = 'HS256', file = 'secret.key' }], issuer = 'https://login.example.org' }",
    );
    let bare = Resource { plugin: "mine".to_owned(), lane: Some(LaneKind::Thread), ..tokens };
    assert_eq!(mine, bare);
    let tls = uncommented.server.tls.take().unwrap();
    assert_eq!(tls.certificates.len(), 1);
    let example = "[server.tls]\nlisten = ['0.0.0.0:8443']\ncertificates = [{ certificate = 'fullchain.pem', key = 'privkey.pem' }]";
    let expected = Config::parse(example, FILE).unwrap().server.tls;
    assert_eq!(Some(Tls { client_ca: None, ..tls }), expected);
    let ours = uncommented.resources.remove("/ours").unwrap();
    let endpoint = resource("auth = { url = 'http://127.0.0.1/auth.php' }");
    assert_eq!(ours, Resource { plugin: "ours".to_owned(), ..endpoint });
    assert_eq!(uncommented.plugins.remove("mine").unwrap().sha256.len(), 1);
    assert_eq!(uncommented, shipped);

    for key in convert::all_keys() {
        let named = shown.iter().any(|line| {
            line.split_once(" = ").is_some_and(|(name, _)| name == key)
                || line.starts_with('[') && line.contains(key)
        });
        assert!(named, "{key} is not in the shipped file");
    }
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

/// What is said of a table `auth` with these keys; empty where it is right.
fn auth_says(keys: &str) -> String {
    let text = format!("[resources.'/web']\nplugin = 'x'\n[resources.'/web'.auth]\n{keys}");
    match Config::parse(&text, FILE) {
        Ok(_) => String::new(),
        Err(error) => error.to_string().replace(&format!("{FILE}:4: resources.\"/web\".auth."), ""),
    }
}

#[test]
#[rustfmt::skip] // One mistake, one line.
fn a_table_of_authentication_is_whole_and_of_one_kind() {
    let keys = "keys = [{ algorithm = 'HS256', file = 'secret.key' }]";
    for (text, expected) in [
        (keys.to_owned(), ""),
        ("keys = [{ jwks = 'a.json' }, { algorithm = 'EdDSA', file = 'b.pem', kid = 'b' }]".to_owned(), ""),
        ("url = 'http://localhost'".to_owned(), ""),
        ("url = 'http://[::1]:8080/a?b'\nbackends = 'required'".to_owned(), ""),
        ("url = 'http://unix:/run/app.sock:/auth'".to_owned(), ""),
        ("keys = []".to_owned(), "keys: the list is empty; give a list of tables, e.g. keys = [{ algorithm = \"HS256\", file = \"secret.key\" }]"),
        ("keys = ['a']".to_owned(), "keys: \"a\" is a text; give a list of tables, e.g. keys = [{ algorithm = \"HS256\", file = \"secret.key\" }]"),
        ("keys = [{ file = 'a' }]".to_owned(), "keys.algorithm: this key is missing; write { algorithm = \"HS256\", file = \"secret.key\" } or { jwks = \"keys.json\" }"),
        ("keys = [{ algorithm = 'none', file = 'a' }]".to_owned(), "keys.algorithm: \"none\" is not known; write \"HS256\" or \"RS256\" or \"ES256\" or \"EdDSA\""),
        ("keys = [{ algorithm = 'EdDSA', file = 'a', encoding = 'raw' }]".to_owned(), "keys.encoding: only a secret (HS256) has an encoding; take it out"),
        ("keys = [{ jwks = 'a', kid = 'b' }]".to_owned(), "keys.kid: a set of keys says this itself; take it out, or write { algorithm = \"HS256\", file = \"secret.key\" } or { jwks = \"keys.json\" }"),
        (format!("timeout = 1\n{keys}"), "timeout: this key is for an HTTP endpoint, and this table has keys for tokens; take it out"),
        ("leeway = 1\nurl = 'http://localhost'".to_owned(), "leeway: this key is for signed tokens, and this table has the url of an endpoint; take it out"),
        (format!("from = []\n{keys}"), "from: the list is empty, so no token could be found; give e.g. [\"header\"]"),
        (format!("from = ['query']\n{keys}"), "from: \"query\" is not known; write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\""),
        (format!("from = ['cookie:a b']\n{keys}"), "from: \"cookie:a b\" lacks a name that a peer could send; write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\""),
        (format!("issuer = ''\n{keys}"), "issuer: the text is empty; give e.g. \"https://login.example.org\""),
        ("url = 'https://localhost'".to_owned(), "url: \"https://localhost\" is not spoken here: the endpoint is one of this machine or its own network; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'https://me:secret@host/a?token=secret'".to_owned(), "url: \"https://…@host/a?…\" is not spoken here: the endpoint is one of this machine or its own network; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'me:secret@host'".to_owned(), "url: \"…@host\" is no URL of HTTP; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://me:s/e?c#ret@host/'".to_owned(), "url: \"http://…\" is no address and path as a browser sends them; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://a b'".to_owned(), "url: \"http://a b\" is no address and path as a browser sends them; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://a:0/'".to_owned(), "url: \"http://a:0/\" has no address that could be connected to; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("forward_headers = ['Host']\nurl = 'http://a'".to_owned(), "forward_headers: \"Host\" is not forwarded, the host's own request has its own; take it out"),
        ("forward_headers = ['Cookie', 'X-A', 'cookie']\nurl = 'http://a'".to_owned(), "forward_headers: \"cookie\" is there already, in whatever case; take one of them out"),
        ("max_calls = 0\nurl = 'http://a'".to_owned(), "max_calls: 0 calls would refuse everybody; give a number of calls of at least 1, e.g. 32"),
    ] {
        assert_eq!(auth_says(&text), expected, "{text}");
    }
    assert!(auth_says("").contains("nobody could be known"));
    assert!(auth_says(&format!("{keys}\nurl = 'http://a'")).contains("keep one of them"));
}

#[test]
fn a_digest_is_the_one_that_sha256sum_prints() {
    let digest = "E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let pins = |text: &str| Config::parse(text, FILE).unwrap().plugins.remove("x").unwrap().sha256;
    assert_eq!(pins(&format!("[plugins.x]\nsha256 = '{digest}'"))[0][..2], [0xe3, 0xb0]);
    assert_eq!(pins(&format!("[plugins.x]\nsha256 = ['{digest}', '{digest}']")).len(), 2);
    check(
        "[plugins.x]\nsha256 = 'abc'",
        &[
            "2: plugins.x.sha256: \"abc\" is no SHA-256; give the 64 hexadecimal digits that `sha256sum libNAME.so` prints",
        ],
    );
    check(
        "[plugins.x]\nsha256 = []",
        &[
            "2: plugins.x.sha256: the list is empty, which would pin nothing; give a digest, or take the key out",
        ],
    );
    check(
        "[plugins.'a b']\n",
        &[
            "1: plugins.\"a b\": \"a b\" is no plugin; give letters, digits, _ and - only: \"NAME\" stands for libNAME.so in plugin_dir",
        ],
    );
    check("[plugins.x]\nsha = 1", &["2: plugins.x.sha: unknown key; the keys here are sha256"]);
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
