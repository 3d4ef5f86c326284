//! Host endpoints as `status` shows them: pure.

use crate::desired::{DesiredState, LocalHostEndpoint, TierAcl};
use crate::reconcile::{EndpointState, HostStates};
use crate::status::document::HostEndpointStatus;

/// Every host endpoint of this host with what became of it.
pub(super) fn host_endpoints(
    desired: &DesiredState,
    states: &HostStates,
) -> Vec<HostEndpointStatus> {
    let all = desired.host_endpoints.endpoints.iter();
    all.map(|(id, endpoint)| {
        let said = states.get(id);
        let interfaces = said.map(|said| said.interfaces.iter().map(ToString::to_string).collect());
        let waiting = || EndpointState::Down("waiting for felix".to_owned());
        HostEndpointStatus {
            endpoint: id.name.to_string(),
            about: about(endpoint),
            interfaces: interfaces.unwrap_or_default(),
            policies: policies(endpoint),
            profiles: endpoint.profiles.iter().map(ToString::to_string).collect(),
            state: said.map_or_else(waiting, |said| said.state.clone()),
        }
    })
    .collect()
}

fn about(endpoint: &LocalHostEndpoint) -> String {
    match &endpoint.interface {
        Some(name) => name.to_string(),
        None => {
            let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
            addresses.join(", ")
        }
    }
}

/// In the order in which a packet meets them.
fn policies(endpoint: &LocalHostEndpoint) -> Vec<String> {
    let LocalHostEndpoint { normal, forward, untracked, pre_dnat, .. } = endpoint;
    let mut names: Vec<String> = Vec::new();
    let lists: [&[TierAcl]; 7] = [
        &untracked.ingress,
        &untracked.egress,
        pre_dnat,
        &normal.ingress,
        &normal.egress,
        &forward.ingress,
        &forward.egress,
    ];
    for tier in lists.into_iter().flatten() {
        for policy in &tier.policies {
            let name = format!("{}/{policy}", tier.tier);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}
