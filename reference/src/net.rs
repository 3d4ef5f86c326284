//! Prefixes, bit by bit.

use std::net::IpAddr;

use calico_datastore::model::Cidr;

/// Does the prefix hold the address?
pub(crate) fn holds(net: &Cidr, address: IpAddr) -> bool {
    let (net_bits, bits, width) = match (net.address(), address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => {
            (u128::from(net.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(net), IpAddr::V6(address)) => (net.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let length = u32::from(net.prefix_len());
    (0..length).all(|bit| {
        let place = width - 1 - bit;
        (net_bits >> place) & 1 == (bits >> place) & 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_a_prefix() {
        for (net, inside, outside) in [
            (
                "10.0.0.64/26",
                &["10.0.0.64", "10.0.0.127"][..],
                &["10.0.0.63", "10.0.0.128", "::a"][..],
            ),
            ("10.0.0.1", &["10.0.0.1"], &["10.0.0.0", "10.0.0.2"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::"]),
            ("::/0", &["::", "ffff::"], &["0.0.0.0"]),
            ("fd80::40/122", &["fd80::40", "fd80::7f"], &["fd80::3f", "fd80::80"]),
            ("128.0.0.0/1", &["128.0.0.0", "255.0.0.0"], &["127.255.255.255"]),
        ] {
            let net: Cidr = net.parse().unwrap();
            for address in inside {
                assert!(holds(&net, address.parse().unwrap()), "{net} {address}");
            }
            for address in outside {
                assert!(!holds(&net, address.parse().unwrap()), "{net} {address}");
            }
        }
    }
}
