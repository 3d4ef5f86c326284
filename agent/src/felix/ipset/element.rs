//! Members as netlink says them: pure.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, InterfaceName, Protocol};

use super::wire::{flag, member, octet};
use super::{Counts, Entry, SetType};
use crate::netlink::build::Message;
use crate::netlink::{NET_BYTE_ORDER, attribute, attributes, be32, text};

/// `IPSET_ATTR_IPADDR_IPV4`.
const V4: u16 = 1;
/// `IPSET_ATTR_IPADDR_IPV6`.
const V6: u16 = 2;
/// The protocols that have ports to the kernel: TCP, UDP, SCTP, UDP-Lite. Of others it keeps the member
/// without its port and says nothing.
const WITH_PORTS: [Protocol; 4] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDPLITE];

/// A member in a list of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::felix) struct Element {
    /// A prefix, or an address alone.
    pub(in crate::felix) net: Cidr,
    port: Option<u16>,
    protocol: Option<Protocol>,
    /// The interface that it is behind.
    pub(in crate::felix) interface: Option<InterfaceName>,
    flags: u32,
    /// What was counted, in a set that counts.
    pub(in crate::felix) counts: Option<Counts>,
}

impl Element {
    /// Reads what is in one attribute of a list of members; `None`: it is not one of a type that we use.
    pub(in crate::felix) fn read(bytes: &[u8]) -> Option<Self> {
        let mut address = None;
        let mut length = None;
        let (mut port, mut protocol, mut interface) = (None, None, None);
        let (mut packets, mut octets, mut flags) = (None, None, 0);
        let number = |value: &[u8]| Some(u64::from_be_bytes(value.try_into().ok()?));
        for (kind, value) in attributes(bytes) {
            match kind {
                member::ADDRESS => address = Some(ip(attributes(value).next()?.1)?),
                member::LENGTH => length = Some(*value.first()?),
                member::PORT => port = Some(u16::from_be_bytes(value.try_into().ok()?)),
                member::PROTOCOL => protocol = Some(Protocol::from_number(*value.first()?)?),
                member::INTERFACE => interface = Some(text(value)?.parse().ok()?),
                member::FLAGS => flags = be32(value)?,
                member::PACKETS => packets = number(value),
                member::BYTES => octets = number(value),
                _ => {}
            }
        }
        let address = address?;
        let net = match length {
            Some(length) => Cidr::new(address, length).ok()?,
            None => Cidr::host(address),
        };
        let counts = packets.zip(octets).map(|(packets, bytes)| Counts { packets, bytes });
        Some(Self { net, port, protocol, interface, flags, counts })
    }

    /// The member that it is of a set of that type; `None`: it means more than we can say.
    pub(super) fn entry(self, kind: SetType) -> Option<Entry> {
        if self.flags & (flag::BRIDGE_PORT | flag::WILDCARD) != 0 {
            return None;
        }
        match kind {
            SetType::Net => Some(Entry::Net(self.net)),
            SetType::Port => Some(Entry::Port(self.net.address(), self.protocol?, self.port?)),
            SetType::NetIface => Some(Entry::NetIface(self.net, self.interface?)),
        }
    }

    /// It says that what it covers is not in the set.
    pub(super) fn is_negated(&self) -> bool {
        self.flags & flag::NOMATCH != 0
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// Why a member cannot be added, when the kernel would take it for another one.
pub(super) fn unspeakable(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Port(_, protocol, _) if !WITH_PORTS.contains(protocol) => {
            Some(format!("{protocol} has no ports"))
        }
        _ => None,
    }
}

/// Writes the attributes of a member.
pub(super) fn write(message: &mut Message, entry: &Entry) {
    match entry {
        Entry::Net(net) => put_net(message, *net),
        Entry::Port(address, protocol, port) => {
            put_address(message, *address);
            message.put(member::PORT | NET_BYTE_ORDER, &port.to_be_bytes());
            message.put(member::PROTOCOL, &[protocol.number()]);
        }
        Entry::NetIface(net, interface) => {
            put_net(message, *net);
            message.put_text(member::INTERFACE, interface.as_str());
        }
    }
}

/// Writes what was counted for a member.
pub(super) fn write_counts(message: &mut Message, counts: Counts) {
    message.put(member::PACKETS | NET_BYTE_ORDER, &counts.packets.to_be_bytes());
    message.put(member::BYTES | NET_BYTE_ORDER, &counts.bytes.to_be_bytes());
}

fn put_net(message: &mut Message, net: Cidr) {
    put_address(message, net.address());
    message.put(member::LENGTH, &[net.prefix_len()]);
}

fn put_address(message: &mut Message, address: IpAddr) {
    let nested = message.nest(member::ADDRESS);
    match address {
        IpAddr::V4(address) => message.put(V4 | NET_BYTE_ORDER, &address.octets()),
        IpAddr::V6(address) => message.put(V6 | NET_BYTE_ORDER, &address.octets()),
    }
    message.close(nested);
}

/// The members in a message of a list. `None` stands for one that is not understood.
pub(in crate::felix) fn elements(body: &[u8]) -> impl Iterator<Item = Option<Element>> {
    members(body).map(Element::read)
}

/// The same, as bytes.
pub(in crate::felix) fn members(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    use super::wire::{attr, behind_head};
    let all = behind_head(body).and_then(|body| attribute(body, attr::MEMBERS));
    all.into_iter().flat_map(attributes).map(|(_, entry)| entry)
}

/// The family of a number of the kernel's (`NFPROTO_…`), in an attribute.
pub(super) fn family(body: &[u8], kind: u16) -> Option<Family> {
    match octet(body, kind)? {
        2 => Some(Family::V4),
        10 => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    fn read_back(entry: &Entry, counts: Option<Counts>) -> Option<Element> {
        let mut message = Message::new(0, 0, &[]);
        write(&mut message, entry);
        if let Some(counts) = counts {
            write_counts(&mut message, counts);
        }
        let bytes = message.finish();
        Element::read(messages(&bytes).next().unwrap().1)
    }

    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ]
    }

    prop_compose! {
        fn nets()(address in addresses(), length in 0..=128_u8) -> Cidr {
            Cidr::new(address, length.min(Family::of(address).host_len())).unwrap()
        }
    }

    fn entries() -> impl Strategy<Value = (SetType, Entry)> {
        prop_oneof![
            nets().prop_map(|net| (SetType::Net, Entry::Net(net))),
            (addresses(), 1..=255_u8, any::<u16>()).prop_map(|(address, protocol, port)| {
                let protocol = Protocol::from_number(protocol).unwrap();
                (SetType::Port, Entry::Port(address, protocol, port))
            }),
            (nets(), "[a-z][a-z0-9.-]{0,14}").prop_map(|(net, interface)| {
                (SetType::NetIface, Entry::NetIface(net, interface.parse().unwrap()))
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (kind, entry) in entries(),
            counted in prop::option::of(any::<(u64, u64)>()),
        ) {
            let counts = counted.map(|(packets, bytes)| Counts { packets, bytes });
            let read = read_back(&entry, counts).unwrap();
            prop_assert_eq!((read.counts, read.is_negated()), (counts, false));
            prop_assert_eq!(read.entry(kind), Some(entry));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Element::read(&bytes).map(|read| read.entry(SetType::Port));
            let _ = elements(&bytes).count();
        }
    }

    #[test]
    fn a_member_that_means_more_is_not_taken_for_one_of_ours() {
        let entry = Entry::NetIface("10.0.0.1".parse().unwrap(), "cali1".parse().unwrap());
        let plain = read_back(&entry, None).unwrap();
        for bit in [flag::BRIDGE_PORT, flag::WILDCARD] {
            let more = Element { flags: bit, ..plain.clone() };
            assert_eq!(more.entry(SetType::NetIface), None);
        }
        assert!(Element { flags: flag::NOMATCH, ..plain.clone() }.is_negated());
        assert_eq!(plain.entry(SetType::NetIface), Some(entry));
    }

    #[test]
    fn a_protocol_without_ports_is_not_given_one() {
        let entry = |number| {
            let protocol = Protocol::from_number(number).unwrap();
            Entry::Port([10, 0, 0, 1].into(), protocol, 5)
        };
        for (number, spoken) in [(6, true), (17, true), (132, true), (136, true), (2, false)] {
            assert_eq!(unspeakable(&entry(number)).is_none(), spoken, "{number}");
        }
    }
}
