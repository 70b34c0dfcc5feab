//! WebSocket on a socket: plain frames on the short way, everything else through tokio-tungstenite.
//!
//! Nearly all traffic is whole messages in one frame. They are read into a buffer of the thread's, unmasked and checked right there; so an
//! idle connection owns no buffer. The first frame of another kind wakes tungstenite's state machine ([`Unusual`]), which is fed
//! through a pipe in memory, frame by frame, and put away again when no fragment is under way. It alone judges
//! fragments, control frames, violations and the close handshake; what it says is written in order with the rest.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{SinkExt, Stream};
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message as WsMessage, Utf8Bytes};
use tokio_util::io::poll_read_buf;

use super::{BATCH_MESSAGES, Progress, Received, SCRATCH, left, linger};
use crate::chunk::Form;
use crate::dialog;
use crate::frame::{self, Look, Other, Plain};
use crate::outbox::{CloseReason, Outgoing};
use crate::registry::Peer;

/// A WebSocket after its handshake.
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    stream: S,
    max_message: usize,
    /// The beginning of a frame whose end has not come.
    input: Vec<u8>,
    /// Whether `input` may hold whole frames: what came behind the request, or more messages than one read hands on.
    is_fresh: bool,
    /// What could not be written yet, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// While something is under way that is not plain.
    unusual: Option<Box<Unusual>>,
    /// Whether the peer has closed or broken the protocol: what it sends does not count any more.
    is_deaf: bool,
    state: WriteState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    Whole,
    /// A frame was begun whose rest is not in `output`: nothing can follow it any more if its writing is given up.
    InFrame,
}

/// tungstenite's state machine, at work on the frames that are not plain.
#[derive(Debug)]
struct Unusual {
    machine: WebSocketStream<Pipe>,
    /// Bytes of the present frame that it has not been given; `None` for a frame without an end.
    frame_left: Option<usize>,
    /// What will be under way behind the present frame.
    leaves_open: Option<bool>,
    /// Whether a fragmented message is under way.
    is_open: bool,
    /// Whether the host's close frame went through it.
    is_closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `input` is what came behind the request.
    pub(crate) fn new(stream: S, input: Vec<u8>, max_message: usize) -> Self {
        Self {
            stream,
            max_message,
            is_fresh: !input.is_empty(),
            input,
            output: Vec::new(),
            written: 0,
            unusual: None,
            is_deaf: false,
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
            self.is_deaf = matches!(progress, Progress::Left(_) | Progress::Violated(_));
            if !batch.is_empty() || !matches!(progress, Progress::More) {
                return Poll::Ready(progress);
            }
        }
        loop {
            let was_midway = self.is_midway();
            let progress = match ready!(self.poll_read(cx, batch)) {
                Ok((0, _)) => {
                    return Poll::Ready(Progress::Left(left(CloseCode::ABNORMAL, NO_CLOSE_FRAME)));
                }
                Ok((_, progress)) => {
                    self.is_deaf = matches!(progress, Progress::Left(_) | Progress::Violated(_));
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
            {
                return Poll::Ready(progress);
            }
        }
    }

    /// Whether a message has begun whose end has not come.
    pub(crate) fn is_midway(&self) -> bool {
        // What is fresh may be whole messages.
        !self.is_fresh && !self.input.is_empty() || self.unusual.is_some()
    }

    /// Bytes of memory for what came and is no message yet.
    #[cfg(any(test, feature = "internals"))]
    pub(crate) fn kept(&self) -> usize {
        let unusual = self.unusual.as_ref();
        self.input.capacity() + unusual.map_or(0, |it| it.machine.get_ref().input.capacity())
    }

    #[cfg(any(test, feature = "internals"))]
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
        let whole = match frame::look(&self.input, self.max_message) {
            Look::Plain(Plain { header, length, .. }) => header + length,
            Look::Short | Look::Other(_) => 0,
        };
        let missing = whole.saturating_sub(self.input.len());
        self.input.reserve_exact(missing.clamp(MIN_READ, MIN_READ.max(self.input.len())));
        let read = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input))?;
        if self.input.len() < whole {
            return Poll::Ready(Ok((read, Progress::More)));
        }
        let mut input = std::mem::take(&mut self.input);
        let progress = match frame::look(&input, self.max_message) {
            Look::Plain(plain)
                if input.len() == plain.header + plain.length && self.unusual.is_none() =>
            {
                take_whole(input, plain, batch)
            }
            _ => self.take_frames(&mut input, batch, cx),
        };
        Poll::Ready(Ok((read, progress)))
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
            let is_busy = self.unusual.as_ref().is_some_and(|unusual| !unusual.is_idle());
            match frame::look(rest, self.max_message) {
                Look::Plain(Plain { is_text, header, length, mask }) if !is_busy => {
                    if rest.len() < header + length {
                        break;
                    }
                    let (frame, behind) = rest.split_at_mut(header + length);
                    rest = behind;
                    frame::unmask(&mut frame[header..], mask);
                    if is_text && std::str::from_utf8(&frame[header..]).is_err() {
                        return invalid_text();
                    }
                    let form = if is_text { Form::Text } else { Form::Binary };
                    batch.push(Received { bytes: Bytes::copy_from_slice(&frame[header..]), form });
                }
                Look::Short
                    if !self.unusual.as_ref().is_some_and(|unusual| unusual.is_in_frame()) =>
                {
                    break;
                }
                look => {
                    let max_message = self.max_message;
                    let unusual =
                        self.unusual.get_or_insert_with(|| Box::new(Unusual::new(max_message)));
                    let used = unusual.feed(rest, look);
                    rest = &mut rest[used..];
                    let made = unusual.drain(batch, cx);
                    self.output.append(&mut unusual.machine.get_mut().output);
                    match made {
                        Progress::More => {}
                        // The pongs to one read are no more than what was read.
                        Progress::Pong => progress = Progress::Pong,
                        ended => return ended,
                    }
                }
            }
        }
        if self.unusual.as_ref().is_some_and(|unusual| unusual.is_idle()) {
            self.unusual = None;
        }
        self.input.extend_from_slice(rest);
        progress
    }

    /// Writes all of `queue` at once.
    pub(crate) async fn write(&mut self, queue: VecDeque<Outgoing>, peer: &Peer) -> io::Result<()> {
        let mut queue = queue.into_iter().peekable();
        while queue.peek().is_some() {
            let mut large = None;
            self.flush().await?;
            let first_write = poll_fn(|cx| {
                Poll::Ready(FRAMES.with_borrow_mut(|frames| {
                    frames.clear();
                    large = append_frames(frames, &mut queue, peer);
                    self.poll_write_some(cx, frames)
                }))
            });
            first_write.await?;
            self.flush().await?;
            if let Some(payload) = large {
                self.state = WriteState::InFrame;
                self.stream.write_all(&payload).await?;
                self.state = WriteState::Whole;
            }
        }
        self.stream.flush().await
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
        Ok(())
    }

    /// The host's last words: the `close` packet if there is one, and the close frame.
    pub(crate) async fn say_goodbye(
        &mut self,
        reason: &CloseReason,
        packet: Option<String>,
    ) -> io::Result<()> {
        if self.state == WriteState::InFrame {
            return Err(io::Error::other("the last frame was not written to its end"));
        }
        if let Some(packet) = packet {
            frame::append_header(&mut self.output, true, packet.len());
            self.output.extend_from_slice(packet.as_bytes());
        }
        let max_message = self.max_message;
        let unusual = self.unusual.get_or_insert_with(|| Box::new(Unusual::new(max_message)));
        let frame = CloseFrame { code: reason.code.0.into(), reason: close_text(&reason.text) };
        // Into the pipe it always goes; one that has closed already says so, which is as good.
        drop(unusual.machine.send(WsMessage::Close(Some(frame))).await);
        unusual.is_closing = true;
        self.output.append(&mut unusual.machine.get_mut().output);
        self.flush().await?;
        self.stream.flush().await
    }

    /// Waits for the peer's side of the close handshake where it is the host that closes, and for the end of the stream.
    pub(crate) async fn linger(&mut self) {
        // Its own close frame may be kept.
        drop(self.flush().await);
        let is_awaited = self.unusual.as_ref().is_some_and(|unusual| unusual.is_closing);
        if is_awaited && !self.is_deaf {
            let mut scrap = Vec::new();
            while let Progress::More | Progress::Pong =
                poll_fn(|cx| self.poll_receive(cx, &mut scrap)).await
            {
                scrap.clear();
            }
        }
        linger(&mut self.stream).await;
    }
}

/// A frame larger than this is not copied to be written with others.
const LARGE: usize = 16 * 1024;
/// So many bytes of frames are written together.
const MAX_FRAMES: usize = 64 * 1024;
/// The least that is asked of a socket behind the beginning of a frame.
const MIN_READ: usize = 4 * 1024;

thread_local! {
    /// The frames of one write, for the moment between outbox and socket.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A frame that fills its buffer: the payload is not copied.
fn take_whole(mut input: Vec<u8>, plain: Plain, batch: &mut Vec<Received>) -> Progress {
    frame::unmask(&mut input[plain.header..], plain.mask);
    if plain.is_text && std::str::from_utf8(&input[plain.header..]).is_err() {
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
    peer: &Peer,
) -> Option<Bytes> {
    let text = |frames: &mut Vec<u8>, text: &str| {
        frame::append_header(frames, true, text.len());
        frames.extend_from_slice(text.as_bytes());
    };
    while frames.len() < MAX_FRAMES {
        match queue.next()? {
            Outgoing::Message(payload) => {
                frame::append_header(frames, payload.is_text, payload.bytes.len());
                if payload.bytes.len() > LARGE {
                    return Some(payload.bytes);
                }
                frames.extend_from_slice(&payload.bytes);
            }
            Outgoing::Next(fyi) => text(frames, &dialog::next(fyi.as_deref().unwrap_or_default())),
            Outgoing::Ready => text(frames, &dialog::ready(peer.identity.as_str())),
            // RFC 6455, section 5.5.2: final, opcode 9, no payload.
            Outgoing::Ping => frames.extend_from_slice(&[0x89, 0]),
        }
    }
    None
}

const NO_CLOSE_FRAME: &str = "the connection ended without a close frame";

fn invalid_text() -> Progress {
    Progress::Violated(CloseReason::host(CloseCode::INVALID, "text that is not UTF-8"))
}

impl Unusual {
    fn new(max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_PIPE)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let machine = WebSocketStream::from_raw_socket(Pipe::default(), Role::Server, Some(config));
        // It awaits nothing: there is no handshake.
        let machine = futures_util::FutureExt::now_or_never(machine).expect("ready at once");
        Self { machine, frame_left: Some(0), leaves_open: None, is_open: false, is_closing: false }
    }

    /// Nothing is under way: plain frames may pass by, and it may be put away.
    fn is_idle(&self) -> bool {
        !self.is_open && !self.is_closing && !self.is_in_frame()
    }

    fn is_in_frame(&self) -> bool {
        self.frame_left != Some(0)
    }

    /// Gives it what belongs to the present frame, or to the next, at which `look` was taken. Returns how much that was.
    fn feed(&mut self, bytes: &[u8], look: Look) -> usize {
        if !self.is_in_frame() {
            (self.frame_left, self.leaves_open) = match look {
                // Inside a fragmented message even a plain frame is for it to judge.
                Look::Plain(plain) => (Some(plain.header + plain.length), Some(false)),
                Look::Other(Other { size, leaves_open }) => (size, leaves_open),
                Look::Short => (None, None),
            };
        }
        let used = self.frame_left.map_or(bytes.len(), |left| left.min(bytes.len()));
        self.machine.get_mut().input.extend_from_slice(&bytes[..used]);
        self.frame_left = self.frame_left.map(|left| left - used);
        if !self.is_in_frame() {
            self.is_open = self.leaves_open.unwrap_or(self.is_open);
        }
        used
    }

    fn drain(&mut self, batch: &mut Vec<Received>, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::More;
        loop {
            let received = match Pin::new(&mut self.machine).poll_next(cx) {
                Poll::Pending => return progress,
                Poll::Ready(None) => return Progress::Left(left(CloseCode::ABNORMAL, "")),
                Poll::Ready(Some(Err(error))) => return ended(error),
                Poll::Ready(Some(Ok(message))) => message,
            };
            match received {
                WsMessage::Text(text) => {
                    batch.push(Received { bytes: text.into(), form: Form::Text })
                }
                WsMessage::Binary(bytes) => batch.push(Received { bytes, form: Form::Binary }),
                // A pong, too, ends the read: it is all that shows that an idle peer is alive.
                WsMessage::Ping(_) | WsMessage::Pong(_) => progress = Progress::Pong,
                WsMessage::Frame(_) => {}
                WsMessage::Close(frame) => {
                    // Polled once more, it answers with its own close frame.
                    drop(Pin::new(&mut self.machine).poll_next(cx));
                    let (code, text) = frame.map_or((NO_CODE, String::new()), |f| {
                        (CloseCode(f.code.into()), f.reason.to_string())
                    });
                    return Progress::Left(CloseReason::new(code, ClosedBy::Peer, text));
                }
            }
        }
    }
}

/// More than a close and the pongs to the pings of one read.
const MAX_PIPE: usize = 1024 * 1024;
/// 1005: a close frame without a code (RFC 6455, section 7.4.1). Reported, never sent.
const NO_CODE: CloseCode = CloseCode(1005);

fn ended(error: WsError) -> Progress {
    let violated = |code, text: String| Progress::Violated(CloseReason::host(code, text));
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed | WsError::Io(_) => {
            Progress::Left(left(CloseCode::ABNORMAL, ""))
        }
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Progress::Left(left(CloseCode::ABNORMAL, NO_CLOSE_FRAME))
        }
        WsError::Utf8(_) => violated(CloseCode::INVALID, "text that is not UTF-8".to_owned()),
        WsError::Capacity(error) => violated(CloseCode::TOO_BIG, error.to_string()),
        error => violated(CloseCode::PROTOCOL, error.to_string()),
    }
}

/// RFC 6455, section 5.5: a control frame holds 125 bytes, two of them are the code.
fn close_text(text: &str) -> Utf8Bytes {
    let mut end = text.len().min(123);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// A socket in memory, between the real one and tungstenite.
#[derive(Debug, Default)]
struct Pipe {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl AsyncRead for Pipe {
    /// Whoever fills it polls again.
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            return Poll::Pending;
        }
        let count = self.input.len().min(buffer.remaining());
        buffer.put_slice(&self.input[..count]);
        self.input.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 100_000;

    /// A frame as a client sends it: `first` is its first byte (FIN, reserved bits, opcode).
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [0x5a, 0x01, 0xfe, 0x33];
        let mut bytes = Vec::new();
        frame::append_header(&mut bytes, true, payload.len());
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend_from_slice(&MASK);
        let at = bytes.len();
        bytes.extend_from_slice(payload);
        frame::unmask(&mut bytes[at..], MASK);
        bytes
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
        let mut socket = WebSocket::new(near, Vec::new(), MAX);
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
                    Progress::Left(reason) | Progress::Violated(reason) => return reason.code.0,
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
            (masked(0x09, b"x"), 1002),
            (masked(0x89, &[b'x'; 126]), 1002),
            (masked(0x88, b"x"), 1002),
            (huge, 1009),
            (masked(0x81, &vec![b'x'; MAX + 1]), 1009),
            (masked(0x81, &[0xff]), 1007),
            ([masked(0x01, b"a"), text("b")].concat(), 1002),
        ] {
            let stream = [text("before"), bytes.clone()].concat();
            let expected = (vec!["Text:before".to_owned()], code);
            assert_eq!(received(&[&stream]).await, expected, "{:02x?}", &bytes[..4]);
        }
    }

    #[tokio::test]
    async fn a_length_in_a_longer_form_than_it_needs_changes_nothing_for_what_follows() {
        let longer = [&[0x81, 0xfe, 0, 2, 0, 0, 0, 0][..], b"hi"].concat();
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut socket = WebSocket::new(near, Vec::new(), MAX);
        far.write_all(&[longer, text("x").repeat(1000)].concat()).await.unwrap();
        let mut batch = Vec::new();
        let progress = poll_fn(|cx| socket.poll_receive(cx, &mut batch)).await;
        assert!(matches!(progress, Progress::More));
        assert_eq!((batch.len(), &batch[0].bytes[..]), (BATCH_MESSAGES, &b"hi"[..]));
        // Nothing is under way that could take too long.
        assert!(socket.unusual.is_none() && !socket.is_midway());
    }

    #[tokio::test]
    async fn a_flood_of_pings_is_answered_by_no_more_than_was_read() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut socket = WebSocket::new(near, Vec::new(), MAX);
        far.write_all(&ping().repeat(5000)).await.unwrap();
        let mut batch = Vec::new();
        let progress = poll_fn(|cx| socket.poll_receive(cx, &mut batch)).await;
        assert!(matches!(progress, Progress::Pong));
        assert!(socket.output.len() <= 5000 * ping().len(), "{}", socket.output.len());
    }
}
