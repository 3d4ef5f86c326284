//! The way to a verdict leads there: the trace, replayed, gives what the judge says without one, and
//! each criterion that is named as not met is not met by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{
    Action, Cidr, Family, IcmpMatch, Name, PolicyId, PortRange, Protocol, TierAction,
    WorkloadEndpointId,
};
use proptest::prelude::*;

use crate::desired::verdict::{Criterion, Flow, Judge, Miss, Reason, RuleAt, Side, Step, Verdict};
use crate::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, LocalEndpoint,
    Member, SetId, SetKind, SideMatch, TierAcl,
};
use crate::explain::document::{Basis, Outcome};
use crate::explain::{Directory, Place, Question, World, explain};

const NETS: [&str; 6] =
    ["10.65.0.0/30", "10.65.0.1/32", "fd65::/64", "fd65::1/128", "192.0.2.0/24", "0.0.0.0/0"];
const SETS: [&str; 3] = ["s:four", "s:six", "s:none"];

fn nets() -> impl Strategy<Value = Vec<Cidr>> {
    let net = prop::sample::select(&NETS[..]).prop_map(|net| net.parse().unwrap());
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(net, 1..3)]
}

fn sets() -> impl Strategy<Value = Vec<SetId>> {
    let set = prop::sample::select(&SETS[..]).prop_map(SetId::new);
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(set, 1..2)]
}

fn ports() -> impl Strategy<Value = (Vec<PortRange>, Vec<SetId>)> {
    let ranges = [PortRange::single(80), PortRange::new(81, 90).unwrap()];
    let ranges =
        prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(ranges.to_vec(), 1..=2)];
    let names = prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![SetId::new("n:web")])];
    (ranges, names)
}

prop_compose! {
    fn side()(
        (nets, not_nets) in (nets(), nets()),
        (sets, not_sets) in (sets(), sets()),
        (ports, named_ports) in ports(),
        (not_ports, not_named_ports) in ports(),
    ) -> SideMatch {
        SideMatch { nets, not_nets, sets, not_sets, ports, named_ports, not_ports, not_named_ports }
    }
}

fn icmp() -> impl Strategy<Value = Option<IcmpMatch>> {
    let code = prop::option::of(0_u8..2);
    prop::option::weighted(
        0.1,
        (8_u8..10, code).prop_map(|(icmp_type, code)| IcmpMatch { icmp_type, code }),
    )
}

prop_compose! {
    fn rule()(
        action in prop::sample::select(vec![Action::Allow, Action::Deny, Action::Log, Action::Pass]),
        family in prop::option::weighted(0.1, prop::sample::select(Family::ALL.to_vec())),
        protocol in prop::option::weighted(0.3, prop::sample::select(vec![Protocol::TCP, Protocol::UDP, Protocol::ICMP])),
        not_protocol in prop::option::weighted(0.1, prop::sample::select(vec![Protocol::TCP, Protocol::UDP])),
        (icmp, not_icmp) in (icmp(), icmp()),
        (source, destination) in (prop_oneof![Just(SideMatch::default()), side()], prop_oneof![Just(SideMatch::default()), side()]),
    ) -> ActiveRule {
        ActiveRule { origin: 0, action, family, protocol, not_protocol, icmp, not_icmp, source, destination }
    }
}

fn rules() -> impl Strategy<Value = ActiveRules> {
    // Places in the policy as written: every other one was left out.
    let list = || {
        prop::collection::vec(rule(), 0..4).prop_map(|rules| {
            let numbered = (0..).zip(rules).map(|(at, rule)| ActiveRule { origin: 2 * at, ..rule });
            numbered.collect::<Vec<_>>()
        })
    };
    (list(), list()).prop_map(|(ingress, egress)| ActiveRules { ingress, egress })
}

fn id(workload: &str) -> WorkloadEndpointId {
    WorkloadEndpointId {
        node: "host".into(),
        orchestrator: "cni".into(),
        workload: workload.into(),
        endpoint: "eth0".into(),
    }
}

fn policy(name: &str) -> PolicyId {
    PolicyId { namespace: None, name: Name::from(name) }
}

fn set(kind: SetKind, members: &[Member]) -> AddressSet {
    AddressSet { kind, selector: "x".into(), members: members.iter().copied().collect() }
}

/// Two pods of one class with two tiers of two policies, and a profile; one policy and one profile
/// may be missing.
fn state(rules: &[ActiveRules], ends: [TierAction; 2], missing: usize) -> DesiredState {
    let mut state = DesiredState::default();
    let names = ["a", "b", "c", "d"];
    let tier = |tier: &str, policies: &[&str], default_action| TierAcl {
        tier: tier.into(),
        policies: policies.iter().map(|name| policy(name)).collect(),
        default_action,
    };
    let acl = DirectionAcl {
        tiers: vec![tier("t1", &names[..2], ends[0]), tier("t2", &names[2..], ends[1])],
        profiles: vec!["p".into(), "q".into()],
    };
    let class = AclClass { active: true, ingress: acl.clone(), egress: acl };
    for (at, rules) in rules.iter().enumerate().filter(|(at, _)| *at != missing) {
        match names.get(at) {
            Some(name) => drop(state.policies.insert(policy(name), Arc::new(rules.clone()))),
            None => {
                let name = if at == 4 { "p" } else { "q" };
                state.profiles.insert(name.into(), Arc::new(rules.clone()));
            }
        }
    }
    for (at, name) in ["x", "y"].into_iter().enumerate() {
        let at = at + 1;
        let endpoint = LocalEndpoint {
            interface: format!("cali{at}").parse().unwrap(),
            active: true,
            mac: None,
            addresses: [format!("10.65.0.{at}"), format!("fd65::{at}")]
                .map(|ip| ip.parse().unwrap())
                .to_vec(),
            nat: Vec::new(),
            spoof: Vec::new(),
            class: class.id(),
        };
        state.endpoints.insert(id(name), Arc::new(endpoint));
    }
    state.classes.insert(class.id(), Arc::new(class));
    let net = |text: &str| Member::Net(text.parse().unwrap());
    let address: IpAddr = "10.65.0.2".parse().unwrap();
    for (name, set) in [
        ("s:four", set(SetKind::Net, &[net("10.65.0.1/32"), net("192.0.2.0/24")])),
        ("s:six", set(SetKind::Net, &[net("fd65::/64")])),
        ("s:none", set(SetKind::Net, &[])),
        ("n:web", set(SetKind::Port, &[Member::Port(address, Protocol::TCP, 8080)])),
    ] {
        state.sets.insert(SetId::new(name), set);
    }
    state
}

fn flows() -> Vec<Flow> {
    let addresses = [
        "10.65.0.1",
        "10.65.0.2",
        "192.0.2.7",
        "198.51.100.7",
        "fd65::1",
        "fd65::2",
        "2001:db8::1",
    ];
    let addresses = addresses.map(|ip| ip.parse::<IpAddr>().unwrap());
    let mut flows = Vec::new();
    for source in addresses {
        for destination in addresses {
            if source == destination || source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            let flow = Flow { source, destination, protocol: None, ports: None, icmp: None };
            for (protocol, port) in
                [(Protocol::TCP, 80), (Protocol::TCP, 8080), (Protocol::UDP, 85)]
            {
                flows.push(Flow { protocol: Some(protocol), ports: Some((81, port)), ..flow });
            }
            let icmp = if source.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
            flows.push(Flow { protocol: Some(icmp), icmp: Some((8, 0)), ..flow });
            flows.push(Flow { protocol: Protocol::from_number(47), ..flow });
        }
    }
    flows
}

fn question(flow: &Flow) -> Question {
    let port = flow.ports.map(|(_, to)| to.to_string());
    Question {
        from: flow.source.to_string(),
        to: flow.destination.to_string(),
        protocol: flow.protocol.map(|protocol| protocol.to_string()),
        port,
        source_port: flow.ports.map(|(from, _)| from),
        icmp_type: flow.icmp.map(|(kind, _)| kind),
        icmp_code: flow.icmp.map(|(_, code)| code),
        interface: None,
    }
}

fn world(state: &DesiredState) -> World {
    let node = Name::from("host");
    let basis = Basis { agent: None, datastore: String::new(), revision: 0, changes: Vec::new() };
    let place = Place::new(Arc::new(state.clone()), BTreeSet::new());
    World {
        directory: Directory::of_host(&node, state, &[]),
        places: BTreeMap::from([(node, place)]),
        basis,
        notes: Vec::new(),
    }
}

/// The verdict that the steps alone tell.
fn replay(state: &DesiredState, steps: &[Step<'_>], side: Side) -> (bool, Reason) {
    let (mut tier, mut policy, mut profile) = (None, None, None);
    let mut tiers_left = true;
    for (at, step) in steps.iter().enumerate() {
        let end = at + 1 == steps.len();
        match *step {
            Step::Tier(acl) => (tier, policy) = (Some(acl.tier.clone()), None),
            Step::Policy(id) => policy = Some(id.clone()),
            Step::Profile(name) => (tiers_left, profile) = (false, Some(name.clone())),
            Step::EndOfTier(acl) => {
                if acl.default_action == TierAction::Deny {
                    assert!(end, "something was asked behind the end of a tier that denies");
                    return (false, Reason::EndOfTier(acl.tier.clone()));
                }
            }
            Step::Rule(rule, None) if matches!(rule.action, Action::Allow | Action::Deny) => {
                assert!(end, "something was asked behind the rule that decides");
                let rule_at = RuleAt { side, index: rule.origin };
                let reason = if tiers_left {
                    Reason::Policy { tier: tier.unwrap(), policy: policy.unwrap(), rule: rule_at }
                } else {
                    Reason::Profile { profile: profile.unwrap(), rule: rule_at }
                };
                return (rule.action == Action::Allow, reason);
            }
            Step::Rule(..) | Step::OpenEnd(_) => {}
        }
    }
    match steps.last() {
        Some(Step::Policy(id)) => {
            (false, Reason::NoSuchPolicy { tier: tier.unwrap(), policy: (*id).clone() })
        }
        // One without rules for this direction looks the same.
        Some(Step::Profile(name)) if !state.profiles.contains_key(*name) => {
            (false, Reason::NoSuchProfile((*name).clone()))
        }
        _ => (false, Reason::NothingAllows),
    }
}

/// The rule with nothing but the criterion that is not met.
fn alone(rule: &ActiveRule, miss: Miss<'_>) -> ActiveRule {
    let only = |side: &SideMatch, criterion: Criterion<'_>| {
        let none = SideMatch::default();
        match criterion {
            Criterion::Nets => SideMatch { nets: side.nets.clone(), ..none },
            Criterion::NotNets | Criterion::ForeignNotNets => {
                SideMatch { not_nets: side.not_nets.clone(), ..none }
            }
            Criterion::Set(id) => SideMatch { sets: vec![id.clone()], ..none },
            Criterion::NotSet(id) => SideMatch { not_sets: vec![id.clone()], ..none },
            Criterion::Ports => SideMatch {
                ports: side.ports.clone(),
                named_ports: side.named_ports.clone(),
                ..none
            },
            Criterion::NotPorts => SideMatch { not_ports: side.not_ports.clone(), ..none },
            Criterion::NotNamedPort(id) => SideMatch { not_named_ports: vec![id.clone()], ..none },
        }
    };
    let none = ActiveRule {
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: SideMatch::default(),
        destination: SideMatch::default(),
        ..rule.clone()
    };
    match miss {
        Miss::Family => ActiveRule { family: rule.family, ..none },
        Miss::Protocol => ActiveRule { protocol: rule.protocol, ..none },
        Miss::NotProtocol => ActiveRule { not_protocol: rule.not_protocol, ..none },
        Miss::NoIcmp => ActiveRule { icmp: rule.icmp, not_icmp: rule.not_icmp, ..none },
        Miss::Icmp => ActiveRule { icmp: rule.icmp, ..none },
        Miss::NotIcmp => ActiveRule { not_icmp: rule.not_icmp, ..none },
        // It is the rule's protocol that makes named ports a criterion of their own.
        Miss::NoPorts => rule.clone(),
        Miss::Source(criterion) => ActiveRule { source: only(&rule.source, criterion), ..none },
        Miss::Destination(criterion) => {
            ActiveRule { destination: only(&rule.destination, criterion), ..none }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_steps_lead_to_the_verdict(
        rules in prop::collection::vec(rules(), 6),
        ends in prop::array::uniform2(prop::sample::select(vec![TierAction::Deny, TierAction::Pass])),
        missing in 0_usize..12,
    ) {
        let state = state(&rules, ends, missing);
        let host = BTreeSet::new();
        let judge = Judge::new(&state, &host);
        let world = world(&state);
        for flow in flows() {
            let judged = judge.judge(&flow);
            let mut traced: Vec<Verdict> = Vec::new();
            for (side, address) in [(Side::Source, flow.source), (Side::Destination, flow.destination)] {
                for id in judge.endpoints_with(address) {
                    let found = judge.trace(id, side, &flow).unwrap();
                    let verdict = found.verdict.clone();
                    prop_assert_eq!(replay(&state, &found.steps, side), (verdict.allowed, verdict.reason.clone()));
                    for step in &found.steps {
                        let Step::Rule(rule, Some(miss)) = step else { continue };
                        let mut one = DesiredState { policies: imbl::OrdMap::new(), ..state.clone() };
                        let only = alone(rule, *miss);
                        let only = ActiveRule { action: Action::Allow, ..only };
                        let only = ActiveRules { ingress: vec![only.clone()], egress: vec![only] };
                        one.policies.insert(policy("a"), Arc::new(only));
                        let judge = Judge::new(&one, &host);
                        let again = judge.trace(id, side, &flow).unwrap();
                        let met = again.steps.iter().any(|step| matches!(step, Step::Rule(_, None)));
                        prop_assert!(!met, "{:?} is met by {:?}", miss, flow);
                    }
                    traced.push(verdict);
                }
            }
            prop_assert_eq!(&traced, &judged);
            // What is explained about the two addresses is the same again.
            let explanation = explain(&question(&flow), &world).unwrap();
            let sides = explanation.answers.iter().flat_map(|answer| &answer.sides);
            let sides: Vec<_> = sides.map(|side| (side.side.clone(), side.allowed)).collect();
            let judged: Vec<_> =
                judged.iter().map(|one| (one.side.to_string(), Some(one.allowed))).collect();
            prop_assert_eq!(&sides, &judged);
            let outcome = match &judged[..] {
                [] => Outcome::Unpoliced,
                all if all.iter().all(|(_, allowed)| *allowed == Some(true)) => Outcome::Allowed,
                _ => Outcome::Denied,
            };
            prop_assert_eq!(explanation.outcome(), outcome);
        }
    }
}
