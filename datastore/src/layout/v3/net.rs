//! Addresses and prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::FieldError;
use super::wire::Text;
use crate::model::Cidr;

/// A prefix, or an address standing for itself.
pub(in crate::layout) fn cidr(text: &Text<'_>) -> Result<Cidr, FieldError> {
    text.parse().map_err(FieldError::new)
}

/// An address.
pub(in crate::layout) fn address(text: &Text<'_>) -> Result<IpAddr, FieldError> {
    text.parse().map_err(|_| FieldError::new(format_args!("{:?} is not an address", &**text)))
}

/// An address of one family, as it may stand in a field for that family.
pub(in crate::layout) fn v4(text: &str) -> Result<Ipv4Addr, FieldError> {
    text.parse().map_err(|_| FieldError::new(format_args!("{text:?} is not an IPv4 address")))
}

/// `address/length` or a bare address: the address itself and the prefix it is in.
fn interface(text: &str) -> Result<(IpAddr, Cidr), FieldError> {
    let cidr: Cidr = text.parse().map_err(FieldError::new)?;
    let bare = text.split_once('/').map_or(text, |(address, _)| address);
    let address =
        bare.parse().map_err(|_| FieldError::new(format_args!("{text:?} is not an address")))?;
    Ok((address, cidr))
}

/// [`interface`] of IPv4.
pub(in crate::layout) fn interface_v4(text: &str) -> Result<(Ipv4Addr, Cidr), FieldError> {
    match interface(text)? {
        (IpAddr::V4(address), network) => Ok((address, network)),
        _ => Err(FieldError::new(format_args!("{text:?} is not of IPv4"))),
    }
}

/// [`interface`] of IPv6.
pub(in crate::layout) fn interface_v6(text: &str) -> Result<(Ipv6Addr, Cidr), FieldError> {
    match interface(text)? {
        (IpAddr::V6(address), network) => Ok((address, network)),
        _ => Err(FieldError::new(format_args!("{text:?} is not of IPv6"))),
    }
}
