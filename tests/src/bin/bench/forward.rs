//! What a packet between two pods of one host costs: both policies, both ways through the host.
//!
//! A packet over a veth is carried the whole way by whoever sends it, so the time of many `sendto(2)`
//! is the cost of as many packets, on one processor. What no rule costs is taken off nowhere: it is
//! the control, measured before the agent comes, on the same interfaces. Of many short times the least
//! counts: whatever else runs on this machine can only add.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use calico_e2e::host::Flavour;
use calico_e2e::netns::Netns;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use std::os::fd::AsRawFd as _;

use crate::Size;
use crate::report::{Report, Row, Spread};
use crate::stage::{Endpoint, PORT, Stage};

const TITLE: &str = "a packet from pod to pod: the least, half, and 99 of 100 of short times";
/// Packets of one time.
const BATCH: u32 = 500;

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Of a connection that had an answer.
    Established,
    /// Each the first of a connection.
    New,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Established, Self::New];

    fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::New => "every packet a new flow",
        }
    }
}

/// Every dataplane.
pub(crate) fn measure_all(size: Size, flavours: &[Flavour], report: &mut Report) -> Result<()> {
    let sizes = size.of(vec![1, 500], vec![1, 500, 2000]);
    let length = Duration::from_millis(size.of(700, 5000));
    for flavour in flavours {
        let mut stage = Stage::new("benchf", *flavour)?;
        let (from, to) = (Endpoint::APART, Endpoint::local(0));
        stage.wire(1)?;
        let apart = stage.wire_apart()?;
        stage.route_by_hand(&[from, to])?;
        let road = Road { from: from.address(), to: to.address(), apart: &apart, length };
        let bare = road.measure(&stage, "no rules")?;
        // A rule that asks for the connection makes the kernel follow connections.
        let nft = |text: &str| stage.host().ns().command("nft").args(["-f", "-"]).input(text).run();
        nft(
            "table ip bench {\nchain c {\ntype filter hook forward priority 0;\nct state invalid\n}\n}\n",
        )?;
        let tracked = road.measure(&stage, "connections followed")?;
        nft("delete table ip bench")?;
        for (kind, (bare, tracked)) in Kind::ALL.into_iter().zip(bare.into_iter().zip(tracked)) {
            let row =
                Row::new("forward", format!("{}, connections followed", kind.name()), tracked);
            report.add(TITLE, row.in_unit("ns").beside("no rules", bare));
        }
        stage.cluster.etcd.put_all(&[from.pair("0"), to.pair("0")])?;
        stage.start()?;
        for &locals in &sizes {
            let all: Vec<_> = (1..locals).map(|n| Endpoint::local(n).pair("0")).collect();
            stage.wire(locals)?;
            stage.cluster.etcd.put_all(&all)?;
            stage.settle(locals)?;
            let ours = road.measure(&stage, flavour.name())?;
            for (kind, (ours, bare)) in Kind::ALL.into_iter().zip(ours.into_iter().zip(bare)) {
                let row = Row::new("forward", format!("{}, {locals} endpoints", kind.name()), ours);
                report.add(TITLE, row.on(flavour.name()).in_unit("ns").beside("no rules", bare));
            }
        }
        let locals = sizes.last().copied().unwrap_or_default();
        stage.stop()?;
        let off = ("FELIX_ENDPOINTCOUNTERS".to_owned(), "false".to_owned());
        stage.cluster.hosts[0].env.push(off);
        stage.start()?;
        let ours = road.measure(&stage, "nothing counted")?;
        for (kind, (ours, bare)) in Kind::ALL.into_iter().zip(ours.into_iter().zip(bare)) {
            let what = format!("{}, {locals} endpoints, nothing counted", kind.name());
            let row = Row::new("forward", what, ours).on(flavour.name()).in_unit("ns");
            report.add(TITLE, row.beside("no rules", bare));
        }
    }
    Ok(())
}

struct Road<'a> {
    from: Ipv4Addr,
    to: Ipv4Addr,
    apart: &'a Netns,
    length: Duration,
}

impl Road<'_> {
    fn measure(&self, stage: &Stage, what: &str) -> Result<[Spread; 2]> {
        let door = stage.door()?;
        let mut out = [Spread::one(0.0); 2];
        for (kind, out) in Kind::ALL.into_iter().zip(&mut out) {
            let times = self.apart.enter(|| match kind {
                Kind::Established => self.established(&door),
                Kind::New => self.new_flows(),
            });
            let mut times = times.with_context(|| format!("{}, {what}", kind.name()))?;
            *out = Spread::least(&mut times);
        }
        Ok(out)
    }

    fn established(&self, door: &UdpSocket) -> Result<Vec<f64>> {
        let socket = UdpSocket::bind((self.from, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let to = SocketAddrV4::new(self.to, PORT);
        // The answer makes the connection one.
        let mut buffer = [0; 64];
        socket.send_to(b"question", to)?;
        let (_, back) = door.recv_from(&mut buffer).context("no packet passes")?;
        door.send_to(b"answer", back)?;
        socket.recv(&mut buffer).context("no answer passes")?;
        self.time(|_| drop(socket.send_to(&[0; 64], to)))
    }

    fn new_flows(&self) -> Result<Vec<f64>> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Udp)?;
        let [a, b, c, d] = self.to.octets();
        let to = SockaddrIn::new(a, b, c, d, 0);
        let mut packet = [0_u8; 72];
        packet[2..4].copy_from_slice(&PORT.to_be_bytes());
        packet[4..6].copy_from_slice(&72_u16.to_be_bytes());
        self.time(|number| {
            // 60,000 of them, from a port that is not used for anything else. No checksum.
            let port = u16::try_from(1_024 + number % 60_000).unwrap_or(1_024);
            packet[0..2].copy_from_slice(&port.to_be_bytes());
            let _ = sendto(socket.as_raw_fd(), &packet, &to, MsgFlags::empty());
        })
    }

    /// Nanoseconds a packet, of each batch.
    fn time(&self, mut send: impl FnMut(u32)) -> Result<Vec<f64>> {
        let (begin, mut times, mut number) = (Instant::now(), Vec::new(), 0);
        // Connections last 30 s at least: no port comes twice, or packets would not be new.
        while begin.elapsed() < self.length && number < 59_000 {
            let begin = Instant::now();
            for _ in 0..BATCH {
                send(number);
                number += 1;
            }
            times.push(begin.elapsed().as_nanos() as f64 / f64::from(BATCH));
        }
        Ok(times)
    }
}
