//! The interfaces of this machine, and by which of them it reaches whom: asked from the kernel, and
//! nothing decided.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::InterfaceName;

use super::peers::Peers;
use super::question::Question;
use super::uplink::Interfaces;
use super::world::World;
use crate::felix::hosts::lifelines::local_address;
use crate::routes::monitor::{Link, Links};

/// Adds to a world what this machine knows of itself: when it is the host that it is taken for, which
/// one of its addresses tells.
pub fn look(world: &mut World, question: &Question) {
    let Ok(peers) = Peers::find(question, &world.directory) else { return };
    let Some(here) = world.directory.here.clone() else { return };
    let of_node: BTreeSet<IpAddr> =
        world.directory.hosts.get(&here).into_iter().flatten().copied().collect();
    let Some(place) = world.places.get_mut(&here) else { return };
    match links() {
        Ok(links) => {
            let own: BTreeSet<IpAddr> =
                links.values().flat_map(|link| link.addresses.iter().copied()).collect();
            if !own.is_disjoint(&of_node) {
                place.interfaces = towards(links, peers.addresses());
            }
        }
        Err(error) => {
            world.notes.push(format!("the interfaces of this host are not known: {error}"));
        }
    }
}

/// By which interface each address is reached.
fn towards(links: Links, addresses: BTreeSet<IpAddr>) -> Interfaces {
    let interface = |remote: IpAddr| -> Option<InterfaceName> {
        let local = local_address(remote)?;
        let mut holding = links.iter().filter(|(_, link)| link.addresses.contains(&local));
        holding.next().map(|(name, _)| name.clone())
    };
    let found = addresses.into_iter().filter_map(|remote| Some((remote, interface(remote)?)));
    let towards = found.collect();
    Interfaces { links: Some(links), towards }
}

/// The interfaces of this network namespace with their addresses, those of the link alone left out.
fn links() -> Result<Links, nix::errno::Errno> {
    let mut links = Links::new();
    for one in nix::ifaddrs::getifaddrs()? {
        let Ok(name) = one.interface_name.parse::<InterfaceName>() else { continue };
        let link: &mut Link = links.entry(name).or_default();
        let v4 = one.address.as_ref().and_then(|address| address.as_sockaddr_in());
        let v6 = one.address.as_ref().and_then(|address| address.as_sockaddr_in6());
        let v6 = v6.map(|address| address.ip()).filter(|ip| !ip.is_unicast_link_local());
        let address = v4.map(|address| IpAddr::V4(address.ip())).or(v6.map(IpAddr::V6));
        if let Some(address) = address {
            link.addresses.insert(address);
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_how_one_reaches_oneself() {
        let own: IpAddr = [127, 0, 0, 1].into();
        let Interfaces { links, towards } =
            towards(links().unwrap(), [own, [127, 0, 0, 9].into()].into());
        let lo: InterfaceName = "lo".parse().unwrap();
        assert!(links.unwrap()[&lo].addresses.contains(&own));
        assert_eq!(towards[&own], lo);
    }
}
