//! A netlink socket that only listens, and one that asks.

use std::fmt;
use std::future::poll_fn;
use std::io;

use netlink_sys::{AsyncSocket as _, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tracing::debug;

use crate::netlink::{self, DONE, ERROR, INTERRUPTED, messages};

/// Bytes of receive buffer asked for. A transaction that writes a full host is some megabytes of
/// events, each of which the kernel charges at twice its size.
const RECEIVE_BUFFER: usize = 16 << 20;
/// The largest datagram. The kernel makes them of some pages.
const DATAGRAM: usize = 1 << 16;

/// Whether the kernel dropped events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overrun {
    /// All were read.
    No,
    /// Some were lost.
    Yes,
}

/// Events of multicast groups.
pub(super) struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    /// What ended the last wait; a datagram is in the buffer.
    first: Option<io::Result<()>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Joins `groups` in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        let inner = socket.socket_mut();
        inner.bind_auto()?;
        // Beyond net.core.rmem_max, which NET_ADMIN may.
        if let Err(error) = setsockopt(inner, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
            // Not fatal: a small buffer overruns sooner, and an overrun is handled.
            debug!(%error, "cannot enlarge the receive buffer");
        }
        for group in groups {
            inner.add_membership(*group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM), first: None })
    }

    /// Waits for something to read. Cancel-safe: what was read is kept for [`Events::drain`].
    pub(super) async fn ready(&mut self) {
        if self.first.is_none() {
            self.buffer.clear();
            let (socket, buffer) = (&self.socket, &mut self.buffer);
            self.first = Some(poll_fn(|context| socket.poll_recv(context, buffer)).await);
        }
    }

    /// Reads all that is there.
    pub(super) fn drain(&mut self, mut read: impl FnMut(&[u8])) -> io::Result<Overrun> {
        let mut overrun = Overrun::No;
        loop {
            let result = self.first.take().unwrap_or_else(|| {
                self.buffer.clear();
                self.socket.socket_ref().recv(&mut self.buffer, 0).map(drop)
            });
            match result {
                Ok(()) => read(&self.buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(overrun),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                    overrun = Overrun::Yes;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Asks and reads the answer. The kernel answers netlink within the call, and makes the next part
/// of a list when the one before is read: nothing here waits.
#[derive(Debug)]
pub(in crate::felix) struct Dialogue {
    socket: Socket,
    buffer: Vec<u8>,
    /// The number of the last request.
    sequence: u32,
}

impl Dialogue {
    /// A socket in the network namespace of the calling thread.
    pub(in crate::felix) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // What is refused need not be sent back as a whole; kernels before 4.3 do so all the same.
        if let Err(error) = socket.set_cap_ack(true) {
            debug!(%error, "what is refused is sent back as a whole");
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM), sequence: 0 })
    }

    /// Sends `request` and hands every message of the answer to `read`.
    ///
    /// # Errors
    /// What the kernel says against it, by number. `Interrupted` at the end of a list of which a part
    /// changed while it was read: what was handed over may lack something, or hold it twice.
    pub(in crate::felix) fn ask(
        &mut self,
        request: &[u8],
        mut read: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut request = request.to_vec();
        let sequence = self.next_sequence();
        netlink::number(&mut request, sequence);
        self.socket.send(&request, 0)?;
        let mut interrupted = false;
        loop {
            self.receive()?;
            for (header, body) in messages(&self.buffer) {
                // The kernel ends a list that it refuses twice: what is left of that is no answer to this.
                if header.sequence != sequence {
                    continue;
                }
                interrupted |= header.flags & INTERRUPTED != 0 && header.kind != ERROR;
                match header.kind {
                    DONE => {
                        return match netlink::verdict(body) {
                            // A list that ends before its end says why.
                            (code @ 1.., _) => Err(io::Error::from_raw_os_error(code)),
                            _ if interrupted => Err(io::ErrorKind::Interrupted.into()),
                            _ => Ok(()),
                        };
                    }
                    ERROR => {
                        return match netlink::verdict(body) {
                            (0, _) => Ok(()),
                            (code, _) => Err(io::Error::from_raw_os_error(code)),
                        };
                    }
                    _ => read(body),
                }
            }
        }
    }

    /// Sends `requests`, which all ask to be acknowledged, at once, and returns what the kernel said to
    /// each. It carries them out in their order, also those behind one that it refuses. The answers
    /// have to fit the receive buffer: some dozens, of which one may be as long as its request.
    ///
    /// # Errors
    /// When they cannot be sent, or one is not answered; some may have been carried out.
    pub(in crate::felix) fn tell(&mut self, requests: &[Vec<u8>]) -> io::Result<Vec<Answer>> {
        let first = self.sequence.wrapping_add(1);
        let mut all = Vec::with_capacity(requests.iter().map(Vec::len).sum());
        for request in requests {
            let at = all.len();
            all.extend_from_slice(request);
            let sequence = self.next_sequence();
            netlink::number(&mut all[at..], sequence);
        }
        if all.is_empty() {
            return Ok(Vec::new());
        }
        self.socket.send(&all, 0)?;
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        let mut missing = requests.len();
        while missing > 0 {
            self.receive()?;
            for (header, body) in messages(&self.buffer).filter(|(header, _)| header.kind == ERROR)
            {
                let place = answers.get_mut(header.sequence.wrapping_sub(first) as usize);
                if let Some(place @ None) = place {
                    let (code, request) = netlink::verdict(body);
                    let request = if code == 0 { Vec::new() } else { request.to_vec() };
                    *place = Some(Answer { code, request });
                    missing -= 1;
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }
}

/// What the kernel said to a request that is carried out or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix) struct Answer {
    /// 0 = carried out; else an error's number, positive.
    pub(in crate::felix) code: i32,
    /// The request that was refused, as the kernel sends it back: its head, or all of it.
    pub(in crate::felix) request: Vec<u8>,
}
