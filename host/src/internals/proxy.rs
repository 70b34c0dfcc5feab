//! Reads PROXY headers in memory.

use std::net::IpAddr;

use super::script::Script;
use super::wire::finish;
use crate::net::proxy_protocol::{self, ProxyHeader};

/// Parses the PROXY header at the start of `reads`; returns its address, if any, and its length.
///
/// # Errors
/// The reason for which the header is invalid.
pub fn proxy_header(reads: &[&[u8]]) -> (Result<Option<IpAddr>, String>, usize) {
    let mut script = Script::of_reads(reads);
    let found = finish(proxy_protocol::read(&mut script)).map_err(|error| error.to_string());
    let found = found.map(|said| match said {
        ProxyHeader::For(ip) => Some(ip),
        ProxyHeader::Peer | ProxyHeader::Unspecified => None,
    });
    let left: usize = script.reads.iter().map(Vec::len).sum();
    (found, reads.iter().map(|read| read.len()).sum::<usize>() - left)
}
