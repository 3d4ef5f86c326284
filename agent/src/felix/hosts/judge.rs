//! What became of the host endpoints: pure.

use calico_datastore::model::{Family, HostEndpointId, InterfaceName};

use super::choose::{Chosen, Idle};
use crate::config::Settings;
use crate::desired::DesiredState;
use crate::reconcile::{EndpointState, HostState, HostStates, Problem};
use crate::routes::monitor::Links;

/// The state of each host endpoint; `failure`: nothing is in force.
pub fn judge(
    state: &DesiredState,
    chosen: &Chosen,
    links: &Links,
    failure: Option<&str>,
) -> HostStates {
    let one = |id: &HostEndpointId| {
        let there: Vec<_> = chosen.links_of(id, links, &state.settings).collect();
        let interfaces: Vec<InterfaceName> =
            there.iter().map(|(name, _)| (*name).clone()).collect();
        let state = match (failure, chosen.idle.get(id)) {
            (Some(failure), _) => EndpointState::Error(failure.to_owned()),
            (None, Some(Idle::Wrong(why))) => EndpointState::Error(why.clone()),
            (None, Some(Idle::Waiting(why))) => EndpointState::Down(why.clone()),
            (None, None) if there.is_empty() => EndpointState::Down(missing(id, chosen)),
            (None, None) if there.iter().any(|(_, link)| link.up) => EndpointState::Up,
            (None, None) => EndpointState::Down("its interface is down".to_owned()),
        };
        (id.clone(), HostState { interfaces, state })
    };
    state.host_endpoints.endpoints.keys().map(one).collect()
}

fn missing(id: &HostEndpointId, chosen: &Chosen) -> String {
    match chosen.interfaces.iter().find(|(_, owner)| *owner == id) {
        Some((name, _)) => format!("interface {name} is missing"),
        None => "there is no such interface".to_owned(),
    }
}

/// What is wrong with them.
pub fn problems(state: &DesiredState, chosen: &Chosen, links: &Links) -> Vec<Problem> {
    let subject = |id: &HostEndpointId| format!("HostEndpoint {}", id.name);
    let mut problems = Vec::new();
    for (id, idle) in &chosen.idle {
        if let Idle::Wrong(why) = idle {
            let message = format!("not in force: {why}");
            problems.push(Problem { subject: subject(id), message });
        }
    }
    for (_, id) in chosen.endpoints().filter(|_| !state.settings.ipv6) {
        if let Some(name) = speaks_v6(id, chosen, links, &state.settings) {
            let message = format!(
                "IPv6 is switched off (Ipv6Support), so its IPv6 packets are not policed, and \
                 interface {name} has an IPv6 address"
            );
            problems.push(Problem { subject: subject(id), message });
        }
    }
    problems.dedup();
    problems
}

fn speaks_v6<'a>(
    id: &'a HostEndpointId,
    chosen: &'a Chosen,
    links: &'a Links,
    settings: &'a Settings,
) -> Option<&'a InterfaceName> {
    chosen
        .links_of(id, links, settings)
        .find(|(_, link)| link.addresses.iter().any(|ip| Family::of(*ip) == Family::V6))
        .map(|(name, _)| name)
}
