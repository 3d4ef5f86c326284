//! What of the BGP part BIRD can take: pure.
//!
//! BIRD refuses a configuration as a whole. A mistake in one Node would keep every host from its
//! configuration, so what cannot be a peer is left out here, by name, and all others are peers.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

use calico_datastore::model::{AsNumber, Name, ResourceId};

use crate::desired::{BgpState, MeshPeer};
use crate::reconcile::Problem;

/// So many are told one by one: a mistake in a template is in every Node.
const TELL_EACH: usize = 20;

/// What BIRD takes of a [`BgpState`].
#[derive(Debug)]
pub(super) struct Fit<'a> {
    /// This host's IPv6 address.
    pub(super) ipv6: Option<Ipv6Addr>,
    /// This host's AS number.
    pub(super) as_number: AsNumber,
    /// The peers in order of address, each address once.
    pub(super) mesh: Vec<&'a MeshPeer>,
    /// What is not as the datastore has it, and why; sorted.
    pub(super) left_out: Vec<Problem>,
}

/// Leaves out what BIRD would refuse, and what can be nobody's peer.
pub(super) fn fit(bgp: &BgpState) -> Fit<'_> {
    let mut left_out = Vec::new();
    let mut tell = |node: &Name, message: String| {
        let subject = ResourceId::Node(node.clone()).to_string();
        left_out.push(Problem { subject, message });
    };
    let ipv6 = bgp.ipv6.filter(|own| match flaw(IpAddr::V6(*own)) {
        None => true,
        Some(flaw) => {
            tell(&bgp.node, format!("no BGP over IPv6: its address {own} is {flaw}"));
            false
        }
    });
    let as_number = if bgp.as_number.0 == 0 {
        let number = AsNumber::DEFAULT;
        let message = format!(
            "its AS number, or the cluster's in BGPConfiguration default, is 0, which is reserved: \
             {number} is used"
        );
        tell(&bgp.node, message);
        number
    } else {
        bgp.as_number
    };
    let own = [bgp.ipv4.map(IpAddr::V4), ipv6.map(IpAddr::V6)];
    let mut mesh: BTreeMap<IpAddr, &MeshPeer> = BTreeMap::new();
    // The mesh is in order of address and name: every host keeps the same one of two.
    for peer in bgp.mesh.iter().filter(|peer| peer.address.is_ipv4() || ipv6.is_some()) {
        let address = peer.address;
        let why = if let Some(flaw) = flaw(address) {
            format!("its address {address} is {flaw}")
        } else if peer.as_number.0 == 0 {
            "its AS number is 0, which is reserved".to_owned()
        } else if own.contains(&Some(address)) {
            format!("its address {address} is this host's own; delete it if no such host exists")
        } else {
            match mesh.entry(address) {
                Entry::Vacant(free) => {
                    free.insert(peer);
                    continue;
                }
                Entry::Occupied(taken) => format!(
                    "its address {address} is that of Node {}, which is the peer; delete the one \
                     that does not exist",
                    taken.get().node
                ),
            }
        };
        tell(&peer.node, format!("no BGP peer: {why}"));
    }
    left_out.sort();
    left_out.dedup();
    let more = left_out.len().saturating_sub(TELL_EACH);
    left_out.truncate(TELL_EACH);
    if more > 0 {
        let message = format!("{more} more mistakes in Nodes that keep them from being BGP peers");
        left_out.push(Problem { subject: "Nodes".to_owned(), message });
    }
    Fit { ipv6, as_number, mesh: mesh.into_values().collect(), left_out }
}

/// What keeps an address from being one at which other hosts speak BGP with its host.
fn flaw(address: IpAddr) -> Option<&'static str> {
    let (link_local, mapped) = match address {
        // No such thing to BIRD: hosts on one wire may have nothing else.
        IpAddr::V4(_) => (false, false),
        // BIRD takes a mapped address for the IPv4 address in it.
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.to_ipv4_mapped().is_some()),
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let flaws = [
        (address.is_unspecified(), "no host's"),
        (address.is_loopback(), "a loopback address"),
        (address.is_multicast() || broadcast, "a multicast or broadcast address"),
        (link_local, "a link-local address"),
        (mapped, "an IPv4-mapped address"),
    ];
    flaws.into_iter().find_map(|(there, name)| there.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, node: &str, number: u32) -> MeshPeer {
        MeshPeer {
            address: address.parse().unwrap(),
            node: node.into(),
            as_number: AsNumber(number),
        }
    }

    fn state(peers: &[(&str, &str, u32)]) -> BgpState {
        let mesh = peers.iter().map(|(address, node, number)| peer(address, node, *number));
        let mut mesh: Vec<MeshPeer> = mesh.collect();
        mesh.sort_unstable();
        BgpState {
            node: "a".into(),
            ipv4: Some("10.0.0.1".parse().unwrap()),
            ipv6: Some("fd00::1".parse().unwrap()),
            mesh,
            ..BgpState::default()
        }
    }

    /// The peers that are left, and what is told.
    fn fitted(bgp: &BgpState) -> (Vec<String>, Vec<String>) {
        let fit = fit(bgp);
        let peers = fit.mesh.iter().map(|peer| format!("{} {}", peer.address, peer.node));
        let told = fit.left_out.iter().map(|one| format!("{}: {}", one.subject, one.message));
        (peers.collect(), told.collect())
    }

    #[test]
    fn what_is_right_stays_as_it_is() {
        let bgp = state(&[("10.0.0.2", "b", 64512), ("10.0.0.3", "c", 1), ("fd00::2", "b", 64512)]);
        let fit = fit(&bgp);
        assert_eq!((fit.ipv6, fit.as_number), (bgp.ipv6, bgp.as_number));
        assert!(fit.mesh.iter().copied().eq(&bgp.mesh) && fit.left_out.is_empty(), "{fit:?}");
    }

    #[test]
    fn an_address_is_one_peer() {
        let (peers, told) = fitted(&state(&[
            ("10.0.0.2", "c", 64512),
            ("10.0.0.2", "b", 65001),
            ("fd00::2", "c", 64512),
            ("10.0.0.1", "before-it-was-renamed", 64512),
        ]));
        assert_eq!(peers, ["10.0.0.2 b", "fd00::2 c"]);
        assert_eq!(
            told,
            [
                "Node before-it-was-renamed: no BGP peer: its address 10.0.0.1 is this host's own; \
                 delete it if no such host exists",
                "Node c: no BGP peer: its address 10.0.0.2 is that of Node b, which is the peer; \
                 delete the one that does not exist",
            ]
        );
    }

    #[test]
    fn who_cannot_be_a_peer_takes_no_address_from_one_who_can() {
        let (peers, told) = fitted(&state(&[("10.0.0.2", "b", 0), ("10.0.0.2", "c", 64512)]));
        assert_eq!(peers, ["10.0.0.2 c"]);
        assert_eq!(told, ["Node b: no BGP peer: its AS number is 0, which is reserved"]);
    }

    #[test]
    fn an_address_that_is_no_hosts_makes_no_peer() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.5",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::5",
            "fe80::1",
            "::ffff:10.0.0.2",
        ] {
            let (peers, told) = fitted(&state(&[(address, "b", 64512), ("10.0.0.3", "c", 64512)]));
            assert_eq!(peers, ["10.0.0.3 c"], "{address}");
            assert_eq!(told.len(), 1, "{address}");
            assert!(
                told[0].starts_with(&format!("Node b: no BGP peer: its address {address} is "))
            );
        }
        // What BIRD takes, and hosts on one wire may have.
        assert_eq!(fitted(&state(&[("169.254.1.2", "b", 64512)])).0, ["169.254.1.2 b"]);
    }

    #[test]
    fn this_hosts_own_mistakes_cost_as_little_as_they_can() {
        let peers = [("10.0.0.2", "b", 64512), ("fd00::2", "b", 64512)];
        let ipv6 = Some("fe80::1".parse().unwrap());
        let bgp = BgpState { ipv6, as_number: AsNumber(0), ..state(&peers) };
        let fit = fit(&bgp);
        assert_eq!((fit.ipv6, fit.as_number), (None, AsNumber::DEFAULT));
        let (peers, told) = fitted(&bgp);
        assert_eq!(peers, ["10.0.0.2 b"]);
        assert_eq!(
            told,
            [
                "Node a: its AS number, or the cluster's in BGPConfiguration default, is 0, which \
                 is reserved: 64512 is used",
                "Node a: no BGP over IPv6: its address fe80::1 is a link-local address",
            ]
        );
    }

    #[test]
    fn a_mistake_in_every_node_is_told_in_few_lines() {
        let names: Vec<String> = (0..100).map(|number| format!("node-{number:02}")).collect();
        let peers: Vec<_> = names.iter().map(|name| ("fe80::1", name.as_str(), 64512)).collect();
        let (peers, told) = fitted(&state(&peers));
        assert_eq!((peers.len(), told.len()), (0, TELL_EACH + 1));
        assert!(told[TELL_EACH].starts_with("Nodes: 80 more"), "{told:?}");
    }
}
