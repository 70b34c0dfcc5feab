use std::future::poll_fn;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::config::MessageLimits;
use crate::internals::properties::masked;
use crate::protocol::io::Progress;

const MAX: usize = 100_000;

fn limits() -> MessageLimits {
    MessageLimits { max_message: MAX, max_frames: 5, ..MessageLimits::default() }
}

fn text(payload: &str) -> Vec<u8> {
    masked(0x81, payload.as_bytes())
}

fn ping() -> Vec<u8> {
    masked(0x89, b"p")
}

/// Returns the messages that a peer sent with these writes, and the close code at the end.
async fn received(writes: &[&[u8]]) -> (Vec<String>, u16) {
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(Vec::new(), &limits());
    let mut writer = FrameWriter::default();
    let mut found = Vec::new();
    let reading = async {
        let mut batch = Vec::new();
        loop {
            let read = poll_fn(|cx| reader.poll_receive(&mut near, cx, &mut batch, &mut writer));
            let progress = read.await;
            found.extend(
                batch
                    .drain(..)
                    .map(|r| format!("{:?}:{}", r.form, String::from_utf8_lossy(&r.bytes))),
            );
            writer.flush(&mut near).await.unwrap();
            match progress {
                Progress::More | Progress::Pong => {}
                Progress::Done(reason) | Progress::Broken(reason) | Progress::Violation(reason) => {
                    return reason.code.0;
                }
            }
        }
    };
    let writing = async {
        for write in writes {
            far.write_all(write).await.unwrap();
            // The reader receives this write by itself.
            tokio::task::yield_now().await;
        }
        far.shutdown().await.unwrap();
    };
    let (end, ()) = tokio::join!(reading, writing);
    (found, end)
}

/// A deterministic random number generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

#[tokio::test]
async fn the_messages_are_the_same_at_every_split() {
    let stream = [
        text("one"),
        ping(),
        masked(0x01, b"zw"),
        ping(),
        masked(0x80, b"ei"),
        text(&"three".repeat(2000)),
        masked(0x82, &[0, 255]),
        text(""),
        text("ünf"),
    ]
    .concat();
    let (expected, _) = received(&[&stream]).await;
    assert_eq!(expected.len(), 6);
    assert_eq!(expected[1], "Text:zwei");
    let mut numbers = Numbers(7);
    for _ in 0..300 {
        let mut writes = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let most = [3, 40, 20_000][numbers.below(3)];
            let (write, behind) = rest.split_at((1 + numbers.below(most)).min(rest.len()));
            writes.push(write);
            rest = behind;
        }
        assert_eq!(received(&writes).await, (expected.clone(), 1006));
    }
}

#[tokio::test]
async fn a_violation_closes_with_its_code_after_the_messages_before_it() {
    let huge = [&[0x81, 0xff, 0x80][..], &[0; 11]].concat();
    for (bytes, code) in [
        (vec![0x81, 2, b'h', b'i'], 1002),
        (masked(0xf1, b"x"), 1002),
        (masked(0x83, b"x"), 1002),
        (masked(0x80, b"x"), 1002),
        // An incomplete frame whose payload so far is not UTF-8.
        (vec![0x00, 0xc5, 0, 0, 0, 0, 0xe8, 0x29], 1002),
        (masked(0x09, b"x"), 1002),
        (masked(0x89, &[b'x'; 126]), 1002),
        (masked(0x88, b"x"), 1002),
        (masked(0x88, b"\x03\xed"), 1002),
        (masked(0x88, b"\x03\xe8\xff"), 1007),
        (huge, 1002),
        ([masked(0x01, b""), masked(0x00, b"").repeat(5)].concat(), 1009),
        (masked(0x81, &vec![b'x'; MAX + 1]), 1009),
        (masked(0x81, &[0xff]), 1007),
        ([masked(0x01, b"a"), text("b")].concat(), 1002),
        // Headers without their frames.
        (vec![0x91, 0x85], 1002),
        (vec![0x09, 0x85], 1002),
        ([masked(0x01, b"a"), vec![0x82, 0x85, 0, 0, 0, 0]].concat(), 1002),
        ([masked(0x01, &[b'x'; 60_000]), vec![0x80, 0xfe, 0xff, 0xff, 0, 0, 0, 0]].concat(), 1009),
    ] {
        let stream = [text("before"), bytes.clone()].concat();
        let expected = (vec!["Text:before".to_owned()], code);
        assert_eq!(received(&[&stream]).await, expected, "{:02x?}", &bytes[..2]);
    }
}

#[tokio::test]
async fn invalid_utf8_closes_before_its_frame_is_complete() {
    let text = ["κόσμε ".repeat(3000).as_bytes(), b"\xf4\x90\x80\x80", &[b'x'; 20_000]].concat();
    let wrong = 3000 * "κόσμε ".len() + 2;
    let (first, second) = text.split_at(30_000);
    for frames in [
        masked(0x81, &text),
        masked(0x01, &text),
        [masked(0x01, first), ping(), masked(0x00, second)].concat(),
    ] {
        let header = frames.len() - text.len();
        for piece in [1, 7, 8000] {
            // As far as the byte before the wrong one nothing is wrong, and with it all is.
            let pieces = |end: usize| frames[..end].chunks(piece).collect::<Vec<_>>();
            assert_eq!(received(&pieces(wrong)).await, (vec![], 1006));
            assert_eq!(received(&pieces(header + wrong)).await, (vec![], 1007));
        }
    }
    let half = masked(0x81, &"κόσμε".repeat(2000).into_bytes()[..19_999]);
    for piece in [1, 5000, 100_000] {
        assert_eq!(received(&half.chunks(piece).collect::<Vec<_>>()).await, (vec![], 1007));
    }
}

#[tokio::test]
async fn answers_to_a_flood_of_pings_are_no_longer_than_the_pings() {
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(Vec::new(), &limits());
    let mut writer = FrameWriter::default();
    far.write_all(&ping().repeat(5000)).await.unwrap();
    let mut batch = Vec::new();
    let read = poll_fn(|cx| reader.poll_receive(&mut near, cx, &mut batch, &mut writer));
    let progress = read.await;
    assert!(matches!(progress, Progress::Pong));
    let answers = writer.output.len();
    assert!(answers <= 5000 * ping().len(), "{answers}");
}

#[test]
fn an_idle_websocket_is_small() {
    assert!(size_of::<(FrameReader, FrameWriter)>() <= 136);
}
