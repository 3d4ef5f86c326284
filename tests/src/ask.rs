//! Hundreds of questions at once: non-blocking sockets, one thread per namespace.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind,
    connect, setsockopt, socket, sockopt,
};

use crate::netns::enter;
use crate::probe::{Answer, Service};

/// What is sent, from where, and whether an answer is waited for with patience.
#[derive(Clone, Debug)]
pub struct Call {
    /// The sender's namespace.
    pub netns: String,
    /// The address that it is sent from, which the sender has; `None` = what the kernel chooses.
    pub from: Option<IpAddr>,
    /// The address that is asked.
    pub to: IpAddr,
    /// What for.
    pub service: Service,
    /// From this port, of TCP and UDP. Used by no call before, so that it is a new connection.
    pub source_port: u16,
    /// An answer is expected.
    pub expected: bool,
}

/// How long to listen. All calls are sent at once, so the answers that come show when a packet
/// that should not have passed would have been answered as well.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// At least this long.
    pub least: Duration,
    /// This long after the last expected answer.
    pub after: Duration,
    /// At most this long, when expected answers are missing.
    pub most: Duration,
}

/// Asks everything at once; the answers are in the order of the calls.
///
/// # Errors
/// When a socket cannot be made.
pub fn ask_all(calls: &[Call], patience: Patience) -> Result<Vec<Answer>> {
    let missing = AtomicUsize::new(calls.iter().filter(|call| call.expected).count());
    let mut places: Vec<&str> = calls.iter().map(|call| call.netns.as_str()).collect();
    places.sort_unstable();
    places.dedup();
    let mut answers = vec![Answer::Silence; calls.len()];
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = places
            .into_iter()
            .map(|place| {
                let missing = &missing;
                let mine: Vec<(usize, &Call)> =
                    calls.iter().enumerate().filter(|(_, call)| call.netns == place).collect();
                scope.spawn(move || enter(place, || listen(&mine, missing, patience)))
            })
            .collect();
        for worker in workers {
            let mine = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            for (at, answer) in mine {
                answers[at] = answer;
            }
        }
        Ok(())
    })?;
    Ok(answers)
}

enum Line {
    Tcp(TcpStream),
    /// A datagram that is sent until it is answered, and the first byte of a right answer.
    Datagram(UdpSocket, Vec<u8>, Option<u8>),
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Datagram(socket, ..) => socket.as_fd(),
        }
    }
}

/// A datagram is sent again after this long: the first may be lost while a neighbour is resolved.
const AGAIN: Duration = Duration::from_millis(120);

fn listen(
    calls: &[(usize, &Call)],
    missing: &AtomicUsize,
    patience: Patience,
) -> Result<Vec<(usize, Answer)>> {
    let start = Instant::now();
    let mut answers = Vec::new();
    let mut open: Vec<(usize, &Call, Line)> = Vec::new();
    let done = |call: &Call| {
        if call.expected {
            missing.fetch_sub(1, Ordering::Relaxed);
        }
    };
    for &(at, call) in calls {
        match dial(call)? {
            Ok(line) => open.push((at, call, line)),
            Err(answer) => {
                done(call);
                answers.push((at, answer));
            }
        }
    }
    let (mut last_sent, mut complete) = (start, None);
    loop {
        let now = Instant::now();
        if complete.is_none() && missing.load(Ordering::Relaxed) == 0 {
            complete = Some(now);
        }
        let heard = complete.is_some_and(|since| now - since >= patience.after);
        if (heard && now - start >= patience.least) || now - start >= patience.most {
            break;
        }
        if now - last_sent >= AGAIN {
            last_sent = now;
            for (_, _, line) in &open {
                if let Line::Datagram(socket, payload, _) = line {
                    let _ = socket.send(payload);
                }
            }
        }
        let mut fds: Vec<PollFd<'_>> = open
            .iter()
            .map(|(_, _, line)| {
                let flags = if matches!(line, Line::Tcp(_)) {
                    PollFlags::POLLOUT
                } else {
                    PollFlags::POLLIN
                };
                PollFd::new(line.as_fd(), flags)
            })
            .collect();
        match poll(&mut fds, PollTimeout::from(20u8)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("poll: {error}"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        let mut ready = ready.into_iter();
        let mut rest = Vec::new();
        for (at, call, line) in open {
            let answer = if ready.next() == Some(true) { heard_on(&line) } else { None };
            match answer {
                Some(answer) => {
                    done(call);
                    answers.push((at, answer));
                }
                None => rest.push((at, call, line)),
            }
        }
        open = rest;
    }
    answers.extend(open.into_iter().map(|(at, _, _)| (at, Answer::Silence)));
    Ok(answers)
}

/// Sends the first packet. The inner error is an answer that came at once.
fn dial(call: &Call) -> Result<Result<Line, Answer>> {
    let v4 = call.to.is_ipv4();
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let near = call.from.unwrap_or(any);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (kind, protocol, port) = match call.service {
        Service::Tcp(port) => (SockType::Stream, SockProtocol::Tcp, port),
        Service::Udp(port) => (SockType::Datagram, SockProtocol::Udp, port),
        Service::Icmp if v4 => (SockType::Datagram, SockProtocol::Icmp, 0),
        Service::Icmp => (SockType::Datagram, SockProtocol::IcmpV6, 0),
    };
    let fd: OwnedFd = socket(family, kind, flags, protocol).context("no socket")?;
    // The port of an echo socket is its identifier, which the kernel makes.
    let near_port = if call.service == Service::Icmp { 0 } else { call.source_port };
    if call.service != Service::Icmp || call.from.is_some() {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let here = SocketAddr::new(near, near_port);
        bind(fd.as_raw_fd(), raw(here).as_ref()).with_context(|| format!("from {here}"))?;
    }
    if v4 {
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
    }
    let there = raw(SocketAddr::new(call.to, port));
    match connect(fd.as_raw_fd(), there.as_ref()) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Ok(Err(failure(&error.into()))),
    }
    if let Service::Tcp(_) = call.service {
        return Ok(Ok(Line::Tcp(fd.into())));
    }
    let (payload, reply) = match call.service {
        Service::Icmp => {
            let (request, reply) = if v4 { (8, 0) } else { (128, 129) };
            (vec![request, 0, 0, 0, 0, 0, 0, 1, b'p'], Some(reply))
        }
        _ => (b"random".to_vec(), None),
    };
    let socket = UdpSocket::from(fd);
    match socket.send(&payload) {
        Ok(_) => Ok(Ok(Line::Datagram(socket, payload, reply))),
        Err(error) => match failure(&error) {
            Answer::Silence => Ok(Ok(Line::Datagram(socket, payload, reply))),
            answer => Ok(Err(answer)),
        },
    }
}

fn raw(address: SocketAddr) -> Box<dyn SockaddrLike> {
    match address {
        SocketAddr::V4(address) => Box::new(SockaddrIn::from(address)),
        SocketAddr::V6(address) => Box::new(SockaddrIn6::from(address)),
    }
}

/// What there is to hear; `None` when it is nothing yet.
fn heard_on(line: &Line) -> Option<Answer> {
    let result = match line {
        Line::Tcp(stream) => match stream.take_error() {
            Ok(None) => {
                let _ = (&*stream).flush();
                let _ = (&*stream).read(&mut [0; 64]);
                return Some(Answer::Reached(None));
            }
            Ok(Some(error)) | Err(error) => error,
        },
        Line::Datagram(socket, _, reply) => {
            let mut buffer = [0; 256];
            match socket.recv(&mut buffer) {
                Ok(_) if reply.is_none_or(|reply| buffer[0] == reply) => {
                    return Some(Answer::Reached(None));
                }
                Ok(_) => return None,
                Err(error) => error,
            }
        }
    };
    match failure(&result) {
        Answer::Silence => None,
        answer => Some(answer),
    }
}

fn failure(error: &std::io::Error) -> Answer {
    match error.kind() {
        ErrorKind::TimedOut
        | ErrorKind::WouldBlock
        | ErrorKind::Interrupted
        | ErrorKind::PermissionDenied => Answer::Silence,
        ErrorKind::ConnectionRefused => Answer::Refused,
        _ => Answer::Unreachable(error.to_string()),
    }
}
