//! Which gateway the result names when it is to be one of the host's addresses.
//!
//! The pod's own is always 169.254.1.1, which no interface has. rkt forwards ports over the interface
//! that has the gateway of the result, so for rkt it has to be an address of the host.

use std::net::{IpAddr, UdpSocket};

use calico_datastore::layout::Decoded;
use calico_datastore::layout::v3::{self, keys};
use calico_datastore::model::{Family, Name, Node, Update};
use calico_datastore::store::Stored;

use crate::network::{GATEWAY_V4, GATEWAY_V6};

/// The pod's own gateway.
pub(crate) fn link_local(family: Family) -> IpAddr {
    match family {
        Family::V4 => GATEWAY_V4.into(),
        Family::V6 => GATEWAY_V6.into(),
    }
}

/// The Node in its stored form.
pub(crate) fn node(name: &Name, stored: Option<&Stored>) -> Option<Node> {
    match v3::decode(&keys::node(name), &stored?.value) {
        Decoded::Object(Update::Node(_, Some(node))) => Some(node.as_ref().clone()),
        _ => None,
    }
}

/// The host's address of a family: the Node's where an interface has it, else the one that packets
/// to anywhere leave from, else the first that is not only for this host. Without any, what the pod
/// has itself.
pub(crate) fn of_host(family: Family, node: Option<&Node>) -> IpAddr {
    let own = addresses();
    let claimed = node.and_then(|node| match family {
        Family::V4 => node.ipv4.map(IpAddr::V4),
        Family::V6 => node.ipv6.map(IpAddr::V6),
    });
    choose(family, claimed, source_of_default_route(family), &own)
}

fn choose(
    family: Family,
    claimed: Option<IpAddr>,
    source: Option<IpAddr>,
    own: &[IpAddr],
) -> IpAddr {
    let on_interface = |address: &IpAddr| own.contains(address);
    claimed
        .filter(on_interface)
        .or_else(|| source.filter(|a| on_interface(a) && is_global(*a)))
        .or_else(|| own.iter().copied().find(|a| Family::of(*a) == family && is_global(*a)))
        .unwrap_or_else(|| link_local(family))
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local() && !a.is_unspecified(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local() && !a.is_unspecified(),
    }
}

/// Asks the kernel by a socket that never sends: addresses for documentation, which only a default
/// route leads to.
fn source_of_default_route(family: Family) -> Option<IpAddr> {
    let (any, anywhere) = match family {
        Family::V4 => ("0.0.0.0:0", "192.0.2.1:9"),
        Family::V6 => ("[::]:0", "[2001:db8::1]:9"),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(anywhere).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The addresses of this host's interfaces that are up.
fn addresses() -> Vec<IpAddr> {
    use nix::net::if_::InterfaceFlags;
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return vec![] };
    let up = all.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    up.filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_address_is_one_that_an_interface_has() {
        let own: Vec<IpAddr> = ["127.0.0.1", "169.254.7.7", "10.0.0.1", "10.0.0.2", "fd00::1"]
            .map(|a| a.parse().unwrap())
            .into();
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (family, claimed, source, expected) in [
            (Family::V4, ip("10.0.0.2"), ip("10.0.0.1"), "10.0.0.2"),
            // Behind a translation the Node has an address that nobody here has.
            (Family::V4, ip("203.0.113.9"), ip("10.0.0.2"), "10.0.0.2"),
            (Family::V4, None, None, "10.0.0.1"),
            (Family::V4, None, ip("127.0.0.1"), "10.0.0.1"),
            (Family::V6, None, None, "fd00::1"),
        ] {
            let chosen = choose(family, claimed, source, &own);
            assert_eq!(chosen, expected.parse::<IpAddr>().unwrap(), "{claimed:?} {source:?}");
        }
        assert_eq!(choose(Family::V4, None, None, &[]), link_local(Family::V4));
    }
}
