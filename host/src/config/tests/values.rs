//! Values that are accepted, and what they mean.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::*;

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
fn an_empty_file_is_legal_and_means_the_defaults() {
    let config = Config::parse("", FILE).unwrap();
    let server = ServerSettings {
        listen: vec![Listen::Tcp { host: "127.0.0.1".to_owned(), port: 8095 }],
        tls: None,
        page: true,
        unknown_resource: UnknownResource::Close,
        folders: Folders {
            plugin_dir: "/etc/plugsocket/plugins.d".into(),
            staging_dir: "/etc/plugsocket/.plugsocket/staged".into(),
            state_dir: "/etc/plugsocket/.plugsocket/state".into(),
            control: "/etc/plugsocket/.plugsocket/control".into(),
        },
        access: Access::default(),
        limits: Limits::default(),
        ..ServerSettings::defaults(Path::new("/"))
    };
    assert!(!server.access.proxy_protocol);
    assert_eq!(
        config,
        Config {
            path: FILE.into(),
            server,
            resources: BTreeMap::new(),
            plugins: BTreeMap::new(),
            overrides: Overrides::default()
        }
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
    assert_eq!(server("max_head = 0x10_00").limits.messages.max_head, 4096);
    assert_eq!(server("max_per_ip = +5").limits.connections.max_per_ip, NonZeroUsize::new(5));
    assert_eq!(server("max_connections = 0").limits.connections.max_connections, None);
    assert_eq!(server("unknown_resource = '404'").unknown_resource, UnknownResource::NotFound);
    assert_eq!(server("plugin_dir = '/opt/x'").folders.plugin_dir, Path::new("/opt/x"));
    assert_eq!(server("plugin_dir = '../x'").folders.plugin_dir, Path::new("/etc/plugsocket/../x"));
}

#[test]
fn a_resource_says_what_is_else_than_on_the_server() {
    let text = "[server]\noutbox_messages = 9\nrate = { messages_per_second = 5, burst = 2 }\n\
                [resources.'/a']\nplugin = 'x'\n[resources.'/b']\nplugin = 'x'\noutbox_policy = 'conflate'\n\
                outbox_bytes = 300000\nrate = { messages_per_second = 7, policy = 'close' }";
    let resources = Config::parse(text, FILE).unwrap().resources;
    let (a, b) = (&resources["/a"], &resources["/b"]);
    let outbox = |messages, bytes, policy| OutboxSettings { messages, bytes, policy };
    assert_eq!(a.outbox, outbox(9, 1 << 20, OutboxPolicy::Close));
    assert_eq!(b.outbox, outbox(9, 300_000, OutboxPolicy::Conflate));
    let rate = |messages, policy| RateSettings {
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
    assert!(!access.trusts_unix() && server("trusted_proxies = ['unix']").access.trusts_unix());
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
    let access = server("allowed_origins = ['none', 'file://', 'http://a.example']").access;
    for origin in [None, Some("file://"), Some("http://a.example")] {
        assert!(access.allows_origin(origin), "{origin:?}");
    }
    for origin in ["none", "None", "", "file:///", "http://b.example"] {
        assert!(!access.allows_origin(Some(origin)), "{origin}");
    }
}

#[test]
fn a_resource_has_defaults_and_takes_all_keys() {
    let plain = resource("");
    let expected = ResourceSettings {
        plugin: "x".to_owned(),
        dialog: true,
        lane: None,
        subprotocols: vec![],
        snapshot_every: None,
        outbox: OutboxSettings { messages: 1024, bytes: 1 << 20, policy: OutboxPolicy::Close },
        rate: Limits::default().flow.rate,
        auth: None,
        config: ApplicationSettings { json: "{}".to_owned(), line: 0 },
    };
    assert_eq!(plain, expected);
    let full =
        resource("dialog = false\nlane = 'shared'\nsubprotocols = ['chat.v1', 'a!#']\nconfig = {}");
    assert_eq!((full.dialog, full.lane), (false, Some(LaneKind::Shared)));
    assert_eq!(
        (full.subprotocols, full.config.json),
        (vec!["chat.v1".to_owned(), "a!#".to_owned()], "{}".to_owned())
    );
    assert_eq!(resource("lane = 'thread'").lane, Some(LaneKind::Thread));
}

#[test]
fn a_config_table_becomes_json() {
    let config = |keys: &str| resource(&format!("[resources.'/web'.config]\n{keys}")).config.json;
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
        "/%7Ba%7D",
        "/app/{key}",
        "/{a-1}/b/{_}/*",
        "/*",
    ];
    for path in paths {
        let config = Config::parse(&format!("[resources.\"{path}\"]\nplugin = 'x'"), FILE).unwrap();
        assert!(config.resources.contains_key(path), "{path}");
    }
    check("[server]\npage = false\n[resources.'/plugsocket']\nplugin = 'x'", &[]);
    check("[resources.'/a']\nplugin = 'x'\n[resources.'/A']\nplugin = 'x'", &[]);
}
