use std::sync::Arc;

use calico_datastore::model::{Name, PolicyId, Protocol, TierAction};

use super::*;
use crate::desired::{AclClass, ActiveRule, DirectionAcl, LocalEndpoint, SideMatch, TierAcl};

fn id() -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "calico-01".into(),
        orchestrator: "cni".into(),
        workload: "default/web".into(),
        endpoint: "eth0".into(),
    }
}

fn allow(from: &[&str]) -> ActiveRule {
    let nets = from.iter().map(|net| net.parse().unwrap()).collect();
    ActiveRule {
        origin: 0,
        action: Action::Allow,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch { nets, ..SideMatch::default() },
        destination: SideMatch::default(),
    }
}

/// One endpoint with the profile `web`, and with the policy `open` when there are rules for it.
fn state(profile: Vec<ActiveRule>, policy: Option<Vec<ActiveRule>>) -> DesiredState {
    let mut state = DesiredState::default();
    let open = PolicyId { namespace: None, name: Name::from("open") };
    let tiers = policy.iter().map(|_| TierAcl {
        tier: "default".into(),
        policies: vec![open.clone()],
        default_action: TierAction::Deny,
    });
    let ingress = DirectionAcl { tiers: tiers.collect(), profiles: vec!["web".into()] };
    let class = AclClass { active: true, ingress, egress: DirectionAcl::default() };
    let endpoint = LocalEndpoint {
        interface: "cali1".parse().unwrap(),
        active: true,
        mac: None,
        addresses: vec!["192.168.0.1/32".parse().unwrap()],
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    state.endpoints.insert(id(), Arc::new(endpoint));
    state.classes.insert(class.id(), Arc::new(class));
    let rules = |ingress: Vec<ActiveRule>| {
        let numbered = (0..).zip(ingress).map(|(origin, rule)| ActiveRule { origin, ..rule });
        Arc::new(ActiveRules { ingress: numbered.collect(), egress: Vec::new() })
    };
    state.profiles.insert("web".into(), rules(profile));
    if let Some(policy) = policy {
        state.policies.insert(open, rules(policy));
    }
    state.pools.insert("192.168.0.0/16".parse().unwrap(), true);
    state
}

fn port(to: &str) -> Forwarded {
    let (protocol, to) = (Protocol::TCP, to.parse().unwrap());
    Forwarded { protocol, port: 8080, at: None, to, by: "rkt" }
}

fn one(state: &DesiredState) -> (bool, String, Vec<String>) {
    let mut all = explain(&[port("192.168.0.1:80")], state);
    assert_eq!(all.len(), 1, "{all:?}");
    let one = all.remove(0);
    assert_eq!((one.endpoint.as_str(), one.endpoint_port), ("cni/default/web/eth0", 80));
    (one.from_outside, one.reason, one.also_from)
}

#[test]
fn what_decides_is_named() {
    for (profile, policy, allowed, reason) in [
        (vec![], None, false, "no policy and no profile allows it"),
        (vec![allow(&["192.168.0.0/16"])], None, false, "no policy and no profile allows it"),
        (vec![allow(&["0.0.0.0/0"])], None, true, "profile web, ingress[0]"),
        (vec![allow(&[])], Some(vec![]), false, "no policy of tier default allows it"),
        (
            vec![],
            Some(vec![allow(&["10.0.0.0/8"]), allow(&[])]),
            true,
            "policy open of tier default, ingress[1]",
        ),
    ] {
        let state = state(profile, policy);
        assert_eq!(one(&state), (allowed, reason.to_owned(), vec![]), "{reason}");
    }
}

#[test]
fn sources_that_a_rule_names_are_tried() {
    let rules = vec![
        allow(&["172.18.18.0/24", "192.168.7.0/24", "fd00::/8"]),
        ActiveRule { action: Action::Deny, ..allow(&["10.9.0.0/16"]) },
        allow(&["10.9.8.0/24", "10.8.0.0/16"]),
    ];
    let (allowed, reason, from) = one(&state(vec![], Some(rules)));
    assert!(!allowed);
    assert_eq!(reason, "no policy of tier default allows it");
    // Not those of pods, not those of the other family, and not what a rule before denies.
    assert_eq!(from, ["10.8.0.0/16", "172.18.18.0/24"]);
}

#[test]
fn the_outside_is_in_no_pool_and_other_places_are_not_ours() {
    let mut state = state(vec![allow(&["203.0.113.0/24"])], None);
    assert!(one(&state).0, "the first of those that nobody has");
    state.pools.insert("203.0.113.0/24".parse().unwrap(), false);
    assert!(!one(&state).0, "that is a pod now");
    assert_eq!(explain(&[port("192.168.0.2:80"), port("10.1.1.1:80")], &state), []);
    let mut down = (*state.endpoints[&id()]).clone();
    down.active = false;
    state.endpoints.insert(id(), Arc::new(down));
    assert_eq!(one(&state).1, "the endpoint is not in force");
}

#[test]
fn a_port_of_the_loopback_is_closed_to_the_outside_whatever_policy_says() {
    let state = state(vec![allow(&[])], None);
    assert!(one(&state).0, "the same without an address");
    let local = Forwarded { at: Some("127.0.0.1".parse().unwrap()), ..port("192.168.0.1:80") };
    let all = explain(&[local], &state);
    assert!(!all[0].from_outside && all[0].also_from.is_empty());
    assert_eq!(all[0].reason, "the port is bound to the host's loopback");
}

#[test]
fn a_port_that_leads_to_an_endpoint_without_policy_is_open_and_listed() {
    let mut state = state(vec![], None);
    assert!(!one(&state).0);
    let mut stray = (*state.endpoints[&id()]).clone();
    stray.interface = "eth7".parse().unwrap();
    // Listed once, also where its address is in a longer prefix of it.
    stray.addresses.push("192.168.0.0/24".parse().unwrap());
    state.endpoints.insert(id(), Arc::new(stray));
    let reason = "no policy is asked: its interface does not begin with InterfacePrefix";
    assert_eq!(one(&state), (true, reason.to_owned(), vec![]));
}
