//! By which interface of a host a packet comes in or leaves, and which host endpoint that one has. Pure.
//!
//! Where the interfaces and the routes are known the route to the other end decides, for both
//! directions. Elsewhere a host endpoint that expects an address of its node tells; `--interface` goes
//! before all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_datastore::model::{HostEndpointId, InterfaceName};

use super::world::Place;
use crate::desired::DesiredState;
use crate::felix::hosts::choose::{ALL, Chosen, Idle, choose};
use crate::routes::monitor::Links;

/// What is known of a host's interfaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interfaces {
    /// Them, with their addresses. `None`: they are not known here.
    pub links: Option<Links>,
    /// By which one the host reaches an address: for those that are asked about.
    pub towards: BTreeMap<IpAddr, InterfaceName>,
}

/// The host endpoint of the interface that a packet passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Uplink {
    /// The interface has none.
    Nobodys,
    /// This one.
    Endpoint {
        /// Which.
        id: HostEndpointId,
        /// The interface, when it is known.
        interface: Option<InterfaceName>,
    },
    /// It cannot be told, and why.
    Unknown(String),
}

/// Finds the host endpoint that a packet meets between the host and `remote`. `said`: by which
/// interface it goes, as somebody says.
pub(super) fn uplink(place: &Place, said: Option<&InterfaceName>, remote: IpAddr) -> Uplink {
    let state = &*place.state;
    if state.host_endpoints.endpoints.is_empty() {
        return Uplink::Nobodys;
    }
    let known = place.interfaces.links.as_ref();
    let chosen = choose(&state.host_endpoints, known.unwrap_or(&Links::new()), &state.settings);
    let routed = || place.interfaces.towards.get(&remote);
    if let Some(interface) = said.or_else(routed) {
        let named = chosen.interfaces.get(interface).cloned();
        // An interface whose addresses nobody knows may have one that is expected.
        let expected = || expecting(place, &chosen).filter(|_| known.is_none());
        let found = named.or_else(expected);
        let found = found.or_else(|| chosen.governing(interface, &state.settings).cloned());
        let interface = Some(interface.clone());
        return found.map_or(Uplink::Nobodys, |id| Uplink::Endpoint { id, interface });
    }
    guess(place, &chosen)
}

/// Finds the host endpoint that a packet from or to an endpoint meets at the endpoint's own `interface`,
/// which is none of pods. `routed`: by which one the host says that it reaches the endpoint. That is told
/// from an address, so where it is another one, with another host endpoint, either may be the one.
pub(super) fn behind(
    place: &Place,
    interface: &InterfaceName,
    routed: Option<&InterfaceName>,
) -> Uplink {
    let state = &*place.state;
    if state.host_endpoints.endpoints.is_empty() {
        return Uplink::Nobodys;
    }
    let known = place.interfaces.links.as_ref();
    let mut links = known.cloned().unwrap_or_default();
    // What `InterfaceExclude` takes out it takes out of those that are there.
    links.entry(interface.clone()).or_default();
    let chosen = choose(&state.host_endpoints, &links, &state.settings);
    let governing = |name| chosen.governing(name, &state.settings);
    let own = governing(interface);
    let unknown = |why: String| {
        Uplink::Unknown(format!(
            "which host endpoint is asked at interface {interface} is not known here{why} ({})",
            candidates(state, &chosen)
        ))
    };
    if let Some(other) = routed.filter(|other| governing(other) != own) {
        return unknown(format!(": the host reaches the endpoint by {other}, as it seems"));
    }
    // One that names no interface goes before that of all others, and may expect an address of this one.
    let waiting = chosen.idle.values().any(|idle| matches!(idle, Idle::Waiting(_)));
    let excluded =
        state.settings.interface_exclude.iter().any(|one| one.matches(interface.as_str()));
    let open = known.is_none() && !excluded && !chosen.interfaces.contains_key(interface);
    if open && waiting {
        return unknown(String::new());
    }
    let interface = Some(interface.clone());
    own.map_or(Uplink::Nobodys, |id| Uplink::Endpoint { id: id.clone(), interface })
}

/// Without knowing the interface: the endpoint that expects an address of the node, or the only one of
/// all interfaces.
fn guess(place: &Place, chosen: &Chosen) -> Uplink {
    let state = &*place.state;
    let expects = |id: &HostEndpointId| {
        let endpoint = state.host_endpoints.endpoints.get(id);
        endpoint.is_some_and(|endpoint| {
            endpoint.addresses.iter().any(|address| place.addresses.contains(address))
        })
    };
    let named = chosen.interfaces.iter().find(|(_, id)| expects(id));
    if let Some((interface, id)) = named {
        return Uplink::Endpoint { id: id.clone(), interface: Some(interface.clone()) };
    }
    if let Some(id) = expecting(place, chosen) {
        return Uplink::Endpoint { id, interface: None };
    }
    let waiting = chosen.idle.values().any(|idle| matches!(idle, Idle::Waiting(_)));
    match &chosen.all {
        Some(id) if chosen.interfaces.is_empty() && !waiting => {
            Uplink::Endpoint { id: id.clone(), interface: None }
        }
        None if chosen.interfaces.is_empty() && !waiting => Uplink::Nobodys,
        _ => Uplink::Unknown(format!(
            "by which interface it passes is not known here, say it with --interface ({})",
            candidates(state, chosen)
        )),
    }
}

/// Of those that name no interface, the first that expects an address of the node.
fn expecting(place: &Place, chosen: &Chosen) -> Option<HostEndpointId> {
    let all = &place.state.host_endpoints.endpoints;
    let mut waiting =
        chosen.idle.iter().filter(|(_, idle)| matches!(idle, Idle::Waiting(_))).map(|(id, _)| id);
    let expects = |id: &&HostEndpointId| {
        all.get(*id).is_some_and(|endpoint| {
            endpoint.addresses.iter().any(|address| place.addresses.contains(address))
        })
    };
    waiting.find(expects).cloned()
}

fn candidates(state: &DesiredState, chosen: &Chosen) -> String {
    let all = state.host_endpoints.endpoints.iter();
    let in_force = all.filter(|(id, _)| !matches!(chosen.idle.get(*id), Some(Idle::Wrong(_))));
    let words = in_force.map(|(id, endpoint)| match &endpoint.interface {
        Some(name) if *name == *ALL => format!("{} on all others", id.name),
        Some(name) => format!("{} on {name}", id.name),
        None => format!("{} where one of its addresses is", id.name),
    });
    words.collect::<Vec<_>>().join(", ")
}
