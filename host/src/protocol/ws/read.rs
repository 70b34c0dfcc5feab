//! The read side of a WebSocket: splits the bytes of each read into messages.
//!
//! Owns the beginning of a frame that is not whole yet, and the state machine for frames that are
//! not plain.

use std::future::poll_fn;
use std::io;
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::close;
use super::fragments::TungstenitePath;
use super::frame::{self, Fault, FrameHead, Other, Plain};
use super::partial::PartialFrame;
use super::utf8::NotUtf8;
use super::write::FrameWriter;
use crate::config::MessageLimits;
use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::io::{
    BATCH_MESSAGES, DiscardPacer, Progress, Received, SCRATCH, Traffic, not_utf8, too_long,
};

/// The read side of a WebSocket.
#[derive(Debug)]
pub(in crate::protocol) struct FrameReader {
    max_message: usize,
    max_frames: usize,
    /// The beginning of a frame that is not whole yet.
    input: Vec<u8>,
    /// How much of that frame is unmasked and checked.
    partial: PartialFrame,
    pub(in crate::protocol) traffic: Traffic,
    /// Whether `input` may hold whole frames: what followed the request, or more messages than one
    /// read returns.
    is_fresh: bool,
    /// Exists while frames that are not plain are in progress.
    tungstenite: Option<Box<TungstenitePath>>,
    /// Whether the peer has closed or violated the protocol: further input is ignored.
    has_ended: bool,
    /// The payload of the peer's close frame, until it is answered.
    pub(in crate::protocol) close_payload: Option<Box<[u8]>>,
}

impl FrameReader {
    /// Creates the read side; `input` is what followed the request.
    pub(in crate::protocol) fn new(input: Vec<u8>, limits: &MessageLimits) -> Self {
        Self {
            max_message: limits.max_message,
            max_frames: limits.max_frames,
            is_fresh: !input.is_empty(),
            traffic: Traffic { bytes: input.len() as u32, ..Traffic::default() },
            input,
            partial: PartialFrame::default(),
            tungstenite: None,
            has_ended: false,
            close_payload: None,
        }
    }

    pub(in crate::protocol) fn is_mid_message(&self) -> bool {
        !self.is_fresh && !self.input.is_empty() || self.tungstenite.is_some()
    }

    /// Returns the memory held for input that is not a whole message yet.
    pub(in crate::protocol) fn buffered_bytes(&self) -> usize {
        let tungstenite = self.tungstenite.as_ref();
        self.input.capacity() + tungstenite.map_or(0, |tungstenite| tungstenite.buffered_bytes())
    }

    /// Discards the beginning of a message; further input is ignored.
    pub(in crate::protocol) fn discard_input(&mut self) {
        (self.input, self.tungstenite, self.has_ended) = (Vec::new(), None, true);
    }

    /// Reads at least one message. Pongs are appended to the output of `writer`.
    pub(in crate::protocol) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
        writer: &mut FrameWriter,
    ) -> Poll<Progress> {
        if take(&mut self.is_fresh) {
            let mut input = take(&mut self.input);
            let progress = self.take_frames(&mut input, batch, writer);
            self.has_ended = progress.is_end();
            if !batch.is_empty() || !matches!(progress, Progress::More) {
                return Poll::Ready(progress);
            }
        }
        // The traffic bounds the loop: reads that bring no message must not occupy the thread.
        loop {
            let was_mid_message = self.is_mid_message();
            let (read, progress) = match ready!(self.poll_read(stream, cx, batch, writer)) {
                Ok((0, _)) => {
                    return Poll::Ready(Progress::broken(
                        "the connection ended without a close frame",
                    ));
                }
                Ok(read) => read,
                Err(error) => return Poll::Ready(Progress::broken(error.to_string())),
            };
            self.traffic.add_bytes(read);
            self.has_ended = progress.is_end();
            if !batch.is_empty()
                || !matches!(progress, Progress::More)
                || self.is_mid_message() != was_mid_message
                || self.traffic.is_much()
            {
                return Poll::Ready(progress);
            }
        }
    }

    /// Waits for the peer's close frame, if the host closed first.
    pub(in crate::protocol) async fn await_close<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        writer: &mut FrameWriter,
    ) {
        let (mut scrap, mut pacer) = (Vec::new(), DiscardPacer::default());
        while writer.is_closing
            && !self.has_ended
            && let Progress::More | Progress::Pong =
                poll_fn(|cx| self.poll_receive(stream, cx, &mut scrap, writer)).await
        {
            scrap.clear();
            pacer.pause_after(take(&mut self.traffic).bytes as usize).await;
        }
    }

    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
        writer: &mut FrameWriter,
    ) -> Poll<io::Result<(usize, Progress)>> {
        if self.input.is_empty() {
            return SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
                let read = buffer.filled_mut();
                Poll::Ready(Ok((read.len(), self.take_frames(read, batch, writer))))
            });
        }
        // A large frame is read in place. Its buffer grows with the received bytes, not with the
        // length that the header declares.
        let head = frame::parse_header(&self.input, self.max_message);
        let whole = match head {
            FrameHead::Plain(Plain { header, length, .. }) => header + length,
            _ => 0,
        };
        let missing = whole.saturating_sub(self.input.len());
        self.input.reserve_exact(missing.clamp(MIN_READ, MIN_READ.max(self.input.len())));
        let read = ready!(poll_read_buf(Pin::new(stream), cx, &mut self.input))?;
        if self.input.len() < whole {
            return Poll::Ready(Ok((read, self.check_partial())));
        }
        let mut input = take(&mut self.input);
        let partial = take(&mut self.partial);
        let progress = match head {
            FrameHead::Plain(plain) if self.tungstenite.is_none() => {
                let mut following = input.split_off(whole);
                match take_whole(input, plain, partial, batch) {
                    Progress::More => self.take_frames(&mut following, batch, writer),
                    ended => ended,
                }
            }
            _ => self.take_frames(&mut input, batch, writer),
        };
        Poll::Ready(Ok((read, progress)))
    }

    /// Checks the text of the frame that `input` begins with, as far as it was received.
    fn check_partial(&mut self) -> Progress {
        let FrameHead::Plain(plain) = frame::parse_header(&self.input, self.max_message) else {
            return Progress::More;
        };
        match self.partial.advance(plain, &mut self.input) {
            Ok(()) => Progress::More,
            Err(NotUtf8) => invalid_text(),
        }
    }

    /// Takes all whole frames from `bytes`; the rest is kept in `input`.
    fn take_frames(
        &mut self,
        bytes: &mut [u8],
        batch: &mut Vec<Received>,
        writer: &mut FrameWriter,
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
                tungstenite => match frame::parse_header(rest, self.max_message) {
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
            let (used, made) = self.take_other(rest, begins, batch, writer);
            rest = &mut rest[used..];
            match made {
                Progress::More => {}
                // The read continues: its pongs are at most as long as its input.
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
        match self.check_partial() {
            Progress::More => progress,
            ended => ended,
        }
    }

    /// Takes the peer's close frame, header included.
    fn take_close(&mut self, frame: &mut [u8]) -> Progress {
        let Some((header, mask)) = frame::header_and_mask(frame) else { return Progress::More };
        let payload = &mut frame[header..];
        frame::unmask(payload, mask);
        match close::parse(payload) {
            Ok((code, text)) => {
                self.close_payload = Some((&*payload).into());
                Progress::Done(CloseReason::peer(code, text))
            }
            Err(reason) => Progress::Violation(reason),
        }
    }

    /// Feeds the state machine the bytes of the current frame, or of the one that `begins`. Returns
    /// how many bytes it used and the result.
    fn take_other(
        &mut self,
        bytes: &[u8],
        begins: Option<Other>,
        batch: &mut Vec<Received>,
        writer: &mut FrameWriter,
    ) -> (usize, Progress) {
        let new = || Box::new(TungstenitePath::new(self.max_message, self.max_frames));
        let tungstenite = self.tungstenite.get_or_insert_with(new);
        let begun = begins.map_or(Ok(()), |frame| {
            self.traffic.add_frame(bytes);
            tungstenite.begin(bytes, frame)
        });
        let used = match begun.and_then(|()| tungstenite.feed(bytes)) {
            Ok(used) => used,
            Err(reason) => return (0, Progress::Violation(reason)),
        };
        let messages = batch.len();
        let made = tungstenite.drain(batch);
        if batch.len() > messages {
            // The frame counts as the message that it completed.
            self.traffic.frames = self.traffic.frames.saturating_sub(1);
        }
        let pongs = tungstenite.output();
        if writer.is_closing {
            pongs.clear()
        } else {
            writer.output.append(pongs)
        }
        (used, made)
    }
}

/// Takes the whole plain frames at the beginning of `bytes`, up to [`BATCH_MESSAGES`] in `batch`,
/// and returns their length. Several messages share one buffer: an allocation costs more than a
/// reference count.
fn take_plain(
    bytes: &mut [u8],
    max_message: usize,
    batch: &mut Vec<Received>,
) -> Result<usize, Progress> {
    let free = BATCH_MESSAGES - batch.len();
    let (mut end, mut count) = (0, 0);
    let mut result = Ok(());
    while count < free
        && let FrameHead::Plain(Plain { form, header, length, mask }) =
            frame::parse_header(&bytes[end..], max_message)
        && let Some(payload) = bytes.get_mut(end + header..end + header + length)
    {
        frame::unmask(payload, mask);
        if form == Form::Text && std::str::from_utf8(payload).is_err() {
            result = Err(invalid_text());
            break;
        }
        end += header + length;
        count += 1;
    }
    let mut shared = (count > 1).then(|| Bytes::copy_from_slice(&bytes[..end]));
    let mut rest = &bytes[..end];
    batch.reserve(count);
    // The headers are still there: only payloads were unmasked.
    while let FrameHead::Plain(Plain { form, header, length, .. }) =
        frame::parse_header(rest, max_message)
    {
        let bytes = match &mut shared {
            Some(shared) => shared.split_to(header + length).slice(header..),
            None => Bytes::copy_from_slice(&rest[header..]),
        };
        batch.push(Received { bytes, form });
        rest = &rest[header + length..];
    }
    result.map(|()| end)
}

/// Takes a frame that fills `input`, without copying its payload.
fn take_whole(
    mut input: Vec<u8>,
    plain: Plain,
    partial: PartialFrame,
    batch: &mut Vec<Received>,
) -> Progress {
    if partial.finish(plain, &mut input).is_err() {
        return invalid_text();
    }
    let bytes = Bytes::from(input).slice(plain.header..);
    batch.push(Received { bytes, form: plain.form });
    Progress::More
}

fn invalid_text() -> Progress {
    Progress::Violation(not_utf8())
}

fn faulty(fault: Fault, max_bytes: usize) -> Progress {
    Progress::Violation(match fault {
        Fault::TooLong => too_long(max_bytes),
        _ => CloseReason::host(CloseCode::PROTOCOL, fault.to_string()),
    })
}

/// The least space for a read that continues a frame.
const MIN_READ: usize = 4 * 1024;
