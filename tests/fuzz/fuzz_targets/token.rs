//! Signed tokens: an accepted token has the signature that the crate `hmac` computes and the user
//! of its claims; a valid token is accepted, and with one byte changed it is refused.
#![no_main]

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use plugsocket::internals::{Verified, find_token, verify_token};
use plugsocket_fuzz::Input;
use serde_json::{Value, json};
use sha2::Sha256;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Seconds since 1970; the leeway is 30.
const NOW: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    match input.below(4) {
        // Arbitrary text.
        0 => check(&String::from_utf8_lossy(input.0), now),
        // Arbitrary parts with a valid signature.
        1 => {
            let header = input.piece();
            check(&sign(header, input.0), now);
        }
        2 => check(&sign(br#"{"alg":"HS256"}"#, input.0), now),
        _ => check_valid(&mut input, now),
    }
    let fields = String::from_utf8_lossy(input.0);
    check_places(&fields);
});

fn sign(header: &[u8], claims: &[u8]) -> String {
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature(&signed)))
}

fn signature(signed: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("a key may have any length");
    mac.update(signed.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn check(token: &str, now: SystemTime) {
    let Ok(held) = verify_token(token, SECRET, now) else { return };
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signed] = parts[..] else { panic!("{} parts", parts.len()) };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    assert_eq!(decode(signed), signature(&format!("{header}.{claims}")));
    let header = String::from_utf8(decode(header)).expect("UTF-8");
    // A skipped value may contain half a surrogate pair, which serde_json cannot decode.
    if let Ok(header) = serde_json::from_str::<Value>(&header) {
        assert!(header["alg"] == "HS256" && header.is_object() && header.get("crit").is_none());
    }
    let claims: Value = serde_json::from_slice(&decode(claims)).expect("JSON");
    assert_eq!(serde_json::from_str::<Value>(&held.claims).expect("JSON"), claims);
    let user = match &claims["sub"] {
        Value::String(user) => user.clone(),
        Value::Number(user) if !user.is_f64() => user.to_string(),
        other => panic!("unexpected user {other}"),
    };
    assert!(user == held.user && (1..=1024).contains(&user.len()));
    assert!(!user.contains(char::is_control));
    assert!(claims["exp"].as_f64().expect("a number") + 30.0 > NOW as f64);
    assert!(
        claims.get("nbf").is_none_or(|from| from.as_f64().expect("a number") - 30.0 <= NOW as f64)
    );
    assert!(claims.get("aud").is_none(), "meant for another audience");
}

fn check_valid(input: &mut Input<'_>, now: SystemTime) {
    let (at, letter) = (usize::from(input.word()), input.byte());
    let user = format!("u{}", input.text());
    let until = NOW + u64::from(input.word());
    let claims = json!({ "sub": user, "exp": until, "note": input.text() });
    let token = sign(br#"{"alg":"HS256","typ":"JWT"}"#, claims.to_string().as_bytes());
    let held = verify_token(&token, SECRET, now);
    if token.len() > 8 << 10 {
        return assert!(held.is_err(), "too long");
    }
    if user.len() > 1024 || user.contains(char::is_control) {
        return assert!(held.is_err(), "invalid user");
    }
    let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
    let held = held.expect("the token is valid");
    assert_eq!(held, Verified { user, claims: held.claims.clone(), until: Some(expected) });
    check(&token, now);
    let mut other = token.clone().into_bytes();
    let at = at % other.len();
    other[at] = letter & 0x7f;
    let other = String::from_utf8(other).expect("ASCII");
    assert_eq!(verify_token(&other, SECRET, now).is_ok(), other == token, "{at}");
}

/// Checks arbitrary header lines: a token that is found is part of them, and a second one is an
/// error.
fn check_places(fields: &str) {
    for place in ["header", "query:t", "cookie:t", "subprotocol"] {
        let target = if place == "query:t" && !fields.contains([' ', '\r', '\n', '#']) {
            format!("/x?{fields}")
        } else {
            "/x".to_owned()
        };
        let Some(found) = find_token(&target, fields, place) else { return };
        let Ok(token) = found else { continue };
        assert!(fields.contains(&token));
        let again = match place {
            "header" => format!("Authorization: Bearer {token}\r\n"),
            "query:t" => continue,
            "cookie:t" => format!("Cookie: t={token}\r\n"),
            _ => format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"),
        };
        // A second valid token is an error if it is still part of the head.
        let continues = fields.ends_with("\r\n") && !format!("\r\n{fields}").contains("\r\n\r\n");
        if continues && find_token("/x", &again, place) == Some(Ok(token)) {
            let both = find_token(&target, &format!("{fields}{again}"), place);
            assert!(both.is_none_or(|both| both.is_err()), "{place}");
        }
    }
}
