//! Certificates that are expired, about to expire, damaged or of the wrong type.

use std::time::{Duration, SystemTime};

use plugsocket_tests::{Authority, Line, within};
use serde_json::Value;

use crate::{DAY, certificate, problem, setup};

#[tokio::test]
async fn an_expired_or_damaged_client_ca_is_reported() {
    let now = SystemTime::now();
    let (authority, fresh) = (Authority::default(), Authority::default());
    let setup = setup().with_tls(&authority.issue(&["localhost"]));
    let setup = setup.tls("client_ca", r#""ca.pem""#);
    let both = Authority::until(now - DAY).pem() + &fresh.pem();
    let host = setup.put("ca.pem", both).start().await;
    let is_expired =
        |line: &Line| line.level() == "WARN" && line.starts_with("client authority expired");
    let line = host.wait_for_log("a warning", is_expired).await;
    assert!(line.field("file").ends_with("/ca.pem"), "{line}");
    let found = certificate(&host, 1).await;
    assert_eq!(found["key"], "server.tls.client_ca");
    assert!(found["problem"].as_str().unwrap().starts_with("expired on "), "{found}");
    assert!(problem(&host).await.is_null());

    host.put("ca.pem", fresh.pem());
    let is_resolved = async { while !certificate(&host, 1).await["problem"].is_null() {} };
    within("the problem to be resolved", is_resolved).await;
    let position = host.log_position();
    host.put("ca.pem", "-----BEGIN CERTIFICATE-----\n!\n");
    host.wait_for_error(position, "is damaged PEM").await;
    let found = certificate(&host, 1).await;
    assert!(found["problem"].as_str().unwrap().contains("is damaged PEM"), "{found}");
    let (_, table) = host.command(&["status"]).await;
    let row = table.lines().find(|line| line.starts_with("server.tls.client_ca ")).unwrap();
    assert!(row.contains("is damaged PEM"), "{row}");

    let position = host.log_position();
    host.put("ca.pem", Authority::until(now + 10 * DAY + DAY / 2).pem());
    let is_warning = |line: &Line| line.starts_with("certificate expires soon");
    let line = host.wait_for_log_since(position, "a warning", is_warning).await;
    assert_eq!(line.field("days_left"), "10");
}

#[tokio::test]
async fn a_certificate_that_expires_at_run_time_is_reported() {
    let authority = Authority::default();
    let short_lived =
        authority.issue_until(&["localhost"], SystemTime::now() + Duration::from_secs(3));
    let host = setup().with_tls(&short_lived).start().await;
    assert!(problem(&host).await.is_null());
    host.wait_for_error(0, "certificate expired").await;
    assert!(problem(&host).await.as_str().unwrap().starts_with("expired on "));
    let (_, output) = host.command(&["status"]).await;
    assert!(output.contains("; renew it"), "{output}");
}

#[tokio::test]
async fn the_whole_chain_is_checked_and_text_around_pem_is_ignored() {
    let authority = Authority::default();
    let own = authority.issue(&["localhost"]);
    let expired = authority.issue_until(&["x"], SystemTime::now() - DAY).certificate;
    let old_form = own.key.replace("KEY-----\nM", "KEY-----\nProc-Type: 4,ENCRYPTED\n\nM");
    let (fine, noted) = ("fine", format!("NOT ENCRYPTED, keep it safe\n{}", own.key));
    for (behind, key, expected) in [
        (authority.pem(), &noted, fine),
        (OF_VERSION_1.to_owned(), &own.key, fine),
        (truncated(&authority.pem()), &own.key, "certificate 2 of "),
        (authority.pem() + &expired, &own.key, "certificate 3 of "),
        (String::new(), &old_form, "own.key is encrypted"),
    ] {
        let setup = setup().with_tls(&own).put("own.pem", own.certificate.clone() + &behind);
        let outcome = setup.put("own.key", key).run(&["check"]).await;
        let is_fine = outcome.code == Some(0);
        assert!(is_fine == (expected == fine), "{outcome:?}");
        assert!(is_fine || outcome.stderr.contains(expected), "{outcome:?}");
    }
}

/// Created by `openssl x509 -req` of OpenSSL 3.0 without extensions; valid until 2126.
const OF_VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBHjCBxAIUUirUwSHhhn3ybtdxZ38AN5oj+DwwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCY2EwIBcNMjYxMTI1MTQxMTU1WhgPMjEyNjExMDExNDExNTVaMBQxEjAQ
BgNVBAMMCWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABF2o9MDl
M2f2azMqQky/PPaoRcZsK/i2IqHfBHtyETasPgTTbyGM8K+4NnNphoIc6qdSPaVP
BQSyNEc7BnZy1D8wCgYIKoZIzj0EAwIDSQAwRgIhAIpfshMrKQEbJgqhp8jYreuq
A0GpBDsyKqpKj1t1tWsFAiEAggxAs+muYLM4027vsQrb7gQ6fofx1Uher9OKHgzz
bRI=
-----END CERTIFICATE-----\n";

/// Returns valid PEM with a truncated certificate.
fn truncated(pem: &str) -> String {
    let der = pem.lines().filter(|line| !line.starts_with('-')).take(2).collect::<String>();
    format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn certificate_errors_at_startup_are_reported_with_their_line() {
    let (authority, now) = (Authority::default(), SystemTime::now());
    let own = authority.issue(&["localhost"]);
    let other = authority.issue(&["localhost"]);
    let fine = setup().with_tls(&own);
    let line = fine.toml().lines().position(|l| l.starts_with("certificates")).unwrap() + 1;
    assert_eq!(fine.run(&["check"]).await.code, Some(0));
    for (setup, part, expected) in [
        (fine.clone().put("own.key", &other.key), "certificates[0].key", "is not the key of"),
        (fine.clone().put("own.key", "x"), "certificates[0].key", "contains no private key"),
        (
            fine.clone().put("own.pem", "x"),
            "certificates[0].certificate",
            "contains no certificate",
        ),
        (
            fine.clone().put("own.pem", authority.issue_until(&["x"], now - DAY).certificate),
            "certificates[0].certificate",
            "expired on",
        ),
        (
            fine.clone().put("own.pem", OF_VERSION_1),
            "certificates[0].certificate",
            "own.pem is an X.509 certificate of version 1; version 3 is required",
        ),
        (
            fine.clone().tls("certificates", r#"[{ certificate = "own.pem", key = "none" }]"#),
            "certificates[0].key",
            "cannot be read: No such file",
        ),
    ] {
        for command in ["check", "run"] {
            let outcome = setup.run(&[command]).await;
            assert_eq!(outcome.code, Some(1), "{outcome:?}");
            let place = format!("plugins.toml:{line}: server.tls.{part}: ");
            assert!(outcome.stderr.contains(&place), "{outcome:?}");
            assert!(outcome.stderr.contains(expected), "{outcome:?}");
        }
    }
    let authorities = fine.tls("client_ca", r#""own.key""#).run(&["check"]).await;
    assert!(authorities.stderr.contains("server.tls.client_ca: "), "{authorities:?}");
    assert!(authorities.stderr.contains("one of each authority"), "{authorities:?}");
}

#[tokio::test]
async fn names_and_expiry_are_shown_and_a_near_expiry_is_a_warning() {
    let authority = Authority::default();
    let soon = authority
        .issue_until(&["soon.example", "*.soon.example"], SystemTime::now() + 10 * DAY + DAY / 2);
    let host = setup().with_tls(&soon).start().await;
    let is_warning = |line: &Line| line.starts_with("certificate expires soon");
    let line = host.wait_for_log("a warning", is_warning).await;
    assert_eq!(line.field("days_left"), "10");
    let (_, output) = host.command(&["status"]).await;
    assert!(output.contains("soon.example *.soon.example"), "{output}");
    let (_, output) = host.command(&["status", "--json"]).await;
    let certificate = &serde_json::from_str::<Value>(&output).unwrap()["certificates"][0];
    assert_eq!(certificate["days_left"], 10);
    assert_eq!(certificate["names"], serde_json::json!(["soon.example", "*.soon.example"]));
    assert_eq!(certificate["expires"], line.field("expires"));
    assert_eq!(host.log().into_iter().filter(is_warning).count(), 1, "once a day");
}
