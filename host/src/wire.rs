//! The two ways in which messages lie on a socket: WebSocket frames, and lines on plain TCP.
//!
//! Reads all messages that one readiness of the socket brings and writes all that are to be written with one flush:
//! a flush for each message costs ten times as much. Framing itself is tungstenite's and `lines.rs`'.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{SinkExt, Stream};
use plugsocket_plugin::{CloseCode, ClosedBy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message as WsMessage, Utf8Bytes};

use crate::chunk::Form;
use crate::config::Limits;
use crate::dialog;
use crate::lines::{Lines, Tail};
use crate::outbox::{CloseReason, Outgoing};
use crate::registry::Peer;

/// A socket after its handshake.
#[derive(Debug)]
pub(crate) enum Wire<S> {
    WebSocket(Box<WebSocketStream<S>>),
    Lines(LineStream<S>),
}

/// One message as it came.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    pub(crate) form: Form,
}

/// What a read ended with.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There may be messages; read on when they are dealt with.
    More,
    /// A ping was read: its pong has to be written before more is read, or a peer that never reads could pile them up.
    Pong,
    /// The peer closed, properly or not. Nothing can be sent any more.
    Left(CloseReason),
    /// The peer broke the protocol; it can still be told so.
    Violated(CloseReason),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Speaks WebSocket on a socket whose handshake is done; `read` is what came behind the request.
    pub(crate) async fn websocket(stream: S, read: Vec<u8>, limits: &Limits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(limits.read_buffer)
            .write_buffer_size(WRITE_BUFFER)
            .max_write_buffer_size(WRITE_BUFFER + limits.outbox_bytes + MAX_FRAME_HEADER)
            .max_message_size(Some(limits.max_message))
            .max_frame_size(Some(limits.max_message));
        let stream =
            WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        Self::WebSocket(Box::new(stream))
    }

    /// Speaks lines; `read` is what came behind the opening.
    pub(crate) fn lines(stream: S, read: &[u8], tail: Tail, limits: &Limits) -> Self {
        let mut lines = Lines::new(limits.max_message, tail);
        lines.push(read);
        Self::Lines(LineStream { stream, lines, is_fresh: !read.is_empty() })
    }

    /// Reads at least one message, and then what else is there, up to a bound. Cancel-safe: nothing is taken from the socket
    /// that is not in `batch` afterwards.
    pub(crate) async fn receive(&mut self, batch: &mut Vec<Received>) -> Progress {
        match self {
            Self::WebSocket(stream) => poll_fn(|cx| poll_frames(stream, cx, batch)).await,
            Self::Lines(stream) => poll_fn(|cx| stream.poll_lines(cx, batch)).await,
        }
    }

    /// Writes all of `queue`, with one flush at the end.
    pub(crate) async fn write(&mut self, queue: VecDeque<Outgoing>, peer: &Peer) -> io::Result<()> {
        match self {
            Self::WebSocket(stream) => {
                for item in queue {
                    stream.feed(frame(item, peer)).await.map_err(io_error)?;
                }
                stream.flush().await.map_err(io_error)
            }
            Self::Lines(stream) => {
                let mut out = Vec::new();
                for item in queue {
                    append_line(&mut out, item, peer);
                }
                stream.stream.write_all(&out).await?;
                stream.stream.flush().await
            }
        }
    }

    /// Writes what tungstenite has to say by itself.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::WebSocket(stream) => stream.flush().await.map_err(io_error),
            Self::Lines(_) => Ok(()),
        }
    }

    /// The host's last words: the `close` packet where there is a dialog, the close frame, and the end of writing.
    pub(crate) async fn say_goodbye(
        &mut self,
        reason: &CloseReason,
        with_packet: bool,
    ) -> io::Result<()> {
        let packet = with_packet.then(|| close_packet(reason));
        match self {
            Self::WebSocket(stream) => {
                if let Some(packet) = packet {
                    stream.feed(WsMessage::text(packet)).await.map_err(io_error)?;
                }
                let frame =
                    CloseFrame { code: reason.code.0.into(), reason: close_text(&reason.text) };
                // It flushes, too.
                stream.send(WsMessage::Close(Some(frame))).await.map_err(io_error)
            }
            Self::Lines(stream) => {
                if let Some(packet) = packet {
                    stream.stream.write_all(format!("{packet}\n").as_bytes()).await?;
                }
                stream.stream.shutdown().await
            }
        }
    }

    /// Waits for the peer's own close. Without that, what it sent and nobody read would reset the connection, and it might
    /// not see the last words.
    pub(crate) async fn linger(&mut self) {
        match self {
            Self::WebSocket(stream) => {
                // tungstenite answers a close with a close and ends then.
                while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut **stream).poll_next(cx)).await {}
                linger(stream.get_mut()).await;
            }
            Self::Lines(stream) => linger(&mut stream.stream).await,
        }
    }
}

/// Ends the host's side and reads what the peer still sends until it ends too. The caller limits the time.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_ok() {
        let mut scrap = [0; 1024];
        while let Ok(1..) = stream.read(&mut scrap).await {}
    }
}

/// Above this many bytes, frames are written while more are added.
const WRITE_BUFFER: usize = 16 * 1024;
/// RFC 6455, section 5.2: 2 bytes, 8 of length; the server does not mask.
const MAX_FRAME_HEADER: usize = 10;
/// How much one read hands on at most, so that one busy peer does not hold up its own answers.
const BATCH_MESSAGES: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;

fn poll_frames<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut WebSocketStream<S>,
    cx: &mut Context<'_>,
    batch: &mut Vec<Received>,
) -> Poll<Progress> {
    let mut bytes = 0;
    loop {
        let message = match Pin::new(&mut *stream).poll_next(cx) {
            Poll::Pending if batch.is_empty() => return Poll::Pending,
            Poll::Pending => return Poll::Ready(Progress::More),
            Poll::Ready(Some(Ok(message))) => message,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(ended(error)),
            Poll::Ready(None) => return Poll::Ready(Progress::Left(left(CloseCode::ABNORMAL, ""))),
        };
        let received = match message {
            WsMessage::Text(text) => Received { bytes: text.into(), form: Form::Text },
            WsMessage::Binary(bytes) => Received { bytes, form: Form::Binary },
            WsMessage::Ping(_) => return Poll::Ready(Progress::Pong),
            // Not passed over: an idle peer's pong is all that shows it is alive.
            WsMessage::Pong(_) => return Poll::Ready(Progress::More),
            WsMessage::Frame(_) => continue,
            WsMessage::Close(frame) => {
                let (code, text) = frame.map_or((NO_CODE, String::new()), |f| {
                    (CloseCode(f.code.into()), f.reason.to_string())
                });
                return Poll::Ready(Progress::Left(CloseReason::new(code, ClosedBy::Peer, text)));
            }
        };
        bytes += received.bytes.len();
        batch.push(received);
        if batch.len() >= BATCH_MESSAGES || bytes >= BATCH_BYTES {
            return Poll::Ready(Progress::More);
        }
    }
}

/// 1005: a close frame without a code. Reported, never sent.
const NO_CODE: CloseCode = CloseCode(1005);

fn ended(error: WsError) -> Progress {
    let violated =
        |code, text: String| Progress::Violated(CloseReason::new(code, ClosedBy::Host, text));
    match error {
        WsError::ConnectionClosed | WsError::AlreadyClosed => {
            Progress::Left(left(CloseCode::ABNORMAL, ""))
        }
        WsError::Io(error) => Progress::Left(left(CloseCode::ABNORMAL, &error.to_string())),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Progress::Left(left(CloseCode::ABNORMAL, "the connection ended without a close frame"))
        }
        WsError::Utf8(_) => violated(CloseCode::INVALID, "text that is not UTF-8".to_owned()),
        WsError::Capacity(error) => violated(CloseCode::TOO_BIG, error.to_string()),
        WsError::Protocol(error) => violated(CloseCode::PROTOCOL, error.to_string()),
        error => violated(CloseCode::PROTOCOL, error.to_string()),
    }
}

fn left(code: CloseCode, text: &str) -> CloseReason {
    CloseReason::new(code, ClosedBy::Peer, text)
}

fn io_error(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn frame(item: Outgoing, peer: &Peer) -> WsMessage {
    let text =
        |text: String| WsMessage::Frame(Frame::message(text, OpCode::Data(Data::Text), true));
    match item {
        // As a frame, so that what is known to be UTF-8 is not checked again.
        Outgoing::Message(payload) => {
            let data = if payload.is_text { Data::Text } else { Data::Binary };
            WsMessage::Frame(Frame::message(payload.bytes, OpCode::Data(data), true))
        }
        Outgoing::Next(fyi) => match dialog::next(fyi.as_deref().unwrap_or_default()) {
            Cow::Borrowed(next) => {
                let next = Bytes::from_static(next.as_bytes());
                WsMessage::Frame(Frame::message(next, OpCode::Data(Data::Text), true))
            }
            Cow::Owned(next) => text(next),
        },
        Outgoing::Ready => text(dialog::ready(peer.identity.as_str())),
        Outgoing::Ping => WsMessage::Ping(Bytes::new()),
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

pub(crate) fn close_packet(reason: &CloseReason) -> String {
    match reason.retry_after {
        Some(after) => dialog::close_retry(&reason.text, after),
        None => dialog::close(&reason.text),
    }
}

/// Plain TCP after its opening.
#[derive(Debug)]
pub(crate) struct LineStream<S> {
    stream: S,
    lines: Lines,
    /// Whether something was pushed that was not looked at.
    is_fresh: bool,
}

impl<S: AsyncRead + Unpin> LineStream<S> {
    fn poll_lines(&mut self, cx: &mut Context<'_>, batch: &mut Vec<Received>) -> Poll<Progress> {
        loop {
            if self.is_fresh {
                match self.take_lines(batch) {
                    Ok(()) if batch.is_empty() => self.is_fresh = false,
                    Ok(()) => return Poll::Ready(Progress::More),
                    Err(reason) => return Poll::Ready(Progress::Violated(reason)),
                }
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Progress::Left(left(CloseCode::AWAY, ""))),
                Ok(_) => self.is_fresh = true,
                Err(error) => {
                    return Poll::Ready(Progress::Left(left(
                        CloseCode::ABNORMAL,
                        &error.to_string(),
                    )));
                }
            }
        }
    }

    fn take_lines(&mut self, batch: &mut Vec<Received>) -> Result<(), CloseReason> {
        let too_long = |error: crate::lines::LineError| {
            CloseReason::new(CloseCode::TOO_BIG, ClosedBy::Host, error.to_string())
        };
        while batch.len() < BATCH_MESSAGES {
            let Some(bytes) = self.lines.next_message().map_err(too_long)? else { break };
            batch.push(Received { bytes, form: Form::Unchecked });
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Where a read ends can end a message of an old client, so a read takes all that is there; and a connection that waits
        // has no use for a buffer of its own.
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.lines.push(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }
}

thread_local! {
    /// What one read of plain TCP brings, for the moment between socket and framer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// One packet, one line: a line feed in a JSON text is white space between its parts.
fn append_line(out: &mut Vec<u8>, item: Outgoing, peer: &Peer) {
    match item {
        Outgoing::Message(payload) if payload.is_text => {
            out.extend(payload.bytes.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
        }
        Outgoing::Message(payload) => {
            let text = String::from_utf8_lossy(&payload.bytes).replace('\n', " ");
            out.extend_from_slice(text.as_bytes());
        }
        Outgoing::Ready => out.extend_from_slice(dialog::ready(peer.identity.as_str()).as_bytes()),
        Outgoing::Next(fyi) => {
            out.extend_from_slice(dialog::next(fyi.as_deref().unwrap_or_default()).as_bytes());
        }
        Outgoing::Ping => return,
    }
    out.push(b'\n');
}
