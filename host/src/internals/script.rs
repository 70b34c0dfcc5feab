//! A scripted socket in memory: a read returns the next chunk, a write takes the allowed size.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Never blocks: after the last read comes the end of the stream; a pending write wakes itself.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) reads: VecDeque<Vec<u8>>,
    pub(super) written: Vec<u8>,
    /// Sizes of the next writes, repeated (0: pending; empty: everything).
    allowed: Vec<usize>,
    turn: usize,
}

impl Script {
    pub(super) fn of_reads(reads: &[&[u8]]) -> Self {
        // An empty read would mean the end of the stream.
        let reads = reads.iter().filter(|read| !read.is_empty()).map(|read| read.to_vec());
        Self { reads: reads.collect(), written: Vec::new(), allowed: Vec::new(), turn: 0 }
    }

    pub(super) fn of_writes(allowed: &[usize]) -> Self {
        Self { allowed: allowed.to_vec(), ..Self::of_reads(&[]) }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(read) = self.reads.front_mut() {
            let count = read.len().min(buffer.remaining());
            buffer.put_slice(&read[..count]);
            read.drain(..count);
            if read.is_empty() {
                self.reads.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let allowed = match self.allowed.len() {
            0 => bytes.len(),
            count => {
                self.turn += 1;
                self.allowed[(self.turn - 1) % count].min(bytes.len())
            }
        };
        if allowed == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.written.extend_from_slice(&bytes[..allowed]);
        Poll::Ready(Ok(allowed))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
