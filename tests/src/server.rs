//! What answers in a namespace: TCP and UDP on a few ports, telling each client the address it came
//! from, and remembering every datagram that arrived.
//!
//! A server is one thread. Bound to each address of its own rather than to the wildcard, so that an
//! answer always leaves from the address that was asked.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::enter;

/// A datagram that reached the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its source as the server saw it: after masquerade, if there was any.
    pub from: SocketAddr,
    /// Where it was received.
    pub to: SocketAddr,
    /// What was in it.
    pub payload: Vec<u8>,
}

/// A running server. Dropping it ends its thread.
#[derive(Debug)]
pub struct Server {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<(SocketAddr, UdpSocket)>,
}

impl Server {
    /// Serves `tcp` and `udp` ports on all `addresses` inside the namespace called `netns`.
    ///
    /// # Errors
    /// When an address cannot be bound there.
    pub fn start(netns: &str, addresses: &[IpAddr], tcp: &[u16], udp: &[u16]) -> Result<Self> {
        let sockets = enter(netns, || {
            let mut sockets = Sockets { tcp: Vec::new(), udp: Vec::new() };
            for &address in addresses {
                for &port in tcp {
                    let listener = TcpListener::bind((address, port));
                    let listener = listener.with_context(|| format!("tcp {address} {port}"))?;
                    listener.set_nonblocking(true)?;
                    sockets.tcp.push(listener);
                }
                for &port in udp {
                    let socket = UdpSocket::bind((address, port));
                    let socket = socket.with_context(|| format!("udp {address} {port}"))?;
                    socket.set_nonblocking(true)?;
                    sockets.udp.push((socket.local_addr()?, socket));
                }
            }
            Ok(sockets)
        })?;
        let (stop, stopped) = UnixStream::pair()?;
        let arrivals = Arc::default();
        let seen = Arc::clone(&arrivals);
        let thread = std::thread::spawn(move || serve(&sockets, &stopped, &seen));
        Ok(Self { arrivals, stop, thread: Some(thread) })
    }

    /// The datagrams so far whose payload starts with `prefix`.
    pub fn arrivals(&self, prefix: &[u8]) -> Vec<Arrival> {
        let all = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|arrival| arrival.payload.starts_with(prefix)).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(sockets: &Sockets, stopped: &UnixStream, arrivals: &Mutex<Vec<Arrival>>) {
    let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
    fds.extend(sockets.tcp.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
    fds.extend(sockets.udp.iter().map(|(_, s)| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
    let mut buffer = [0; 2048];
    loop {
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds[0].any() == Some(true) {
            return;
        }
        for listener in &sockets.tcp {
            while let Ok((mut stream, from)) = listener.accept() {
                // The client may have given up already.
                let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
                let _ = stream.write_all(from.ip().to_string().as_bytes());
            }
        }
        for (to, socket) in &sockets.udp {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
                let arrival = Arrival { from, to: *to, payload: buffer[..length].to_vec() };
                arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
            }
        }
    }
}
