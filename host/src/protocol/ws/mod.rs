//! WebSocket on a socket: plain frames on the short way, everything else through tokio-tungstenite.
//!
//! Nearly all traffic is whole messages in one frame. They are read into a buffer of the thread's, unmasked and checked right there; so an
//! idle connection owns no buffer. The first frame of another kind wakes tungstenite's state machine ([`TungstenitePath`]), which is fed
//! through a pipe in memory, frame by frame, and put away again when no fragment is under way. It puts fragments together and
//! answers pings; what it says is written in order with the rest. The close handshake is the host's own (`closing`).

mod close;
mod fragments;
pub mod frame;
mod partial;
pub mod utf8;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_util::io::poll_read_buf;

use self::fragments::TungstenitePath;
use self::frame::{Fault, FrameHead, Other, Plain};
use self::partial::PartialFrame;
use self::utf8::NotUtf8;
use super::chunk::Form;
use super::close::CloseReason;
use super::dialog;
use super::outgoing::Outgoing;
use super::wire::{
    BATCH_MESSAGES, DiscardPacer, NO_CLOSE_FRAME, Progress, Received, SCRATCH, STEP, Traffic,
    WriteError, WriteState, in_time, left, linger, not_utf8, too_long,
};
use crate::config::Limits;

/// A WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    stream: S,
    max_message: usize,
    max_frames: usize,
    /// The beginning of a frame whose end has not come.
    input: Vec<u8>,
    /// What of that frame is done already.
    handshaking: PartialFrame,
    /// What was read and not asked for yet.
    traffic: Traffic,
    /// Whether `input` may hold whole frames: what came behind the request, or more messages than one read hands on.
    is_fresh: bool,
    /// What could not be written yet, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// While something is under way that is not plain.
    tungstenite: Option<Box<TungstenitePath>>,
    /// Whether the peer has closed or broken the protocol: what it sends does not count any more.
    is_deaf: bool,
    /// Whether the host's close frame is on its way: nothing may be said behind it.
    is_closing: bool,
    /// The payload of the peer's close frame, to be answered with the same.
    goodbye: Option<Box<[u8]>>,
    state: WriteState,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `input` is what came behind the request.
    pub(crate) fn new(stream: S, input: Vec<u8>, limits: &Limits) -> Self {
        Self {
            stream,
            max_message: limits.max_message,
            max_frames: limits.max_frames,
            is_fresh: !input.is_empty(),
            traffic: Traffic { bytes: input.len() as u32, frames: 0 },
            input,
            handshaking: PartialFrame::default(),
            output: Vec::new(),
            written: 0,
            tungstenite: None,
            is_deaf: false,
            is_closing: false,
            goodbye: None,
            state: WriteState::Whole,
        }
    }

    /// Reads at least one message, and what else this read brought, up to [`BATCH_MESSAGES`]; the rest is there at the next call.
    pub(crate) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        if std::mem::take(&mut self.is_fresh) {
            let mut input = std::mem::take(&mut self.input);
            let progress = self.take_frames(&mut input, batch, cx);
            self.is_deaf = progress.is_end();
            if !batch.is_empty() || !matches!(progress, Progress::More) {
                return Poll::Ready(progress);
            }
        }
        // A peer whose reads bring nothing whole (empty fragments) must not keep the thread.
        loop {
            let was_midway = self.is_midway();
            let progress = match ready!(self.poll_read(cx, batch)) {
                Ok((0, _)) => {
                    return Poll::Ready(Progress::Left(left(CloseCode::ABNORMAL, NO_CLOSE_FRAME)));
                }
                Ok((read, progress)) => {
                    self.traffic.bytes = self.traffic.bytes.saturating_add(read as u32);
                    self.is_deaf = progress.is_end();
                    progress
                }
                Err(error) => {
                    return Poll::Ready(Progress::Left(left(
                        CloseCode::ABNORMAL,
                        &error.to_string(),
                    )));
                }
            };
            if !batch.is_empty()
                || !matches!(progress, Progress::More)
                || self.is_midway() != was_midway
                || self.traffic.is_much()
            {
                return Poll::Ready(progress);
            }
        }
    }

    /// What was read since the last call.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// Whether anything was read since then.
    pub(crate) fn is_heard(&self) -> bool {
        self.traffic.bytes > 0
    }

    /// Whether a message has begun whose end has not come.
    pub(crate) fn is_midway(&self) -> bool {
        // What is fresh may be whole messages.
        !self.is_fresh && !self.input.is_empty() || self.tungstenite.is_some()
    }

    /// Bytes of memory for what came and is no message yet.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn kept(&self) -> usize {
        let tungstenite = self.tungstenite.as_ref();
        self.input.capacity() + tungstenite.map_or(0, |tungstenite| tungstenite.kept())
    }

    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<io::Result<(usize, Progress)>> {
        if self.input.is_empty() {
            return SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
                let read = buffer.filled_mut();
                Poll::Ready(Ok((read.len(), self.take_frames(read, batch, cx))))
            });
        }
        // A large frame is read where it stays. The space grows with what came, not with what the header promises.
        let look = frame::look(&self.input, self.max_message);
        let whole = match look {
            FrameHead::Plain(Plain { header, length, .. }) => header + length,
            FrameHead::Short | FrameHead::Other(_) | FrameHead::Faulty(_) => 0,
        };
        let missing = whole.saturating_sub(self.input.len());
        self.input.reserve_exact(missing.clamp(MIN_READ, MIN_READ.max(self.input.len())));
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        if self.input.len() < whole {
            return Poll::Ready(Ok((read, self.check_beginning())));
        }
        let mut input = std::mem::take(&mut self.input);
        let handshaking = std::mem::take(&mut self.handshaking);
        let progress = match look {
            FrameHead::Plain(plain) if self.tungstenite.is_none() => {
                let mut behind = input.split_off(whole);
                match take_whole(input, plain, handshaking, batch) {
                    Progress::More => self.take_frames(&mut behind, batch, cx),
                    ended => ended,
                }
            }
            _ => self.take_frames(&mut input, batch, cx),
        };
        Poll::Ready(Ok((read, progress)))
    }

    /// Checks what has come of the frame that `input` begins with, if it is a message in one frame.
    fn check_beginning(&mut self) -> Progress {
        let FrameHead::Plain(plain) = frame::look(&self.input, self.max_message) else {
            return Progress::More;
        };
        match self.handshaking.advance(plain, &mut self.input) {
            Ok(()) => Progress::More,
            Err(NotUtf8) => invalid_text(),
        }
    }

    /// Takes all whole frames from `bytes`; what is left of them is kept in `input`.
    fn take_frames(
        &mut self,
        bytes: &mut [u8],
        batch: &mut Vec<Received>,
        cx: &mut Context<'_>,
    ) -> Progress {
        let mut rest = bytes;
        let mut progress = Progress::More;
        while !rest.is_empty() {
            if batch.len() >= BATCH_MESSAGES {
                self.is_fresh = true;
                break;
            }
            let begins = match &self.tungstenite {
                Some(tungstenite) if tungstenite.is_in_frame() => None,
                tungstenite => match frame::look(rest, self.max_message) {
                    FrameHead::Plain(_)
                        if tungstenite.as_ref().is_none_or(|tungstenite| tungstenite.is_idle()) =>
                    {
                        match take_plain(rest, self.max_message, batch) {
                            Ok(0) => break,
                            Ok(used) => rest = &mut rest[used..],
                            Err(invalid) => return invalid,
                        }
                        continue;
                    }
                    FrameHead::Plain(Plain { header, length, .. }) => {
                        Some(Other { header, length, leaves_open: Some(false) })
                    }
                    FrameHead::Other(Other { header, length, .. }) if rest[0] == frame::CLOSE => {
                        match rest.get_mut(..header + length) {
                            Some(frame) => return self.take_close(frame),
                            None => break,
                        }
                    }
                    FrameHead::Other(other) => Some(other),
                    FrameHead::Short => break,
                    FrameHead::Faulty(fault) => return faulty(fault, self.max_message),
                },
            };
            let (used, made) = self.take_unusual(rest, begins, batch, cx);
            rest = &mut rest[used..];
            match made {
                Progress::More => {}
                // The pongs to one read are no more than what was read.
                Progress::Pong => progress = Progress::Pong,
                ended => return ended,
            }
        }
        if self.tungstenite.as_ref().is_some_and(|tungstenite| tungstenite.is_idle()) {
            self.tungstenite = None;
        }
        if rest.is_empty() {
            return progress;
        }
        self.input.extend_from_slice(rest);
        if self.is_fresh {
            return progress;
        }
        match self.check_beginning() {
            Progress::More => progress,
            ended => ended,
        }
    }

    /// Takes the peer's close frame, with its header.
    fn take_close(&mut self, frame: &mut [u8]) -> Progress {
        let Some((header, mask)) = frame::header(frame) else { return Progress::More };
        let payload = &mut frame[header..];
        frame::unmask(payload, mask);
        match close::parse(payload) {
            Ok((code, text)) => {
                self.goodbye = Some((&*payload).into());
                Progress::Done(CloseReason::new(code, ClosedBy::Peer, text))
            }
            Err(reason) => Progress::Violated(reason),
        }
    }

    /// Lets the state machine have what belongs to the present frame, or to the one that `begins`. How many bytes that was, and what it made
    /// of them.
    fn take_unusual(
        &mut self,
        bytes: &[u8],
        begins: Option<Other>,
        batch: &mut Vec<Received>,
        cx: &mut Context<'_>,
    ) -> (usize, Progress) {
        let limits = (self.max_message, self.max_frames);
        let tungstenite =
            self.tungstenite.get_or_insert_with(|| Box::new(TungstenitePath::new(limits)));
        let begun = begins.map_or(Ok(()), |frame| {
            self.traffic.frames = self.traffic.frames.saturating_add(1);
            tungstenite.begin(bytes, frame)
        });
        let used = match begun.and_then(|()| tungstenite.feed(bytes)) {
            Ok(used) => used,
            Err(reason) => return (0, Progress::Violated(reason)),
        };
        let messages = batch.len();
        let made = tungstenite.drain(batch, cx);
        if batch.len() > messages {
            // It counts as what it brought.
            self.traffic.frames = self.traffic.frames.saturating_sub(1);
        }
        if self.is_closing {
            tungstenite.speak(&mut Vec::new());
        } else {
            tungstenite.speak(&mut self.output);
        }
        (used, made)
    }

    /// Writes all of `queue`, at once as far as the socket takes it.
    pub(crate) async fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        uuid: &str,
        limit: Duration,
    ) -> Result<(), WriteError> {
        self.state.check()?;
        self.state = WriteState::Gap;
        let mut queue = queue.into_iter().peekable();
        while queue.peek().is_some() {
            let mut large = None;
            if !self.output.is_empty() {
                in_time(limit, self.flush()).await?;
            }
            let first_write = poll_fn(|cx| {
                Poll::Ready(FRAMES.with_borrow_mut(|frames| {
                    frames.clear();
                    large = append_frames(frames, &mut queue, uuid);
                    if large.is_some() {
                        self.state = WriteState::Torn;
                    }
                    self.poll_write_some(cx, frames)
                }))
            });
            first_write.await?;
            if !self.output.is_empty() {
                in_time(limit, self.flush()).await?;
            }
            if let Some(payload) = large {
                for step in payload.chunks(STEP) {
                    in_time(limit, self.stream.write_all(step)).await?;
                }
                self.state = WriteState::Gap;
            }
        }
        in_time(limit, self.stream.flush()).await?;
        self.state = WriteState::Whole;
        Ok(())
    }

    /// Writes what the socket takes now and keeps the rest.
    fn poll_write_some(&mut self, cx: &mut Context<'_>, frames: &[u8]) -> io::Result<()> {
        let mut rest = frames;
        while !rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => rest = &rest[written..],
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.output.extend_from_slice(rest);
        Ok(())
    }

    /// Writes what is kept. Cancel-safe: what was written is not written again.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        poll_fn(|cx| {
            while let rest @ [_, ..] = &self.output[self.written..] {
                match ready!(Pin::new(&mut self.stream).poll_write(cx, rest)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(count) => self.written += count,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        (self.output, self.written) = (Vec::new(), 0);
        // TLS may keep what the socket did not take.
        self.stream.flush().await
    }

    /// The host's last words: the `close` packet if there is one, and the close frame.
    pub(crate) async fn say_goodbye(
        &mut self,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> io::Result<()> {
        if self.state == WriteState::Torn {
            return self.state.check();
        }
        if let Some(packet) = packet {
            frame::append_header(&mut self.output, true, packet.len());
            self.output.extend_from_slice(packet.as_bytes());
        }
        close::append(&mut self.output, reason.code, &reason.text);
        self.is_closing = true;
        self.flush().await?;
        self.stream.flush().await
    }

    /// The answer to the peer's close frame.
    pub(crate) async fn answer_goodbye(&mut self) -> io::Result<()> {
        self.state.check()?;
        if let Some(payload) = self.goodbye.take() {
            close::append_answer(&mut self.output, &payload);
        }
        self.flush().await
    }

    /// Waits for the peer's side of the close handshake where it is the host that closes, and for the end of the stream.
    pub(crate) async fn linger(&mut self) {
        if self.is_closing && !self.is_deaf {
            let mut scrap = Vec::new();
            let mut pacer = DiscardPacer::default();
            while let Progress::More | Progress::Pong =
                poll_fn(|cx| self.poll_receive(cx, &mut scrap)).await
            {
                scrap.clear();
                pacer.after(self.take_traffic().bytes as usize).await;
            }
        }
        linger(&mut self.stream).await;
    }
}

/// A frame larger than this is not copied to be written with others.
const LARGE: usize = 16 * 1024;
/// The least that is asked of a socket behind the beginning of a frame.
const MIN_READ: usize = 4 * 1024;

thread_local! {
    /// The frames of one write, for the moment between outbox and socket.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes the plain frames at the beginning of `bytes` that are whole, up to [`BATCH_MESSAGES`] in `batch`, and returns how many bytes
/// they are. Several share one buffer: to allocate it costs more than to count who holds it.
fn take_plain(
    bytes: &mut [u8],
    max_message: usize,
    batch: &mut Vec<Received>,
) -> Result<usize, Progress> {
    let place = BATCH_MESSAGES - batch.len();
    let (mut end, mut count) = (0, 0);
    let mut verdict = Ok(());
    while count < place
        && let FrameHead::Plain(Plain { is_text, header, length, mask }) =
            frame::look(&bytes[end..], max_message)
        && let Some(payload) = bytes.get_mut(end + header..end + header + length)
    {
        frame::unmask(payload, mask);
        if is_text && std::str::from_utf8(payload).is_err() {
            verdict = Err(invalid_text());
            break;
        }
        end += header + length;
        count += 1;
    }
    let mut shared = (count > 1).then(|| Bytes::copy_from_slice(&bytes[..end]));
    let mut rest = &bytes[..end];
    batch.reserve(count);
    // The headers are as they were.
    while let FrameHead::Plain(Plain { is_text, header, length, .. }) =
        frame::look(rest, max_message)
    {
        let bytes = match &mut shared {
            Some(shared) => shared.split_to(header + length).slice(header..),
            None => Bytes::copy_from_slice(&rest[header..]),
        };
        batch.push(Received { bytes, form: if is_text { Form::Text } else { Form::Binary } });
        rest = &rest[header + length..];
    }
    verdict.map(|()| end)
}

/// A frame that fills its buffer: the payload is not copied.
fn take_whole(
    mut input: Vec<u8>,
    plain: Plain,
    handshaking: PartialFrame,
    batch: &mut Vec<Received>,
) -> Progress {
    if handshaking.finish(plain, &mut input).is_err() {
        return invalid_text();
    }
    let form = if plain.is_text { Form::Text } else { Form::Binary };
    batch.push(Received { bytes: Bytes::from(input).slice(plain.header..), form });
    Progress::More
}

/// Appends the frames of `queue`, up to and including the header of a large one, whose payload is returned.
fn append_frames(
    frames: &mut Vec<u8>,
    queue: &mut impl Iterator<Item = Outgoing>,
    uuid: &str,
) -> Option<Bytes> {
    let text = |frames: &mut Vec<u8>, text: &str| {
        frame::append_header(frames, true, text.len());
        frames.extend_from_slice(text.as_bytes());
    };
    while frames.len() < STEP {
        match queue.next()? {
            Outgoing::Message(payload) => {
                frame::append_header(frames, payload.is_text, payload.len());
                if payload.len() > LARGE {
                    return payload.into_long();
                }
                frames.extend_from_slice(payload.as_bytes());
            }
            Outgoing::Next(packet) => text(frames, packet.as_deref().unwrap_or(dialog::NEXT)),
            Outgoing::Ready => text(frames, &dialog::ready(uuid)),
            // RFC 6455, section 5.5.2: final, opcode 9, no payload.
            Outgoing::Ping => frames.extend_from_slice(&[0x89, 0]),
        }
    }
    None
}

fn invalid_text() -> Progress {
    Progress::Violated(not_utf8())
}

fn faulty(fault: Fault, max_bytes: usize) -> Progress {
    Progress::Violated(match fault {
        Fault::TooLong => too_long(max_bytes),
        _ => CloseReason::host(CloseCode::PROTOCOL, fault.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internals::properties::masked;

    const MAX: usize = 100_000;

    fn limits() -> Limits {
        Limits { max_message: MAX, max_frames: 5, ..Limits::default() }
    }

    fn text(payload: &str) -> Vec<u8> {
        masked(0x81, payload.as_bytes())
    }

    fn ping() -> Vec<u8> {
        masked(0x89, b"p")
    }

    /// What a peer sent with these writes, and the code with which it ended.
    async fn received(writes: &[&[u8]]) -> (Vec<String>, u16) {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut socket = WebSocket::new(near, Vec::new(), &limits());
        let mut found = Vec::new();
        let reading = async {
            let mut batch = Vec::new();
            loop {
                let progress = poll_fn(|cx| socket.poll_receive(cx, &mut batch)).await;
                found.extend(
                    batch
                        .drain(..)
                        .map(|r| format!("{:?}:{}", r.form, String::from_utf8_lossy(&r.bytes))),
                );
                socket.flush().await.unwrap();
                match progress {
                    Progress::More | Progress::Pong => {}
                    Progress::Done(reason)
                    | Progress::Left(reason)
                    | Progress::Violated(reason) => return reason.code.0,
                }
            }
        };
        let writing = async {
            for write in writes {
                far.write_all(write).await.unwrap();
                // The reader sees this write alone.
                tokio::task::yield_now().await;
            }
            far.shutdown().await.unwrap();
        };
        let (end, ()) = tokio::join!(reading, writing);
        (found, end)
    }

    /// A generator of numbers that are the same each time.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as usize % bound
        }
    }

    #[tokio::test]
    async fn however_the_bytes_are_split_the_messages_are_the_same() {
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
    async fn a_violation_ends_with_its_code_after_what_came_before_it() {
        let huge = [&[0x81, 0xff, 0x80][..], &[0; 11]].concat();
        for (bytes, code) in [
            (vec![0x81, 2, b'h', b'i'], 1002),
            (masked(0xf1, b"x"), 1002),
            (masked(0x83, b"x"), 1002),
            (masked(0x80, b"x"), 1002),
            // Its end does not come, and what there is of it is no UTF-8.
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
            // Headers whose frames do not come.
            (vec![0x91, 0x85], 1002),
            (vec![0x09, 0x85], 1002),
            ([masked(0x01, b"a"), vec![0x82, 0x85, 0, 0, 0, 0]].concat(), 1002),
            (
                [masked(0x01, &[b'x'; 60_000]), vec![0x80, 0xfe, 0xff, 0xff, 0, 0, 0, 0]].concat(),
                1009,
            ),
        ] {
            let stream = [text("before"), bytes.clone()].concat();
            let expected = (vec!["Text:before".to_owned()], code);
            assert_eq!(received(&[&stream]).await, expected, "{:02x?}", &bytes[..2]);
        }
    }

    #[tokio::test]
    async fn text_that_cannot_become_utf8_ends_before_its_frame_has_come() {
        let text =
            ["κόσμε ".repeat(3000).as_bytes(), b"\xf4\x90\x80\x80", &[b'x'; 20_000]].concat();
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
    async fn a_flood_of_pings_is_answered_by_no_more_than_was_read() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut socket = WebSocket::new(near, Vec::new(), &limits());
        far.write_all(&ping().repeat(5000)).await.unwrap();
        let mut batch = Vec::new();
        let progress = poll_fn(|cx| socket.poll_receive(cx, &mut batch)).await;
        assert!(matches!(progress, Progress::Pong));
        assert!(socket.output.len() <= 5000 * ping().len(), "{}", socket.output.len());
    }
}
