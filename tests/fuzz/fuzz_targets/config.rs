//! `plugins.toml`: every error names a line of the file, and comments do not affect the result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::config::{Config, ConfigError};

fuzz_target!(|text: &str| {
    match parse(text) {
        Ok(config) => check_config(text, &config),
        Err(ConfigError::Invalid { path, problems }) => {
            assert_eq!(path.to_str(), Some(PATH));
            assert!(!problems.is_empty());
            let lines = 1 + text.matches('\n').count();
            for problem in &problems {
                assert!((1..=lines).contains(&problem.line), "{problem:?} of {lines} lines");
                let printed = problem.to_string();
                assert!(!printed.contains('\n') && !printed.contains('\r'), "{printed:?}");
                assert!(!problem.problem.trim().is_empty());
            }
            assert!(problems.is_sorted_by_key(|problem| problem.line), "{problems:?}");
        }
        Err(error) => panic!("no file is read here: {error:?}"),
    }
});

fn check_config(text: &str, config: &Config) {
    assert!(!config.server.listen.is_empty() || config.server.tls.is_some());
    let flow = &config.server.limits.flow;
    assert!(flow.outbox_bytes >= 256 << 10);
    assert!(flow.outbox_messages >= 2 && flow.inbox_messages >= 1);
    for (path, resource) in &config.resources {
        assert!(path.starts_with('/'));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(!resource.plugin.is_empty() && resource.plugin.chars().all(is_name));
        let settings: serde_json::Value = serde_json::from_str(&resource.config.json).unwrap();
        assert!(settings.is_object());
    }
    let again = parse(&format!("{text}\n# a comment\n")).expect("a comment changes nothing");
    assert_eq!(again, *config);
    assert!(config.diff(&again).is_empty());
    // What a running host applies of it is a complete configuration that needs no restart.
    let running = parse("").expect("everything has a default");
    let mut next = config.clone();
    running.keep_until_restart(&mut next);
    assert!(running.diff(&next).restart.is_empty());
    assert_eq!(running.diff(&next).server, running.diff(config).server);
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, PATH)
}

const PATH: &str = "/etc/plugsocket/plugins.toml";
