//! A host and its neighbour on one wire, packets between them, and a witness that counts what arrives
//! behind our table.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::netns::Netns;
use crate::support::Kernel;

/// The address of the neighbour's end of the wire.
pub(crate) const PEER_MAC: &str = "02:00:00:00:00:02";
/// How long a packet that must arrive may take.
const ARRIVES: Duration = Duration::from_secs(2);
/// How long it is looked for one that must not.
const QUIET: Duration = Duration::from_millis(15);

/// A packet to send.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    what: What,
    /// It is the answer to one of the other end.
    answered: bool,
}

#[derive(Clone, Debug)]
enum What {
    Udp(SocketAddr, SocketAddr),
    Tcp(SocketAddr),
    Icmp(IpAddr, u8, u8),
}

impl Probe {
    /// The answer to a packet of the other end.
    pub(crate) fn answered(self) -> Self {
        Self { answered: true, ..self }
    }

    fn send(&self) {
        match self.what {
            What::Udp(from, to) => {
                let socket = bound(from);
                // What comes back of an earlier one is an error of this.
                while let Err(error) = socket.send_to(b"x", to) {
                    match error.kind() {
                        io::ErrorKind::ConnectionRefused => {}
                        // Dropped before it left.
                        io::ErrorKind::PermissionDenied => break,
                        _ => panic!("{from} {to}: {error}"),
                    }
                }
            }
            What::Tcp(to) => {
                drop(std::net::TcpStream::connect_timeout(&to, Duration::from_millis(20)));
            }
            What::Icmp(to, icmp_type, code) => {
                let (family, protocol) = match to {
                    IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
                    IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
                };
                let raw = socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap();
                let mut bytes = [icmp_type, code, 0, 0, 0, 1, 0, 1];
                if to.is_ipv4() {
                    let sum = bytes.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]])));
                    let sum: u32 = sum.sum();
                    let sum = !(u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap());
                    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                }
                let to = SockaddrStorage::from(SocketAddr::new(to, 0));
                sendto(raw.as_raw_fd(), &bytes, &to, MsgFlags::empty()).unwrap();
            }
        }
    }
}

/// A socket at `from`. The one before may be open for a moment still: a program that another test
/// starts holds what this process has open until it runs.
fn bound(from: SocketAddr) -> UdpSocket {
    let end = Instant::now() + ARRIVES;
    loop {
        match UdpSocket::bind(from) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.unwrap_or_else(|error| panic!("{from}: {error}")),
        }
    }
}

pub(crate) fn udp(from: &str, to: &str) -> Probe {
    let what = What::Udp(from.parse().unwrap(), to.parse().unwrap());
    Probe { what, answered: false }
}

pub(crate) fn tcp(to: &str) -> Probe {
    Probe { what: What::Tcp(to.parse().unwrap()), answered: false }
}

pub(crate) fn icmp(to: &str, icmp_type: u8, code: u8) -> Probe {
    Probe { what: What::Icmp(to.parse().unwrap(), icmp_type, code), answered: false }
}

/// The two of them. The host has our table.
pub(crate) struct Scene {
    pub(crate) kernel: Kernel,
    peer: Netns,
}

const WITNESS: &str = "
    nft -f - <<'X'
    table inet witness {
      counter seen { }
      chain watched {
        meta l4proto { tcp, udp, icmp, sctp } counter name seen
        icmpv6 type { 128, 200, 201 } counter name seen
      }
      chain input { type filter hook input priority 100; iifname { in0, p0 } jump watched; }
    }
X
    for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done
    echo 0 > /proc/sys/net/ipv6/conf/all/router_solicitations";

impl Scene {
    pub(crate) fn new() -> Self {
        let (kernel, peer) = (Kernel::new(), Netns::new());
        kernel.netns.sh(&format!(
            "ip link add in0 type veth peer name p0 netns {} address {PEER_MAC}
             for a in 10.1.0.1/24 10.1.0.3/24; do ip addr add $a dev in0; done
             for a in fd01::1/64 fd01::3/64; do ip addr add $a dev in0 nodad; done
             ip link set in0 address 02:00:00:00:00:01; ip link set in0 up
             {WITNESS}",
            peer.tid
        ));
        peer.sh(&format!(
            "for a in 10.1.0.2/24 10.1.0.9/24 10.1.7.2/24; do ip addr add $a dev p0; done
             for a in fd01::2/64 fd01::9/64 fd01:0:0:7::2/64; do ip addr add $a dev p0 nodad; done
             ip link set p0 up
             for a in 10.1.0.1 10.1.0.3 fd01::1 fd01::3; do
               ip neigh replace $a lladdr 02:00:00:00:00:01 dev p0 nud permanent; done
             {WITNESS}"
        ));
        kernel.netns.sh(&format!(
            "ip route add 10.1.7.0/24 dev in0; ip route add fd01:0:0:7::/64 dev in0
             for a in 10.1.0.2 10.1.0.9 10.1.7.2 fd01::2 fd01::9 fd01:0:0:7::2; do
               ip neigh replace $a lladdr {PEER_MAC} dev in0 nud permanent; done"
        ));
        Self { kernel, peer }
    }

    /// Who sends and who receives.
    fn ends(&self, out: bool) -> (&Netns, &Netns) {
        if out { (&self.kernel.netns, &self.peer) } else { (&self.peer, &self.kernel.netns) }
    }

    /// The neighbour counts only packets like this.
    pub(crate) fn watch_for(&self, text: &str) {
        self.peer.sh(&format!(
            "nft flush chain inet witness watched
             nft add rule inet witness watched {text} counter name seen"
        ));
    }

    fn reset(netns: &Netns) {
        netns.sh("nft reset counter inet witness seen");
    }

    fn seen(netns: &Netns) -> u64 {
        let text = netns.sh("nft list counter inet witness seen");
        let words: Vec<_> = text.split_whitespace().collect();
        let place = words.iter().position(|word| *word == "packets").unwrap();
        words[place + 1].parse().unwrap()
    }

    /// A packet passes our table, or it does not.
    #[track_caller]
    pub(crate) fn assert(&self, probe: &Probe, out: bool, passes: bool, why: &str) {
        let (from, to) = self.ends(out);
        if probe.answered {
            self.converse(probe, out);
        }
        Self::reset(to);
        let sent = probe.clone();
        from.run(move || sent.send());
        if !passes {
            std::thread::sleep(QUIET);
            assert_eq!(Self::seen(to), 0, "it passed: {probe:?}, {why}");
            return;
        }
        let start = Instant::now();
        while Self::seen(to) == 0 {
            assert!(start.elapsed() < ARRIVES, "it did not arrive: {probe:?}, {why}");
        }
    }

    /// A packet the other way, so that the next one is the answer to it.
    fn converse(&self, probe: &Probe, out: bool) {
        let What::Udp(from, to) = probe.what else { panic!("only UDP") };
        let (_, far) = self.ends(out);
        far.run(move || bound(to).send_to(b"x", from).unwrap());
    }

    /// How many of some equal packets arrive at the host.
    pub(crate) fn count(&self, probe: &Probe, packets: u32) -> u64 {
        let (from, to) = self.ends(false);
        Self::reset(to);
        let probe = probe.clone();
        from.run(move || (0..packets).for_each(|_| probe.send()));
        std::thread::sleep(4 * QUIET);
        Self::seen(to)
    }

    /// Whether the sender is told that its packet was refused, though somebody listens.
    pub(crate) fn is_refused(&self, from: &str, to: &str) -> bool {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let listener = self.kernel.netns.run(move || bound(to));
        let refused = self.peer.run(move || {
            let socket = bound(from);
            socket.connect(to).unwrap();
            socket.send(b"x").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let error = socket.recv(&mut [0; 8]).unwrap_err();
            error.kind() == io::ErrorKind::ConnectionRefused
        });
        drop(listener);
        refused
    }
}
