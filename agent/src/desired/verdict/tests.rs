mod criteria;
mod spoofed;
mod unpoliced;

use std::sync::Arc;

use calico_datastore::model::{Action, Cidr, IcmpMatch, PortRange, TierAction};

use super::*;
use crate::config::Settings;
use crate::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DirectionAcl, Member, SetId, SetKind, SideMatch,
    TierAcl,
};

const HOST: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(list: &[&str]) -> Vec<Cidr> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn id(n: u8) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: Name::from("host"),
        orchestrator: Name::from("cni"),
        workload: Name::from(format!("pod{n}")),
        endpoint: Name::from("eth0"),
    }
}

fn any(action: Action) -> ActiveRule {
    ActiveRule {
        origin: 0,
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
    }
}

fn rule(change: impl FnOnce(&mut ActiveRule)) -> ActiveRule {
    let mut rule = any(Action::Allow);
    change(&mut rule);
    rule
}

fn set(members: &[&str]) -> AddressSet {
    let members = members.iter().map(|net| Member::Net(net.parse().unwrap())).collect();
    AddressSet { kind: SetKind::Net, selector: Arc::from("x"), members }
}

fn numbered(rules: Vec<ActiveRule>) -> Vec<ActiveRule> {
    (0..).zip(rules).map(|(origin, rule)| ActiveRule { origin, ..rule }).collect()
}

fn policy_id(name: &str) -> PolicyId {
    PolicyId { namespace: None, name: Name::from(name) }
}

fn by_profile(name: &str, side: Side, index: u32) -> Reason {
    Reason::Profile { profile: Name::from(name), rule: RuleAt { side, index } }
}

fn put_policy(state: &mut DesiredState, name: &str, ingress: Vec<ActiveRule>) {
    let rules = ActiveRules { ingress: numbered(ingress), egress: Vec::new() };
    state.policies.insert(policy_id(name), Arc::new(rules));
}

fn put_profile(state: &mut DesiredState, name: &str, ingress: Vec<ActiveRule>) {
    let rules = ActiveRules { ingress: numbered(ingress), egress: vec![any(Action::Allow)] };
    state.profiles.insert(Name::from(name), Arc::new(rules));
}

fn put_endpoint(state: &mut DesiredState, n: u8, class: &AclClass) {
    let endpoint = LocalEndpoint {
        interface: format!("cali{n}").parse().unwrap(),
        active: true,
        mac: None,
        addresses: nets(&[&format!("10.65.0.{n}"), &format!("fd65::{n}")]),
        nat: Vec::new(),
        spoof: Vec::new(),
        class: class.id(),
    };
    state.classes.insert(class.id(), Arc::new(class.clone()));
    state.endpoints.insert(id(n), Arc::new(endpoint));
}

fn class(tiers: Vec<TierAcl>, profiles: &[&str]) -> AclClass {
    let profiles: Vec<Name> = profiles.iter().map(|name| Name::from(*name)).collect();
    AclClass {
        active: true,
        ingress: DirectionAcl { tiers, profiles: profiles.clone() },
        egress: DirectionAcl { tiers: Vec::new(), profiles },
    }
}

fn tier(name: &str, policies: &[&str], default_action: TierAction) -> TierAcl {
    let policies = policies.iter().map(|name| policy_id(name)).collect();
    TierAcl { tier: Name::from(name), policies, default_action }
}

/// Endpoint 1 sends what it likes and takes nothing; endpoint 2 takes what `ingress` says.
fn state(ingress: Vec<ActiveRule>) -> DesiredState {
    let mut state = DesiredState::default();
    put_profile(&mut state, "none", vec![]);
    put_profile(&mut state, "some", ingress);
    put_endpoint(&mut state, 1, &class(vec![], &["none"]));
    put_endpoint(&mut state, 2, &class(vec![], &["some"]));
    state
}

fn tcp(source: &str, destination: &str, port: u16) -> Flow {
    Flow {
        source: ip(source),
        destination: ip(destination),
        protocol: Some(Protocol::TCP),
        ports: Some((40_000, port)),
        icmp: None,
    }
}

fn ask(state: &DesiredState, flow: Flow) -> Vec<(Side, bool, Reason)> {
    let host = BTreeSet::from([ip(HOST), ip("2001:db8::1")]);
    let verdicts = Judge::new(state, &host).judge(&flow);
    verdicts.into_iter().map(|one| (one.side, one.allowed, one.reason)).collect()
}

fn passes(state: &DesiredState, flow: Flow) -> bool {
    ask(state, flow).iter().all(|(_, allowed, _)| *allowed)
}

fn v4() -> Flow {
    tcp("10.65.0.1", "10.65.0.2", 80)
}

fn v6() -> Flow {
    tcp("fd65::1", "fd65::2", 80)
}

#[test]
fn tiers_then_profiles_then_nothing() {
    let (allow, deny, pass, log) =
        (any(Action::Allow), any(Action::Deny), any(Action::Pass), any(Action::Log));
    let to_80 = |action| {
        rule(|rule| {
            rule.action = action;
            rule.protocol = Some(Protocol::TCP);
            rule.destination.ports = vec![PortRange::single(80)];
        })
    };
    let by = |tier: &str, policy: &str, rule| Reason::Policy {
        tier: Name::from(tier),
        policy: policy_id(policy),
        rule: RuleAt { side: Side::Destination, index: rule },
    };
    let profile = |index| by_profile("some", Side::Destination, index);
    let (end_deny, end_pass) = (TierAction::Deny, TierAction::Pass);
    let first = || vec![tier("t1", &["p", "q"], end_deny)];
    for (tiers, p, q, port, allowed, reason) in [
        (first(), vec![log.clone(), allow.clone()], vec![], 80, true, by("t1", "p", 1)),
        (first(), vec![to_80(Action::Deny)], vec![allow.clone()], 80, false, by("t1", "p", 0)),
        (first(), vec![to_80(Action::Deny)], vec![allow], 81, true, by("t1", "q", 0)),
        (first(), vec![log], vec![], 80, false, Reason::EndOfTier(Name::from("t1"))),
        (first(), vec![pass.clone()], vec![deny.clone()], 80, true, profile(0)),
        (first(), vec![pass], vec![deny.clone()], 81, false, Reason::NothingAllows),
        (vec![tier("t1", &["p"], end_pass)], vec![], vec![], 80, true, profile(0)),
        (
            vec![tier("t1", &["p"], end_pass), tier("t2", &["q"], end_deny)],
            vec![],
            vec![deny],
            80,
            false,
            by("t2", "q", 0),
        ),
        (
            vec![tier("t1", &["p", "gone"], end_pass)],
            vec![],
            vec![],
            80,
            false,
            Reason::NoSuchPolicy { tier: Name::from("t1"), policy: policy_id("gone") },
        ),
    ] {
        let mut state = state(vec![to_80(Action::Allow)]);
        put_policy(&mut state, "p", p);
        put_policy(&mut state, "q", q);
        put_endpoint(&mut state, 2, &class(tiers, &["some"]));
        let flow = tcp("198.51.100.7", "10.65.0.2", port);
        assert_eq!(ask(&state, flow), [(Side::Destination, allowed, reason)]);
    }
}

#[test]
fn profiles_are_asked_in_order_and_a_missing_one_denies() {
    let mut state = state(vec![any(Action::Pass), any(Action::Deny)]);
    put_profile(&mut state, "all", vec![any(Action::Allow)]);
    let flow = tcp("198.51.100.7", "10.65.0.2", 80);
    for (profiles, allowed, reason) in [
        (&["some", "all"][..], true, by_profile("all", Side::Destination, 0)),
        (&["gone", "all"], false, Reason::NoSuchProfile(Name::from("gone"))),
        (&["some"], false, Reason::NothingAllows),
        (&[], false, Reason::NothingAllows),
    ] {
        put_endpoint(&mut state, 2, &class(vec![], profiles));
        assert_eq!(ask(&state, flow), [(Side::Destination, allowed, reason)]);
    }
}

#[test]
fn both_ends_are_asked() {
    let mut state = state(vec![any(Action::Allow)]);
    let both = [Side::Source, Side::Destination].map(|side| {
        let profile = if side == Side::Source { "none" } else { "some" };
        (side, true, by_profile(profile, side, 0))
    });
    assert_eq!(ask(&state, v4()), both);
    let back = tcp("10.65.0.2", "10.65.0.1", 80);
    assert!(!passes(&state, back));
    assert_eq!(ask(&state, tcp("198.51.100.7", "198.51.100.8", 80)), []);
    // Outside of the endpoint's addresses nothing is its own.
    let host = BTreeSet::new();
    let spoofed = tcp("10.65.0.9", "10.65.0.2", 80);
    let asked = Judge::new(&state, &host).ask(&id(1), Side::Source, &spoofed).unwrap();
    assert_eq!((asked.allowed, asked.reason), (false, Reason::NotItsAddress));
    // One that is down sends and gets nothing, from the host neither.
    let mut down = (*state.endpoints[&id(2)]).clone();
    down.active = false;
    state.endpoints.insert(id(2), Arc::new(down));
    let denied = (Side::Destination, false, Reason::NotInForce);
    assert_eq!(ask(&state, v4())[1], denied);
    assert_eq!(ask(&state, tcp(HOST, "10.65.0.2", 80)), [denied]);
}

#[test]
fn an_interface_belongs_to_the_first_that_is_up_and_an_address_to_whoever_is() {
    let mut state = state(vec![any(Action::Allow)]);
    // The same interface, another address: not in force.
    let mut second = (*state.endpoints[&id(2)]).clone();
    second.addresses = nets(&["10.65.0.3"]);
    state.endpoints.insert(id(3), Arc::new(second));
    assert_eq!(
        ask(&state, tcp("198.51.100.7", "10.65.0.3", 80)),
        [(Side::Destination, false, Reason::NotInForce)]
    );
    // The same address behind another interface: all who may use it are asked.
    let mut twin = (*state.endpoints[&id(1)]).clone();
    twin.interface = "cali9".parse().unwrap();
    twin.addresses = nets(&["10.65.0.2"]);
    state.endpoints.insert(id(9), Arc::new(twin));
    let asked = ask(&state, tcp("198.51.100.7", "10.65.0.2", 80));
    assert_eq!(asked.iter().map(|(_, allowed, _)| *allowed).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_host_and_what_no_policy_is_asked_about() {
    let mut state = state(vec![]);
    let with = |state: &mut DesiredState, change: &dyn Fn(&mut Settings)| {
        let mut settings = (*state.settings).clone();
        change(&mut settings);
        state.settings = Arc::new(settings);
    };
    let one = |state: &DesiredState, flow| {
        let all = ask(state, flow);
        assert_eq!(all.len(), 1, "{all:?}");
        (all[0].1, all[0].2.clone())
    };
    assert_eq!(one(&state, tcp(HOST, "10.65.0.2", 80)), (true, Reason::FromHost));
    let to_host = tcp("10.65.0.1", HOST, 22);
    assert_eq!(one(&state, to_host), (false, Reason::ToHost));
    let sent = by_profile("none", Side::Source, 0);
    with(&mut state, &|settings| settings.rkt_metadata_service = true);
    assert_eq!(one(&state, to_host), (false, Reason::ToHost));
    let metadata = tcp("10.65.0.1", HOST, 18112);
    assert_eq!(one(&state, metadata), (true, sent.clone()));
    let udp = Flow { protocol: Some(Protocol::UDP), ..metadata };
    assert_eq!(one(&state, udp), (false, Reason::ToHost));
    assert_eq!(one(&state, tcp("fd65::1", "2001:db8::1", 18112)), (false, Reason::ToHost));
    for action in [HostAction::Accept, HostAction::Return] {
        with(&mut state, &|settings| settings.endpoint_to_host = action);
        assert_eq!(one(&state, to_host), (true, sent.clone()));
    }
    assert_eq!(one(&state, tcp("10.65.0.1", "127.0.0.1", 22)), (false, Reason::Loopback));
    let outside = tcp("10.65.0.1", "198.51.100.7", 4789);
    assert_eq!(one(&state, outside), (true, sent));
    let vxlan = Flow { protocol: Some(Protocol::UDP), ..outside };
    assert_eq!(one(&state, vxlan), (false, Reason::Tunnel));
    let ipip = Flow { protocol: Protocol::from_number(4), ports: None, ..outside };
    assert_eq!(one(&state, ipip), (false, Reason::Tunnel));
    put_profile(&mut state, "none", vec![]);
    let mut none = class(vec![], &[]);
    none.egress.profiles.clear();
    put_endpoint(&mut state, 1, &none);
    let icmp = |kind| Flow {
        protocol: Some(Protocol::ICMPV6),
        ports: None,
        icmp: Some((kind, 0)),
        ..tcp("fd65::1", "2001:db8::1", 0)
    };
    assert_eq!(one(&state, icmp(135)), (true, Reason::NeighbourDiscovery));
    assert_eq!(one(&state, icmp(128)), (false, Reason::NothingAllows));
    with(&mut state, &|settings| settings.ipv6 = false);
    assert_eq!(one(&state, icmp(128)), (false, Reason::FamilyOff));
}

#[test]
fn a_large_set_is_looked_up_and_not_searched() {
    let mut state = state(vec![rule(|rule| rule.source.sets = vec![SetId::new("s:large")])]);
    let members = (0..100_000u32)
        .map(|n| Member::Net(Cidr::host(std::net::Ipv4Addr::from(0xc633_0000 + n).into())))
        .collect();
    let large = AddressSet { kind: SetKind::Net, selector: Arc::from("x"), members };
    state.sets.insert(SetId::new("s:large"), large);
    let host = BTreeSet::new();
    let judge = Judge::new(&state, &host);
    // Each a search through all of them would take hours.
    let mut allowed = 0;
    for n in 0..50_000u32 {
        let source = std::net::Ipv4Addr::from(0xc633_0000 + n * 4);
        let flow = Flow { source: source.into(), ..v4() };
        allowed += usize::from(judge.judge(&flow).iter().all(|verdict| verdict.allowed));
    }
    assert_eq!(allowed, 25_000);
}

#[test]
fn what_an_endpoint_may_spoof_is_a_source_of_it_and_no_destination() {
    let mut state = state(vec![any(Action::Allow)]);
    let mut one = (*state.endpoints[&id(1)]).clone();
    one.spoof = nets(&["10.66.0.0/16"]);
    state.endpoints.insert(id(1), Arc::new(one));
    let host = BTreeSet::new();
    let asked = |state: &DesiredState, n, side, from: &str, to: &str| {
        Judge::new(state, &host).ask(&id(n), side, &tcp(from, to, 80)).unwrap().reason
    };
    let (listed, own) = ("10.66.0.5", "10.65.0.2");
    assert_eq!(asked(&state, 1, Side::Source, listed, own), Reason::NotItsAddress);
    state.settings = Arc::new(Settings { source_spoofing: true, ..Settings::default() });
    let egress = asked(&state, 1, Side::Source, listed, own);
    assert_eq!(
        egress,
        Reason::Profile { profile: "none".into(), rule: RuleAt { side: Side::Source, index: 0 } }
    );
    assert_eq!(asked(&state, 2, Side::Source, listed, own), Reason::NotItsAddress);
    assert_eq!(asked(&state, 1, Side::Destination, own, listed), Reason::NotItsAddress);
    // A flow alone does not say who spoofs.
    assert_eq!(Judge::new(&state, &host).judge(&tcp(listed, "198.51.100.7", 80)), []);
}

#[test]
fn a_guest_of_openstack_may_ask_its_host_and_a_pod_may_not() {
    let mut state = state(vec![]);
    // Nobody may send anything.
    let nothing = ActiveRules { ingress: Vec::new(), egress: Vec::new() };
    state.profiles.insert(Name::from("none"), Arc::new(nothing));
    let mut guest = (*state.endpoints[&id(1)]).clone();
    guest.interface = "tap1".parse().unwrap();
    state.endpoints.insert(id(1), Arc::new(guest));
    let mut settings = Settings {
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        ..Settings::default()
    };
    state.settings = Arc::new(settings.clone());
    let udp = |from: &str, to: &str, ports| Flow {
        protocol: Some(Protocol::UDP),
        ports: Some(ports),
        ..tcp(from, to, 0)
    };
    let questions = |n: u8| {
        let (v4, v6) = (format!("10.65.0.{n}"), format!("fd65::{n}"));
        [
            tcp(&v4, "127.0.0.1", 8775),
            udp(&v4, HOST, (40_000, 53)),
            udp(&v6, "2001:db8::1", (40_000, 53)),
            udp(&v4, HOST, (68, 67)),
            udp(&v6, "2001:db8::1", (546, 547)),
        ]
    };
    for flow in questions(1) {
        assert_eq!(ask(&state, flow), [(Side::Source, true, Reason::OpenStack)], "{flow:?}");
    }
    for flow in [
        tcp("10.65.0.1", "127.0.0.1", 8776),
        tcp("10.65.0.1", HOST, 53),
        udp("10.65.0.1", HOST, (40_000, 54)),
        udp("10.65.0.1", HOST, (69, 67)),
        udp("10.65.0.1", HOST, (546, 547)),
        // Not the host's name server.
        udp("10.65.0.1", "198.51.100.7", (40_000, 53)),
    ] {
        assert!(!passes(&state, flow), "{flow:?}");
    }
    for flow in questions(2) {
        assert!(!passes(&state, flow), "{flow:?}");
    }
    settings.metadata_address = None;
    state.settings = Arc::new(settings.clone());
    assert!(!passes(&state, questions(1)[0]));
    settings.interface_prefixes = vec!["cali".to_owned()];
    state.settings = Arc::new(settings);
    // Without the prefix it is no endpoint that rules know.
    for flow in questions(1) {
        assert_eq!(ask(&state, flow), [], "{flow:?}");
    }
}
