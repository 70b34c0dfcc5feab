//! Plain TCP: each message is written as one line.
//!
//! [`Lines`] decides where a received message ends; this module reads and writes the socket.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use plugsocket_plugin::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::protocol::buffered::Share;
use crate::protocol::chunk::Form;
use crate::protocol::close::CloseReason;
use crate::protocol::dialog;
use crate::protocol::identity::Identity;
use crate::protocol::io::{
    BATCH_MESSAGES, Progress, Received, SCRATCH, Traffic, WriteDeadline, WriteError, WriteState,
};
use crate::protocol::lines::{LineError, Lines, Tail};
use crate::protocol::payload::Outgoing;

/// The lines of a plain TCP connection after its opening.
#[derive(Debug)]
pub(crate) struct LineCodec {
    pub(super) lines: Lines,
    /// Whether `lines` may hold whole messages.
    is_fresh: bool,
    pub(super) traffic: Traffic,
    state: WriteState,
    deadline: WriteDeadline,
}

impl LineCodec {
    /// Creates the codec; `read` is what followed the opening.
    pub(super) fn new(read: &[u8], tail: Tail, max_message: usize) -> Self {
        let mut lines = Lines::new(max_message, tail);
        lines.push(read);
        let traffic = Traffic { bytes: read.len() as u32, ..Traffic::default() };
        let (state, deadline) = (WriteState::Whole, WriteDeadline::default());
        Self { lines, is_fresh: !read.is_empty(), traffic, state, deadline }
    }

    pub(super) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        batch: &mut Vec<Received>,
    ) -> Poll<Progress> {
        let was_mid_message = self.lines.is_mid_message() && !self.is_fresh;
        loop {
            if self.is_fresh {
                if let Err(reason) = self.take_lines(batch) {
                    return Poll::Ready(Progress::Violation(reason));
                }
                self.is_fresh = !batch.is_empty();
                if self.is_fresh
                    || self.lines.is_mid_message() != was_mid_message
                    || self.traffic.is_much()
                {
                    return Poll::Ready(Progress::More);
                }
            }
            // The end of a read can end a message of an old client, so a read takes all there is.
            let read = ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                self.lines.push(buffer.filled());
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            }));
            match read {
                // The peer may have shut down its own side only, as `nc -N` does: its requests are
                // still answered.
                Ok(0) => {
                    return Poll::Ready(Progress::Done(CloseReason::peer(CloseCode::AWAY, "")));
                }
                Ok(read) => self.traffic.add_bytes(read),
                Err(error) => return Poll::Ready(Progress::broken(error.to_string())),
            }
            self.is_fresh = true;
        }
    }

    pub(super) async fn write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        queue: VecDeque<Outgoing>,
        identity: &Identity,
        limit: Duration,
    ) -> Result<(), WriteError> {
        self.state.check()?;
        let mut out = Vec::new();
        for item in queue {
            append_line(&mut out, item, identity);
        }
        let share = Share::default();
        share.set(out.capacity());
        self.state = WriteState::Torn;
        self.deadline.write_all(stream, &out, limit).await?;
        self.deadline.flush(stream, limit).await?;
        self.state = WriteState::Whole;
        Ok(())
    }

    pub(super) async fn send_close<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        packet: Option<String>,
    ) -> io::Result<()> {
        self.state.check()?;
        if let Some(packet) = packet {
            stream.write_all(format!("{packet}\n").as_bytes()).await?;
        }
        stream.shutdown().await
    }

    fn take_lines(&mut self, batch: &mut Vec<Received>) -> Result<(), CloseReason> {
        let too_long = |error: LineError| CloseReason::host(CloseCode::TOO_BIG, error.to_string());
        while batch.len() < BATCH_MESSAGES
            && let Some(bytes) = self.lines.next_message().map_err(too_long)?
        {
            batch.push(Received { bytes, form: Form::Unchecked });
        }
        Ok(())
    }
}

/// Appends one item as one line. A line feed in JSON outside strings is white space.
fn append_line(out: &mut Vec<u8>, item: Outgoing, identity: &Identity) {
    let start = out.len();
    match item {
        Outgoing::Message(payload) if payload.form == Form::Binary => {
            out.extend_from_slice(String::from_utf8_lossy(payload.as_bytes()).as_bytes());
        }
        Outgoing::Message(payload) => out.extend_from_slice(payload.as_bytes()),
        Outgoing::Ready => out.extend_from_slice(dialog::ready(identity.as_str()).as_bytes()),
        Outgoing::Next(packet) => {
            out.extend_from_slice(packet.as_deref().unwrap_or(dialog::NEXT).as_bytes());
        }
        Outgoing::Ping => return,
    }
    out[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    out.push(b'\n');
}
