//! Addresses as people and runtimes write them.

use std::net::IpAddr;

use calico_datastore::model::Family;

/// `10.0.0.1`, `10.0.0.1/24`, `fd80::1`, `fd80::1/64`: the address, and the length if there is one.
pub(crate) fn parse(text: &str) -> Option<(IpAddr, Option<u8>)> {
    let (address, len) = match text.split_once('/') {
        None => (text, None),
        Some((address, len)) => (address, Some(len)),
    };
    let address: IpAddr = address.parse().ok()?;
    let Some(len) = len else { return Some((address, None)) };
    // `u8::from_str` alone would also take "+8".
    if !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let len = len.parse().ok().filter(|len| *len <= Family::of(address).host_len())?;
    Some((address, Some(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_optional_and_checked() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(parse("10.0.0.1"), Some((ip("10.0.0.1"), None)));
        assert_eq!(parse("10.0.0.1/24"), Some((ip("10.0.0.1"), Some(24))));
        assert_eq!(parse("fd80::1/128"), Some((ip("fd80::1"), Some(128))));
        for bad in ["", "/", "10.0.0.1/", "10.0.0.1/33", "fd80::/129", "10.0.0.1/+8", "10.0.0"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
