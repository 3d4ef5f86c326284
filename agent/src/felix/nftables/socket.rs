//! One netlink socket that writes batches and reads lists. The kernel does a batch within the call
//! that sends it, and its answers are there when the call returns: nothing here waits.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use tracing::debug;

use super::wire::message::Sealed;
use crate::netlink::{self, DONE, ERROR, attribute, messages, text, u32_at};

/// The largest batch that the socket is asked to take. Only what is sent is allocated.
const SEND_BUFFER: usize = 512 << 20;
/// Bytes of answers: some thousand refusals, each of which the kernel charges at much more than its
/// length.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The largest datagram. The kernel makes them of some pages.
const DATAGRAM: usize = 1 << 16;
/// `NLM_F_DUMP_INTR`: what was listed changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the refused message is not repeated.
const CAPPED: u16 = 0x100;
/// `NLMSGERR_ATTR_MSG`, `NLMSGERR_ATTR_OFFS`.
const MESSAGE: u16 = 1;
const OFFSET: u16 = 2;
/// Kernel-internal: do that again.
const ERESTART: i32 = 85;

/// The kernel refused a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The number of the message, or of the begin of the batch.
    pub(super) sequence: u32,
    /// The error.
    pub(super) errno: i32,
    /// What the kernel says about it.
    pub(super) said: Option<String>,
    /// Where in the message the reason is, counted from its header.
    pub(super) offset: Option<usize>,
}

/// How a batch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it was done.
    Done,
    /// Nothing of it was: the first refusal, and how many there were.
    Refused(Refusal, usize),
    /// The answer was lost.
    Unknown,
}

/// The socket.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    port: u32,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Channel {
    /// A socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // Not fatal: the kernel then says less of what it refuses.
        for result in [socket.set_ext_ack(true), socket.set_cap_ack(true)] {
            if let Err(error) = result {
                debug!(%error, "the kernel has no extended acknowledgements");
            }
        }
        // Beyond net.core.wmem_max, which NET_ADMIN may. A small buffer fails later, and says so.
        let send = setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER);
        let receive = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        if let Err(error) = send.and(receive) {
            debug!(%error, "cannot enlarge the buffers");
        }
        Ok(Self { socket, port, buffer: Vec::with_capacity(DATAGRAM), sequence: 0 })
    }

    /// By which the kernel's events name this socket (`nlmsg_pid`).
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// The number that the next batch begins with.
    pub(super) fn next(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// Sends a batch.
    pub(super) fn send(&mut self, batch: &Sealed) -> io::Result<Outcome> {
        // The end has a number, too.
        self.sequence = batch.last.wrapping_add(1);
        loop {
            match self.socket.send(&batch.bytes, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let outcome = self.answer(batch)?;
            match &outcome {
                Outcome::Refused(refusal, _) if matches!(refusal.errno, ERESTART | libc::EINTR) => {
                    debug!("the kernel wants the batch again");
                }
                _ => return Ok(outcome),
            }
        }
    }

    fn answer(&mut self, batch: &Sealed) -> io::Result<Outcome> {
        let (mut refused, mut count): (Option<Refusal>, usize) = (None, 0);
        let (mut acknowledged, mut lost) = (false, false);
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(error) => return Err(error),
            }
            for (header, body) in messages(&self.buffer) {
                let place = header.sequence.wrapping_sub(batch.first);
                if header.kind != ERROR || place > batch.last.wrapping_sub(batch.first) {
                    continue;
                }
                let errno = u32_at(body, 0).unwrap_or(0).cast_signed().wrapping_neg();
                if errno == 0 {
                    acknowledged |= header.sequence == batch.last;
                    continue;
                }
                count += 1;
                refused.get_or_insert_with(|| {
                    // What is repeated of the message stands before the kernel's words.
                    let skip = match header.flags & CAPPED {
                        0 => u32_at(body, 4).map_or(20, |len| 4 + len.next_multiple_of(4) as usize),
                        _ => 20,
                    };
                    let words = body.get(skip..).unwrap_or_default();
                    let offset = attribute(words, OFFSET);
                    Refusal {
                        sequence: header.sequence,
                        errno,
                        said: attribute(words, MESSAGE).and_then(text).map(str::to_owned),
                        offset: offset.and_then(|offset| u32_at(offset, 0)).map(|at| at as usize),
                    }
                });
            }
        }
        Ok(match refused {
            Some(refusal) => Outcome::Refused(refusal, count),
            None if acknowledged && !lost => Outcome::Done,
            None => Outcome::Unknown,
        })
    }

    /// Asks for a list and hands the body of each of its messages to `read`. False = what is listed
    /// changed meanwhile, so that it may be incomplete.
    pub(super) fn list(
        &mut self,
        mut request: Vec<u8>,
        mut read: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        netlink::number(&mut request, self.sequence);
        self.socket.send(&request, 0)?;
        let mut steady = true;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for (header, body) in messages(&self.buffer) {
                // The kernel ends a list that it refuses twice: the rest of that is no answer to this.
                if header.sequence != self.sequence {
                    continue;
                }
                steady &= header.flags & INTERRUPTED == 0;
                match header.kind {
                    DONE | ERROR => {
                        let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                        return match code {
                            0 => Ok(steady),
                            _ if code == -libc::EINTR => Ok(false),
                            _ => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                        };
                    }
                    _ => read(body),
                }
            }
        }
    }
}
