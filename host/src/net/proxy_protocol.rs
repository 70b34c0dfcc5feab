//! PROXY protocol, versions 1 and 2: the address of the client behind a load balancer.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. [`read`] consumes exactly the
//! header, as TLS may follow; the parsing is pure. Does not decide which peers to trust.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Reason why a connection has no valid header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Client for which a connection was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// The peer itself: `LOCAL`, or `UNKNOWN` of version 1 (section 2.1).
    Peer,
    For(IpAddr),
    /// Not the peer, but a client without an IP address or of another transport.
    Unspecified,
}

/// Reads one header.
///
/// # Errors
/// The header is malformed, or the connection ended; the bytes read so far are lost.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ProxyHeader, ProxyError> {
    let mut start = [0; START];
    let mut filled = 0;
    while filled < START {
        match stream.read(&mut start[filled..]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            count => filled += count,
        }
        // Fails on the first wrong byte, not on the twelfth byte.
        let line_start = &start[..filled.min(LINE_START.len())];
        if !SIGNATURE.starts_with(&start[..filled]) && !LINE_START.starts_with(line_start) {
            return Err(ProxyError::Missing);
        }
    }
    if start == *SIGNATURE { read_binary(stream).await } else { read_line(stream, &start).await }
}

async fn read_line<S: AsyncRead + Unpin>(
    stream: &mut S,
    start: &[u8; START],
) -> Result<ProxyHeader, ProxyError> {
    let mut line = [0; MAX_LINE];
    line[..START].copy_from_slice(start);
    // Byte by byte, as the bytes after the line belong to the next protocol.
    for end in START..MAX_LINE {
        line[end] = stream.read_u8().await?;
        if line[end] == b'\n' {
            return from_line(&line[..=end]);
        }
    }
    Err(ProxyError::Malformed("the line is longer than 107 bytes"))
}

async fn read_binary<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ProxyHeader, ProxyError> {
    let mut kind = [0; 4];
    stream.read_exact(&mut kind).await?;
    let [command, family, length @ ..] = kind;
    let mut left = usize::from(u16::from_be_bytes(length));
    let mut addresses = [0; 36];
    let wanted = left.min(addresses.len());
    stream.read_exact(&mut addresses[..wanted]).await?;
    left -= wanted;
    // Extensions are skipped.
    let mut scrap = [0; 256];
    while left > 0 {
        let part = left.min(scrap.len());
        left -= stream.read_exact(&mut scrap[..part]).await?;
    }
    from_binary(command, family, &addresses[..wanted])
}

/// Length of the shortest header, which is enough to distinguish the versions.
const START: usize = 12;
/// The start of version 2 (section 2.2).
const SIGNATURE: &[u8; START] = b"\r\n\r\n\0\r\nQUIT\n";
/// The start of version 1 (section 2.1).
const LINE_START: &[u8] = b"PROXY ";
/// Including CR LF (section 2.1).
const MAX_LINE: usize = 107;

/// Parses `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and CR LF (section 2.1).
fn from_line(line: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let malformed = ProxyError::Malformed;
    let line = line.strip_suffix(b"\r\n").ok_or(malformed("the line does not end in CR LF"))?;
    let line = str::from_utf8(line).map_err(|_| malformed("the line is not ASCII"))?;
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    if words.first() == Some(&"UNKNOWN") {
        return Ok(ProxyHeader::Peer);
    }
    let &[family, source, destination, source_port, destination_port] = &*words else {
        return Err(malformed("expected two addresses and two ports"));
    };
    if ![source_port, destination_port].into_iter().all(is_port) {
        return Err(malformed("invalid port number"));
    }
    let addresses = [source, destination].map(|address| match family {
        "TCP4" => address.parse::<Ipv4Addr>().map(IpAddr::from).ok(),
        "TCP6" => address.parse::<Ipv6Addr>().map(IpAddr::from).ok(),
        _ => None,
    });
    match addresses {
        [Some(source), Some(_)] => Ok(ProxyHeader::For(source.to_canonical())),
        _ => Err(malformed("invalid TCP4 or TCP6 address")),
    }
}

/// Accepts decimal numbers without leading zeros.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

/// Parses a header of version 2; `addresses` are the first bytes after the fixed part, at most 36
/// (section 2.2).
fn from_binary(command: u8, family: u8, addresses: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let short = ProxyError::Malformed("truncated addresses");
    match (command, family) {
        // A health check by the load balancer; its addresses are ignored.
        (0x20, _) => Ok(ProxyHeader::Peer),
        (0x21, 0x11) => match addresses.first_chunk::<12>() {
            Some([a, b, c, d, ..]) => Ok(ProxyHeader::For(Ipv4Addr::new(*a, *b, *c, *d).into())),
            None => Err(short),
        },
        (0x21, 0x21) => match (addresses.len(), addresses.first_chunk::<16>()) {
            (36.., Some(source)) => Ok(ProxyHeader::For(IpAddr::from(*source).to_canonical())),
            _ => Err(short),
        },
        // Unspecified, datagrams, Unix sockets.
        (0x21, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Ok(ProxyHeader::Unspecified),
        (0x21, _) => Err(ProxyError::Malformed("unknown address family")),
        _ => Err(ProxyError::Malformed("unknown version or command")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `bytes` in one piece and byte by byte, and checks that no byte after them is consumed.
    #[track_caller]
    fn check(bytes: &[u8], expected: Result<Option<&str>, &str>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for piece in [bytes.len().max(1), 1] {
            let mut script = tokio_script(bytes, piece);
            let found = runtime.block_on(read(&mut script));
            let text = |header| match header {
                ProxyHeader::Peer => None,
                ProxyHeader::For(ip) => Some(ip.to_string()),
                ProxyHeader::Unspecified => Some("unspecified".to_owned()),
            };
            let found = found.map(text).map_err(|e| e.to_string());
            let expected = expected.map(|ip| ip.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(found, expected, "{}", bytes.escape_ascii());
            if found.is_ok() {
                let mut rest = Vec::new();
                runtime.block_on(script.read_to_end(&mut rest)).unwrap();
                assert_eq!(rest, FOLLOWING);
            }
        }
    }

    const FOLLOWING: &[u8] = b"GET";

    fn tokio_script(bytes: &[u8], piece: usize) -> impl AsyncRead + Unpin + use<> {
        let bytes = [bytes, FOLLOWING].concat();
        let pieces =
            bytes.chunks(piece).map(|piece| io::Result::Ok(bytes::Bytes::copy_from_slice(piece)));
        tokio_util::io::StreamReader::new(Pieces(pieces.collect::<Vec<_>>().into_iter()))
    }

    struct Pieces(std::vec::IntoIter<io::Result<bytes::Bytes>>);

    impl futures_util::Stream for Pieces {
        type Item = io::Result<bytes::Bytes>;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Ready(self.0.next())
        }
    }

    fn two(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, body].concat()
    }

    #[test]
    fn text_headers_of_version_1_are_read() {
        let addresses = Err("malformed PROXY header: invalid TCP4 or TCP6 address");
        let ports = Err("malformed PROXY header: invalid port number");
        let words = Err("malformed PROXY header: expected two addresses and two ports");
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Ok(Some("192.0.2.1"))),
            ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", Ok(Some("2001:db8::1"))),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 1\r\n", Ok(Some("192.0.2.1"))),
            ("PROXY UNKNOWN\r\n", Ok(None)),
            ("PROXY UNKNOWN ffff:f::f ffff::f 65535 65535\r\n", Ok(None)),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n", words),
            ("PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n", words),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n", words),
            ("PROXY TCP4 192.0.2.1 ::1 56324 443\r\n", addresses),
            ("PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n", addresses),
            ("PROXY TCP5 192.0.2.1 198.51.100.1 56324 443\r\n", addresses),
            ("PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n", addresses),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", ports),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 0443 443\r\n", ports),
            ("PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n", ports),
            ("PROXY \r\nGET / HTTP/1.1\r\n", words),
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
                Err("malformed PROXY header: the line does not end in CR LF"),
            ),
            ("GET / HTTP/1.1\r\n", Err("the connection does not begin with a PROXY header")),
            ("PROX", Err("the connection does not begin with a PROXY header")),
            ("PROXYTCP4 ", Err("the connection does not begin with a PROXY header")),
        ] {
            check(line.as_bytes(), expected);
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        check(long.as_bytes(), Err("malformed PROXY header: the line is longer than 107 bytes"));
        check(format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).as_bytes(), Ok(None));
    }

    #[test]
    fn binary_headers_of_version_2_are_read() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 1, 2, 3, 4];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        let cut = Err("malformed PROXY header: truncated addresses");
        for (bytes, expected) in [
            (two(0x21, 0x11, &v4), Ok(Some("192.0.2.1"))),
            (two(0x21, 0x11, &[&v4[..], &[7; 5000]].concat()), Ok(Some("192.0.2.1"))),
            (two(0x21, 0x21, &v6), Ok(Some("2001:db8::"))),
            (two(0x21, 0x21, &[&v6[..], &[7; 3]].concat()), Ok(Some("2001:db8::"))),
            (two(0x21, 0x21, &mapped), Ok(Some("192.0.2.1"))),
            (two(0x20, 0x00, &[]), Ok(None)),
            (two(0x20, 0x11, &v4), Ok(None)),
            (two(0x20, 0xff, &[1; 300]), Ok(None)),
            (two(0x21, 0x00, &[1; 9]), Ok(Some("unspecified"))),
            (two(0x21, 0x12, &v4), Ok(Some("unspecified"))),
            (two(0x21, 0x22, &v6), Ok(Some("unspecified"))),
            (two(0x21, 0x31, &[1; 216]), Ok(Some("unspecified"))),
            (two(0x21, 0x32, &[1; 216]), Ok(Some("unspecified"))),
            (two(0x21, 0x11, &v4[..11]), cut),
            (two(0x21, 0x21, &v6[..35]), cut),
            (two(0x21, 0x41, &v4), Err("malformed PROXY header: unknown address family")),
            (two(0x22, 0x11, &v4), Err("malformed PROXY header: unknown version or command")),
            (two(0x11, 0x11, &v4), Err("malformed PROXY header: unknown version or command")),
        ] {
            check(&bytes, expected);
        }
    }

    #[test]
    fn a_header_that_ends_early_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for whole in [b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), two(0x21, 0x11, &[1; 12])] {
            for length in 0..whole.len() {
                assert!(runtime.block_on(read(&mut &whole[..length])).is_err(), "{length}");
            }
        }
    }
}
