//! The limit of the kernel and one thread: frames are only counted, and answers are prepared bytes.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Receivers of the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receivers {
    /// The sender.
    Echo,
    /// All others.
    Fan,
}

/// Bytes of a frame.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// Masked, from a client.
    pub(crate) received: usize,
    /// From the server.
    pub(crate) sent: usize,
    text: usize,
}

impl Sizes {
    pub(crate) fn of(text: usize) -> Self {
        let header = match text {
            0..126 => 2,
            126..65536 => 4,
            _ => 10,
        };
        Self { received: header + 4 + text, sent: header + text, text }
    }

    /// Returns `count` text frames of a server.
    pub(crate) fn frames(self, count: usize) -> Vec<u8> {
        let mut frame = vec![0x81];
        match self.text {
            short @ 0..126 => frame.push(short as u8),
            medium @ 126..65536 => {
                frame.push(126);
                frame.extend((medium as u16).to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.resize(self.sent, b'x');
        frame.repeat(count)
    }
}

/// The load always sends the same key.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const LISTENER: Token = Token(usize::MAX);

struct Peer {
    stream: TcpStream,
    /// Bytes of the request; `None` once it has been answered.
    head: Option<Vec<u8>>,
    /// Bytes of an incomplete frame.
    rest: usize,
    /// Bytes to send, and the offset in a frame at which they begin.
    pending: usize,
    offset: usize,
}

/// Serves until the process is killed.
pub(crate) fn serve(port: u16, size: usize, receivers: Receivers) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let sizes = Sizes::of(size);
    let answers = sizes.frames(1 + 64 * 1024 / sizes.sent);
    let mut events = Events::with_capacity(1024);
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            let Token(at) = event.token();
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers, &mut free)?;
                continue;
            }
            let Some(peer) = &mut peers[at] else { continue };
            let whole = peer.receive(&mut buffer, sizes);
            let mut served = peer.write(&answers, sizes);
            match (&whole, receivers) {
                (Ok(whole @ 1..), Receivers::Echo) => {
                    peer.pending += whole * sizes.sent;
                    served = peer.write(&answers, sizes);
                }
                (Ok(whole @ 1..), Receivers::Fan) => fan(&mut peers, at, *whole, (&answers, sizes)),
                _ => {}
            }
            if whole.is_err() || served.is_err() {
                peers[at] = None;
                free.push(at);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    peers: &mut Vec<Option<Peer>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let at = free.pop().unwrap_or(peers.len());
        poll.registry().register(
            &mut stream,
            Token(at),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let peer = Peer { stream, head: Some(Vec::new()), rest: 0, pending: 0, offset: 0 };
        match peers.get_mut(at) {
            Some(slot) => *slot = Some(peer),
            None => peers.push(Some(peer)),
        }
    }
}

fn fan(peers: &mut [Option<Peer>], sender: usize, whole: usize, answers: (&[u8], Sizes)) {
    let (answers, sizes) = answers;
    for (at, peer) in peers.iter_mut().enumerate() {
        let Some(peer) = peer.as_mut().filter(|peer| at != sender && peer.head.is_none()) else {
            continue;
        };
        peer.pending += whole * sizes.sent;
        // A closed connection causes an event of its own.
        drop(peer.write(answers, sizes));
    }
}

impl Peer {
    /// Reads, and returns the number of complete frames.
    fn receive(&mut self, buffer: &mut [u8], sizes: Sizes) -> io::Result<usize> {
        let mut bytes = 0;
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            bytes += match &mut self.head {
                None => read,
                Some(head) => {
                    head.extend(&buffer[..read]);
                    if head.ends_with(b"\r\n\r\n") {
                        self.stream.write_all(SWITCHING)?;
                        self.head = None;
                    }
                    0
                }
            };
            // A short read: the socket is empty, and later data causes another event.
            if read < buffer.len() {
                break;
            }
        }
        let whole = (self.rest + bytes) / sizes.received;
        self.rest = (self.rest + bytes) % sizes.received;
        Ok(whole)
    }

    fn write(&mut self, answers: &[u8], sizes: Sizes) -> io::Result<()> {
        while self.pending > 0 {
            let end = answers.len().min(self.offset + self.pending);
            match self.stream.write(&answers[self.offset..end]) {
                Ok(written) => {
                    self.pending -= written;
                    self.offset = (self.offset + written) % sizes.sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
