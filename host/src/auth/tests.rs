//! Tests of tokens and key files.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::keys::{self, Key};
use super::token::{self, TokenError};
use super::*;
use crate::config::{Algorithm, KeyForm, TokenRules};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn single(algorithm: Algorithm) -> KeyForm {
    KeyForm::Single { algorithm, is_base64url: false, kid: None }
}

fn read(bytes: &[u8], form: &KeyForm) -> Vec<Key> {
    keys::read(bytes, form).unwrap().keys
}

fn key(text: &str, algorithm: Algorithm) -> Vec<Key> {
    read(text.as_bytes(), &single(algorithm))
}

fn rules() -> TokenRules {
    TokenRules {
        keys: vec![],
        from: vec![Source::Header],
        leeway: Duration::from_secs(30),
        require_exp: true,
        issuer: None,
        audience: vec![],
        user_claim: "sub".to_owned(),
        close_on_expiry: false,
    }
}

/// Returns a token with a valid signature of `secret`.
fn token(header: &str, claims: &str, secret: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

const HS: &str = r#"{"alg":"HS256"}"#;
/// 1,000,000 seconds after the epoch.
const NOW: u64 = 1_000_000;

fn verify(token: &str, keys: &[Key], rules: &TokenRules) -> Result<String, TokenError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    token::verify(token, keys, rules, now).map(|verified| verified.user)
}

#[track_caller]
fn check_claims(claims: &str, rules: &TokenRules, expected: Result<&str, TokenError>) {
    let keys = read(SECRET, &single(Algorithm::Hs256));
    let found = verify(&token(HS, claims, SECRET), &keys, rules);
    assert_eq!(found, expected.map(str::to_owned), "{claims}");
}

#[test]
fn claims_are_valid_within_their_time_and_for_their_audience() {
    let plain = rules();
    for (claims, expected) in [
        (r#"{"sub":"ann","exp":1000001}"#, Ok("ann")),
        (r#"{"sub":"ann","exp":1000001.5}"#, Ok("ann")),
        (r#"{"sub":7,"exp":1e9}"#, Ok("7")),
        (r#"{"sub":-7,"exp":1e9}"#, Ok("-7")),
        (r#"{"sub":18446744073709551615,"exp":1e9}"#, Ok("18446744073709551615")),
        (r#"{"sub":18446744073709551616,"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":12345678901234567890123,"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":7.0,"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":1e3,"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":"a\nb","exp":1e9}"#, Err(TokenError::UnfitUser)),
        (r#"{"sub":"\u0000","exp":1e9}"#, Err(TokenError::UnfitUser)),
        (r#"{"sub":"ann","exp":999971}"#, Ok("ann")),
        (r#"{"sub":"ann","exp":999970}"#, Err(TokenError::Expired)),
        (r#"{"sub":"ann","exp":-1}"#, Err(TokenError::Expired)),
        (r#"{"sub":"ann"}"#, Err(TokenError::NoExpiry)),
        (r#"{"sub":"ann","exp":"1000001"}"#, Err(TokenError::Malformed)),
        (r#"{"sub":"ann","exp":null}"#, Err(TokenError::Malformed)),
        (r#"{"sub":"ann","exp":1e9,"nbf":1000030}"#, Ok("ann")),
        (r#"{"sub":"ann","exp":1e9,"nbf":1000031}"#, Err(TokenError::NotYet)),
        (r#"{"sub":"ann","exp":1e9,"nbf":"soon"}"#, Err(TokenError::Malformed)),
        (r#"{"sub":"","exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":["ann"],"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"exp":1e9}"#, Err(TokenError::NoUser)),
        (r#"{"sub":"ann","exp":1e9,"aud":"chat"}"#, Err(TokenError::Audience)),
        (r#"{"sub":"ann","exp":1e999999}"#, Err(TokenError::Malformed)),
        (r#"{"sub":"ann","exp":1e300}"#, Ok("ann")),
        (r#"["sub"]"#, Err(TokenError::Malformed)),
        ("", Err(TokenError::Malformed)),
    ] {
        check_claims(claims, &plain, expected);
    }
    let strict = TokenRules {
        issuer: Some("us".to_owned()),
        audience: vec!["chat".to_owned(), "web".to_owned()],
        require_exp: false,
        user_claim: "uid".to_owned(),
        ..rules()
    };
    for (claims, expected) in [
        (r#"{"uid":"ann","iss":"us","aud":"chat"}"#, Ok("ann")),
        (r#"{"uid":"ann","iss":"us","aud":["x","web"]}"#, Ok("ann")),
        (r#"{"uid":"ann","iss":"us","aud":["x"]}"#, Err(TokenError::Audience)),
        (r#"{"uid":"ann","iss":"us"}"#, Err(TokenError::Audience)),
        (r#"{"uid":"ann","iss":"them","aud":"chat"}"#, Err(TokenError::Issuer)),
        (r#"{"uid":"ann","aud":"chat"}"#, Err(TokenError::Issuer)),
        (r#"{"sub":"ann","iss":"us","aud":"chat"}"#, Err(TokenError::NoUser)),
    ] {
        check_claims(claims, &strict, expected);
    }
}

#[test]
fn deeply_nested_and_huge_claims_are_refused() {
    for bomb in [
        format!(r#"{{"sub":"ann","exp":1e9,"x":{}}}"#, "[".repeat(1000)),
        format!(r#"{{"sub":"ann","exp":1e9,"x":{}{}}}"#, "[".repeat(500), "]".repeat(500)),
        format!(r#"{{"sub":"ann","exp":1e9,"x":1e{}}}"#, "9".repeat(50)),
        "{".repeat(3000),
    ] {
        check_claims(&bomb, &rules(), Err(TokenError::Malformed));
    }
    for (length, expected) in [(1024, Ok(())), (1025, Err(TokenError::UnfitUser))] {
        let user = "x".repeat(length);
        let claims = format!(r#"{{"sub":"{user}","exp":1e9}}"#);
        check_claims(&claims, &rules(), expected.map(|()| &*user));
    }
    let digits = format!(r#"{{"sub":"ann","exp":1e9,"x":{}}}"#, "9".repeat(300));
    check_claims(&digits, &rules(), Ok("ann"));
    check_claims(&"x".repeat(10_000), &rules(), Err(TokenError::TooLong));
}

#[test]
fn duplicate_claims_reach_the_application_once() {
    let keys = read(SECRET, &single(Algorithm::Hs256));
    let token = token(HS, r#"{"sub":"ann","exp":1e9,"role":"user","sub":"bob"}"#, SECRET);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let verified = token::verify(&token, &keys, &rules(), now).unwrap();
    let claims: Value = serde_json::from_str(&verified.claims).unwrap();
    assert_eq!((verified.user.as_str(), verified.claims.matches("sub").count()), ("bob", 1));
    assert_eq!(claims, json!({"sub": "bob", "exp": 1e9, "role": "user"}));
    assert_eq!(verified.until, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
}

#[test]
fn a_key_verifies_only_its_own_algorithm() {
    let set = read(SET.as_bytes(), &KeyForm::Set);
    assert_eq!(set.len(), 3);
    let tokens = [RS256_TOKEN, ES256_TOKEN, EDDSA_TOKEN];
    let singles =
        [key(RSA, Algorithm::Rs256), key(P256, Algorithm::Es256), key(ED25519, Algorithm::EdDsa)];
    for (at, token) in tokens.iter().enumerate() {
        assert_eq!(verify(token, &set, &rules()), Ok("ann".to_owned()));
        for (other, keys) in singles.iter().enumerate() {
            let expected =
                if at == other { Ok("ann".to_owned()) } else { Err(TokenError::Algorithm) };
            assert_eq!(verify(token, keys, &rules()), expected);
        }
        let (signed, _) = token.rsplit_once('.').unwrap();
        for forged in [
            format!("{signed}."),
            format!("{signed}.AAAA"),
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 256])),
        ] {
            assert_eq!(verify(&forged, &singles[at], &rules()), Err(TokenError::Signature));
        }
    }
}

#[test]
fn the_header_of_a_token_does_not_choose_the_algorithm() {
    let claims = r#"{"sub":"ann","exp":1e9}"#;
    let hs = read(SECRET, &single(Algorithm::Hs256));
    for alg in ["none", "None", "NONE", "nOnE", "", "HS384", "hs256", "RS256", "EdDSA"] {
        let header = json!({"alg": alg}).to_string();
        assert_eq!(
            verify(&token(&header, claims, SECRET), &hs, &rules()),
            Err(TokenError::Algorithm),
            "{alg}"
        );
        let unsigned = token(&header, claims, SECRET);
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(verify(&unsigned, &hs, &rules()), Err(TokenError::Algorithm), "{alg}");
    }
    // A public key used as the secret.
    for public in [RSA, P256, ED25519] {
        let algorithm = match public {
            RSA => Algorithm::Rs256,
            P256 => Algorithm::Es256,
            _ => Algorithm::EdDsa,
        };
        let forged = token(HS, claims, public.as_bytes());
        assert_eq!(verify(&forged, &key(public, algorithm), &rules()), Err(TokenError::Algorithm));
    }
    assert_eq!(verify(&token(HS, claims, &[b'x'; 32]), &hs, &rules()), Err(TokenError::Signature));
    for (header, expected) in [
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, TokenError::Algorithm),
        (r#"{"alg":"HS256","alg":"HS256"}"#, TokenError::Malformed),
        (r#"{"alg":["HS256"]}"#, TokenError::Malformed),
        (r#"{"alg":"HS256","crit":null}"#, TokenError::Algorithm),
        (r#"{"crit":1e999,"alg":"HS256"}"#, TokenError::Algorithm),
        (r#"["HS256"]"#, TokenError::Malformed),
        (r#" ["HS256","k1",null]"#, TokenError::Malformed),
        (r#""HS256""#, TokenError::Malformed),
        (r"{}", TokenError::Malformed),
        ("", TokenError::Malformed),
    ] {
        assert_eq!(
            verify(&token(header, claims, SECRET), &hs, &rules()),
            Err(expected),
            "{header}"
        );
    }
    for junk in ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d.e", "\u{e4}.\u{e4}.\u{e4}"] {
        assert_eq!(verify(junk, &hs, &rules()), Err(TokenError::Malformed), "{junk}");
    }
}

#[test]
fn only_the_named_key_is_tried() {
    let named = |kid: &str| KeyForm::Single {
        algorithm: Algorithm::Hs256,
        is_base64url: false,
        kid: Some(kid.to_owned()),
    };
    let mut both = read(SECRET, &named("old"));
    both.extend(read(&[b'x'; 32], &named("new")));
    let claims = r#"{"sub":"ann","exp":1e9}"#;
    let with = |kid: &str| json!({"alg": "HS256", "kid": kid}).to_string();
    for (header, secret, expected) in [
        (with("old"), SECRET, Ok("ann".to_owned())),
        (with("new"), SECRET, Err(TokenError::Signature)),
        (with("new"), &[b'x'; 32][..], Ok("ann".to_owned())),
        (with("other"), SECRET, Err(TokenError::Algorithm)),
        (HS.to_owned(), SECRET, Ok("ann".to_owned())),
    ] {
        assert_eq!(verify(&token(&header, claims, secret), &both, &rules()), expected, "{header}");
    }
}

/// Changes one letter, which moves a point of P-256 off the curve.
fn off_curve(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_owned();
    bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

#[track_caller]
fn check_set(members: &str, expected: (usize, &[&str])) {
    let read = keys::read(format!(r#"{{"keys":[{members}]}}"#).as_bytes(), &KeyForm::Set).unwrap();
    let skipped: Vec<_> = read.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(read.keys.len(), expected.0, "{members}");
    assert_eq!(skipped.len(), expected.1.len(), "{skipped:?}");
    for (skipped, expected) in skipped.iter().zip(expected.1) {
        assert!(skipped.starts_with(expected), "{skipped}");
    }
}

#[test]
fn unusable_keys_of_a_set_are_skipped_and_foreign_ones_ignored() {
    let good = r#"{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}"#;
    let number = |last| URL_SAFE_NO_PAD.encode([&[0xc5; 255][..], &[last]].concat());
    let rsa = |n, e| format!(r#"{{"kty":"RSA","n":"{}","e":"{e}"}}"#, number(n));
    check_set(&format!("{good},{}", rsa(1, "AQAB")), (2, &[]));
    for (member, skipped) in [
        (&*rsa(2, "AQAB"), &["key 2: damaged key: the RSA modulus is even"][..]),
        (&rsa(1, "AQAA"), &["key 2: damaged key: unusual RSA exponent"]),
        (&rsa(1, "AQ"), &["key 2: damaged key: unusual RSA exponent"]),
        (r#"{"kty":"oct","k":"c2hvcnQ"}"#, &["key 2: the secret has 5 bytes"]),
        (r#"{"kty":"oct","k":"no base64url"}"#, &["key 2: not base64url"]),
        (r#"{"kty":"oct","k":["s3cr3t"]}"#, &["key 2: a member is missing or has the wrong"]),
        (r#"{"k":"s3cr3t"}"#, &["key 2: a member is missing or has the wrong type"]),
        (r#""s3cr3t""#, &["key 2: a member is missing or has the wrong type"]),
        (r#"{"kty":"EC","crv":"P-256","x":"AQAB","y":"AQAB"}"#, &["key 2: damaged key"]),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#, &["key 2: the RSA key has 17 bits"]),
        (r#"{"kty":"EC","crv":"P-521"}"#, &[]),
        (r#"{"kty":"oct","k":"c2hvcnQ","use":"enc"}"#, &[]),
        (r#"{"kty":"oct","k":"c2hvcnQ","alg":"HS512"}"#, &[]),
        (r#"{"kty":"oct","k":"c2hvcnQ","key_ops":["sign"]}"#, &[]),
        (r#"{"kty":"oct","k":"c2hvcnQ","key_ops":[]}"#, &[]),
    ] {
        check_set(&format!("{good},{member}"), (1, skipped));
    }
    let both = good.replace("{", r#"{"key_ops":["sign","verify"],"#);
    check_set(&format!("{good},{both}"), (2, &[]));
}

#[track_caller]
fn check_key(bytes: &[u8], form: &KeyForm, expected: &str) {
    let found = match keys::read(bytes, form) {
        Ok(read) => format!("{} keys", read.keys.len()),
        Err(error) => error.to_string(),
    };
    assert!(found.starts_with(expected), "{form:?}: {found}");
}

#[test]
fn key_files_must_match_their_algorithm() {
    use Algorithm::{EdDsa, Es256, Hs256, Rs256};
    let base64url = KeyForm::Single { algorithm: Hs256, is_base64url: true, kid: None };
    for (bytes, form, expected) in [
        (SECRET, &single(Hs256), "1 keys"),
        (&SECRET[1..], &single(Hs256), "the secret has 31 bytes"),
        (b"", &single(Hs256), "the secret has 0 bytes"),
        (RSA.as_bytes(), &single(Hs256), "a PEM file is not a secret"),
        (b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n", &base64url, "1 keys"),
        (b"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", &base64url, "1 keys"),
        (b"not base64url, whatever it is. nnnnnnnnnnnnnnnnnn", &base64url, "not base64url"),
        (RSA.as_bytes(), &single(Rs256), "1 keys"),
        (P256.as_bytes(), &single(Es256), "1 keys"),
        (ED25519.as_bytes(), &single(EdDsa), "1 keys"),
        (SHORT_RSA.as_bytes(), &single(Rs256), "the RSA key has 1024 bits"),
        (P256.as_bytes(), &single(Rs256), "expected a key for RS256, found a P-256 key (ES256)"),
        (RSA.as_bytes(), &single(EdDsa), "expected a key for EdDSA, found an RSA key (RS256)"),
        (SECRET, &single(Rs256), "not a public key in PEM"),
        (
            b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
            &single(Rs256),
            "damaged key",
        ),
        (SET.as_bytes(), &KeyForm::Set, "3 keys"),
        (b"{\"keys\":[]}", &KeyForm::Set, "no usable key"),
        (b"{}", &KeyForm::Set, "not a JSON Web Key Set; expected an object"),
        (b"[[{}]]", &KeyForm::Set, "not a JSON Web Key Set; expected an object"),
        (br#"{"keys":{}}"#, &KeyForm::Set, "not a JSON Web Key Set; expected an object"),
        (br#"{"keys":[1]}"#, &KeyForm::Set, "a member is missing"),
        (br#"{"keys":[{"k":"AQAB"}]}"#, &KeyForm::Set, "a member is missing"),
        (
            b"{\"keys\":\n[s3cr3t]}",
            &KeyForm::Set,
            "not a JSON Web Key Set: JSON error (Syntax) in line 2, column 2",
        ),
        (br#"{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}"#, &KeyForm::Set, "the secret has 5 bytes"),
        (
            br#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#,
            &KeyForm::Set,
            "the RSA key has 17 bits",
        ),
        (off_curve(P256, 80).as_bytes(), &single(Es256), "damaged key: not an uncompressed point"),
        (off_curve(SET, SET.find("evT-").unwrap()).as_bytes(), &KeyForm::Set, "2 keys"),
    ] {
        check_key(bytes, form, expected);
    }
    // A truncated file is an error and does not panic.
    for (text, algorithm) in [(RSA, Rs256), (P256, Es256), (ED25519, EdDsa)] {
        let der = text.lines().filter(|line| !line.starts_with('-')).collect::<String>();
        for end in (0..der.len()).step_by(4) {
            let pem =
                format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", &der[..end]);
            assert!(keys::read(pem.as_bytes(), &single(algorithm)).is_err());
        }
    }
}

#[test]
fn a_trailing_line_feed_belongs_to_a_binary_secret_only() {
    let claims = r#"{"sub":"ann","exp":1e9}"#;
    let umlauts = "ä".repeat(20);
    let written = read(format!("{umlauts}\n").as_bytes(), &single(Algorithm::Hs256));
    assert!(verify(&token(HS, claims, umlauts.as_bytes()), &written, &rules()).is_ok());
    let text = read(&[SECRET, b"\r\n"].concat(), &single(Algorithm::Hs256));
    assert!(verify(&token(HS, claims, SECRET), &text, &rules()).is_ok());
    let bytes = [&[0xff; 31][..], b"\n"].concat();
    let keys = read(&bytes, &single(Algorithm::Hs256));
    assert!(verify(&token(HS, claims, &bytes), &keys, &rules()).is_ok());
}

#[test]
fn a_byte_order_mark_before_a_key_file_is_dropped() {
    let claims = r#"{"sub":"ann","exp":1e9}"#;
    let mark = "\u{feff}".as_bytes();
    let secret = read(&[mark, SECRET, b"\r\n"].concat(), &single(Algorithm::Hs256));
    assert!(verify(&token(HS, claims, SECRET), &secret, &rules()).is_ok());
    // A binary secret is not text.
    let binary = [mark, &[0xff; 32]].concat();
    let keys = read(&binary, &single(Algorithm::Hs256));
    assert!(verify(&token(HS, claims, &binary), &keys, &rules()).is_ok());
    for (text, form) in [(RSA, &single(Algorithm::Rs256)), (SET, &KeyForm::Set)] {
        read(&[mark, text.as_bytes()].concat(), form);
    }
}

#[test]
fn claims_reach_the_application_as_they_were_written() {
    let claims = r#"{"exp":1e9,"n":12345678901234567890123,"f":[1.10, -0.0],"sub":"ann"}"#;
    let keys = read(SECRET, &single(Algorithm::Hs256));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(999_999_999);
    let found = token::verify(&token(HS, claims, SECRET), &keys, &rules(), now).unwrap().claims;
    assert!(found.contains("12345678901234567890123") && found.contains("[1.10, -0.0]"), "{found}");
    assert!(found.contains(r#""exp":1e9"#), "{found}");
}

#[test]
fn exactly_one_token_is_found_in_the_configured_places() {
    let all = [
        Source::Header,
        Source::Query("t".to_owned()),
        Source::Cookie("s".to_owned()),
        Source::Subprotocol,
    ];
    let nothing = Err(TokenError::Missing);
    for (target, fields, expected) in [
        ("/", "", nothing),
        ("/", "Authorization: Bearer a.b.c\r\n", Ok("a.b.c")),
        ("/", "authorization: BEARER  a.b.c \r\n", Ok("a.b.c")),
        ("/", "Authorization: Basic dTpw\r\n", nothing),
        ("/", "Authorization: a.b.c\r\n", nothing),
        ("/", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", Err(TokenError::Several)),
        ("/?t=q", "", Ok("q")),
        ("/?x=1&t=q&y", "", Ok("q")),
        ("/?T=q", "", nothing),
        ("/?t=q&t=r", "", Err(TokenError::Several)),
        ("/?t=q", "Authorization: Bearer h\r\n", Ok("h")),
        ("/", "Cookie: a=b; s=c; d=e\r\n", Ok("c")),
        ("/", "Cookie: xs=c\r\n", nothing),
        ("/", "Cookie: s=c\r\nCookie: s=d\r\n", Err(TokenError::Several)),
        ("/", "Sec-WebSocket-Protocol: bearer, p.p.p\r\n", Ok("p.p.p")),
        (
            "/",
            "Sec-WebSocket-Protocol: v1, bearer\r\nSec-WebSocket-Protocol: p.p.p\r\n",
            Ok("p.p.p"),
        ),
        ("/", "Sec-WebSocket-Protocol: bearer\r\n", nothing),
        ("/", "Sec-WebSocket-Protocol: p.p.p, v1\r\n", nothing),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let (head, _) = Head::parse(text.as_bytes(), 8192).unwrap().unwrap();
        assert_eq!(token::find(&head, &all), expected, "{text}");
    }
}

// Created by openssl; the private keys were deleted. The tokens expire in 2100.
const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAkInpnfNq8fg3T70Nf0Hl
9DchL+QBA514vhHMuFYRYO9+z91cZ7RY5vsrIxNG2v5nlHX2UE6yWhQz+cttubWs
xoqEUKnTnQO+uTNYhPg6nUEq3h0e2R35bRK8ZNGmd+zs2JlyngoVJ/N7IE5ew9fn
qDVBTMDKsQD8kBJpvTDGyEok3wWLYgF+I8/JTEIrRuOxJVkuO4k5FD/wJtOsrjLB
yHm4SALIPhGpxrtID0oB5clRrYcUlICbpYzzw23EPXImwp6ehqsi2ZrfNwpQzHrr
4OcRt4QcnBRf3UdDFzC8CM3HwtayL4O98wepKrAvD682wAyMIfxrf4Lsjd1/KYRB
GQIDAQAB
-----END PUBLIC KEY-----\n";
const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEpSYkMbZm9rJPMJX3xLUiB45XFTfz
QpPOAl6PblsQD7Z69P7RJ1+naB6ZBzSRpraoGqs5xGtIJyyqYAnZ0LJ9GQ==
-----END PUBLIC KEY-----\n";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAhmMFK9DFkCkxMKFRzASUvQMgKCEfH6E75nyNW3fTLWE=
-----END PUBLIC KEY-----\n";
const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDaaauUm/2o76bUWa1HHqZixnr/
cE1wEJkwfq0SN1fgNFB+tHZM5HQYhOXIyPGyZBf6N0GbZmPRwseAWKcpJd3WuJsP
7APzIxQ2ISfN71ItF8ughFiYsHMAL0Ts9OynxP/to/pvjzhJ7bYVucEFXShguo5J
14Q4A0MgvuuiT1QjVQIDAQAB
-----END PUBLIC KEY-----\n";
const RS256_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogImsxIn0.eyJzdWIiOiAiYW5uIiwgImV4cCI6IDQxMDI0NDQ4MDB9.FdpNW517Jv072sQfmhrGmlVYJFfLtGqIP6V96VuldqwzX-XWmPy3Tu_x-u8I3jqY4ITF2zxzYARKviEkTQLiwKBvM1S1g2p__9XjXGoQLPfdOd3KERie-0YYOzmjngSdpnMCcHrF4vwv8uyRhQoHz1rpIY_pG5I8w2EP-puGuUWDqEOLx8VyKvlZXOgB_HUsWmHvEiAj3p7NhVH7PkHzkwZU3bTBWQFHtr1rtmJiEvEreVOqG5wLo_MiGots0RGseUQricM-vl2XNUcq-xluDhc7XLdgoWiuuF6VfKjTBzxiPbR4Zw3ofFzd-IYegz4VHSIXSyKIxgx46CZ8wKgzvg";
const ES256_TOKEN: &str = "eyJhbGciOiAiRVMyNTYiLCAia2lkIjogImsxIn0.eyJzdWIiOiAiYW5uIiwgImV4cCI6IDQxMDI0NDQ4MDB9.3DZnmZ3T7xDc2wS5aWE94MR90acudBOetU29_P0K55GFBEAG4cTnTlpZH2xWKNVKzp7RxvXtCDoEokhsp7Bk3A";
const EDDSA_TOKEN: &str = "eyJhbGciOiAiRWREU0EiLCAia2lkIjogImsxIn0.eyJzdWIiOiAiYW5uIiwgImV4cCI6IDQxMDI0NDQ4MDB9.wp5If6PdJB3lSSDhtm65ZMH4mPl7R6ReuRMMQAi5GR9wST0aRVY8Z2k5xn9Sd51OlIu9hvMMdY51Xs9Ki4PuCw";
const SET: &str = r#"{"keys":[{"kty":"RSA","kid":"k1","use":"sig","n":"kInpnfNq8fg3T70Nf0Hl9DchL-QBA514vhHMuFYRYO9-z91cZ7RY5vsrIxNG2v5nlHX2UE6yWhQz-cttubWsxoqEUKnTnQO-uTNYhPg6nUEq3h0e2R35bRK8ZNGmd-zs2JlyngoVJ_N7IE5ew9fnqDVBTMDKsQD8kBJpvTDGyEok3wWLYgF-I8_JTEIrRuOxJVkuO4k5FD_wJtOsrjLByHm4SALIPhGpxrtID0oB5clRrYcUlICbpYzzw23EPXImwp6ehqsi2ZrfNwpQzHrr4OcRt4QcnBRf3UdDFzC8CM3HwtayL4O98wepKrAvD682wAyMIfxrf4Lsjd1_KYRBGQ","e":"AQAB"},{"kty":"EC","crv":"P-256","kid":"k1","x":"pSYkMbZm9rJPMJX3xLUiB45XFTfzQpPOAl6PblsQD7Y","y":"evT-0Sdfp2gemQc0kaa2qBqrOcRrSCcsqmAJ2dCyfRk"},{"kty":"OKP","crv":"Ed25519","kid":"k1","alg":"EdDSA","x":"hmMFK9DFkCkxMKFRzASUvQMgKCEfH6E75nyNW3fTLWE"},{"kty":"RSA","use":"enc","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-521"}]}"#;

/// Features of serde_json that any crate of the build can enable give such keys a special meaning.
#[test]
fn private_keys_of_serde_json_have_no_special_meaning() {
    for text in [
        r#"{"$serde_json::private::RawValue":"\"admin\""}"#,
        r#"{"$serde_json::private::Number":"1"}"#,
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value.is_object(), "{text} is {value}");
    }
}
