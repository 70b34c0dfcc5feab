//! Micro-benchmarks of the steps that handle a message: `cargo bench -p plugsocket-bench`. An
//! argument after `--` selects benchmarks by name. Compare figures of one run only; they depend on
//! the machine and its load.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use plugsocket::internals::{Fixture, SocketReader};
use plugsocket::protocol::chunk::{Form, Joiner, Step};
use plugsocket::protocol::dialog;
use plugsocket::protocol::ws::frame::{self, FrameHead};

fn main() {
    divan::main();
}

/// Returns a masked text frame.
fn masked(payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x01, 0xfe, 0x33];
    let mut bytes = Vec::new();
    frame::append_header(&mut bytes, Form::Text, payload.len());
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let at = bytes.len();
    bytes.extend_from_slice(payload);
    frame::unmask(&mut bytes[at..], MASK);
    bytes
}

mod dialogs {
    use super::*;

    #[divan::bench]
    fn next_without_fyi() -> usize {
        dialog::next(black_box("")).len()
    }

    #[divan::bench]
    fn next_with_fyi() -> usize {
        dialog::next(black_box("delivered")).len()
    }

    #[divan::bench]
    fn ready() -> String {
        dialog::ready(black_box(
            "00112233-4455-4677-8899-aabbccddeeff.caa4aba3c3cadfcb794ca7f8260a842af745c4ee4993791b6feb1ae8054dca44",
        ))
    }
}

/// Computations of the host when a connection is opened.
mod handshakes {
    use super::*;
    use plugsocket::protocol::http::{Head, check_upgrade};
    use plugsocket::protocol::identity::{Identity, IdentityIssuer};

    #[divan::bench]
    fn issue_identity(bencher: Bencher<'_, '_>) {
        let issuer = IdentityIssuer::new();
        bencher.bench(|| -> Identity { issuer.issue() });
    }

    #[divan::bench]
    fn accept_upgrade(bencher: Bencher<'_, '_>) {
        let request = "GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let (head, _) =
            Head::parse(request.as_bytes(), 8192).expect("a valid head").expect("a complete head");
        bencher.bench(|| check_upgrade(black_box(&head)).is_ok());
    }
}

mod chunks {
    use super::*;

    /// `bufferON`, chunks of 1 KiB, `bufferOFF`.
    #[divan::bench(args = [1, 10, 100])]
    fn join(bencher: Bencher<'_, '_>, chunks: usize) {
        let chunk = Bytes::from(vec![b'x'; 1024]);
        bencher.counter(BytesCount::new(1024 * chunks)).bench(|| {
            let mut joiner = Joiner::new(1 << 20, 100);
            let mut take = |bytes| joiner.take(bytes, Form::Text);
            take(Bytes::from_static(b"bufferON"));
            for _ in 0..chunks {
                take(chunk.clone());
            }
            let Step::Deliver(joined) = take(Bytes::from_static(b"bufferOFF")) else { return 0 };
            joined.len()
        });
    }

    /// A message outside of a buffer: the cost for every message.
    #[divan::bench]
    fn pass(bencher: Bencher<'_, '_>) {
        let (message, mut joiner) = (Bytes::from(vec![b'x'; 128]), Joiner::new(1 << 20, 100));
        bencher.bench_local(|| joiner.take(black_box(message.clone()), Form::Text));
    }
}

mod routing {
    use super::*;

    const PEERS: [usize; 3] = [10, 1_000, 100_000];

    /// Looks up another connection each time. Grows with their number only by cache misses.
    #[divan::bench(args = PEERS)]
    fn find_in_turn(bencher: Bencher<'_, '_>, peers: usize) {
        let (fixture, mut number) = (Fixture::new(peers), 0);
        bencher.bench_local(|| {
            number += 7919;
            fixture.find(number)
        });
    }

    /// Looks up the same connection each time: the cost without cache misses.
    #[divan::bench(args = PEERS)]
    fn find_the_same(bencher: Bencher<'_, '_>, peers: usize) {
        let fixture = Fixture::new(peers);
        bencher.bench_local(|| fixture.find(black_box(5)));
    }

    #[divan::bench]
    fn feedback_and_take(bencher: Bencher<'_, '_>) {
        let (fixture, payload) = (Fixture::new(1_000), Bytes::from(vec![b'x'; 128]));
        let uuid = fixture.uuid(5).to_owned();
        bencher.bench_local(|| (fixture.feedback(&uuid, &payload), fixture.take(5)));
    }

    #[divan::bench]
    fn send_and_take(bencher: Bencher<'_, '_>) {
        let (fixture, payload) = (Fixture::new(1_000), Bytes::from(vec![b'x'; 128]));
        bencher.bench_local(|| (fixture.send(5, &payload), fixture.take(5)));
    }

    /// Broadcasts to 500 outboxes, then empties each.
    #[divan::bench]
    fn broadcast_and_take(bencher: Bencher<'_, '_>) {
        let (fixture, payload) = (Fixture::new(500), Bytes::from(vec![b'x'; 128]));
        bencher.counter(ItemsCount::new(500_usize)).bench_local(|| {
            let reached = fixture.broadcast(&payload);
            (reached, (0..500).map(|number| fixture.take(number)).sum::<usize>())
        });
    }
}

mod outbox {
    use super::*;

    /// Pushes `messages` messages, then takes all of them.
    #[divan::bench(args = [1, 16, 256])]
    fn push_and_take(bencher: Bencher<'_, '_>, messages: usize) {
        let (fixture, payload) = (Fixture::new(1), Bytes::from(vec![b'x'; 128]));
        bencher.counter(ItemsCount::new(messages)).bench_local(|| {
            for _ in 0..messages {
                fixture.send(0, &payload);
            }
            fixture.take(0)
        });
    }
}

mod frames {
    use super::*;

    const LENGTHS: [usize; 3] = [16, 128, 16 * 1024];

    #[divan::bench]
    fn header(bencher: Bencher<'_, '_>) {
        let bytes = masked(&[b'x'; 128]);
        bencher.bench(|| match frame::parse_header(black_box(&bytes), 1 << 20) {
            FrameHead::Plain(plain) => plain.length,
            _ => 0,
        });
    }

    #[divan::bench(args = LENGTHS)]
    fn unmask(bencher: Bencher<'_, '_>, length: usize) {
        let mut payload = vec![b'x'; length];
        bencher
            .counter(BytesCount::new(length))
            .bench_local(|| frame::unmask(black_box(&mut payload), [1, 2, 3, 4]));
    }

    /// Decodes one read of `frames` frames with 128 bytes each.
    #[divan::bench(args = [1, 16])]
    fn read(bencher: Bencher<'_, '_>, frames: usize) {
        let bytes = masked(&[b'x'; 128]).repeat(frames);
        let mut reader = SocketReader::new(1 << 20);
        bencher
            .counter(ItemsCount::new(frames))
            .with_inputs(|| bytes.clone())
            .bench_local_values(|bytes| reader.read(bytes));
    }

    #[divan::bench(args = LENGTHS)]
    fn utf8_of_ascii(bencher: Bencher<'_, '_>, length: usize) {
        let text = vec![b'x'; length];
        bencher
            .counter(BytesCount::new(length))
            .bench(|| std::str::from_utf8(black_box(&text)).is_ok());
    }

    #[divan::bench(args = LENGTHS)]
    fn utf8_of_two_bytes_each(bencher: Bencher<'_, '_>, length: usize) {
        let text = "\u{e4}".repeat(length / 2);
        bencher
            .counter(BytesCount::new(length))
            .bench(|| std::str::from_utf8(black_box(text.as_bytes())).is_ok());
    }
}
