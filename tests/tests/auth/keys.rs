//! Key files for tokens: which are accepted, and what happens when they change while the host runs.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use plugsocket_tests::{Line, Setup};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::{
    HS256, PROGRAM, SECRET, now, part, refused, request, signed, token_of, user_of, with_tokens,
};

#[tokio::test]
async fn a_changed_key_is_loaded_and_an_invalid_one_keeps_the_previous() {
    let host = with_tokens().start().await;
    let path = host.folder().join("secret.key");
    let second = "another secret of thirty-two bytes";
    let of = |secret: &str| signed(&json!({"sub": "ann", "exp": now() + 600}), secret);
    let position = host.log_position();
    std::fs::write(&path, second).unwrap();
    let is_reload =
        |line: &Line| line.starts_with("token keys reloaded") && line.field("resource") == "/plain";
    let is_refusal =
        |line: &Line| line.starts_with("token keys rejected") && line.field("resource") == "/plain";
    host.wait_for_log_since(position, "the new key", is_reload).await;
    host.open(request("/plain", &of(second))).await;
    assert_eq!(
        refused(&host, "/plain", &format!("Authorization: Bearer {}\r\n", of(SECRET))).await.status,
        401
    );
    for (content, reason) in [("short", "the secret has 5 bytes"), ("", "the secret has 0 bytes")] {
        let position = host.log_position();
        std::fs::write(&path, content).unwrap();
        let line = host.wait_for_log_since(position, "an error", is_refusal).await;
        assert!(line.field("reason").contains(reason), "{line}");
        assert!(line.field("reason").contains("secret.key"), "{line}");
        host.open(request("/plain", &of(second))).await;
    }
    let position = host.log_position();
    std::fs::remove_file(&path).unwrap();
    let line = host.wait_for_log_since(position, "an error", is_refusal).await;
    assert!(line.field("reason").contains("secret.key cannot be read"), "{line}");
    host.open(request("/plain", &of(second))).await;
    let position = host.log_position();
    std::fs::write(&path, SECRET).unwrap();
    host.wait_for_log_since(position, "the first key", is_reload).await;
    host.open(request("/plain", &of(SECRET))).await;
}

/// Removes root's capability to ignore file permissions.
fn without_dac_override(setup: Setup) -> Setup {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let without = "--bounding-set=-dac_override,-dac_read_search";
    if is_root { setup.launcher(&["setpriv", without]) } else { setup }
}

#[tokio::test]
async fn an_unreadable_key_is_loaded_once_permissions_allow() {
    let host = without_dac_override(with_tokens()).start().await;
    let path = host.folder().join("secret.key");
    let second = "another secret of thirty-two bytes";
    let position = host.log_position();
    let next = host.folder().join("next");
    std::fs::write(&next, second).unwrap();
    std::fs::set_permissions(&next, Permissions::from_mode(0o000)).unwrap();
    std::fs::rename(&next, &path).unwrap();
    let is_plain = |line: &Line| line.field("resource") == "/plain";
    let is_refusal = |line: &Line| line.starts_with("token keys rejected") && is_plain(line);
    let line = host.wait_for_log_since(position, "an error", is_refusal).await;
    assert!(line.field("reason").contains("Permission denied"), "{line}");
    // Only the permissions change.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let is_reload = |line: &Line| line.starts_with("token keys reloaded") && is_plain(line);
    host.wait_for_log_since(position, "the new key", is_reload).await;
    let signed = signed(&json!({"sub": "ann", "exp": now() + 600}), second);
    host.open(request("/plain", &signed)).await;
    let errors = host.log().into_iter().filter(is_refusal).count();
    assert_eq!(errors, 1, "one error, although the file is tried repeatedly");
}

#[tokio::test]
async fn an_unusable_key_in_a_set_is_skipped_and_no_key_material_is_logged() {
    let k = URL_SAFE_NO_PAD.encode(SECRET);
    let set = json!({"keys": [{"kty": "oct", "k": k}, {"kty": "oct", "k": ["s3cr3t"]}]});
    let setup = Setup::new(PROGRAM).plain("/plain", "speaker").put("keys.json", set.to_string());
    let host = setup.auth("/plain", "keys", r#"[{ jwks = "keys.json" }]"#).start().await;
    let is_match = |line: &Line| line.starts_with("unusable keys of a key set skipped");
    let line = host.wait_for_log("the warning", is_match).await;
    assert_eq!((line.level(), line.field("skipped")), ("WARN", "1".to_owned()), "{line}");
    assert!(line.field("first").starts_with("key 2: a member is missing"), "{line}");
    host.open(request("/plain", &token_of("ann"))).await;
    for broken in [&*format!(r#"{{"keys":"{k}"}}"#), r#"{"keys":[{"kty":"oct","k":s3cr3t}]}"#] {
        let position = host.log_position();
        std::fs::write(host.folder().join("keys.json"), broken).unwrap();
        let line = host.wait_for_error(position, "not a JSON Web Key Set").await;
        assert!(!line.text().contains("s3cr3t") && !line.text().contains(&k), "{line}");
        host.open(request("/plain", &token_of("ann"))).await;
    }
}

#[tokio::test]
async fn unusable_keys_reject_the_configuration() {
    let outcome = with_tokens().put("secret.key", "short").run(&["check"]).await;
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("secret.key cannot be used: the secret has 5 bytes"),
        "{outcome:?}"
    );
    let mut host = Setup::new(PROGRAM).resource("/open", "speaker").start().await;
    let mut client = host.connect("/open").await;
    let good = host.setup();
    let position = host.log_position();
    host.write_config(&good.clone().auth("/open", "keys", HS256).toml());
    host.wait_for_error(position, "configuration not applied").await;
    // Existing and new connections are still accepted without a token.
    assert_eq!(user_of(&mut client).await, Value::Null);
    host.connect("/open").await;
    // With its key file it is applied, to new connections only, and can be reverted.
    std::fs::write(host.folder().join("secret.key"), SECRET).unwrap();
    let line = host.apply(good.clone().auth("/open", "keys", HS256)).await;
    assert!(line.field("guarded").contains("/open"), "{line}");
    assert_eq!(refused(&host, "/open", "").await.status, 401);
    assert_eq!(user_of(&mut client).await, Value::Null);
    host.open(request("/open", &token_of("ann"))).await.ready().await;
    host.apply(good).await;
    host.connect("/open").await;
}

#[tokio::test]
async fn each_unusable_key_file_is_reported_with_its_line() {
    let keys = r#"[{ algorithm = "HS256", file = "none.key" }, { algorithm = "HS256", file = "public.pem" },
  { algorithm = "RS256", file = "secret.key" },
  { algorithm = "HS256", file = "plugins" }, { jwks = "secret.key" }]"#;
    let setup = Setup::new(PROGRAM).resource("/open", "speaker").put("secret.key", SECRET);
    let setup = setup.put("public.pem", "-----BEGIN PUBLIC KEY-----\n");
    let bad = setup.clone().auth("/open", "keys", keys).resource("/also", "speaker");
    let bad = bad.auth("/also", "keys", r#"[{ jwks = "none.json" }]"#);
    let toml = bad.toml();
    let line_of = |part: &str| toml.lines().position(|line| line.contains(part)).unwrap() + 1;
    let check_errors = |text: &str| {
        for (part, key, output) in [
            ("none.json", r#""/also".auth.keys[0].jwks"#, "none.json cannot be read: No such file"),
            ("none.key", r#""/open".auth.keys[0].file"#, "none.key cannot be read: No such file"),
            ("public.pem", r#""/open".auth.keys[1].file"#, "public.pem cannot be used: a PEM"),
            (
                "RS256",
                r#""/open".auth.keys[2].file"#,
                "secret.key cannot be used: not a public key",
            ),
            (
                "jwks = \"secret",
                r#""/open".auth.keys[3].file"#,
                "plugins cannot be read: not a regular file",
            ),
            (
                "jwks = \"secret",
                r#""/open".auth.keys[4].jwks"#,
                "secret.key cannot be used: not a JSON",
            ),
        ] {
            let place = format!("plugins.toml:{}: resources.{key}: the key file ", line_of(part));
            let line = text.lines().find(|line| line.contains(&place));
            assert!(line.is_some_and(|line| line.contains(output)), "{place}…{output} in {text}");
        }
    };
    for command in ["check", "run"] {
        let outcome = bad.run(&[command]).await;
        assert_eq!(outcome.code, Some(1));
        check_errors(&outcome.stderr);
    }
    let host = setup.start().await;
    host.write_config(&toml);
    let (code, output) = host.command(&["reload"]).await;
    assert_eq!(code, 1);
    check_errors(&output);
    let position = host.log_position();
    host.write_config(&toml);
    host.wait_for_error(position, "configuration not applied").await;
    let errors = host.log().into_iter().skip(position).filter(|line| line.level() == "ERROR");
    check_errors(&errors.map(|line| line.message().to_owned() + "\n").collect::<String>());
    host.connect("/open").await;
}

#[tokio::test]
async fn a_public_key_verifies_signatures_and_is_not_accepted_as_an_hmac_secret() {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let der =
        [&b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"[..], pair.public_key().as_ref()];
    let body = STANDARD.encode(der.concat());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
    let keys = r#"[{ algorithm = "EdDSA", file = "public.pem", kid = "a" }]"#;
    let setup = Setup::new(PROGRAM).plain("/x", "speaker").put("public.pem", &pem);
    let setup = setup.auth("/x", "keys", keys).auth("/x", "audience", r#"["chat"]"#);
    let host = setup.auth("/x", "issuer", "\"us\"").start().await;
    let claims = json!({"sub": "ann", "exp": now() + 60, "aud": ["chat"], "iss": "us"});
    let message = format!("{}.{}", part(&json!({"alg": "EdDSA", "kid": "a"})), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
    host.open(request("/x", &format!("{message}.{signature}"))).await;
    // Signed with the public key as an HMAC secret.
    let forged = format!("Authorization: Bearer {}\r\n", signed(&claims, &pem));
    assert_eq!(refused(&host, "/x", &forged).await.status, 401);
}
