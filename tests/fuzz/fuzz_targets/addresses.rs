//! Addresses, networks and origins of the configuration: an accepted value prints as an equal one
//! and matches what it denotes.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use plugsocket::config::{Config, ConfigError, Listen, TrustedProxy};
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let key = ["listen", "allowed_ips", "trusted_proxies", "allowed_origins"][input.below(4)];
    let value = String::from_utf8_lossy(input.0).into_owned();
    let Some(config) = parse(key, &value) else { return };
    let access = &config.server.access;
    match key {
        "listen" => {
            let [listen] = &config.server.listen[..] else { panic!("{:?}", config.server.listen) };
            let again = parse(key, &listen.to_string()).expect("the printed form is valid");
            assert_eq!(&again.server.listen[0], listen);
            match listen {
                Listen::Tcp { host, .. } => assert!(!host.is_empty()),
                Listen::Unix(path) => {
                    assert!(path.is_absolute() && path.as_os_str().len() <= 107);
                }
            }
        }
        "trusted_proxies" if access.trusts_unix() => assert_eq!(access.trusted_proxies.len(), 1),
        "allowed_ips" | "trusted_proxies" => {
            let is_backends = key == "allowed_ips";
            let net = match (&access.allowed_ips[..], &access.trusted_proxies[..]) {
                ([net], _) if is_backends => net,
                (_, [TrustedProxy::Net(net)]) => net,
                other => panic!("{other:?}"),
            };
            assert_eq!(*net, net.trunc());
            let matches = |address| {
                if is_backends {
                    access.allows_backend(address)
                } else {
                    access.is_trusted_proxy(address)
                }
            };
            // An IPv4-mapped IPv6 address counts as IPv4, in any IPv6 network.
            let is_mapped = |address: IpAddr| address.to_canonical() != address;
            for address in [net.network(), net.broadcast()] {
                assert!(matches(address) || is_mapped(address));
            }
            let again = parse(key, &net.to_string()).expect("the printed form is valid");
            assert_eq!(again.server.access, *access);
        }
        _ => {
            let [origin] = &access.allowed_origins[..] else { panic!("{access:?}") };
            assert!(access.allows_origin(Some(origin)) && access.allows_origin(Some(&value)));
            assert!(access.allows_origin(Some(&value.to_ascii_uppercase())));
            assert!(!access.allows_origin(None) && !access.allows_origin(Some("")));
            assert!(!access.allows_origin(Some(&format!("{origin}.evil.example"))));
            assert!(
                ["80", "443"].iter().all(|port| {
                    !access.allows_origin(Some(&format!("{origin}:{port}:{port}")))
                })
            );
            let again = parse(key, origin).expect("the printed form is valid");
            assert_eq!(again.server.access, *access);
        }
    }
});

/// Returns `None` if the value is refused; checks that the error is one line and names its place.
fn parse(key: &str, value: &str) -> Option<Config> {
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    let text = format!("[server]\n{key} = [{quoted}\"]\n[resources.\"/\"]\nplugin = \"x\"\n");
    match Config::parse(&text, "/etc/plugsocket/plugins.toml") {
        Ok(config) => Some(config),
        Err(ConfigError::Invalid { problems, .. }) => {
            let [problem] = &problems[..] else { panic!("{problems:?}") };
            assert_eq!(problem.line, 2, "{problem}");
            assert!(!problem.to_string().contains(char::is_control), "{problem:?}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}
