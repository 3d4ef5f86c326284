//! Prefixes of one family, as numbers.

use std::net::IpAddr;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many bits an address has.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A text is no prefix of the family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no prefix: {0}")]
pub struct NetError(pub(crate) String);

/// A prefix: its first address, and how many bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Net {
    pub(crate) family: Family,
    pub(crate) base: u128,
    pub(crate) len: u8,
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The bits that count of a prefix of `len`.
pub(crate) fn mask(family: Family, len: u8) -> u128 {
    let all = u128::MAX >> (128 - family.bits());
    let host = u32::from(family.bits() - len);
    if host == 128 { 0 } else { (all >> host) << host }
}

impl Net {
    pub(crate) fn parse(text: &str) -> Result<Self, NetError> {
        let bad = || NetError(text.to_owned());
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let family = Family::of(address);
        let len = match len {
            None => family.bits(),
            Some(len) => match len.parse::<u8>() {
                Ok(len) if len <= family.bits() => len,
                Ok(_) => return Err(bad()),
                Err(_) => dotted(len).filter(|_| family == Family::V4).ok_or_else(bad)?,
            },
        };
        Ok(Self { family, base: number(address) & mask(family, len), len })
    }

    /// An address of the same family.
    pub(crate) fn contains(&self, address: u128) -> bool {
        address & mask(self.family, self.len) == self.base
    }
}

/// `255.255.0.0` → 16.
fn dotted(text: &str) -> Option<u8> {
    let bits = text.parse::<std::net::Ipv4Addr>().ok()?.to_bits();
    let len = bits.leading_ones();
    (bits.count_ones() == len).then(|| u8::try_from(len).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_its_addresses_and_no_other() {
        let holds = |net: &str, address: &str| {
            Net::parse(net).unwrap().contains(number(address.parse().unwrap()))
        };
        for (net, address) in [
            ("10.0.0.0/8", "10.255.255.255"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.9.0.0/255.255.0.0", "10.9.3.1"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("0.0.0.0/1", "127.255.255.255"),
            ("fe80::/10", "febf::1"),
            ("::/0", "ffff::"),
            ("::/128", "::"),
        ] {
            assert!(holds(net, address), "{net} {address}");
        }
        for (net, address) in [
            ("10.0.0.0/8", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.2"),
            ("0.0.0.0/1", "128.0.0.0"),
            ("fe80::/10", "fec0::"),
            ("::/128", "::1"),
        ] {
            assert!(!holds(net, address), "{net} {address}");
        }
        for bad in ["10.0.0.0/33", "10.0.0", "10.0.0.0/255.0.255.0", "::/129", "a", ""] {
            assert!(Net::parse(bad).is_err(), "{bad}");
        }
    }
}
