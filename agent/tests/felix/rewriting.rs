//! Changes rule by rule: whatever a chain was and is to become, what is sent brings the kernel there,
//! and it takes all of it at the first try.

use std::sync::Arc;

use calico_agent::config::DenyAction;
use calico_agent::desired::{
    ActiveRule, ActiveRules, AddressSet, DesiredState, Member, SetId, SetKind, SideMatch,
};
use calico_agent::reconcile::Wake;
use calico_datastore::model::{Action, Family, IcmpMatch, PortRange, Protocol, TierAction};

use crate::host::{Flavour, Host, each_dataplane};
use crate::netns::sh;
use crate::world::*;

/// A small generator (the constants of Knuth's MMIX): the same rules each time.
///
/// Plain rules are one line each and not two alike, so that a chain of them is changed line by line.
pub(crate) struct Dice {
    pub(crate) state: u64,
    pub(crate) plain: bool,
}

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    fn ports(&mut self, most: u64) -> Vec<PortRange> {
        let mut at = 1 + self.below(50) as u16;
        (0..self.below(most + 1))
            .map(|_| {
                let last = at + self.of(&[0, 0, 1, 9]);
                let range = PortRange::new(at, last).unwrap();
                at = last + 2 + self.below(300) as u16;
                range
            })
            .collect()
    }

    fn side(&mut self, with_ports: bool) -> SideMatch {
        const NETS: [&str; 7] = [
            "10.65.0.0/16",
            "10.65.0.7/32",
            "192.0.2.0/25",
            "0.0.0.0/1",
            "fd65::/64",
            "fd65::7/128",
            "8000::/1",
        ];
        let nets = |dice: &mut Self| {
            let n = if dice.plain { 1 } else { dice.of(&[0, 0, 1, 1, 3]) };
            (0..n).map(|_| dice.of(&NETS).parse().unwrap()).collect::<Vec<_>>()
        };
        let none = if self.plain == self.one_in(3) { Vec::new() } else { nets(self) };
        let some = if self.plain && !none.is_empty() { Vec::new() } else { nets(self) };
        let mut sets = |kind: &str| {
            if self.one_in(4) {
                vec![SetId::new(format!("{kind}:{}", self.below(2)))]
            } else {
                Vec::new()
            }
        };
        let (sets, not_sets) = (sets("s"), sets("s"));
        let mut side =
            SideMatch { nets: some, not_nets: none, sets, not_sets, ..SideMatch::default() };
        if with_ports {
            side.ports = self.ports(if self.plain { 7 } else { 20 });
            side.not_ports = if self.one_in(3) { self.ports(17) } else { Vec::new() };
            if side.ports.is_empty() && self.one_in(4) {
                side.named_ports = vec![SetId::new("n:0")];
            }
            if self.one_in(4) {
                side.not_named_ports = vec![SetId::new("n:0")];
            }
        }
        side
    }

    fn rule(&mut self) -> ActiveRule {
        let actions = [Action::Deny, Action::Log, Action::Allow, Action::Pass];
        let mut rule = any(self.of(&actions[..if self.plain { 2 } else { 4 }]));
        rule.family = self.of(&[None, None, None, Some(Family::V4), Some(Family::V6)]);
        let kind = self.below(6);
        match kind {
            0 => rule.protocol = Some(self.of(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP])),
            1 => {
                rule.protocol =
                    Some(self.of(&["47", "50", "132", "254", "1", "58"]).parse().unwrap())
            }
            2 => rule.not_protocol = Some(self.of(&[Protocol::TCP, Protocol::ICMP])),
            3 => {
                rule.icmp = Some(IcmpMatch {
                    icmp_type: self.of(&[0, 3, 8, 128, 254]),
                    code: self.of(&[None, Some(0), Some(3)]),
                })
            }
            4 => {
                rule.not_icmp = Some(IcmpMatch {
                    icmp_type: self.of(&[8, 129]),
                    code: self.of(&[None, Some(1)]),
                })
            }
            _ => {}
        }
        let ports = kind == 0 || kind == 5 && self.one_in(2);
        (rule.source, rule.destination) = (self.side(ports), self.side(ports));
        rule
    }

    /// Some rules go, some come, some change places.
    fn stir(&mut self, rules: &mut Vec<ActiveRule>) {
        for _ in 0..=self.below(3) {
            let at = |dice: &mut Self, len: usize| dice.below(len as u64 + 1) as usize;
            match self.below(4) {
                0 if rules.len() > 3 => drop(rules.remove(self.below(rules.len() as u64) as usize)),
                1 if rules.len() > 1 => {
                    let (from, to) =
                        (self.below(rules.len() as u64), self.below(rules.len() as u64));
                    rules.swap(from as usize, to as usize);
                }
                _ => {
                    let (place, rule) = (at(self, rules.len()), self.rule());
                    rules.insert(place, rule);
                }
            }
        }
    }
}

fn world(flavour: Flavour) -> DesiredState {
    let mut state = empty(flavour);
    set(&mut state, "s:0", &[7]);
    set(&mut state, "s:1", &[]);
    let members = [Member::Port(crate::host::v4(7), Protocol::TCP, 80)].into_iter().collect();
    let named = AddressSet { kind: SetKind::Port, selector: Arc::from("n:0"), members };
    state.sets.insert(SetId::new("n:0"), named);
    settings(&mut state, |s| s.filter_deny = DenyAction::Reject);
    settings(&mut state, |s| s.log_prefix = "a/b: it's 100%".to_owned());
    state
}

/// What both families hold of ours, in order inside each chain.
fn held(host: &Host) -> Vec<String> {
    let mut lines: Vec<String> = [4, 6]
        .into_iter()
        .flat_map(|family| {
            let saved = host.saved(family);
            let ours = |line: &&str| line.starts_with("-A cali-") || line.starts_with(":cali-");
            saved.lines().filter(ours).map(|line| format!("{family} {line}")).collect::<Vec<_>>()
        })
        .collect();
    // Chains in any order; the sort is stable, so rules stay as they stand.
    lines.sort_by_key(|line| line.split(' ').nth(2).unwrap_or_default().to_owned() + &line[..1]);
    lines
}

#[test]
fn random_changes_of_plain_rules_go_line_by_line_and_end_where_writing_anew_ends() {
    each_dataplane(|host, flavour| stir_and_compare(host, flavour, Dice { state: 7, plain: true }));
}

#[test]
fn random_changes_of_any_rules_end_where_writing_anew_ends() {
    each_dataplane(|host, flavour| {
        stir_and_compare(host, flavour, Dice { state: 8, plain: false })
    });
}

fn stir_and_compare(host: &mut Host, flavour: Flavour, mut dice: Dice) {
    let pods: Vec<_> = (1..=3).map(|n| host.pod(n)).collect();
    let mut state = world(flavour);
    let mut rules: Vec<ActiveRule> = (0..20).map(|_| dice.rule()).collect();
    profile(&mut state, "all", vec![any(Action::Allow)], vec![any(Action::Allow)]);
    let class = |names: &[&str]| ingress_tiers(vec![tier("t", names, TierAction::Deny)], "all");
    let put = |state: &mut DesiredState, rules: &[ActiveRule], dice: &mut Dice| {
        let both =
            ActiveRules { ingress: rules.to_vec(), egress: rules.iter().rev().cloned().collect() };
        state.policies.insert(policy_id("default.it/is:so"), Arc::new(both));
        policy(state, "other", vec![any(Action::Pass)]);
        for pod in &pods {
            let names =
                dice.of(&[&["default.it/is:so"][..], &["other", "default.it/is:so"], &["other"]]);
            endpoint(state, pod, &class(names), dice.one_in(2));
        }
    };
    put(&mut state, &rules, &mut dice);
    host.apply(&state, Wake::Start);
    let mut counters = host.felix.counters();
    let (mut compared, mut by_line) = (0, 0);
    for round in 0..60 {
        let mut after = next(&state);
        dice.stir(&mut rules);
        put(&mut after, &rules, &mut dice);
        let lines = counters.iptables_lines.get();
        let (restores, saves) = (counters.iptables_restores.get(), counters.iptables_saves.get());
        host.apply(&after, Wake::Desired);
        // One call for each family: a refused line would have meant reading and more calls.
        assert!(counters.iptables_restores.get() <= restores + 2, "round {round}: {rules:#?}");
        assert_eq!(counters.iptables_saves.get(), saves, "round {round}");
        by_line += u32::from(counters.iptables_lines.get() - lines < rules.len() as u64);
        state = after;
        if round % 10 == 9 {
            // However the tool prints these rules, they are known again.
            let writes = counters.writes();
            assert_eq!(host.apply(&state, Wake::Retry).drift, []);
            assert_eq!(counters.writes(), writes, "round {round}: {rules:#?}");
            let by_rule = held(host);
            // Everything of ours is emptied, so that the next start writes it anew.
            let tool = host.tool();
            sh(&format!(
                r"for v in '' 6; do ip${{v}}tables-{tool}-save | sed -n '/^[*]/p; /^COMMIT/p; /^:cali-/s/ .*/ - [0:0]/p' |
                      ip${{v}}tables-{tool}-restore --noflush; done"
            ));
            host.restart();
            host.apply(&state, Wake::Start);
            assert_eq!(by_rule, held(host), "round {round}");
            compared += 1;
            counters = host.felix.counters();
        }
    }
    assert_eq!(compared, 6);
    assert!(!dice.plain || by_line > 30, "{by_line}");
}
