//! Identities: each matches its own text and no other; what finds one is what another library takes for its uuid.
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
    // Two letter cases of one uuid are two texts.
    let upper = text.to_ascii_uppercase();
    assert!(!own.matches(&upper) || upper == text);
    let (begin, end) = (input.below(Identity::LEN), input.below(Identity::LEN));
    assert!(!own.matches(&text[begin.min(end)..begin.max(end)]));

    let said = String::from_utf8_lossy(input.0);
    for said in [&said[..], &other] {
        let key = Identity::key_of(said);
        assert!(!own.matches(said) || said == text);
        // The other library takes more forms than this one; the same text comes back only for this.
        let uuid =
            said.get(..36).and_then(|uuid| uuid::Uuid::try_parse(uuid).ok()).filter(|uuid| {
                uuid.get_version_num() == 4
                    && uuid.get_variant() == uuid::Variant::RFC4122
                    && uuid.hyphenated().to_string() == said[..36]
                    && said.len() == Identity::LEN
            });
        assert_eq!(key, uuid.map(|uuid| uuid.as_u64_pair().0), "{said:?}");
    }
});
