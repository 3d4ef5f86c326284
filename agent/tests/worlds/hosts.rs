//! The host endpoints of a world: what the agent calculated for each hook, asked like a pod's policy.
//!
//! The judge knows pods only. A pod with the tiers of one hook of a host endpoint, and with a last
//! profile that lets everything go on where the hook does, is asked in its place.

use std::collections::BTreeSet;
use std::sync::Arc;

use calico_agent::acl::Calculator;
use calico_agent::config::Settings;
use calico_agent::desired::verdict::{self, Judge, Side};
use calico_agent::desired::{
    AclClass, ActiveRules, DesiredState, DirectionAcl, HostTiers, LocalEndpoint, LocalHostEndpoint,
    TierAcl,
};
use calico_datastore::layout::{Decoded, v3};
use calico_datastore::model::{HostEndpointId, Name, Profile, TierAction, WorkloadEndpointId};
use calico_reference::{Direction, Hook, Packet, Reason, Verdict};

use crate::agent::{Agent, flow};

/// The hooks of a host endpoint.
pub(crate) const HOOKS: [Hook; 4] = [Hook::Untracked, Hook::PreDnat, Hook::Normal, Hook::Forward];

/// The host endpoints of this node.
pub(crate) fn local(agent: &Agent) -> impl Iterator<Item = &HostEndpointId> {
    agent.state().host_endpoints.endpoints.keys()
}

/// Every local host endpoint at every hook, as pods.
pub(crate) fn as_pods(agent: &Agent, settings: &Arc<Settings>) -> DesiredState {
    let (pod, goes_on) = template(settings);
    let hosts = &agent.state().host_endpoints;
    let mut state = DesiredState {
        policies: hosts.policies.clone(),
        profiles: hosts.profiles.clone(),
        sets: hosts.sets.clone(),
        settings: Arc::clone(settings),
        ..DesiredState::default()
    };
    // Nobody stores a profile of this name: the layout knows no empty one.
    state.profiles.insert(Name::from(""), goes_on);
    for (number, (id, endpoint)) in hosts.endpoints.iter().enumerate() {
        for (at, hook) in HOOKS.into_iter().enumerate() {
            let class = class(endpoint, hook);
            let pod = LocalEndpoint {
                interface: format!("h{number}-{at}").parse().unwrap(),
                class: class.id(),
                ..pod.clone()
            };
            state.classes.insert(class.id(), Arc::new(class));
            state.endpoints.insert(pod_id(id, hook), Arc::new(pod));
        }
    }
    state
}

/// What the agent calculated says of a packet at a hook.
pub(crate) fn ask(
    agent: &Agent,
    pods: &DesiredState,
    id: &HostEndpointId,
    hook: Hook,
    direction: Direction,
    packet: &Packet,
) -> Option<Verdict> {
    let side = match direction {
        Direction::Ingress => Side::Destination,
        Direction::Egress => Side::Source,
    };
    let nobody = BTreeSet::new();
    let verdict = Judge::new(pods, &nobody).ask(&pod_id(id, hook), side, &flow(packet))?;
    let reason = match verdict.reason {
        verdict::Reason::Profile { profile, .. } if profile == *"" => Reason::NotAsked,
        reason => agent.reason(reason),
    };
    Some(Verdict { allowed: verdict.allowed, reason })
}

fn pod_id(id: &HostEndpointId, hook: Hook) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: Name::from("near"),
        orchestrator: Name::from("host"),
        workload: id.name.clone(),
        endpoint: Name::from(format!("{hook:?}")),
    }
}

fn class(endpoint: &LocalHostEndpoint, hook: Hook) -> AclClass {
    let goes_on = vec![Name::from("")];
    let (tiers, profiles) = match hook {
        Hook::Normal => (endpoint.normal.clone(), endpoint.profiles.clone()),
        Hook::Forward => (endpoint.forward.clone(), goes_on),
        Hook::Untracked => (endless(&endpoint.untracked), goes_on),
        Hook::PreDnat => {
            let tiers = HostTiers { ingress: endpoint.pre_dnat.clone(), egress: Vec::new() };
            (endless(&tiers), goes_on)
        }
    };
    let acl = |tiers| DirectionAcl { tiers, profiles: profiles.clone() };
    AclClass { active: true, ingress: acl(tiers.ingress), egress: acl(tiers.egress) }
}

/// Tiers whose ends drop nothing.
fn endless(tiers: &HostTiers) -> HostTiers {
    let pass = |tiers: &[TierAcl]| -> Vec<TierAcl> {
        let pass = |tier: &TierAcl| TierAcl { default_action: TierAction::Pass, ..tier.clone() };
        tiers.iter().map(pass).collect()
    };
    HostTiers { ingress: pass(&tiers.ingress), egress: pass(&tiers.egress) }
}

/// A pod that may use every address, and the rules that allow everything.
fn template(settings: &Arc<Settings>) -> (LocalEndpoint, Arc<ActiveRules>) {
    let node = Name::from("near");
    let mut calculator = Calculator::new(node);
    let json = r#"{"spec":{"ipNetworks":["10.0.0.1/32"],"interfaceName":"calix",
        "profiles":["projectcalico-default-allow"]}}"#;
    let key = "/calico/resources/v3/projectcalico.org/workloadendpoints/x/near-cni-x-eth0";
    let Decoded::Object(update) = v3::decode(key, json.as_bytes()) else {
        panic!("the pod is refused")
    };
    calculator.apply([update]);
    let state = calculator.desired(Arc::clone(settings), 1);
    let (_, pod) = state.endpoints.iter().next().unwrap();
    let everywhere = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).to_vec();
    let pod = LocalEndpoint { addresses: everywhere, ..(**pod).clone() };
    (pod, Arc::clone(&state.profiles[&Profile::default_allow_name()]))
}
