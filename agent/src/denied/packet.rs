//! The addresses and ports of a packet (RFC 791, RFC 8200). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_datastore::model::Protocol;

use crate::desired::verdict::Flow;

/// Extension headers of IPv6 that may stand before the protocol's own: hop-by-hop, routing,
/// destination options, mobility, HIP, shim6. All give their length in units of eight bytes.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
/// The fragment header of IPv6.
const FRAGMENT: u8 = 44;
/// The authentication header, whose length counts in units of four bytes.
const AUTHENTICATION: u8 = 51;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// TCP, UDP, DCCP, SCTP, UDPLite: the first four bytes are two ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// What a packet tells; `None` for what is no IP packet, or cut off inside its header.
pub(super) fn flow(packet: &[u8]) -> Option<Flow> {
    match packet.first()? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<Flow> {
    let header = usize::from(packet[0] & 0xf) * 4;
    if header < 20 {
        return None;
    }
    let address = |at: usize| {
        let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
    // Only the first fragment has what comes after the header.
    let rest = if fragment == 0 { packet.get(header..).unwrap_or_default() } else { &[] };
    Some(end(address(12)?, address(16)?, *packet.get(9)?, rest))
}

fn v6(packet: &[u8]) -> Option<Flow> {
    let address = |at: usize| {
        let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(bytes)))
    };
    let (source, destination) = (address(8)?, address(24)?);
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    while let [following, length, ..] = *rest {
        let bytes = match next {
            FRAGMENT => {
                let offset = [rest.get(2), rest.get(3)].map(|b| b.copied().unwrap_or(0));
                if u16::from_be_bytes(offset) >> 3 != 0 {
                    return Some(end(source, destination, following, &[]));
                }
                8
            }
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            _ if EXTENSIONS.contains(&next) => (usize::from(length) + 1) * 8,
            _ => break,
        };
        next = following;
        rest = rest.get(bytes..).unwrap_or_default();
    }
    Some(end(source, destination, next, rest))
}

fn end(source: IpAddr, destination: IpAddr, protocol: u8, rest: &[u8]) -> Flow {
    let ports = match rest {
        [a, b, c, d, ..] if WITH_PORTS.contains(&protocol) => {
            Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => None,
    };
    let icmp = match rest {
        [kind, code, ..] if protocol == ICMP || protocol == ICMP_V6 => Some((*kind, *code)),
        _ => None,
    };
    Flow { source, destination, protocol: Protocol::from_number(protocol), ports, icmp }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(protocol: u8, options: usize, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options * 4];
        packet[0] = 0x45 + u8::try_from(options).unwrap();
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(rest);
        packet
    }

    fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = next;
        packet[23] = 1;
        packet[39] = 2;
        packet.extend(rest);
        packet
    }

    #[test]
    fn ports_and_types_are_found() {
        let seen = |packet: &[u8]| flow(packet).map(|f| (f.ports, f.icmp));
        let ports = [0, 80, 0x1f, 0x90, 0, 0];
        assert_eq!(seen(&ipv4(6, 0, 0, &ports)), Some((Some((80, 8080)), None)));
        assert_eq!(seen(&ipv4(17, 3, 0x4000, &ports)), Some((Some((80, 8080)), None)));
        assert_eq!(seen(&ipv4(17, 0, 0x2000, &ports)), Some((Some((80, 8080)), None)));
        assert_eq!(seen(&ipv4(17, 0, 185, &ports)), Some((None, None)), "a later fragment");
        assert_eq!(seen(&ipv4(6, 0, 0, &ports[..3])), Some((None, None)), "cut off");
        assert_eq!(seen(&ipv4(1, 0, 0, &[8, 0])), Some((None, Some((8, 0)))));
        assert_eq!(seen(&ipv4(47, 0, 0, &ports)), Some((None, None)));
        assert_eq!(seen(&ipv6(132, &ports)), Some((Some((80, 8080)), None)));
        assert_eq!(seen(&ipv6(58, &[135, 0])), Some((None, Some((135, 0)))));

        let flow = flow(&ipv4(6, 0, 0, &ports)).unwrap();
        assert_eq!(flow.source.to_string(), "10.0.0.1");
        assert_eq!(flow.destination.to_string(), "10.0.0.2");
        assert_eq!(flow.protocol, Some(Protocol::TCP));
    }

    #[test]
    fn extension_headers_are_stepped_over() {
        let tcp = [0, 80, 0x1f, 0x90];
        let chain = |headers: &[&[u8]]| ipv6(0, &headers.concat());
        let hop = [43, 0, 0, 0, 0, 0, 0, 0];
        let routing = [51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let authentication = [44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first = [6, 0, 0, 1, 0, 0, 0, 0];
        let later = [6, 0, 0, 8, 0, 0, 0, 0];
        let packet = chain(&[&hop, &routing, &authentication, &first, &tcp]);
        assert_eq!(flow(&packet).unwrap().ports, Some((80, 8080)));
        let packet = chain(&[&hop, &routing, &authentication, &later, &tcp]);
        let found = flow(&packet).unwrap();
        assert_eq!((found.ports, found.protocol), (None, Some(Protocol::TCP)));
    }

    #[test]
    fn what_is_no_packet_is_nothing() {
        assert_eq!(flow(&[]), None);
        assert_eq!(flow(&[0x45; 12]), None);
        assert_eq!(flow(&[0x41; 40]), None);
        assert_eq!(flow(&[0x60; 39]), None);
        assert_eq!(flow(&[0xf0; 60]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..130)) {
            let _ = flow(&bytes);
            if let [first, rest @ ..] = bytes.as_slice() {
                let v6 = [&[0x60 | first & 0xf], rest].concat();
                let _ = flow(&v6);
            }
        }
    }
}
