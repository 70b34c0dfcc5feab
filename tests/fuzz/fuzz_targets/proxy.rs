//! PROXY headers: splits change neither the result nor its length, and the crate `ppp` agrees.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use plugsocket::internals::proxy_header;
use plugsocket_fuzz::Input;
use ppp::{v1, v2};

/// Signature of version 2 (section 2.2 of the specification).
const SIGNATURE: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let cuts = input.cuts();
    let start = [
        &b""[..],
        b"PROXY ",
        b"PROXY TCP4 192.0.2.1 ",
        b"PROXY TCP6 2001:db8::1 ",
        SIGNATURE,
        b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21\x11\x00",
        b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21\x21\x00",
    ][input.below(7)];
    let bytes = &[start, input.0].concat()[..];
    let (found, used) = proxy_header(&[bytes]);
    let (split, split_used) = proxy_header(&cuts.of(bytes));
    assert_eq!(found, split);
    // After an invalid header the connection ends, so the length does not matter.
    let Ok(found) = found else { return };
    assert_eq!(used, split_used);
    assert_eq!(
        proxy_header(&[&bytes[..used]]),
        (Ok(found), used),
        "the bytes after the header matter"
    );
    assert!(proxy_header(&[&bytes[..used - 1]]).0.is_err(), "a prefix is accepted");
    assert_eq!(found, source(&bytes[..used]), "{}", bytes[..used].escape_ascii());
});

/// Returns the source address according to `ppp`.
fn source(header: &[u8]) -> Option<IpAddr> {
    // "the receiver must ignore anything presented before the CRLF is found" (section 2.1); ppp
    // reads it.
    if header.starts_with(b"PROXY UNKNOWN") {
        return None;
    }
    let source: IpAddr = if header.starts_with(SIGNATURE) {
        // LOCAL, datagrams, Unix sockets: ppp requires addresses, although they are ignored.
        if header[12] == 0x20 || header[13] & 0x0f == 2 || header[13] >> 4 == 3 {
            return None;
        }
        let parsed = v2::Header::try_from(header).expect("a header of version 2");
        match parsed.addresses {
            v2::Addresses::IPv4(addresses) => addresses.source_address.into(),
            v2::Addresses::IPv6(addresses) => addresses.source_address.into(),
            v2::Addresses::Unspecified | v2::Addresses::Unix(_) => return None,
        }
    } else {
        match v1::Header::try_from(header).expect("a header of version 1").addresses {
            v1::Addresses::Tcp4(addresses) => addresses.source_address.into(),
            v1::Addresses::Tcp6(addresses) => addresses.source_address.into(),
            v1::Addresses::Unknown => return None,
        }
    };
    Some(source.to_canonical())
}
