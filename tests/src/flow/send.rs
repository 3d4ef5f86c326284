//! Senders: one thread for each stream, inside the sender's namespace.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use super::receive::frame;
use super::{RATE, Running, Sockets};
use crate::netns::enter;
use crate::probe::Service;

/// Longer than two retransmissions: what takes more will not come.
const CONNECT: Duration = Duration::from_secs(5);
/// A first packet that was lost is sent again after one second (RFC 6298); nothing else takes so
/// long here.
const LATE: Duration = Duration::from_millis(900);
/// How many unanswered connections are kept open. Closed at once they would not be sent at all.
const UNANSWERED: usize = 16;

/// Sends until the count says stop.
pub(super) fn start(
    id: usize,
    running: Arc<Running>,
    netns: &str,
    to: IpAddr,
    epoch: Instant,
) -> Result<JoinHandle<()>> {
    let netns = netns.to_owned();
    let builder = std::thread::Builder::new().name(format!("flow {id}"));
    let thread = builder.spawn(move || {
        let ended = enter(&netns, || {
            let mut sender = Sender { id, running: &running, epoch, to, open: None };
            sender.run();
            Ok(())
        });
        if let Err(error) = ended {
            running.count.note_failed(epoch.elapsed(), &format!("{error:#}"));
        }
    });
    thread.context("no thread for a flow")
}

/// The socket of a stream that uses one.
enum Open {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

struct Sender<'a> {
    id: usize,
    running: &'a Running,
    epoch: Instant,
    to: IpAddr,
    open: Option<Open>,
}

impl Sender<'_> {
    fn run(&mut self) {
        let every = if self.running.stream.sockets == Sockets::One { RATE } else { RATE * 2 };
        let mut unanswered = VecDeque::new();
        let mut next = Instant::now();
        while !self.running.count.is_stopped() {
            if let Err(why) = self.send(&mut unanswered) {
                self.running.count.note_failed(self.epoch.elapsed(), &why);
                self.open = None;
            }
            // A thread that was not run for a while does not catch up: a burst would fill queues.
            next = (next + every).max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    fn send(&mut self, unanswered: &mut VecDeque<OwnedFd>) -> Result<(), String> {
        let (count, flow) = (&self.running.count, &self.running.stream.flow);
        let new = self.running.stream.sockets == Sockets::New;
        let text = |error: std::io::Error| error.to_string();
        match flow.service {
            Service::Udp(port) => {
                if new || self.open.is_none() {
                    let any: IpAddr = match self.to {
                        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    };
                    let socket = UdpSocket::bind((flow.spoofed.unwrap_or(any), 0));
                    self.open = Some(Open::Udp(socket.map_err(text)?));
                }
                let Some(Open::Udp(socket)) = &self.open else { return Ok(()) };
                let at = self.epoch.elapsed();
                match socket.send_to(&frame(self.id, count.next()), (self.to, port)) {
                    Ok(_) => count.note_sent(at),
                    // The sender's own netfilter dropped it: as silent as any other drop.
                    Err(e) if e.kind() == ErrorKind::PermissionDenied && !flow.allowed => {
                        count.note_sent(at);
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Service::Tcp(port) if flow.allowed => {
                if new || self.open.is_none() {
                    let (begin, waited) = (Instant::now(), run_delay());
                    let stream =
                        TcpStream::connect_timeout(&SocketAddr::new(self.to, port), CONNECT);
                    let stream = stream.map_err(text)?;
                    // What this thread waited for a processor, no packet did.
                    let waited = run_delay().saturating_sub(waited);
                    if begin.elapsed().saturating_sub(waited) >= LATE {
                        count.note_late();
                    }
                    stream.set_nodelay(true).map_err(text)?;
                    stream.set_write_timeout(Some(CONNECT)).map_err(text)?;
                    self.open = Some(Open::Tcp(stream));
                }
                let Some(Open::Tcp(stream)) = &mut self.open else { return Ok(()) };
                let at = self.epoch.elapsed();
                stream.write_all(&frame(self.id, count.next())).map_err(text)?;
                count.note_sent(at);
            }
            Service::Tcp(port) => {
                unanswered.push_back(knock(SocketAddr::new(self.to, port))?);
                count.note_sent(self.epoch.elapsed());
                if unanswered.len() > UNANSWERED {
                    unanswered.pop_front();
                }
            }
            Service::Icmp => {}
        }
        Ok(())
    }
}

/// How long this thread has been ready to run without a processor; nothing where the kernel does not
/// count it (`/proc/thread-self/schedstat`, its second number, ns).
fn run_delay() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let delay = text.split_ascii_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}

/// Sends the first packet of a connection and does not wait for an answer.
fn knock(to: SocketAddr) -> Result<OwnedFd, String> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None).map_err(|e| e.to_string())?;
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EPERM) => Ok(fd),
        Err(error) => Err(error.to_string()),
    }
}
