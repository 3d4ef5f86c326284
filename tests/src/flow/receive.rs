//! Receivers: one thread for each site, for all flows that end there.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::Running;
use crate::matrix::Site;
use crate::netns::enter;
use crate::probe::Service;

/// Bytes of a packet: stream and number, both in network order.
const FRAME: usize = 12;
/// Room for what arrives while this process is not run: a full second of everything is less.
const ROOM: usize = 8 << 20;

/// What a sender sends.
pub(super) fn frame(id: usize, number: u64) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..4].copy_from_slice(&u32::try_from(id).unwrap_or(u32::MAX).to_be_bytes());
    frame[4..].copy_from_slice(&number.to_be_bytes());
    frame
}

fn parse(frame: &[u8]) -> Option<(usize, u64)> {
    let id = u32::from_be_bytes(frame.get(..4)?.try_into().ok()?);
    let number = u64::from_be_bytes(frame.get(4..FRAME)?.try_into().ok()?);
    Some((usize::try_from(id).ok()?, number))
}

/// A running receiver. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Receiver {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Receives at a site, and tells the streams.
    pub(super) fn start(
        site: &Site,
        services: &[Service],
        streams: &[Arc<Running>],
    ) -> Result<Self> {
        let mut tcp = Vec::new();
        let mut udp = Vec::new();
        enter(&site.netns, || {
            for address in [IpAddr::from(site.v4), IpAddr::from(site.v6)] {
                for service in services {
                    match *service {
                        Service::Tcp(port) => {
                            let listener = TcpListener::bind((address, port));
                            let listener =
                                listener.with_context(|| format!("tcp {address} {port}"))?;
                            listener.set_nonblocking(true)?;
                            tcp.push(listener);
                        }
                        Service::Udp(port) => {
                            let socket = UdpSocket::bind((address, port));
                            let socket = socket.with_context(|| format!("udp {address} {port}"))?;
                            socket.set_nonblocking(true)?;
                            setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
                            udp.push(socket);
                        }
                        Service::Icmp => {}
                    }
                }
            }
            Ok(())
        })?;
        let (stop, stopped) = UnixStream::pair()?;
        let streams = streams.to_vec();
        let thread = std::thread::spawn(move || receive(&tcp, &udp, &stopped, &streams));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An accepted connection and what of a packet has arrived.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// False when it is over.
    fn read(&mut self, note: impl Fn(&[u8])) -> bool {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return false,
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            let whole = self.buffer.len() / FRAME * FRAME;
            self.buffer.drain(..whole).as_slice().chunks(FRAME).for_each(&note);
        }
        true
    }
}

fn receive(tcp: &[TcpListener], udp: &[UdpSocket], stopped: &UnixStream, streams: &[Arc<Running>]) {
    let note = |frame: &[u8]| {
        let parsed = parse(frame);
        if let Some((running, number)) = parsed.and_then(|(id, n)| Some((streams.get(id)?, n))) {
            running.count.note_arrived(number);
        }
    };
    let mut connections: Vec<Connection> = Vec::new();
    let mut buffer = [0; 64];
    loop {
        let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(tcp.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        fds.extend(udp.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        fds.extend(connections.iter().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        drop(fds);
        if ready[0] {
            return;
        }
        for socket in udp {
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                note(&buffer[..length]);
            }
        }
        let mut ready = ready[1 + tcp.len() + udp.len()..].iter();
        connections.retain_mut(|connection| {
            !ready.next().is_some_and(|ready| *ready) || connection.read(note)
        });
        for listener in tcp {
            while let Ok((stream, _)) = listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    connections.push(Connection { stream, buffer: Vec::new() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back() {
        assert_eq!(parse(&frame(7, 1 << 40)), Some((7, 1 << 40)));
        assert_eq!(parse(&frame(7, 1)[..11]), None);
    }
}
