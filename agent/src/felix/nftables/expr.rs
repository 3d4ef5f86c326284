//! The kernel's expressions (`linux/netfilter/nf_tables.h`) as values: what a rule becomes on its way
//! to the kernel, and what a rule in the kernel is read as. Anonymous sets are part of the expression
//! that looks into them, so that two rules are the same exactly when their expressions are equal.

use std::fmt;

use super::object::Verdict;

/// Up to sixteen bytes, as they stand in a register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Data {
    bytes: [u8; 16],
    len: u8,
}

impl Data {
    /// These bytes; what is beyond the sixteenth is cut off.
    pub(super) fn new(from: &[u8]) -> Self {
        let len = from.len().min(16);
        let mut bytes = [0; 16];
        bytes[..len].copy_from_slice(&from[..len]);
        Self { bytes, len: u8::try_from(len).unwrap_or(16) }
    }

    /// A number as the kernel itself keeps it: marks, states, groups.
    pub(super) fn native(number: u32) -> Self {
        Self::new(&number.to_ne_bytes())
    }

    /// A port as it is in the packet.
    pub(super) fn port(port: u16) -> Self {
        Self::new(&port.to_be_bytes())
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// What follows as a number in network order, or `None` behind the last one of this length.
    pub(super) fn next(&self) -> Option<Self> {
        let mut next = *self;
        for byte in next.bytes[..usize::from(self.len)].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(next);
            }
        }
        None
    }

    /// What comes before it, or `None` before the first.
    pub(super) fn previous(&self) -> Option<Self> {
        let mut previous = *self;
        for byte in previous.bytes[..usize::from(self.len)].iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != 255 {
                return Some(previous);
            }
        }
        None
    }

    /// The highest of this length.
    pub(super) fn highest(&self) -> Self {
        Self::new(&[255; 16][..usize::from(self.len)])
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A register, by the kernel's number: 1–4 hold sixteen bytes each, 8–23 the same space in pieces of
/// four.
pub(super) type Reg = u32;

/// What `meta` loads (`NFT_META_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetaKey(pub(super) u32);

impl MetaKey {
    pub(super) const MARK: Self = Self(3);
    pub(super) const IIFNAME: Self = Self(6);
    pub(super) const OIFNAME: Self = Self(7);
    pub(super) const IIFTYPE: Self = Self(8);
    pub(super) const NFPROTO: Self = Self(15);
    pub(super) const L4PROTO: Self = Self(16);
    pub(super) const IIFGROUP: Self = Self(21);
    pub(super) const OIFGROUP: Self = Self(22);
}

/// `NFT_CT_STATE`.
pub(super) const CT_STATE: u32 = 0;
/// `NFT_CT_STATUS`.
pub(super) const CT_STATUS: u32 = 2;

/// Where a payload begins (`NFT_PAYLOAD_…_HEADER`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layer(pub(super) u32);

impl Layer {
    pub(super) const LINK: Self = Self(0);
    pub(super) const NETWORK: Self = Self(1);
    pub(super) const TRANSPORT: Self = Self(2);
}

/// A comparison (`NFT_CMP_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op(pub(super) u32);

impl Op {
    pub(super) const EQ: Self = Self(0);
    pub(super) const NEQ: Self = Self(1);
    pub(super) const LTE: Self = Self(3);
    pub(super) const GTE: Self = Self(5);

    /// Equal, or not.
    pub(super) const fn is(not: bool) -> Self {
        if not { Self::NEQ } else { Self::EQ }
    }
}

/// What the key of a set is, for the kernel (its length) and for nft (the rest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyType {
    /// nft's number of the type; of a concatenation six bits for each part.
    pub(super) number: u32,
    /// Bytes; each part of a concatenation takes a multiple of four.
    pub(super) len: u32,
    /// nft's byte order: 0 none, 1 the host's, 2 the network's.
    pub(super) order: u32,
}

impl KeyType {
    pub(super) const IPV4: Self = Self { number: 7, len: 4, order: 2 };
    pub(super) const IPV6: Self = Self { number: 8, len: 16, order: 2 };
    pub(super) const ETHER: Self = Self { number: 9, len: 6, order: 2 };
    pub(super) const PROTOCOL: Self = Self { number: 12, len: 1, order: 2 };
    pub(super) const SERVICE: Self = Self { number: 13, len: 2, order: 2 };
    pub(super) const ICMP_TYPE: Self = Self { number: 14, len: 1, order: 2 };
    pub(super) const ICMPV6_TYPE: Self = Self { number: 29, len: 1, order: 2 };
    pub(super) const ICMP_CODE: Self = Self { number: 32, len: 1, order: 2 };
    pub(super) const ICMPV6_CODE: Self = Self { number: 33, len: 1, order: 2 };
    pub(super) const DEVGROUP: Self = Self { number: 35, len: 4, order: 1 };
    pub(super) const IFNAME: Self = Self { number: 41, len: 16, order: 1 };

    /// `self . other`.
    pub(super) const fn then(self, other: Self) -> Self {
        let len = self.len.next_multiple_of(4) + other.len.next_multiple_of(4);
        Self { number: self.number << 6 | other.number, len, order: 0 }
    }
}

/// A set that belongs to one rule and never changes.
#[derive(Clone, Debug)]
pub(super) struct Anonymous {
    /// What is looked up.
    pub(super) key: KeyType,
    /// First and last of each range, ascending, with gaps in between.
    pub(super) ranges: Vec<(Data, Data)>,
}

impl Anonymous {
    /// Whether the kernel has to keep ranges, not only keys.
    pub(super) fn is_interval(&self) -> bool {
        self.ranges.iter().any(|(first, last)| first != last)
    }
}

/// The byte order is a note for nft, which the kernel does not list.
impl PartialEq for Anonymous {
    fn eq(&self, other: &Self) -> bool {
        (self.key.number, self.key.len, &self.ranges)
            == (other.key.number, other.key.len, &other.ranges)
    }
}

impl Eq for Anonymous {}

/// Which set is looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetRef {
    /// One with a name.
    Named(String),
    /// One of this rule.
    Anonymous(Anonymous),
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    /// Loads a property of the packet.
    Meta { key: MetaKey, to: Reg },
    /// Sets one.
    MetaSet { key: MetaKey, from: Reg },
    /// Loads a property of the connection.
    Ct { key: u32, to: Reg },
    /// Loads bytes of the packet.
    Payload { layer: Layer, offset: u32, len: u32, to: Reg },
    /// `to = (from & mask) ^ xor`.
    Bitwise { from: Reg, to: Reg, mask: Data, xor: Data },
    /// Ends the rule unless it holds.
    Cmp { reg: Reg, op: Op, data: Data },
    /// Ends the rule unless the register is inside (`EQ`) or outside (`NEQ`).
    Range { reg: Reg, op: Op, first: Data, last: Data },
    /// Ends the rule unless found (or found, with `not`); a map gives the verdict.
    Lookup { set: SetRef, reg: Reg, not: bool, verdict: bool },
    /// Loads a constant.
    Value { to: Reg, data: Data },
    /// The verdict.
    Verdict(Verdict),
    /// Counts. What it has counted is no part of it.
    Counter,
    /// Ends the rule when it is too often: packets in so many seconds.
    Limit { rate: u64, unit: u64, burst: u32 },
    /// To the kernel's log.
    Log { prefix: String, level: u32 },
    /// To whoever reads the group.
    LogGroup { prefix: String, group: u16 },
    /// An ICMP error.
    Reject { kind: u32, code: u8 },
    /// Another address; `flags` without those that follow from the registers.
    Nat { destination: bool, family: u8, address: Reg, ports: Option<(Reg, Reg)>, flags: u32 },
    /// The address of the interface that it leaves by.
    Masquerade { ports: Option<(Reg, Reg)>, flags: u32 },
    /// No connection for this packet.
    Notrack,
    /// One that we never write, by the kernel's name.
    Other(String),
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
pub(super) const NAT_PORTS: u32 = 1 << 1;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub(super) const NAT_RANDOM_FULLY: u32 = 1 << 4;
/// The flags that say more than the registers do: `PROTO_RANDOM`, `PERSISTENT`,
/// `PROTO_RANDOM_FULLY`, `PROTO_OFFSET`, `NETMAP`.
pub(super) const NAT_OWN_FLAGS: u32 = 1 << 2 | 1 << 3 | NAT_RANDOM_FULLY | 1 << 5 | 1 << 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_up_and_down_carries() {
        let data = Data::new(&[10, 0, 255, 255]);
        assert_eq!(data.next(), Some(Data::new(&[10, 1, 0, 0])));
        assert_eq!(data.next().and_then(|next| next.previous()), Some(data));
        assert_eq!(Data::port(65535).next(), None);
        assert_eq!(Data::port(0).previous(), None);
        assert_eq!(Data::port(0).highest(), Data::port(65535));
    }

    #[test]
    fn concatenations_are_numbered_as_nft_does() {
        let three = KeyType::IPV4.then(KeyType::PROTOCOL).then(KeyType::SERVICE);
        assert_eq!((three.number, three.len), (0x730d, 12));
        let two = KeyType::IFNAME.then(KeyType::ETHER);
        assert_eq!((two.number, two.len), (0xa49, 24));
    }
}
