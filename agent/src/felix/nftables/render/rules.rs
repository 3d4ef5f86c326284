//! One neutral rule as rules of a chain: as few as possible.
//!
//! All matches of a rule are AND-ed, so what is OR-ed and does not fit one anonymous set (several sets,
//! ports by number and by name) becomes several rules with the same end.

use std::sync::Arc;

use calico_datastore::model::{Action, Cidr, Family, IcmpMatch, PortRange, Protocol};

use super::members::shortest;
use super::place::Place;
use super::shapes::Shapes;
use super::style::Style;
use crate::desired::{ActiveRule, SideMatch};
use crate::felix::nftables::object::{Match, Rule, Side, Statement, Verdict};
use crate::felix::ruleset;

/// The protocols whose ports sets know.
const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// The rules that carry out `rule`: for both families at once where it says nothing of either.
/// `deny`: what becomes of a denied packet.
pub(super) fn rules(
    rule: &ActiveRule,
    place: Place,
    style: &Style,
    shapes: &Shapes,
    deny: &[Statement],
) -> Vec<Rule> {
    let of = |family: &Family| (*family, ruleset::rules_of(rule, *family));
    let all: Vec<(Family, Vec<ruleset::Rule>)> = style.families.iter().map(of).collect();
    let same = all.windows(2).all(|two| two[0].1 == two[1].1);
    let all = match all.into_iter().next() {
        Some((_, rules)) if same && rules.iter().all(is_of_any_family) => vec![(None, rules)],
        _ => style
            .families
            .iter()
            .map(|family| (Some(*family), ruleset::rules_of(rule, *family)))
            .collect(),
    };
    let mut out = Vec::new();
    for (family, rules) in all {
        for rule in rules.iter().flat_map(without_odd_ports) {
            out.extend(of_one(&rule, family, place, style, shapes, deny));
        }
    }
    out
}

/// True when nothing in it is of one family.
fn is_of_any_family(rule: &ruleset::Rule) -> bool {
    let side = |side: &SideMatch| {
        side.nets.is_empty()
            && side.not_nets.is_empty()
            && (side.sets.is_empty() && side.not_sets.is_empty())
            && (side.named_ports.is_empty() && side.not_named_ports.is_empty())
    };
    side(&rule.source) && side(&rule.destination) && rule.icmp.is_none() && rule.not_icmp.is_none()
}

/// What has no ports is in no set of ports; but the kernel ends a rule that looks for ports where none
/// are. So "not this port", said of any protocol, is said of each by itself.
fn without_odd_ports(rule: &ruleset::Rule) -> Vec<Odd> {
    let asks = |side: &SideMatch| !side.not_named_ports.is_empty();
    let named = rule.source.named_ports.is_empty() && rule.destination.named_ports.is_empty();
    let odd = rule.protocol.is_none() && (asks(&rule.source) || asks(&rule.destination));
    if !odd {
        return vec![Odd { rule: rule.clone(), nothing_with_ports: false }];
    }
    let with = WITH_PORTS.into_iter().filter(|protocol| rule.not_protocol != Some(*protocol));
    let mut out: Vec<Odd> = with
        .map(|protocol| {
            let rule =
                ruleset::Rule { protocol: Some(protocol), not_protocol: None, ..rule.clone() };
            Odd { rule, nothing_with_ports: false }
        })
        .collect();
    if named {
        let mut rule = rule.clone();
        rule.source.not_named_ports.clear();
        rule.destination.not_named_ports.clear();
        out.push(Odd { rule, nothing_with_ports: true });
    }
    out
}

/// A rule, or what it is for all that has no ports.
struct Odd {
    rule: ruleset::Rule,
    nothing_with_ports: bool,
}

fn of_one(
    Odd { rule, nothing_with_ports }: &Odd,
    family: Option<Family>,
    place: Place,
    style: &Style,
    shapes: &Shapes,
    deny: &[Statement],
) -> Vec<Rule> {
    let mut matches = Matches::default();
    match (rule.protocol, rule.not_protocol) {
        (Some(protocol), _) => matches.protocol(protocol, false),
        (None, Some(protocol)) => matches.protocol(protocol, true),
        (None, None) => {}
    }
    if *nothing_with_ports {
        let others = WITH_PORTS.into_iter().filter(|one| rule.not_protocol != Some(*one));
        others.for_each(|protocol| matches.protocol(protocol, true));
    }
    for (icmp, not) in [(rule.icmp, false), (rule.not_icmp, true)] {
        if let Some(IcmpMatch { icmp_type, code }) = icmp {
            matches.all.push(Match::Icmp { icmp_type, code, not });
        }
    }
    let sides = [(Side::Source, &rule.source), (Side::Destination, &rule.destination)];
    for (side, of) in sides {
        matches.all.extend(nets(side, &of.nets, false));
        matches.all.extend(nets(side, &of.not_nets, true));
        if !of.not_ports.is_empty() {
            let ranges = merged(&of.not_ports);
            matches.all.push(Match::Ports { side, ranges, not: true });
        }
    }
    for (side, of) in sides {
        let mut ports: Vec<Match> = Vec::new();
        if !of.ports.is_empty() {
            ports.push(Match::Ports { side, ranges: merged(&of.ports), not: false });
        }
        if let Some(family) = family {
            let asked = |id| shapes.matches(family, id, side, false);
            ports.extend(of.named_ports.iter().flat_map(asked));
            if !(of.ports.is_empty() && of.named_ports.is_empty()) {
                matches.any(ports);
            }
            of.sets.iter().for_each(|id| matches.any(asked(id)));
            let not = of.not_sets.iter().chain(&of.not_named_ports);
            matches.all.extend(not.flat_map(|id| shapes.matches(family, id, side, true)));
        } else if !ports.is_empty() {
            matches.any(ports);
        }
    }
    let statements = match rule.action {
        Action::Allow => style.allow(place),
        Action::Deny => deny.to_vec(),
        Action::Pass => vec![Statement::Counter, Statement::Verdict(Verdict::Return)],
        Action::Log => {
            vec![Statement::Counter, Statement::Log { prefix: Arc::clone(&style.log_prefix) }]
        }
    };
    let all = matches.expanded(rule.action == Action::Log);
    all.into_iter()
        .map(|mut matches| {
            if let Some(family) = family.filter(|_| !matches.iter().any(names_family)) {
                matches.insert(0, Match::Family(family));
            }
            Rule { matches, statements: statements.clone(), comment: None }
        })
        .collect()
}

/// True for what matches packets of one family only.
fn names_family(one: &Match) -> bool {
    matches!(
        one,
        Match::Family(_)
            | Match::Address { .. }
            | Match::AddressAmong { .. }
            | Match::AddressIn { .. }
            | Match::AddressPortIn { .. }
            | Match::InterfaceAddressIn { .. }
    )
}

fn nets(side: Side, nets: &[Cidr], not: bool) -> Option<Match> {
    let nets = shortest(nets.iter());
    match nets.as_slice() {
        [] => None,
        [net] => Some(Match::Address { side, net: *net, not }),
        _ => Some(Match::AddressAmong { side, nets, not }),
    }
}

/// The same ports in ranges that do not overlap.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| (range.first(), range.last()));
    let mut out: Vec<PortRange> = Vec::new();
    for range in sorted {
        let grown = out.last().copied().filter(|last| range.first() <= last.last());
        match grown.and_then(|last| PortRange::new(last.first(), last.last().max(range.last()))) {
            Some(grown) => {
                out.pop();
                out.push(grown);
            }
            None => out.push(range),
        }
    }
    out
}

/// What has to match: all of these, and of each group one.
#[derive(Default)]
struct Matches {
    all: Vec<Match>,
    groups: Vec<Vec<Match>>,
}

impl Matches {
    fn protocol(&mut self, protocol: Protocol, not: bool) {
        self.all.push(Match::Protocol { number: protocol.number(), not });
    }

    /// One of them; of none no packet is.
    fn any(&mut self, mut group: Vec<Match>) {
        match group.len() {
            1 => self.all.append(&mut group),
            _ => self.groups.push(group),
        }
    }

    /// Each way to match. `apart`: no packet matches in two ways.
    fn expanded(self, apart: bool) -> Vec<Vec<Match>> {
        let mut out = vec![self.all];
        for group in self.groups {
            let ways: Vec<Vec<Match>> = (0..group.len())
                .map(|at| {
                    let before = group[..at].iter().filter(|_| apart).map(negated);
                    before.chain([group[at].clone()]).collect()
                })
                .collect();
            out = out
                .iter()
                .flat_map(|one| ways.iter().map(|way| [one.as_slice(), way].concat()))
                .collect();
        }
        out
    }
}

/// The opposite of what a group is made of.
fn negated(one: &Match) -> Match {
    let mut other = one.clone();
    if let Match::AddressIn { not, .. }
    | Match::AddressPortIn { not, .. }
    | Match::Ports { not, .. } = &mut other
    {
        *not = !*not;
    }
    other
}
