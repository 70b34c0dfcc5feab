//! Mistakes in keys, and the error text that each gets.

use super::*;

/// Each row is one line below `[server]`, and what is said of it.
#[rustfmt::skip] // One mistake, one line.
const SERVER: &[(&str, &str)] = &[
    ("max_message = 0", "max_message: 0 bytes would refuse every message; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    ("max_message = 64", "max_message: 64 bytes is too little; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    ("max_message = -5", "max_message: -5 bytes is too little; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    ("max_message = 2000000000", "max_message: 2000000000 bytes is too much; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    ("max_message = 99999999999999999999", "max_message: 99999999999999999999 bytes is too much; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    (r#"max_message = "16MiB""#, r#"max_message: "16MiB" is a string; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"#),
    ("max_message = 1.5", "max_message: 1.5 is a float; give an integer from 125 to 1073741824 (bytes), e.g. 16777216"),
    ("outbox_bytes = 0", "outbox_bytes: 0 bytes could not hold an answer; give an integer from 262144 to 17179869184 (bytes), e.g. 1048576"),
    ("max_buffered_bytes = 16777215", "max_buffered_bytes: the host could not take one message of max_message (16777216 bytes); give at least as much, or 0 for no limit"),
    ("outbox_bytes = 65536", "outbox_bytes: 65536 bytes is too little; give an integer from 262144 to 17179869184 (bytes), e.g. 1048576"),
    ("outbox_messages = 1", "outbox_messages: 1 messages is too little; give an integer from 2 to 1000000 (messages), e.g. 1024"),
    ("inbox_messages = 0", "inbox_messages: 0 messages would refuse every message; give an integer from 1 to 1000000 (messages), e.g. 256"),
    ("max_connections = -1", "max_connections: -1 connections is too little; give an integer from 0 to 10000000 (connections), e.g. 0"),
    ("max_per_ip = true", "max_per_ip: true is a boolean; give an integer from 0 to 10000000 (connections), e.g. 0"),
    ("max_chunks = 0", "max_chunks: 0 chunks would refuse every chunk; give an integer from 1 to 1000000 (chunks), e.g. 100"),
    ("max_frames = 0", "max_frames: 0 frames would refuse every message; give an integer from 1 to 1073741824 (frames), e.g. 131072"),
    ("max_rooms = 0", "max_rooms: 0 rooms would refuse every room; give an integer from 1 to 1000000 (rooms), e.g. 100"),
    ("max_head = 10", "max_head: 10 bytes is too little; give an integer from 256 to 1048576 (bytes), e.g. 16384"),
    ("head_timeout = 0", "head_timeout: 0 seconds would refuse every request; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -1", "head_timeout: -1 seconds is negative; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -0.5", "head_timeout: -0.5 seconds is negative; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = nan", "head_timeout: nan is not a duration; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = -inf", "head_timeout: -inf seconds is negative; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = 1e300", "head_timeout: 1e300 is not a duration; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("head_timeout = 86401", "head_timeout: 86401 seconds is more than a day; give a number of seconds from 0.001 to 86400, e.g. 5"),
    (r#"head_timeout = "10s""#, r#"head_timeout: "10s" is a string; give a number of seconds from 0.001 to 86400, e.g. 5"#),
    ("head_timeout = 1979-05-27", "head_timeout: 1979-05-27 is a date-time; give a number of seconds from 0.001 to 86400, e.g. 5"),
    ("message_timeout = 0.0001", "message_timeout: 0.0001 seconds would refuse every message; give a number of seconds from 0.001 to 86400, e.g. 25"),
    ("write_timeout = 0", "write_timeout: 0 seconds would close every connection; give a number of seconds from 0.001 to 86400, e.g. 10"),
    ("ping_interval = -1", "ping_interval: -1 seconds is negative; give 0, or a number of seconds from 0.01 to 86400, e.g. 30"),
    ("ping_interval = 0.0001", "ping_interval: 0.0001 seconds would send nothing but pings; give 0, or a number of seconds from 0.01 to 86400, e.g. 30"),
    ("quiet = 5", "quiet: this key belongs under [server.reload]"),
    (r#"plugin = "echo""#, r#"plugin: this key belongs under [resources."/path"]"#),
    ("lisen = []", "lisen: unknown key; did you mean listen?"),
    ("maxMessage = 5", "maxMessage: unknown key; did you mean max_message?"),
    ("MAX_MESSAGE = 5", "MAX_MESSAGE: unknown key; did you mean max_message?"),
    ("tls = true", "tls: true is a boolean; write a table, [server.tls]"),
    ("zzz = true", "zzz: unknown key; the keys here are listen, tls, page, health, metrics, unknown_resource, reload, watchdog, plugin_dir, staging_dir, state_dir, control, allowed_ips, allowed_origins, trusted_proxies, proxy_protocol, max_connections, max_per_ip, max_handshakes, max_handshakes_per_ip, max_head, max_message, max_chunks, max_frames, max_rooms, outbox_messages, outbox_bytes, max_buffered_bytes, inbox_messages, rate, head_timeout, message_timeout, write_timeout, close_timeout, ping_interval, idle_timeout, ready_delay, drain, retry_spread"),
    (r#"listen = "127.0.0.1:8095""#, r#"listen: "127.0.0.1:8095" is a string; give an array of strings, e.g. ["127.0.0.1:8095"]"#),
    ("listen = []", r#"listen: the array is empty, so no client could connect; give e.g. ["127.0.0.1:8095"]"#),
    ("listen = [8095]", r#"listen: 8095 is an integer; give an array of strings, e.g. ["127.0.0.1:8095"]"#),
    (r#"listen = ["8095"]"#, r#"listen: "8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = [":8095"]"#, r#"listen: ":8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = [":8\u0011::1]"]"#, r#"listen: ":8\u{11}::1]" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = ["*:8095"]"#, r#"listen: "*:8095" lacks the address; write "127.0.0.1:8095", or "0.0.0.0:8095" for all addresses of the machine"#),
    (r#"listen = ["127.0.0.1"]"#, r#"listen: "127.0.0.1" lacks the port; write "127.0.0.1:8095""#),
    (r#"listen = ["127.0.0.1:"]"#, r#"listen: "127.0.0.1:" lacks the port; write "127.0.0.1:8095""#),
    (r#"listen = ["[::1]"]"#, r#"listen: "[::1]" lacks the port; write "[::1]:8095""#),
    (r#"listen = ["::1:8095"]"#, r#"listen: "::1:8095" is ambiguous; write an IPv6 address in brackets, "[::1]:8095""#),
    (r#"listen = ["::1"]"#, r#"listen: "::1" is not an address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["::"]"#, r#"listen: "::" is not an address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["[::1:8095"]"#, r#"listen: "[::1:8095" is not an address with a port; write an IPv6 address in brackets, e.g. "[::1]:8095""#),
    (r#"listen = ["[127.0.0.1]:80"]"#, r#"listen: "[127.0.0.1]:80" has an address that cannot be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["256.0.0.1:80"]"#, r#"listen: "256.0.0.1:80" has an address that cannot be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["a b:80"]"#, r#"listen: "a b:80" has an address that cannot be listened on; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = [""]"#, r#"listen: the string is empty; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"listen = ["localhost:70000"]"#, r#"listen: "70000" is not a port; give a number from 1 to 65535, or 0 for any free port"#),
    (r#"listen = ["localhost:http"]"#, r#"listen: "http" is not a port; give a number from 1 to 65535, or 0 for any free port"#),
    (r#"listen = ["ws://me:secret@localhost:8095/a?token=secret"]"#, r#"listen: "ws://…@localhost:8095/a?…" is a URL; write only the address and port, "localhost:8095""#),
    (r#"listen = ["ws://me:sec?ret@localhost:8095"]"#, r#"listen: "ws://…" is a URL; write an address or a name and a port, e.g. "127.0.0.1:8095", "[::1]:8095", or "unix:/path""#),
    (r#"max_head = "http://me:secret@localhost""#, r#"max_head: "http://…@localhost" is a string; give an integer from 256 to 1048576 (bytes), e.g. 16384"#),
    (r#"listen = ["ws://localhost:8095/"]"#, r#"listen: "ws://localhost:8095/" is a URL; write only the address and port, "localhost:8095""#),
    (r#"listen = ["unix:"]"#, r#"listen: the path is empty; give a path, e.g. "unix:/run/plugsocket.sock""#),
    (r#"listen = ["unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]"#, r#"listen: "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…" is too long: 123 bytes, and the path of a socket may have 107; write a shorter one"#),
    (r#"plugin_dir = """#, r#"plugin_dir: the path is empty; give a path, e.g. "plugins.d""#),
    ("plugin_dir = 5", r#"plugin_dir: 5 is an integer; give a path in quotes, e.g. "plugins.d""#),
    (r#"plugin_dir = "a\u0000b""#, r#"plugin_dir: "a\0b" contains a control character; give a path, e.g. "plugins.d""#),
    (r#"plugin_dir = ".plugsocket/staged""#, "plugin_dir: plugin_dir and staging_dir are the same folder, so that each staged copy would count as a new plugin; name two folders"),
    (r#"unknown_resource = "open""#, r#"unknown_resource: "open" is not known; write "close" or "404""#),
    ("unknown_resource = 404", r#"unknown_resource: 404 is an integer; write "close" or "404""#),
    (r#"allowed_ips = "127.0.0.1""#, r#"allowed_ips: "127.0.0.1" is a string; give an array of strings, e.g. ["127.0.0.1", "::1"]"#),
    (r#"allowed_ips = ["localhost"]"#, r#"allowed_ips: "localhost" is a name, and the host does not look up names here; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0.0/33"]"#, r#"allowed_ips: "10.0.0.0/33" is not an address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0.1/8"]"#, r#"allowed_ips: "10.0.0.1/8" is an address with the mask of a network; write "10.0.0.0/8" or "10.0.0.1""#),
    (r#"allowed_ips = ["10.0.*"]"#, r#"allowed_ips: "10.0.*" is not an address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["10.0.0"]"#, r#"allowed_ips: "10.0.0" is not an address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = ["fe80::g"]"#, r#"allowed_ips: "fe80::g" is not an address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"allowed_ips = [""]"#, r#"allowed_ips: "" is not an address; give an address such as "192.0.2.7" or a network such as "192.0.2.0/24" or "2001:db8::/32""#),
    (r#"trusted_proxies = ["unix:/run/x"]"#, r#"trusted_proxies: "unix:/run/x" names a socket, but every socket of listen counts; write "unix""#),
    ("trusted_proxies = [127]", r#"trusted_proxies: 127 is an integer; give an array of strings, e.g. ["127.0.0.1"]"#),
    (r#"allowed_origins = ["*"]"#, r#"allowed_origins: "*" is not an origin; to allow every origin, leave the array empty"#),
    (r#"allowed_origins = ["example.org"]"#, r#"allowed_origins: "example.org" lacks its scheme; write "https://example.org""#),
    (r#"allowed_origins = ["https://a,https://b"]"#, r#"allowed_origins: "https://a,https://b" is not one origin; put quotes around each, ["https://www.example.org", "https://example.org"]"#),
    (r#"allowed_origins = ["https://:/x"]"#, r#"allowed_origins: "https://:/x" has more than an origin; write scheme://host, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://example.org/"]"#, r#"allowed_origins: "https://example.org/" has more than an origin; write "https://example.org""#),
    (r#"allowed_origins = ["https://*.example.org"]"#, r#"allowed_origins: "https://*.example.org" has a wildcard; name each origin, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["wss://example.org"]"#, r#"allowed_origins: "wss://example.org" is the address of a socket; write the origin of the page, "https://example.org""#),
    (r#"allowed_origins = ["https://exämple.org"]"#, r#"allowed_origins: "https://exämple.org" must be written as a browser sends it, with the host in its ASCII form (xn--…)"#),
    (r#"allowed_origins = ["https://example.org:99999"]"#, r#"allowed_origins: "https://example.org:99999" is not an origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://"]"#, r#"allowed_origins: "https://" is not an origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["https://user@example.org"]"#, r#"allowed_origins: "https://…@example.org" has more than an origin; write "https://example.org""#),
    (r#"allowed_origins = [""]"#, r#"allowed_origins: the string is empty; write e.g. "https://www.example.org""#),
    (r#"allowed_origins = ["1x://a"]"#, r#"allowed_origins: "1x://a" is not an origin; write scheme://host or scheme://host:port, e.g. "https://www.example.org""#),
    ("ping_interval = 86401", "ping_interval: 86401 seconds is more than a day; give 0, or a number of seconds from 0.01 to 86400, e.g. 30"),
    (r#"health = "health""#, r#"health: "health" is not the path of a health check; give segments of letters, digits and -._~, e.g. "/health""#),
    ("metrics = {}", r#"metrics.listen: this key is missing; write listen = "127.0.0.1:9095""#),
    ("reload = 5", "reload: 5 is an integer; write a table, [server.reload]"),
    ("max_head = 0xFFFFFFFF", "max_head: 0xFFFFFFFF bytes is too much; give an integer from 256 to 1048576 (bytes), e.g. 16384"),
    (r#"page = "true""#, r#"page: "true" is a string; write true or false, without quotes"#),
    (r#"allowed_ips = ["2001:db8::1/32"]"#, r#"allowed_ips: "2001:db8::1/32" is an address with the mask of a network; write "2001:db8::/32" or "2001:db8::1""#),
    (r#"allowed_origins = ["http://example.org?x"]"#, r#"allowed_origins: "http://example.org?…" has more than an origin; write "http://example.org""#),
    ("ready_delay = []", "ready_delay: this is an array; give a number of seconds from 0 to 86400, e.g. 0.01"),
    ("close_timeout = false", "close_timeout: false is a boolean; give a number of seconds from 0 to 86400, e.g. 3"),
    (r#"listen = ["[::1]:x"]"#, r#"listen: "x" is not a port; give a number from 1 to 65535, or 0 for any free port"#),
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
    (r#"prefix = "y""#, "prefix: unknown key; the keys here are plugin, dialog, lane, subprotocols, snapshot_every, rate, auth, config, outbox_messages, outbox_bytes, outbox_policy"),
    (r#"dialog = "yes""#, r#"dialog: "yes" is a string; write true or false, without quotes"#),
    ("dialog = 1", "dialog: 1 is an integer; write true or false, without quotes"),
    (r#"lane = "own""#, r#"lane: "own" is not known; write "thread" or "shared""#),
    ("lane = true", r#"lane: true is a boolean; write "thread" or "shared""#),
    ("snapshot_every = 0.01", "snapshot_every: 0.01 seconds would do nothing but write; give 0, or a number of seconds from 0.1 to 86400, e.g. 60"),
    (r#"subprotocols = "v1""#, r#"subprotocols: "v1" is a string; give an array of strings, e.g. ["chat.v1"]"#),
    (r#"subprotocols = ["v1", "v 2"]"#, r#"subprotocols: "v 2" is not a subprotocol; use letters, digits and !#$%&'*+-.^_`|~ only, e.g. "chat.v1""#),
    (r#"outbox_policy = "drop""#, r#"outbox_policy: "drop" is not known; write "close" or "drop_oldest" or "conflate""#),
    ("outbox_bytes = 1", "outbox_bytes: 1 bytes is too little; give an integer from 262144 to 17179869184 (bytes), e.g. 1048576"),
    ("rate = 5", r#"rate: 5 is an integer; write a table, [resources."/web".rate]"#),
    ("rate.burst = -1", "rate.burst: -1 seconds is negative; give a number of seconds from 0 to 86400, e.g. 1"),
    (r#"rate.policy = "drop""#, r#"rate.policy: "drop" is not known; write "delay" or "close""#),
    (r#"config = "{}""#, r#"config: "{}" is a string; write a table, [resources."/web".config]"#),
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
    ("", r#"is not the name of a plugin; use letters, digits, _ and - only: "NAME" for libNAME.so in plugin_dir"#),
    ("libecho.so", r#"is a file; write only the name, "echo", for libecho.so in plugin_dir"#),
    ("echo.so", r#"is a file; write only the name, "echo", for libecho.so in plugin_dir"#),
    ("./target/release/libecho.so", r#"is a file; write only the name, "echo", for libecho.so in plugin_dir"#),
    ("plugins/echo", r#"is a file; write only the name, "echo", for libecho.so in plugin_dir"#),
    ("my echo", r#"is not the name of a plugin; use letters, digits, _ and - only: "NAME" for libNAME.so in plugin_dir"#),
    ("écho", r#"is not the name of a plugin; use letters, digits, _ and - only: "NAME" for libNAME.so in plugin_dir"#),
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
    ("/a/../b", r#"{} has a segment "." or "..", which a browser resolves; write the resolved path"#),
    ("/a/%2E./b", r#"{} has a segment "." or "..", which a browser resolves; write the resolved path"#),
    ("/.", r#"{} has a segment "." or "..", which a browser resolves; write the resolved path"#),
    ("/a?room=1", r#"{} has a query, which never selects a resource; write "/a""#),
    ("/a#top", r#"{} has a fragment, which never selects a resource; write "/a""#),
    ("/a b", r#"{} must be written as a browser sends it, "/a%20b""#),
    ("/a\tb", "{} contains a control character; use letters, digits and - . _ ~ only"),
    ("/a%0Ab", "{} contains a control character; use letters, digits and - . _ ~ only"),
    ("/a%zz", "{} has a % without two hexadecimal digits; write %25 for a %"),
    ("/a%2", "{} has a % without two hexadecimal digits; write %25 for a %"),
    ("/café", r#"{} must be written as a browser sends it, "/caf%C3%A9""#),
    ("/a\\b", r#"{} has a backslash, which a browser replaces by a slash; write "/a/b""#),
    ("", r#"{} does not begin with a slash; write [resources."/"]"#),
    ("http://host/web", r#"{} does not begin with a slash; write [resources."/web"]"#),
    ("/plugsocket", "/plugsocket and the paths below it are the host's own page; use another path, or set server.page = false"),
    ("/plugsocket/a", "/plugsocket and the paths below it are the host's own page; use another path, or set server.page = false"),
    ("/{}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{*}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/a{b}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{a}b", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{a", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/a}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{a}{b}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{ä}", "{} has a brace; write {name} for one whole segment, with letters, digits, _ and - in the name, or %7B and %7D for braces"),
    ("/{a}/b/{a}", "{} has two segments {a}; give them different names"),
    ("/a/*/b", "{} has a segment * that is not the last one; write {name} for it"),
    ("/plugsocket/{a}", "/plugsocket and the paths below it are the host's own page; use another path, or set server.page = false"),
    ("/%70lugsocket", "/plugsocket and the paths below it are the host's own page; use another path, or set server.page = false"),
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

#[test]
#[rustfmt::skip] // One mistake, one line.
fn mistakes_in_tls_are_told() {
    for (keys, said) in [
        ("", vec![r#"1: server.tls.listen: this key is missing; write listen = ["0.0.0.0:8443"], or [] where systemd passes the sockets"#, r#"1: server.tls.certificates: this key is missing; write certificates = [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = []", vec![r#"3: server.tls.certificates: the array is empty; give an array of tables, e.g. [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = ['unix:/x']\ncertificates = [{ certificate = 'c', key = 'k' }]", vec!["2: server.tls.listen: a Unix socket does not leave the machine and needs no TLS; move it to listen under [server]"]),
        ("listen = []\ncertificates = 'c'", vec![r#"3: server.tls.certificates: "c" is a string; give an array of tables, e.g. [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = ['c']", vec![r#"3: server.tls.certificates[0]: "c" is a string; give an array of tables, e.g. [{ certificate = "fullchain.pem", key = "key.pem" }]"#]),
        ("listen = []\ncertificates = [{ certificate = 'c' }]", vec![r#"3: server.tls.certificates[0].key: this key is missing; write { certificate = "fullchain.pem", key = "key.pem" }"#]),
        ("listen = []\ntls_timeout = 0\ncertificates = [{ certificate = 5, key = '' }]", vec![
            "3: server.tls.tls_timeout: 0 seconds would refuse every client; give a number of seconds from 0.001 to 86400, e.g. 5",
            r#"4: server.tls.certificates[0].certificate: 5 is an integer; give a path in quotes, e.g. "fullchain.pem""#,
            r#"4: server.tls.certificates[0].key: the path is empty; give a path, e.g. "key.pem""#,
        ]),
        ("listen = []\ncertificate = 'c'\ncertificates = [{ certificate = 'c', key = 'k' }]", vec!["3: server.tls.certificate: this key belongs under [[server.tls.certificates]]"]),
    ] {
        check(&format!("[server.tls]\n{keys}"), &said);
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
        ("keys = []".to_owned(), "keys: the array is empty; give an array of tables, e.g. [{ algorithm = \"HS256\", file = \"secret.key\" }]"),
        ("keys = ['a']".to_owned(), "keys[0]: \"a\" is a string; give an array of tables, e.g. [{ algorithm = \"HS256\", file = \"secret.key\" }]"),
        ("keys = [{ file = 'a' }]".to_owned(), "keys[0].algorithm: this key is missing; write { algorithm = \"HS256\", file = \"secret.key\" } or { jwks = \"keys.json\" }"),
        ("keys = [{ algorithm = 'none', file = 'a' }]".to_owned(), "keys[0].algorithm: \"none\" is not known; write \"HS256\" or \"RS256\" or \"ES256\" or \"EdDSA\""),
        ("keys = [{ algorithm = 'EdDSA', file = 'a', encoding = 'raw' }]".to_owned(), "keys[0].encoding: only a secret (HS256) has an encoding; remove it"),
        ("keys = [{ jwks = 'a', kid = 'b' }]".to_owned(), "keys[0].kid: a key set has this itself; remove it, or write { algorithm = \"HS256\", file = \"secret.key\" } or { jwks = \"keys.json\" }"),
        (format!("timeout = 1\n{keys}"), "timeout: this key is for an HTTP endpoint, but this table has keys for tokens; remove it"),
        ("leeway = 1\nurl = 'http://localhost'".to_owned(), "leeway: this key is for signed tokens, but this table has the url of an endpoint; remove it"),
        (format!("from = []\n{keys}"), "from: the array is empty, so the host would find no token; give e.g. [\"header\"]"),
        (format!("from = ['query']\n{keys}"), "from: \"query\" is not known; write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\""),
        (format!("from = ['cookie:a b']\n{keys}"), "from: \"cookie:a b\" lacks a name that a client can send; write \"header\", \"query:NAME\", \"cookie:NAME\" or \"subprotocol\""),
        (format!("issuer = ''\n{keys}"), "issuer: the string is empty; give e.g. \"https://login.example.org\""),
        ("url = 'https://localhost'".to_owned(), "url: \"https://localhost\" uses TLS, which the host does not use here: the endpoint is on this machine or in its own network; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'https://me:secret@host/a?token=secret'".to_owned(), "url: \"https://…@host/a?…\" uses TLS, which the host does not use here: the endpoint is on this machine or in its own network; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'me:secret@host'".to_owned(), "url: \"…@host\" is not an HTTP URL; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://me:s/e?c#ret@host/'".to_owned(), "url: \"http://…\" is not an address and path as a browser sends them; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://a b'".to_owned(), "url: \"http://a b\" is not an address and path as a browser sends them; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("url = 'http://a:0/'".to_owned(), "url: \"http://a:0/\" has no address to connect to; write e.g. \"http://127.0.0.1/auth.php\" or \"http://unix:/run/app.sock:/auth.php\""),
        ("forward_headers = ['Host']\nurl = 'http://a'".to_owned(), "forward_headers: \"Host\" is a header of the host's own request; remove it"),
        ("forward_headers = ['Cookie', 'X-A', 'cookie']\nurl = 'http://a'".to_owned(), "forward_headers: \"cookie\" is there twice; keep one of them"),
        ("max_calls = 0\nurl = 'http://a'".to_owned(), "max_calls: 0 calls would refuse every client; give an integer from 1 to 10000 (calls), e.g. 32"),
    ] {
        assert_eq!(auth_says(&text), expected, "{text}");
    }
    assert!(auth_says("").contains("no client could authenticate"));
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
            "2: plugins.x.sha256: \"abc\" is not a SHA-256 digest; give the 64 hexadecimal digits that `sha256sum libNAME.so` prints",
        ],
    );
    check(
        "[plugins.x]\nsha256 = []",
        &[
            "2: plugins.x.sha256: the array is empty and pins nothing; give a digest, or remove the key",
        ],
    );
    check(
        "[plugins.'a b']\n",
        &[
            "1: plugins.\"a b\": \"a b\" is not the name of a plugin; use letters, digits, _ and - only: \"NAME\" for libNAME.so in plugin_dir",
        ],
    );
    check(
        "[plugins.x]\nsha = 1",
        &["2: plugins.x.sha: unknown key; the keys here are sha256, preflight"],
    );
}
