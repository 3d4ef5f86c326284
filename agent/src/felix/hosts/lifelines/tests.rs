use std::sync::Arc;

use calico_datastore::model::{Action, AsNumber, PolicyId, PortRange, TierAction};
use imbl::OrdMap;

use super::*;
use crate::config::Settings;
use crate::desired::{
    ActiveRule, ActiveRules, BgpState, HostTiers, LocalHostEndpoint, MeshPeer, SideMatch, TierAcl,
};
use crate::felix::hosts::choose::choose;
use crate::routes::monitor::Link;

const ETCD: &str = "192.0.2.9:2379";

fn rule(port: u16) -> ActiveRule {
    let ports = vec![PortRange::single(port)];
    ActiveRule {
        origin: 0,
        action: Action::Allow,
        family: None,
        protocol: Some(Protocol::TCP),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch { ports, ..SideMatch::default() },
    }
}

/// A host endpoint on eth0 that allows these ports in and out, a peer, and no fail-safe ports.
fn state(ports: &[u16]) -> DesiredState {
    let policy = PolicyId { namespace: None, name: "p".into() };
    let tiers = vec![TierAcl {
        tier: "default".into(),
        policies: vec![policy.clone()],
        default_action: TierAction::Deny,
    }];
    let endpoint = LocalHostEndpoint {
        interface: Some("eth0".into()),
        normal: HostTiers { ingress: tiers.clone(), egress: tiers },
        ..LocalHostEndpoint::default()
    };
    let rules: Vec<ActiveRule> = ports.iter().map(|port| rule(*port)).collect();
    let rules = ActiveRules { ingress: rules.clone(), egress: rules };
    let mut state = DesiredState::default();
    let id = HostEndpointId { name: "h".into() };
    state.host_endpoints.endpoints = OrdMap::unit(id, Arc::new(endpoint));
    state.host_endpoints.policies = OrdMap::unit(policy, Arc::new(rules));
    state.bgp = Arc::new(BgpState {
        ipv4: Some([192, 0, 2, 1].into()),
        mesh: vec![MeshPeer {
            address: [192, 0, 2, 2].into(),
            node: "other".into(),
            as_number: AsNumber::DEFAULT,
        }],
        ..BgpState::default()
    });
    let (failsafe_inbound, failsafe_outbound) = (Vec::new(), Vec::new());
    state.settings =
        Arc::new(Settings { failsafe_inbound, failsafe_outbound, ..Settings::default() });
    state
}

fn cut(state: &DesiredState) -> Vec<String> {
    let address: IpAddr = [192, 0, 2, 1].into();
    let link = Link { addresses: [address].into_iter().collect(), ..Link::default() };
    let links: Links = OrdMap::unit("eth0".parse().unwrap(), link);
    let chosen = choose(&state.host_endpoints, &links, &state.settings);
    let lines = lifelines(&[ETCD.parse().unwrap(), "127.0.0.1:2379".parse().unwrap()], state);
    let problems = cut_off(state, &chosen, &links, &lines, |_| Some(address));
    problems
        .into_iter()
        .map(|problem| format!("{}: {}", problem.subject, problem.message))
        .collect()
}

#[test]
fn what_neither_a_list_nor_a_policy_lets_through_is_named() {
    assert_eq!(
        cut(&state(&[80])),
        [
            "HostEndpoint h: it cuts off etcd at 192.0.2.9:2379: port 2379 is not fail-safe, and no \
             policy allows it",
            "HostEndpoint h: it cuts off BGP from node other (192.0.2.2): port 179 is not fail-safe, \
             and no policy allows it",
        ]
    );
    assert_eq!(cut(&state(&[80, 179, 2379])), [""; 0], "policies may do it");
    assert_eq!(cut(&state(&[179])).len(), 1);
}

#[test]
fn fail_safe_ports_keep_it() {
    let mut state = state(&[80]);
    state.settings = Arc::new(Settings::default());
    assert_eq!(cut(&state), [""; 0], "the default lists");
    let only = |net: &str| {
        let one =
            Failsafe { net: Some(net.parse().unwrap()), ..Failsafe::any(Protocol::TCP, 2379) };
        Settings { failsafe_outbound: vec![one], ..Settings::default() }
    };
    state.settings = Arc::new(only("192.0.2.0/24"));
    assert_eq!(cut(&state), [""; 0]);
    state.settings = Arc::new(only("198.51.100.0/24"));
    assert_eq!(cut(&state).len(), 1, "another network's");
}

#[test]
fn what_no_host_endpoint_is_about_is_not_cut_off() {
    let mut state = state(&[80]);
    state.host_endpoints.endpoints = state
        .host_endpoints
        .endpoints
        .iter()
        .map(|(id, endpoint)| {
            let endpoint =
                LocalHostEndpoint { interface: Some("eth1".into()), ..(**endpoint).clone() };
            (id.clone(), Arc::new(endpoint))
        })
        .collect();
    assert_eq!(cut(&state), [""; 0]);
}

#[test]
fn servers_are_those_with_an_address() {
    let urls = ["http://192.0.2.1:2379", "https://[2001:db8::1]:2379/", "http://etcd:2379", "x"];
    let found = servers(&urls.map(str::to_owned));
    assert_eq!(found, ["192.0.2.1:2379".parse().unwrap(), "[2001:db8::1]:2379".parse().unwrap()]);
}
