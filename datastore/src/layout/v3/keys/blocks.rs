//! Keys of allocation blocks, and where the keys of those lie that may overlap one.

use super::{BLOCKS_PREFIX, block_segment};
use crate::layout::v3::pool::block_sizes;
use crate::model::{Cidr, Family};

/// The key of an allocation block.
pub fn block(cidr: Cidr) -> String {
    format!("{BLOCKS_PREFIX}{}", block_segment(cidr))
}

/// The prefix of the allocation blocks of one family.
pub fn blocks_of(family: Family) -> String {
    format!("{BLOCKS_PREFIX}ipv{}/", family.number())
}

/// Prefixes under which the key of every block lies that can share an address with this one, of all
/// sizes that a pool may have. What else lies there is near it.
pub fn blocks_around(this: Cidr) -> Vec<String> {
    let first = block(this);
    let last =
        this.nth(this.size() - 1).map_or_else(|| first.clone(), |last| block(Cidr::host(last)));
    // What is inside begins with what the first and the last of its addresses have in common: with
    // whole parts of it, since a number may have more digits than another.
    let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let common = first.get(..common).unwrap_or_default();
    let end = common.rfind(['.', ':', '/']).map_or(0, |at| at + 1);
    let inside = common.get(..end).unwrap_or_default().to_owned();
    // What is around may begin before.
    let larger = *block_sizes(this.family()).start()..this.prefix_len();
    let larger = larger.filter_map(|len| Cidr::new(this.address(), len).ok().map(block));
    let mut around: Vec<String> = larger.filter(|key| !key.starts_with(&inside)).collect();
    around.push(inside);
    around
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn around(text: &str) -> Vec<String> {
        let around = blocks_around(text.parse().unwrap());
        around.iter().map(|key| key[BLOCKS_PREFIX.len()..].to_owned()).collect()
    }

    #[test]
    fn near_but_not_far() {
        assert_eq!(
            around("10.1.5.64/26"),
            ["10.1.0.0-20", "10.1.0.0-21", "10.1.4.0-22", "10.1.4.0-23", "10.1.5."]
                .map(|key| format!("ipv4/block/{key}"))
        );
        assert_eq!(around("10.1.0.0/20"), ["ipv4/block/10.1."]);
        assert_eq!(around("fd00::1:40/122"), ["ipv6/block/fd00::1:"]);
        assert_eq!(around("fd00::/122"), ["ipv6/block/fd00::"]);
    }

    /// Addresses with many zeros, which is where texts differ.
    fn address() -> impl Strategy<Value = IpAddr> {
        let group = prop_oneof![Just(0_u16), Just(1), any::<u16>()];
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            proptest::array::uniform8(group).prop_map(|groups| IpAddr::V6(Ipv6Addr::from(groups))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
        #[test]
        fn whatever_overlaps_lies_there(
            address in address(), this in 0..13_u8, other in 0..13_u8, inside in any::<u128>(),
        ) {
            let start = *block_sizes(Family::of(address)).start();
            let this = Cidr::new(address, start + this).unwrap();
            // Any that begins in it, and with that any that is around it.
            let at = this.nth(inside % this.size()).unwrap();
            let other = Cidr::new(at, start + other).unwrap();
            prop_assert!(this.overlaps(&other));
            let (key, around) = (block(other), blocks_around(this));
            prop_assert!(around.iter().any(|prefix| key.starts_with(prefix)), "{key}: {around:?}");
            prop_assert!(around.len() < 100, "more than etcd takes");
        }
    }
}
