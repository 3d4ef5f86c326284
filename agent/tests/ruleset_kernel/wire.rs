//! Packets as bytes, sent through a raw socket that takes whole packets: any source, any protocol.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use calico_ruleset::{Packet, State};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};

/// A packet, and what connection tracking will make of it.
pub(crate) fn bytes(packet: &Packet) -> Vec<u8> {
    let payload = payload(packet);
    let mut out = Vec::new();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
            out.extend([0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, packet.protocol, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
            out.extend([0x60, 0, 0, 0, len[0], len[1], packet.protocol, 64]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        _ => unreachable!("two families"),
    }
    out.extend(payload);
    out
}

/// What is behind the IP header. Checksums are zero: the namespace does not look at them.
fn payload(packet: &Packet) -> Vec<u8> {
    let (from, to) = packet.ports.unwrap_or_default();
    let mut out = [from.to_be_bytes(), to.to_be_bytes()].concat();
    match packet.protocol {
        // SYN, or SYN and FIN, which nobody sends.
        6 => {
            let flags = if packet.state == State::Invalid { 0x03 } else { 0x02 };
            out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        }
        17 => out.extend([0, 8, 0, 0]),
        // INIT with a tag, a window, one stream each way.
        132 => out.extend([
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1,
        ]),
        1 | 58 => {
            let (kind, code) = packet.icmp.unwrap();
            out = vec![kind, code, 0, 0, 0, 7, 0, 1];
            out.extend([0; 16]);
        }
        _ => out = vec![0, 0, 8, 0, 0, 0, 0, 0],
    }
    out
}

/// Sends packets, in the namespace of the caller.
pub(crate) fn send(packets: &[Packet]) {
    let Some(first) = packets.first() else { return };
    let family = if first.source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
    for packet in packets {
        let bytes = bytes(packet);
        let sent = match packet.destination {
            IpAddr::V4(to) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(fd.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(fd.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
        };
        // What our own OUTPUT drops is an error to the sender.
        let dropped = matches!(
            sent,
            Err(nix::errno::Errno::EPERM
                | nix::errno::Errno::ENETUNREACH
                | nix::errno::Errno::EHOSTUNREACH)
        );
        assert!(sent.is_ok() || dropped, "{sent:?} {packet:?}");
    }
}
