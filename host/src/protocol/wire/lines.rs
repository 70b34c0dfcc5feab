//! Plain TCP: each message is written as one line.
//!
//! [`Lines`] decides where a received message ends; this module owns the socket.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::io::{
    BATCH_MESSAGES, Progress, Received, SCRATCH, STEP, Traffic, WriteError, WriteState, in_time,
};
use crate::protocol::lines::{LineError, Lines, Tail};
use crate::protocol::outgoing::Outgoing;

/// Plain TCP after its opening.
#[derive(Debug)]
pub(crate) struct LineStream<S> {
    pub(super) stream: S,
    pub(super) lines: Lines,
    /// Whether `lines` may hold whole messages.
    is_fresh: bool,
    pub(super) traffic: Traffic,
    state: WriteState,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LineStream<S> {
    /// `read` is what followed the opening.
    pub(super) fn new(stream: S, read: &[u8], tail: Tail, max_message: usize) -> Self {
        let mut lines = Lines::new(max_message, tail);
        lines.push(read);
        let traffic = Traffic { bytes: read.len() as u32, frames: 0 };
        Self { stream, lines, is_fresh: !read.is_empty(), traffic, state: WriteState::Whole }
    }

    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        let was_mid_message = self.lines.is_mid_message() && !self.is_fresh;
        loop {
            if self.is_fresh {
                match self.take_lines(batch) {
                    Ok(()) if batch.is_empty() => {
                        self.is_fresh = false;
                        if self.lines.is_mid_message() != was_mid_message || self.traffic.is_much()
                        {
                            return Poll::Ready(Progress::More);
                        }
                    }
                    Ok(()) => return Poll::Ready(Progress::More),
                    Err(reason) => return Poll::Ready(Progress::Violation(reason)),
                }
            }
            match ready!(self.poll_read(cx)) {
                // The peer may have shut down its own side only, as `nc -N` does: its requests
                // are still answered.
                Ok(0) => {
                    let reason = CloseReason::peer(CloseCode::AWAY, "");
                    return Poll::Ready(Progress::Done(reason));
                }
                Ok(read) => {
                    self.is_fresh = true;
                    self.traffic.add_bytes(read);
                }
                Err(error) => return Poll::Ready(Progress::broken(&error)),
            }
        }
    }

    pub(super) async fn write(
        &mut self,
        queue: VecDeque<Outgoing>,
        uuid: &str,
        limit: Duration,
    ) -> Result<(), WriteError> {
        self.state.check()?;
        let mut out = Vec::new();
        for item in queue {
            append_line(&mut out, item, uuid);
        }
        self.state = WriteState::Torn;
        for step in out.chunks(STEP) {
            in_time(limit, self.stream.write_all(step)).await?;
        }
        in_time(limit, self.stream.flush()).await?;
        self.state = WriteState::Whole;
        Ok(())
    }

    pub(super) async fn send_close(&mut self, packet: Option<String>) -> io::Result<()> {
        self.state.check()?;
        if let Some(packet) = packet {
            self.stream.write_all(format!("{packet}\n").as_bytes()).await?;
        }
        self.stream.shutdown().await
    }

    fn take_lines(&mut self, batch: &mut Vec<Received>) -> Result<(), CloseReason> {
        let too_long = |error: LineError| CloseReason::host(CloseCode::TOO_BIG, error.to_string());
        while batch.len() < BATCH_MESSAGES {
            let Some(bytes) = self.lines.next_message().map_err(too_long)? else { break };
            batch.push(Received { bytes, form: Form::Unchecked });
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The end of a read can end a message of an old client, so a read takes all there is.
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.lines.push(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }
}

/// Appends one item as one line. A line feed in JSON outside strings is white space.
fn append_line(out: &mut Vec<u8>, item: Outgoing, uuid: &str) {
    match item {
        Outgoing::Message(payload) if payload.is_text => {
            out.extend(
                payload.as_bytes().iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }),
            );
        }
        Outgoing::Message(payload) => {
            let text = String::from_utf8_lossy(payload.as_bytes()).replace('\n', " ");
            out.extend_from_slice(text.as_bytes());
        }
        Outgoing::Ready => out.extend_from_slice(dialog::ready(uuid).as_bytes()),
        Outgoing::Next(packet) => {
            out.extend_from_slice(packet.as_deref().unwrap_or(dialog::NEXT).as_bytes());
        }
        Outgoing::Ping => return,
    }
    out.push(b'\n');
}
