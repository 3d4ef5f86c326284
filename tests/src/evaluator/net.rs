//! Ranges of addresses, host bits ignored.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

/// A range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    base: IpAddr,
    length: u32,
}

impl Net {
    /// Reads `10.0.0.0/8`, or an address, which is a range of one.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>()?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().with_context(|| format!("{text:?}"))?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(most);
        ensure!(length <= most, "{text:?} is too long");
        Ok(Self { base, length })
    }

    /// True for IPv4.
    pub fn is_v4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// The first address as it is written.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    /// True when it holds this address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.base, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        differ >= self.length
    }
}
