//! Writes log lines to standard error without ever blocking the thread that logs.
//!
//! Owns the queue between the threads that log and a standard error that is not read: a full pipe, a
//! log driver that hangs, a terminal stopped with Ctrl-S. While standard error accepts lines, a line
//! is written at once by the thread that logs, so that the last lines before a crash are not lost.
//! Otherwise lines wait in a bounded queue for a thread of this module; lines beyond the bound are
//! dropped, counted, and reported when writing continues.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::{SendFlags, send};
use rustix::stdio::stderr;
use tracing::warn;

/// Bytes of lines that wait for standard error; more are dropped.
const QUEUE_BYTES: usize = 4 << 20;
/// Time limit of [`finish`].
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of this process.
static LOG: LazyLock<LogQueue> = LazyLock::new(LogQueue::start);

/// Returns the writer of the log; each call of `write` takes one whole line.
pub(super) fn writer() -> &'static LogQueue {
    &LOG
}

/// Waits until the lines so far are written, at most one second.
pub(super) fn finish() {
    let is_unwritten = |queue: &mut Queue| !queue.lines.is_empty();
    drop(LOG.written.wait_timeout_while(LOG.lock(), LAST_LINES, is_unwritten));
}

/// Lines that wait for standard error.
pub(super) struct LogQueue {
    queue: Mutex<Queue>,
    /// Signals the thread that writes.
    queued: Condvar,
    /// Signals [`finish`].
    written: Condvar,
    output: Output,
}

#[derive(Default)]
struct Queue {
    /// The first one stays here while it is written.
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
}

impl LogQueue {
    fn start() -> Self {
        // If no thread can be started, lines that cannot be written at once are dropped.
        drop(thread::Builder::new().name("log".to_owned()).spawn(|| LOG.write_queued()));
        Self {
            queue: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
            output: Output::open(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes queued lines, and reports dropped ones.
    fn write_queued(&self) {
        let mut queue = self.lock();
        loop {
            let Some(line) = queue.lines.front().cloned() else {
                queue = self.queued.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            self.output.write_all(&line);
            queue = self.lock();
            queue.lines.pop_front();
            queue.bytes -= line.len();
            self.written.notify_all();
            let lines = std::mem::take(&mut queue.dropped);
            if lines > 0 {
                drop(queue);
                warn!(lines, "log lines dropped: standard error was not read");
                queue = self.lock();
            }
        }
    }
}

impl Write for &LogQueue {
    /// Takes one line. Never blocks and never fails: a line that cannot be written is lost.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut queue = self.lock();
        let mut rest = line;
        if queue.lines.is_empty() {
            match self.output.try_write(line) {
                Ok(count) => rest = &line[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(line.len()),
            }
        }
        if queue.bytes + rest.len() > QUEUE_BYTES {
            queue.dropped += 1;
        } else if !rest.is_empty() {
            queue.bytes += rest.len();
            queue.lines.push_back(rest.to_vec());
            self.queued.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, by what makes a write to it non-blocking. `O_NONBLOCK` on the descriptor itself
/// would also apply to the processes that share it.
enum Output {
    /// A regular file: a write does not wait for a reader.
    File,
    Socket,
    /// A pipe or a terminal, opened once more with `O_NONBLOCK`.
    Reopened(File),
    /// A pipe or terminal of another user: only the thread of this module writes to it.
    Blocking,
}

impl Output {
    fn open() -> Self {
        match fstat(stderr()).map(|status| FileType::from_raw_mode(status.st_mode)) {
            Ok(FileType::Fifo | FileType::CharacterDevice) => {
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                match open("/proc/self/fd/2", flags, Mode::empty()) {
                    Ok(descriptor) => Self::Reopened(descriptor.into()),
                    Err(_) => Self::Blocking,
                }
            }
            Ok(FileType::Socket) => Self::Socket,
            _ => Self::File,
        }
    }

    /// Writes what standard error takes without waiting.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File => Ok(rustix::io::write(stderr(), bytes)?),
            Self::Socket => Ok(send(stderr(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            Self::Reopened(file) => (&mut &*file).write(bytes),
            Self::Blocking => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes a line, however long that takes. The rest of a line that cannot be written is lost.
    fn write_all(&self, line: &[u8]) {
        let mut rest = line;
        while !rest.is_empty() {
            let written = match self {
                Self::Blocking => rustix::io::write(stderr(), rest).map_err(io::Error::from),
                _ => self.try_write(rest),
            };
            match written {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let stderr = stderr();
                    // Another result than "writable" shows at the next write.
                    poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None).ok();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
