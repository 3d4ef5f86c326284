//! Which addresses of pods left while nobody watched: their connections would be the next pod's. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_datastore::model::Family;

use crate::felix::nftables::object::Element;
use crate::felix::nftables::read::Found;
use crate::felix::nftables::render::names::{OfPods, of_pods};
use crate::felix::scene::Scene;

/// The single addresses that the table in the kernel knows behind an interface and that are not its endpoint's
/// any more. They are told by endpoints, not by what is deleted: a set that holds prefixes has another name,
/// so sets come and go as a whole, and a family that is switched off takes its sets along.
pub(super) fn left(found: &Found, scene: &Scene<'_>) -> BTreeSet<IpAddr> {
    let of = |family| [false, true].map(|nets| of_pods(OfPods::Known, family, nets));
    let sets = Family::ALL.into_iter().flat_map(of).filter_map(|name| found.sets.get(&name));
    let known = sets.flat_map(|set| &set.elements).filter_map(|element| match element {
        Element::InterfaceAddress(interface, address) => Some((interface, *address)),
        Element::InterfaceNet(interface, net) if net.is_host() => Some((interface, net.address())),
        _ => None,
    });
    let gone = known.filter(|(interface, address)| {
        let owner = scene.interfaces.endpoint(interface);
        // Whoever may have any address has none of its own.
        let mut own = owner.into_iter().flat_map(|one| &one.addresses);
        !own.any(|net| net.prefix_len() > 0 && net.contains(*address))
    });
    gone.map(|(_, address)| address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use calico_datastore::model::{Cidr, Name, WorkloadEndpointId};

    use crate::desired::{AclClass, DesiredState, LocalEndpoint};
    use crate::felix::nftables::read::FoundSet;
    use crate::felix::scene::Stage;
    use crate::routes::monitor::Links;

    #[test]
    fn an_address_left_whichever_set_held_it() {
        let class = AclClass { active: true, ..AclClass::default() };
        let mut state = DesiredState::default();
        state.classes.insert(class.id(), Arc::new(class.clone()));
        for (n, addresses) in
            [(1, &["10.0.0.1/32", "fd00::1/128"][..]), (2, &["10.0.0.16/28"]), (3, &["0.0.0.0/0"])]
        {
            let endpoint = LocalEndpoint {
                interface: format!("cali{n}").parse().unwrap(),
                active: true,
                mac: None,
                addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
                nat: Vec::new(),
                spoof: Vec::new(),
                class: class.id(),
            };
            let id = WorkloadEndpointId {
                node: Name::from("host"),
                orchestrator: Name::from("cni"),
                workload: Name::from(format!("pod{n}")),
                endpoint: Name::from("eth0"),
            };
            state.endpoints.insert(id, Arc::new(endpoint));
        }
        let state = Arc::new(state);
        let stage = Stage::of(&state, &Links::new());
        let of = |held: &[(OfPods, bool, &str, &str)]| {
            let mut found = Found::default();
            for (set, nets, interface, net) in held {
                let (interface, net) = (interface.parse().unwrap(), net.parse::<Cidr>().unwrap());
                let name = of_pods(*set, net.family(), *nets);
                let element = match nets {
                    true => Element::InterfaceNet(interface, net),
                    false => Element::InterfaceAddress(interface, net.address()),
                };
                let set = found.sets.entry(name).or_insert_with(FoundSet::default);
                set.elements.push(element);
            }
            let left = left(&found, &stage.scene(&state));
            left.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        use OfPods::{Known, Sent, Spoofed};
        for nets in [false, true] {
            let held = [
                (Known, nets, "cali1", "10.0.0.1/32"),
                (Known, nets, "cali1", "fd00::1/128"),
                (Known, nets, "cali1", "fd00::9/128"),
                // One that came into a prefix is still its own, one that another has is not.
                (Known, nets, "cali2", "10.0.0.17/32"),
                (Known, nets, "cali2", "10.0.0.1/32"),
                (Known, nets, "cali3", "10.0.0.3/32"),
                (Known, nets, "cali9", "10.0.0.9/32"),
                (Sent, nets, "cali9", "10.0.0.8/32"),
            ];
            assert_eq!(of(&held), ["10.0.0.1", "10.0.0.3", "10.0.0.9", "fd00::9"], "{nets}");
        }
        // Nobody else's connections are judged by a prefix.
        let held = [(Known, true, "cali9", "10.0.1.0/28"), (Spoofed, true, "cali9", "10.0.2.1/32")];
        assert_eq!(of(&held), [""; 0]);
    }
}
