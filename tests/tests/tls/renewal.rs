//! Certificate files that change while the host runs.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::SystemTime;

use plugsocket_tests::{Authority, Client, Issued, Line, Request, within};

use crate::{DAY, problem, secure, setup};

#[tokio::test]
async fn a_certificate_is_renewed_while_connections_stay() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let host = setup().with_tls(&old).start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    let mut client = Client::open(&address, Request::to("/echo")).await;
    assert_eq!(address.certificate().await, old.der());

    // In two steps with a pause.
    let position = host.log_position();
    host.put("own.pem", &new.certificate);
    let line = host.wait_for_error(position, "is not the key of").await;
    let (pem, key) = (host.folder().join("own.pem"), host.folder().join("own.key"));
    assert_eq!(line.message(), "certificate file rejected; the previous one stays in service");
    let expected = format!(
        "{} is not the key of {}; use a pair that was created together",
        key.display(),
        pem.display()
    );
    assert_eq!(line.field("problem"), expected);
    assert_eq!(line.field("key"), "server.tls.certificates[0].key");
    assert_eq!(address.certificate().await, old.der());
    assert!(problem(&host).await.as_str().unwrap().contains("is not the key"));
    host.put("own.key", &new.key);
    let in_service = |line: &Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new certificate", in_service).await;
    assert_eq!(address.certificate().await, new.der());
    let errors = host.log().into_iter().filter(|line| line.level() == "ERROR").count();
    assert_eq!(errors, 1, "one error, although the files are tried repeatedly");

    client.send("still here").await;
    assert_eq!(client.receive_text().await, "still here");
}

#[tokio::test]
async fn invalid_certificate_files_keep_the_previous_certificate() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let host = setup().with_tls(&own).start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    let expired = authority.issue_until(&["localhost"], SystemTime::now() - DAY);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (file, content, expected) in [
        ("own.pem", &*expired.certificate, "expired on"),
        ("own.pem", "", "contains no certificate"),
        ("own.pem", &*own.key, "contains no certificate"),
        (
            "own.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "is not a well-formed certificate",
        ),
        ("own.key", "", "contains no private key"),
        ("own.key", encrypted, "is encrypted"),
        ("own.key", &*expired.key, "is not the key of"),
    ] {
        let position = host.log_position();
        host.put(file, content);
        let line = host.wait_for_error(position, expected).await;
        assert!(
            line.field("problem").starts_with(&*host.folder().join(file).to_string_lossy()),
            "{line}"
        );
        assert_eq!(address.certificate().await, own.der(), "{expected}");
        host.put("own.pem", &own.certificate);
        host.put("own.key", &own.key);
        let is_resolved = async { while !problem(&host).await.is_null() {} };
        within("the problem to be resolved", is_resolved).await;
    }
    let position = host.log_position();
    std::fs::remove_file(host.folder().join("own.key")).unwrap();
    host.wait_for_error(position, "cannot be read: No such file").await;
    assert_eq!(address.certificate().await, own.der());
}

#[tokio::test]
async fn sessions_are_resumed_until_the_certificate_changes() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let host = setup().with_tls(&own).start().await;
    // The session ticket arrives with the handshake.
    let address = authority.tls12_address(secure(&host), "localhost");
    assert!(!address.resumes().await && address.resumes().await);
    let position = host.log_position();
    host.put("own.key", "");
    host.wait_for_error(position, "contains no private key").await;
    // The host rereads the files during this loop.
    for _ in 0..20 {
        assert!(!problem(&host).await.is_null() && address.resumes().await);
    }
    host.put("own.key", &own.key);
    within("the problem to be resolved", async { while !problem(&host).await.is_null() {} }).await;
    assert!(address.resumes().await);
    let (position, new) = (host.log_position(), authority.issue(&["localhost"]));
    host.put("own.pem", &new.certificate);
    host.put("own.key", &new.key);
    let in_service = |line: &Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new certificate", in_service).await;
    assert!(!address.resumes().await && address.resumes().await);
}

#[tokio::test]
async fn symbolic_links_may_be_switched_as_by_certbot() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let folder = std::env::temp_dir().join(format!("plugsocket-certbot-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("archive")).unwrap();
    std::fs::create_dir_all(folder.join("live")).unwrap();
    let install = |n: u8, issued: &Issued| {
        for (name, content) in [("fullchain", &issued.certificate), ("privkey", &issued.key)] {
            std::fs::write(folder.join(format!("archive/{name}{n}.pem")), content).unwrap();
            let live = folder.join(format!("live/{name}.pem"));
            drop(std::fs::remove_file(&live));
            symlink(format!("../archive/{name}{n}.pem"), live).unwrap();
        }
    };
    install(1, &old);
    let entry = format!(
        r#"[{{ certificate = "{0}/live/fullchain.pem", key = "{0}/live/privkey.pem" }}]"#,
        folder.display()
    );
    let host = setup().with_tls(&old).tls("certificates", &entry).start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    assert_eq!(address.certificate().await, old.der());
    let position = host.log_position();
    install(2, &new);
    let in_service = |line: &Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new certificate", in_service).await;
    assert_eq!(address.certificate().await, new.der());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_list_of_certificates_changes_with_the_configuration_or_not_at_all() {
    let authority = Authority::default();
    let (one, two) = (authority.issue(&["one.example"]), authority.issue(&["two.example"]));
    let setup = setup().put("two.pem", &two.certificate).put("two.key", &two.key);
    let mut host = setup.with_tls(&one).start().await;
    let both = r#"[{ certificate = "own.pem", key = "own.key" }, { certificate = "two.pem", key = "KEY" }]"#;
    let address = authority.tls_address(secure(&host), "two.example");

    let position = host.log_position();
    let bad = host.setup().tls("certificates", &both.replace("KEY", "own.key"));
    host.write_config(&bad.toml());
    let line = host.wait_for_error(position, "server.tls.certificates[1].key").await;
    let line_number = bad.toml().lines().position(|l| l.starts_with("certificates")).unwrap() + 1;
    assert!(line.message().contains(&format!("plugins.toml:{line_number}: ")), "{line}");
    assert!(line.message().contains("is not the key of"), "{line}");
    host.wait_for_error(position, "configuration not applied").await;
    assert!(address.try_connect().await.is_err());

    let good = host.setup().tls("certificates", &both.replace("KEY", "two.key"));
    host.apply(good).await;
    within("the new certificate", async { while address.try_connect().await.is_err() {} }).await;
    assert_eq!(address.certificate().await, two.der());

    // A change of `listen` needs a restart; the rest is applied.
    let position = host.log_position();
    let moved = host.setup().tls("listen", r#"["127.0.0.1:1"]"#).tls("tls_timeout", "7");
    host.apply(moved).await;
    let is_match = |line: &Line| line.field("keys") == "tls.listen";
    host.wait_for_log_since(position, "the restart warning", is_match).await;
    assert_eq!(address.certificate().await, two.der());
}

#[tokio::test]
async fn an_unreadable_private_key_is_retried() {
    let authority = Authority::default();
    let (old, new) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    // Root ignores file permissions, unless the capability is removed.
    let without = "--bounding-set=-dac_override,-dac_read_search";
    let setup = setup().with_tls(&old);
    let setup = if is_root() { setup.launcher(&["setpriv", without]) } else { setup };
    let host = setup.start().await;
    let address = authority.tls_address(secure(&host), "localhost");
    let key = host.folder().join("own.key");
    let position = host.log_position();
    host.put("own.pem", &new.certificate);
    host.put("own.key", &new.key);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o000)).unwrap();
    host.wait_for_error(position, "Permission denied").await;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let in_service = |line: &Line| line.message() == "certificate in service";
    host.wait_for_log_since(position, "the new certificate", in_service).await;
    assert_eq!(address.certificate().await, new.der());
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t")
}
