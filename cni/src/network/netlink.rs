//! rtnetlink without a runtime: one socket, requests in batches.
//!
//! The kernel carries a batch out in order, within one system call, and has its answers queued when
//! the call returns. It goes on after a request that it refuses: what must not be done then belongs
//! into a later batch.

use std::io;

use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use super::NetworkError;

/// Seconds that an answer may take; the kernel has it ready at once.
const LIMIT: i64 = 10;
/// Requests of one system call: their acknowledgements fit into the receive buffer.
const BATCH: usize = 64;
/// The longest answer: the kernel makes none that is longer.
const ANSWER: usize = 64 << 10;
/// How often a list is read again because it changed meanwhile.
const DUMPS: usize = 5;

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

/// How a request treats what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Make it; refuse if there is one.
    Create,
    /// Make it, or make the one that is there so.
    Replace,
    /// Change what is there.
    Change,
    /// Remove it; gone already is fine.
    Remove,
}

/// One request, and what to say when the kernel refuses it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) operation: &'static str,
    pub(super) subject: String,
    pub(super) mode: Mode,
    pub(super) message: RouteNetlinkMessage,
}

impl Step {
    fn flags(&self) -> u16 {
        NLM_F_REQUEST
            | NLM_F_ACK
            | match self.mode {
                Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
                Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                Mode::Change | Mode::Remove => 0,
            }
    }

    fn refused(&self, source: io::Error) -> NetworkError {
        NetworkError::Refused { operation: self.operation, subject: self.subject.clone(), source }
    }
}

/// A socket. It stays in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> Result<Self, NetworkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(LIMIT))?;
            socket.set_cap_ack(true)?;
            // Before Linux 4.20 lists cannot be filtered by the kernel: the readers filter again.
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        let socket = open().map_err(NetworkError::Open)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(ANSWER) })
    }

    /// Carries the steps out.
    ///
    /// # Errors
    /// Of the first step that the kernel refuses; it has tried the others too.
    pub(super) fn run(&mut self, steps: &[Step]) -> Result<(), NetworkError> {
        for batch in steps.chunks(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for step in batch {
                self.emit(step.message.clone(), step.flags(), &mut bytes);
            }
            let lost = |source| batch[0].refused(source);
            self.send(&bytes).map_err(lost)?;
            let mut outcome = Ok(());
            let mut open = batch.len();
            while open > 0 {
                for message in self.receive().map_err(lost)? {
                    let nth = message.header.sequence_number.wrapping_sub(first) as usize;
                    let (Some(step), NetlinkPayload::Error(answer)) =
                        (batch.get(nth), message.payload)
                    else {
                        continue;
                    };
                    open -= 1;
                    let errno = answer.code.map_or(0, |code| code.get().wrapping_neg());
                    let fine = errno == 0 || (step.mode == Mode::Remove && is_gone(errno));
                    if !fine && outcome.is_ok() {
                        outcome = Err(step.refused(io::Error::from_raw_os_error(errno)));
                    }
                }
            }
            outcome?;
        }
        Ok(())
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// What the kernel answers, ENODEV for an interface that is not there.
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let mut bytes = Vec::new();
        let sequence = self.emit(message, NLM_F_REQUEST, &mut bytes);
        self.send(&bytes)?;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => return Ok(inner),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// What the kernel answers.
    pub(super) fn list(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMPS {
            if let Some(found) = self.list_once(message.clone())? {
                return Ok(found);
            }
        }
        Err(io::Error::from(io::ErrorKind::Interrupted))
    }

    /// `None`: it changed while it was read.
    fn list_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let mut bytes = Vec::new();
        let sequence = self.emit(message, NLM_F_REQUEST | NLM_F_DUMP, &mut bytes);
        self.send(&bytes)?;
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.wrapping_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent.then_some(found)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    /// Appends a request, and returns its number.
    fn emit(&mut self, message: RouteNetlinkMessage, flags: u16, bytes: &mut Vec<u8>) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        let len = message.buffer_len();
        bytes.resize(start + len.next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + len]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        self.buffer.clear();
        while let Err(error) = self.socket.recv(&mut self.buffer, 0) {
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                _ => return Err(error),
            }
        }
        let mut messages = Vec::new();
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let len = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(len..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn is_gone(errno: i32) -> bool {
    matches!(errno, ENOENT | ESRCH | ENXIO | ENODEV | EADDRNOTAVAIL)
}
