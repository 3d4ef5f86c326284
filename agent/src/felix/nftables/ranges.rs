//! Lists of prefixes and ports as ranges that neither overlap nor touch, which is what a set of the
//! kernel takes and what nft lists.

use std::net::IpAddr;

use calico_datastore::model::{Cidr, PortRange};

use super::expr::Data;

/// The bytes of an address as it is in a packet.
pub(super) fn address(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(address) => Data::new(&address.octets()),
        IpAddr::V6(address) => Data::new(&address.octets()),
    }
}

/// The last address of a prefix.
pub(super) fn last(net: &Cidr) -> IpAddr {
    match net.address() {
        IpAddr::V4(first) => {
            let host = u32::MAX.checked_shr(u32::from(net.prefix_len())).unwrap_or(0);
            IpAddr::V4((first.to_bits() | host).into())
        }
        IpAddr::V6(first) => {
            let host = u128::MAX.checked_shr(u32::from(net.prefix_len())).unwrap_or(0);
            IpAddr::V6((first.to_bits() | host).into())
        }
    }
}

/// The leading bits of an address of `len` bytes.
pub(super) fn mask(len: usize, bits: u8) -> Data {
    let ones = u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(bits))).unwrap_or(0);
    Data::new(&ones.to_be_bytes()[..len.min(16)])
}

/// The prefix that is exactly this range of addresses of 4 or 16 bytes: how many leading bits.
pub(super) fn prefix_len(first: Data, last: Data) -> Option<u8> {
    let len = first.bytes().len();
    let bits = u8::try_from(len * 8).ok()?;
    (0..=bits).find(|bits| {
        let mask = mask(len, *bits);
        let pairs = first.bytes().iter().zip(last.bytes()).zip(mask.bytes());
        pairs.into_iter().all(|((first, last), mask)| *first & !mask == 0 && first | !mask == *last)
    })
}

/// Ascending, merged where they overlap or touch.
pub(super) fn merged(mut ranges: Vec<(Data, Data)>) -> Vec<(Data, Data)> {
    ranges.sort_unstable();
    let mut out: Vec<(Data, Data)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1 || before.1.next() == Some(first) => {
                before.1 = before.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    out
}

/// Prefixes of one family.
pub(super) fn of_nets(nets: &[Cidr]) -> Vec<(Data, Data)> {
    merged(nets.iter().map(|net| (address(net.address()), address(last(net)))).collect())
}

/// Ports.
pub(super) fn of_ports(ports: &[PortRange]) -> Vec<(Data, Data)> {
    merged(
        ports.iter().map(|range| (Data::port(range.first()), Data::port(range.last()))).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<(Data, Data)> {
        of_nets(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    fn data(text: &str) -> Data {
        address(text.parse().unwrap())
    }

    #[test]
    fn what_overlaps_or_touches_is_one() {
        let merged = nets(&["10.0.0.0/8", "11.0.0.0/8", "10.1.0.0/16", "192.0.2.1"]);
        let expected =
            [(data("10.0.0.0"), data("11.255.255.255")), (data("192.0.2.1"), data("192.0.2.1"))];
        assert_eq!(merged, expected);
        assert_eq!(nets(&["::/0", "fd00::/8"]), [(data("::"), data("::").highest())]);
    }

    #[test]
    fn a_range_knows_whether_it_is_a_prefix() {
        for (net, bits) in [("0.0.0.0/0", 0), ("10.0.0.0/8", 8), ("10.1.2.3", 32), ("fd00::/7", 7)]
        {
            let net: Cidr = net.parse().unwrap();
            let bounds = (address(net.address()), address(last(&net)));
            assert_eq!(prefix_len(bounds.0, bounds.1), Some(bits), "{net}");
        }
        assert_eq!(prefix_len(data("10.0.0.0"), data("10.0.0.191")), None);
        assert_eq!(prefix_len(data("10.0.0.1"), data("10.0.0.2")), None);
    }

    proptest! {
        #[test]
        fn merging_changes_no_member(
            ports in prop::collection::vec((0_u16..60, 0_u16..9), 1..8),
        ) {
            let ports: Vec<_> = ports
                .into_iter()
                .map(|(first, more)| PortRange::new(first, first + more).unwrap())
                .collect();
            let merged = of_ports(&ports);
            for port in 0..80 {
                let before = ports.iter().any(|r| r.first() <= port && port <= r.last());
                let port = Data::port(port);
                prop_assert_eq!(before, merged.iter().any(|(a, b)| *a <= port && port <= *b));
            }
            for pair in merged.windows(2) {
                prop_assert!(pair[0].1.next().unwrap() < pair[1].0);
            }
        }
    }
}
