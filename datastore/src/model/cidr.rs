//! Address prefixes with their host bits masked off.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// An address family: which of the two kernels' worth of rules something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The length of a host prefix: 32 or 128.
    pub fn host_len(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// `4` or `6`.
    pub fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{}", self.number())
    }
}

/// An address prefix. The host bits are always zero, so equal prefixes compare equal
/// (`ipnetwork` keeps them: there `10.0.0.5/24 != 10.0.0.0/24`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr(IpNetwork);

/// The text is not an address or a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address or a CIDR")]
pub struct InvalidCidr(pub String);

impl Cidr {
    /// The prefix of length `prefix_len` that holds `address`; host bits are masked off.
    ///
    /// # Errors
    /// When `prefix_len` is longer than the family allows (32 or 128).
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, InvalidCidr> {
        let net = IpNetwork::new(address, prefix_len)
            .map_err(|_| InvalidCidr(format!("{address}/{prefix_len}")))?;
        Ok(Self(IpNetwork::new(net.network(), prefix_len).unwrap_or(net)))
    }

    /// The prefix of exactly one address (/32 or /128).
    pub fn host(address: IpAddr) -> Self {
        Self(IpNetwork::from(address))
    }

    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of(self.0.ip())
    }

    /// The first address of the prefix.
    pub fn address(&self) -> IpAddr {
        self.0.ip()
    }

    /// The length in bits: 0–32 or 0–128.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix()
    }

    /// True for a /32 or a /128.
    pub fn is_host(&self) -> bool {
        self.prefix_len() == self.family().host_len()
    }

    /// True when the address lies inside; always false across families.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// True when all of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix_len() <= other.prefix_len() && self.contains(other.address())
    }

    /// True when they have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// How many addresses lie inside; `u128::MAX` for `::/0`, which has one more.
    pub fn size(&self) -> u128 {
        let bits = self.family().host_len() - self.prefix_len();
        1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
    }

    /// The address that is `index` after the first; `None` when it lies outside.
    pub fn nth(&self, index: u128) -> Option<IpAddr> {
        if index >= self.size() {
            return None;
        }
        match self.address() {
            IpAddr::V4(first) => {
                let index = u32::try_from(index).ok()?;
                Some(IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | index)))
            }
            IpAddr::V6(first) => Some(IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | index))),
        }
    }

    /// How far an address is from the first; `None` when it lies outside.
    pub fn index_of(&self, address: IpAddr) -> Option<u128> {
        match (self.address(), address) {
            _ if !self.contains(address) => None,
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                Some(u128::from(address.to_bits() - first.to_bits()))
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => Some(address.to_bits() - first.to_bits()),
            _ => None,
        }
    }

    /// The two halves of the prefix, or `None` for a single address.
    pub fn halves(&self) -> Option<(Self, Self)> {
        let len = self.prefix_len() + 1;
        if self.is_host() {
            return None;
        }
        let upper = match self.address() {
            IpAddr::V4(low) => {
                IpAddr::V4(Ipv4Addr::from_bits(low.to_bits() | (1 << (32 - u32::from(len)))))
            }
            IpAddr::V6(low) => {
                IpAddr::V6(Ipv6Addr::from_bits(low.to_bits() | (1 << (128 - u32::from(len)))))
            }
        };
        Some((Self::new(self.address(), len).ok()?, Self::new(upper, len).ok()?))
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    /// Accepts `10.0.0.1` (a host), `10.0.0.0/8` and `fd80::/64`; nothing else. Host bits are
    /// masked off, as the original does for its sets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidCidr(text.to_owned());
        let (address, len) = match text.split_once('/') {
            None => (text, None),
            Some((address, len)) => (address, Some(len)),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let Some(len) = len else { return Ok(Self::host(address)) };
        // `u8::from_str` alone would also take "+8".
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(address, len.parse().map_err(|_| bad())?).map_err(|_| bad())
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix_len())
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_masked() {
        let cidr: Cidr = "10.0.0.5/24".parse().unwrap();
        assert_eq!(cidr, "10.0.0.0/24".parse().unwrap());
        assert_eq!(cidr.to_string(), "10.0.0.0/24");
    }

    #[test]
    fn a_bare_address_is_a_host() {
        assert_eq!("10.0.0.1".parse::<Cidr>().unwrap().to_string(), "10.0.0.1/32");
        assert_eq!("fd80::1".parse::<Cidr>().unwrap().to_string(), "fd80::1/128");
    }

    #[test]
    fn what_ipnetwork_would_take_is_refused() {
        for text in
            ["10.0.0.0/255.0.0.0", "10.0.0.0/+8", "10.0.0.0/33", "fd80::/129", "", "10.0.0.0/", "x"]
        {
            assert!(text.parse::<Cidr>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn halves_of_the_default_route() {
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        let (low, high) = all.halves().unwrap();
        assert_eq!((low.to_string(), high.to_string()), ("0.0.0.0/1".into(), "128.0.0.0/1".into()));
        let all: Cidr = "::/0".parse().unwrap();
        let (low, high) = all.halves().unwrap();
        assert_eq!((low.to_string(), high.to_string()), ("::/1".into(), "8000::/1".into()));
        assert!("10.0.0.1".parse::<Cidr>().unwrap().halves().is_none());
    }

    #[test]
    fn addresses_are_counted_from_the_first() {
        for (cidr, size, index, address) in [
            ("192.168.0.64/26", 64, 0, "192.168.0.64"),
            ("192.168.0.64/26", 64, 63, "192.168.0.127"),
            ("10.0.0.1", 1, 0, "10.0.0.1"),
            ("0.0.0.0/0", 1 << 32, (1 << 32) - 1, "255.255.255.255"),
            ("fd80::40/122", 64, 5, "fd80::45"),
            ("::/0", u128::MAX, u128::MAX - 1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),
        ] {
            let cidr: Cidr = cidr.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(cidr.size(), size, "{cidr}");
            assert_eq!(cidr.nth(index), Some(address), "{cidr}");
            assert_eq!(cidr.index_of(address), Some(index), "{cidr}");
            assert_eq!(cidr.nth(size), None, "{cidr}");
        }
        let block: Cidr = "192.168.0.64/26".parse().unwrap();
        for outside in ["192.168.0.63", "192.168.0.128", "fd80::"] {
            assert_eq!(block.index_of(outside.parse().unwrap()), None, "{outside}");
        }
    }

    #[test]
    fn overlapping_is_mutual() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.1.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "::/0", false),
        ] {
            assert_eq!(cidr(a).overlaps(&cidr(b)), expected, "{a} {b}");
            assert_eq!(cidr(b).overlaps(&cidr(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn covers_is_within_one_family() {
        let ten: Cidr = "10.0.0.0/8".parse().unwrap();
        assert!(ten.covers(&"10.1.0.0/16".parse().unwrap()));
        assert!(!ten.covers(&"0.0.0.0/0".parse().unwrap()));
        assert!(!ten.covers(&"fd80::/64".parse().unwrap()));
    }
}
