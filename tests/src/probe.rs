//! One question to the network, asked with real packets: does this reach that?
//!
//! Silence is told apart from everything else that may go wrong. A closed port answers
//! ([`Answer::Refused`]), and a missing route answers too ([`Answer::Unreachable`]), so a rule that
//! should drop cannot look right because nobody listened or nothing was routed.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// A connection to this port.
    Tcp(u16),
    /// A datagram to this port, which a [`crate::server::Server`] answers.
    Udp(u16),
    /// An echo request of the address's family.
    Icmp,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(port) => write!(f, "tcp {port}"),
            Self::Udp(port) => write!(f, "udp {port}"),
            Self::Icmp => f.write_str("icmp echo"),
        }
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was reached. The address is the one under which it saw us, where it told.
    Reached(Option<IpAddr>),
    /// The host was reached but nobody listens there.
    Refused,
    /// Nothing at all: what a drop looks like.
    Silence,
    /// Somebody said that there is no way, or that it is forbidden.
    Unreachable(String),
}

impl Answer {
    /// True when the service answered.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Reached(_))
    }
}

/// How long a packet that ought to pass may take. It is over at the first answer.
pub const PATIENT: Duration = Duration::from_secs(2);
/// How long silence is listened to before it is believed. Answers over a veth take microseconds;
/// the rest is room for a busy machine.
pub const BRIEF: Duration = Duration::from_millis(400);

/// Asks from the calling thread's namespace; at most `limit`.
///
/// # Errors
/// When no socket can be made: says nothing about the network.
pub fn ask(to: IpAddr, service: Service, limit: Duration) -> Result<Answer> {
    match service {
        Service::Tcp(port) => Ok(tcp(SocketAddr::new(to, port), limit)),
        Service::Udp(port) => {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0)).context("no UDP socket")?;
            datagram(&socket, SocketAddr::new(to, port), b"probe", limit, |reply| {
                Some(std::str::from_utf8(reply).ok().and_then(|text| text.parse().ok()))
            })
        }
        Service::Icmp => icmp(to, limit),
    }
}

/// As [`ask`], from inside the namespace called `netns`.
///
/// # Errors
/// When the namespace cannot be entered or no socket be made.
pub fn ask_from(netns: &str, to: IpAddr, service: Service, limit: Duration) -> Result<Answer> {
    crate::netns::enter(netns, || ask(to, service, limit))
}

/// Sends a datagram from an address that need not be allowed, and expects no answer: the server's
/// [`crate::server::Server::arrivals`] tell whether it came through. Sent three times, since a
/// single one may be lost while a neighbour is resolved.
///
/// # Errors
/// When the sender itself cannot send it.
pub fn shout(netns: &str, from: SocketAddr, to: SocketAddr, payload: &str) -> Result<()> {
    crate::netns::enter(netns, || {
        let socket = UdpSocket::bind(from).with_context(|| format!("cannot bind {from}"))?;
        for _ in 0..3 {
            let sent = socket.send_to(payload.as_bytes(), to);
            sent.with_context(|| format!("cannot send from {from} to {to}"))?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    })
}

fn tcp(to: SocketAddr, limit: Duration) -> Answer {
    let mut stream = match TcpStream::connect_timeout(&to, limit) {
        Ok(stream) => stream,
        Err(error) => return failure(&error),
    };
    let mut seen = String::new();
    let _ = stream.set_read_timeout(Some(limit));
    let _ = stream.read_to_string(&mut seen);
    Answer::Reached(seen.parse().ok())
}

fn icmp(to: IpAddr, limit: Duration) -> Result<Answer> {
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    // An echo socket (icmp(7)): the kernel fills in identifier and checksum.
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
        .context("no echo socket: is net.ipv4.ping_group_range set?")?;
    let packet = [request, 0, 0, 0, 0, 0, 0, 1, b'p', b'r', b'o', b'b', b'e'];
    datagram(&UdpSocket::from(fd), SocketAddr::new(to, 0), &packet, limit, |answer| {
        (answer.first() == Some(&reply)).then_some(None)
    })
}

/// Sends `packet` until `understand` accepts an answer. Sent again every half second: the first one
/// may be lost while a neighbour is resolved.
fn datagram(
    socket: &UdpSocket,
    to: SocketAddr,
    packet: &[u8],
    limit: Duration,
    understand: impl Fn(&[u8]) -> Option<Option<IpAddr>>,
) -> Result<Answer> {
    let end = Instant::now() + limit;
    // Connected and asking for errors, or "there is no way" would look like silence (ip(7)).
    if to.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvErr, &true)?;
    }
    if let Err(error) = socket.connect(to) {
        return Ok(failure(&error));
    }
    let mut buffer = [0; 256];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Answer::Silence);
        }
        if let Err(error) = socket.send(packet) {
            return Ok(failure(&error));
        }
        socket.set_read_timeout(Some(left.min(Duration::from_millis(500))))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(seen) = understand(&buffer[..length]) {
                    return Ok(Answer::Reached(seen));
                }
            }
            Err(error) => match failure(&error) {
                Answer::Silence => {}
                other => return Ok(other),
            },
        }
    }
}

fn failure(error: &std::io::Error) -> Answer {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::Interrupted => Answer::Silence,
        // What the kernel answers to our own netfilter's drop on the way out.
        ErrorKind::PermissionDenied => Answer::Silence,
        ErrorKind::ConnectionRefused => Answer::Refused,
        _ => Answer::Unreachable(error.to_string()),
    }
}
