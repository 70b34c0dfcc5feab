//! `X-Forwarded-For`: only a trusted peer may set it, and entries to the left of the last untrusted
//! one have no effect.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libfuzzer_sys::fuzz_target;
use plugsocket::protocol::http::{Forwarded, Head, forwarded_for};
use plugsocket_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let peer = match input.below(4) {
        0 => IpAddr::from(Ipv4Addr::LOCALHOST),
        1 => Ipv4Addr::new(10, 0, 0, input.byte()).to_ipv6_mapped().into(),
        2 => IpAddr::from(Ipv6Addr::LOCALHOST),
        _ => IpAddr::from(Ipv4Addr::from([input.byte(), 1, 1, 1])),
    };
    let spoofed = input.piece();
    let fields = String::from_utf8_lossy(input.0).into_owned();
    let Some(honest) = head(&fields) else { return };
    let found = forwarded_for(&honest, Some(peer), is_trusted);
    let entries: Vec<&[u8]> = honest
        .headers()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    if !is_trusted(peer.to_canonical()) || entries.is_empty() {
        assert_eq!(found, Forwarded::Direct);
        return;
    }
    // An entry, or the peer, with only trusted entries in between.
    let readable: Vec<IpAddr> = entries.iter().rev().map_while(|entry| address(entry)).collect();
    let at = readable.iter().position(|address| !is_trusted(*address));
    let nearest = readable.last().copied().unwrap_or(peer.to_canonical());
    let expected = match at {
        Some(at) => Forwarded::For(readable[at]),
        None if readable.len() == entries.len() => Forwarded::For(nearest),
        // The client is unknown and does not have the rights of the proxy.
        None => Forwarded::Unreadable(Some(nearest)),
    };
    assert_eq!(found, expected, "{fields:?}");
    // An untrusted client can only add entries to the left of its own address.
    if at.is_some() {
        let spoofed = String::from_utf8_lossy(spoofed).replace(['\r', '\n'], " ");
        let Some(forged) = head(&format!("X-Forwarded-For: {spoofed}\r\n{fields}")) else { return };
        assert_eq!(forwarded_for(&forged, Some(peer), is_trusted), found, "{spoofed:?} {fields:?}");
    }
});

fn head(fields: &str) -> Option<Head> {
    let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    Head::parse(text.as_bytes(), 16 << 10).ok()?.map(|(head, _)| head)
}

fn is_trusted(address: IpAddr) -> bool {
    address.is_loopback() || matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
}

/// Parses an entry with the standard library. It accepts ports, but only numbers as zones.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let ip = match without_zone(text) {
        Some(text) => match text.parse::<SocketAddrV6>() {
            Ok(address) => (*address.ip()).into(),
            Err(_) => {
                let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                bare.unwrap_or(&text).parse::<Ipv6Addr>().ok()?.into()
            }
        },
        None => match text.parse::<SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                Some(bare) => bare.parse::<Ipv6Addr>().ok()?.into(),
                None => text.parse::<IpAddr>().ok()?,
            },
        },
    };
    Some(ip.to_canonical())
}

/// Removes the zone: from `%` to the bracket or the end. Returns `None` if there is none.
fn without_zone(text: &str) -> Option<String> {
    let (before, zone) = text.split_once('%').filter(|(before, _)| !before.contains(']'))?;
    let end = if before.starts_with('[') { zone.find(']') } else { None };
    Some(format!("{before}{}", end.map_or("", |end| &zone[end..])))
}
