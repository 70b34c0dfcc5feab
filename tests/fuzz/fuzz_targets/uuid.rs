//! Identities: each matches only its own text, and the crate `uuid` agrees on which texts are
//! valid.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::identity::{Identity, IdentityIssuer};
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let issuer = IdentityIssuer::with_secret([input.byte(); 32]);
    let own = issuer.issue();
    let text = own.as_str();
    assert_eq!(text.len(), Identity::LEN);
    assert!(own.matches(text) && !issuer.issue().matches(text));
    assert_eq!(Identity::key_of(text), Some(own.key()));
    let (at, flip) = (input.below(Identity::LEN), input.byte() & 0x7f);
    let mut other = text.as_bytes().to_vec();
    other[at] ^= flip;
    let other = String::from_utf8(other).expect("ASCII with seven bits flipped");
    assert_eq!(own.matches(&other), flip == 0);
    // The comparison is case-sensitive.
    let upper = text.to_ascii_uppercase();
    assert!(!own.matches(&upper) || upper == text);
    let (begin, end) = (input.below(Identity::LEN), input.below(Identity::LEN));
    assert!(!own.matches(&text[begin.min(end)..begin.max(end)]));

    let given = String::from_utf8_lossy(input.0);
    for candidate in [&given[..], &other] {
        let key = Identity::key_of(candidate);
        assert!(!own.matches(candidate) || candidate == text);
        // The crate accepts more forms; only this one prints as the same text.
        let uuid =
            candidate.get(..36).and_then(|uuid| uuid::Uuid::try_parse(uuid).ok()).filter(|uuid| {
                uuid.get_version_num() == 4
                    && uuid.get_variant() == uuid::Variant::RFC4122
                    && uuid.hyphenated().to_string() == candidate[..36]
                    && candidate.len() == Identity::LEN
            });
        assert_eq!(key, uuid.map(|uuid| uuid.as_u64_pair().0), "{candidate:?}");
    }
});
