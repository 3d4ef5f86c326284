//! What [`verdict`] says of a flow is what the kernel does with its first packet: policies at
//! random, and packets.
//!
//! `CALICO_VERDICTS` = how many sets of policies (8).
//!
//! [`verdict`]: calico_agent::desired::verdict

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use calico_agent::desired::verdict::{Flow, Judge};
use calico_agent::desired::{
    AclClass, ActiveRule, ActiveRules, AddressSet, DesiredState, DirectionAcl, Member, SetId,
    SetKind, TierAcl,
};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Cidr, Family, Name, PortRange, Protocol, TierAction};

use crate::holes::{Line, echo};
use crate::host::each_dataplane;
use crate::netns::sh;
use crate::world::*;

/// Numbers that look random and are the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

const NETS: [&str; 6] =
    ["10.65.0.0/30", "10.65.0.1/32", "fd65::/64", "fd65::1/128", "192.0.2.0/24", "0.0.0.0/0"];
const SETS: [&str; 3] = ["s:four", "s:six", "s:all"];

fn rule(chance: &mut Chance) -> ActiveRule {
    let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Pass, Action::Log];
    let mut rule = any(chance.one(&actions));
    match chance.below(5) {
        0 => rule.protocol = Some(Protocol::TCP),
        1 => rule.protocol = Some(Protocol::UDP),
        2 => rule.not_protocol = Some(chance.one(&[Protocol::TCP, Protocol::ICMP])),
        3 => rule.family = Some(chance.one(&Family::ALL)),
        _ => {}
    }
    let nets = |chance: &mut Chance| -> Vec<Cidr> {
        (0..=chance.below(2)).map(|_| chance.one(&NETS).parse().unwrap()).collect()
    };
    match chance.below(6) {
        0 => rule.source.nets = nets(chance),
        1 => rule.source.not_nets = nets(chance),
        2 => rule.source.sets = vec![SetId::new(chance.one(&SETS))],
        3 => rule.destination.not_sets = vec![SetId::new(chance.one(&SETS))],
        _ => {}
    }
    let ports = vec![PortRange::single(80), PortRange::new(5000, 5001).unwrap()];
    match chance.below(6) {
        0 => rule.destination.ports = ports,
        1 => rule.destination.not_ports = vec![PortRange::single(81), PortRange::single(5001)],
        2 => rule.destination.named_ports = vec![SetId::new("n:web")],
        3 => rule.destination.not_named_ports = vec![SetId::new("n:web")],
        _ => {}
    }
    rule
}

fn rules(chance: &mut Chance) -> Vec<ActiveRule> {
    (0..=chance.below(3)).map(|_| rule(chance)).collect()
}

fn acl(chance: &mut Chance) -> DirectionAcl {
    let tiers: &[(&str, &[&str])] = &[("t1", &["p1", "p2"]), ("t2", &["p3"])];
    let count = chance.below(3);
    let actions = [TierAction::Deny, TierAction::Pass];
    let tiers: Vec<TierAcl> =
        tiers.iter().take(count).map(|(t, p)| tier(t, p, chance.one(&actions))).collect();
    let profiles = [&["f1"][..], &["f1", "f2"], &["f2"]];
    let profiles = chance.one(&profiles).iter().map(|name| Name::from(*name)).collect();
    DirectionAcl { tiers, profiles }
}

fn fill(state: &mut DesiredState, chance: &mut Chance) -> (AclClass, AclClass) {
    let mut both = || Arc::new(ActiveRules { ingress: rules(chance), egress: rules(chance) });
    for name in ["p1", "p2", "p3"] {
        state.policies.insert(policy_id(name), both());
    }
    for name in ["f1", "f2"] {
        state.profiles.insert(Name::from(name), both());
    }
    // Often enough nothing would pass both.
    let open = |acl: DirectionAcl| AclClass { active: true, egress: acl.clone(), ingress: acl };
    let sender = open(if chance.below(3) == 0 {
        acl(chance)
    } else {
        DirectionAcl { tiers: vec![], profiles: vec![Name::from("all")] }
    });
    (sender, open(acl(chance)))
}

#[test]
fn the_kernel_does_what_the_verdict_says() {
    let rounds = std::env::var("CALICO_VERDICTS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    each_dataplane(move |host, flavour| {
        let (a, b) = (host.pod(1), host.pod(2));
        for port in [80, 81] {
            b.serve(port);
        }
        for port in [5000, 5001] {
            b.netns.run(move || echo(port));
        }
        let mut chance = Chance(0x0ca1_1c00);
        let mut state = empty(flavour);
        profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
        let net = |state: &mut DesiredState, id: &str, nets: &[&str]| {
            let members = nets.iter().map(|net| Member::Net(net.parse().unwrap())).collect();
            let set = AddressSet { kind: SetKind::Net, selector: Arc::from(id), members };
            state.sets.insert(SetId::new(id), set);
        };
        net(&mut state, "s:four", &["10.65.0.0/31", "192.0.2.7"]);
        net(&mut state, "s:six", &["fd65::/126", "2001:db8::/32"]);
        net(&mut state, "s:all", &["0.0.0.0/0", "::/0"]);
        let web = [(b.v4(), 80), (b.v6(), 81)];
        let members =
            web.iter().map(|(ip, port)| Member::Port(*ip, Protocol::TCP, *port)).collect();
        let web = AddressSet { kind: SetKind::Port, selector: Arc::from("web"), members };
        state.sets.insert(SetId::new("n:web"), web);
        let here = BTreeSet::new();
        let mut counts = [0, 0];
        for round in 0..rounds {
            state = next(&state);
            // What an earlier policy allowed is not asked again, and ports come again.
            sh("conntrack -F 2> /dev/null");
            let (sender, receiver) = fill(&mut state, &mut chance);
            endpoint(&mut state, &a, &sender, false);
            endpoint(&mut state, &b, &receiver, false);
            host.apply(&state, if round == 0 { Wake::Start } else { Wake::Desired });
            for (from, to) in [(a.v4(), b.v4()), (a.v6(), b.v6())] {
                for (protocol, port) in [
                    (Protocol::TCP, 80),
                    (Protocol::TCP, 81),
                    (Protocol::UDP, chance.one(&[5000, 5001])),
                ] {
                    let ask = |to: IpAddr| match protocol {
                        Protocol::TCP => a.reaches(to, port),
                        _ => Line::udp(&a, to, port).echoes(),
                    };
                    let flow = Flow {
                        source: from,
                        destination: to,
                        protocol: Some(protocol),
                        ports: Some((40_000, port)),
                        icmp: None,
                    };
                    let verdicts = Judge::new(&state, &here).judge(&flow);
                    let passes = verdicts.iter().all(|verdict| verdict.allowed);
                    assert_eq!(verdicts.len(), 2);
                    counts[usize::from(passes)] += 1;
                    // An answer may be late on a busy machine.
                    assert!(
                        ask(to) == passes || (passes && ask(to)),
                        "round {round}: {protocol} {from} → {to} {port}: {verdicts:#?}\n{:#?}\n{:#?}\n{}",
                        state.policies,
                        state.profiles,
                        host.saved(if to.is_ipv4() { 4 } else { 6 }),
                    );
                }
            }
        }
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
}
