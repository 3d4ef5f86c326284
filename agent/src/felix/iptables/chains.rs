//! The chains that carry out a desired state: pure text, no names of its own making.
//!
//! Every chain is made from one object (a policy, a profile, a class) or from the settings, so a
//! changed object makes its own chains again and no others.

mod count;
mod host;
mod nat;
mod openstack;
mod spoof;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_datastore::model::{Action, InterfaceName, Name, PolicyId, TierAction};
use imbl::OrdMap;

use super::marks;
use super::names;
use super::rules::{Report, Style, joined, lines};
use super::save::Table;
use crate::config::Settings;
use crate::desired::{ActiveRules, ClassId, DesiredState, DirectionAcl, TierAcl};
use crate::felix::ruleset::deny::{DeniedBy, DenyPoint};
use crate::felix::ruleset::{Direction, Rule};

pub use self::host::{FORWARD_END, Hosts};
pub use self::nat::{Nat, nat};
pub use self::spoof::raw;
pub use self::workload::filter;

/// The chain of a profile. What passed the last tier, or a profile before, comes with the bit set
/// that its own "pass" asks for.
pub fn profile(rules: &[Rule], style: &Style) -> Vec<String> {
    let mut chain = policy(rules, style);
    if rules.iter().any(|rule| rule.action == Action::Pass) {
        chain.insert(0, marks::clear(style.marks.pass));
    }
    chain
}

/// The chain of a policy.
pub fn policy(rules: &[Rule], style: &Style) -> Vec<String> {
    let mut chain: Vec<String> = rules.iter().flat_map(|rule| lines(rule, style)).collect();
    // Returning at the end is what a chain does anyway.
    if chain.last().is_some_and(|line| line.ends_with("--jump RETURN")) {
        chain.pop();
    }
    chain
}

/// What stands in for a policy or profile that is not there, or not as it should be: nothing passes it.
/// `style` is that of the table.
pub fn closed(direction: Direction, style: &Style) -> Vec<String> {
    vec![style.denies(direction).into_owned()]
}

/// What reports a dropped packet, and drops it; `style` is that of the table. `None` when nothing is
/// reported.
pub fn denied(point: &DenyPoint, style: &Style) -> Option<(String, Vec<String>)> {
    let Report { group, rate } = style.report?;
    // The kernel counts for each rule by itself: a policy that drops much hides no other.
    let report = format!(
        "-m limit --limit {rate}/second --limit-burst {rate} --jump NFLOG --nflog-group {group} \
         --nflog-prefix \"{}{}\"",
        crate::denied::PREFIX,
        point.tag()
    );
    Some((names::deny(point), vec![report, style.denies(point.direction).into_owned()]))
}

/// How tiers and profiles are asked.
struct Asked<'a> {
    /// That of the table.
    style: Style,
    policies: &'a OrdMap<PolicyId, Arc<ActiveRules>>,
    profiles: &'a OrdMap<Name, Arc<ActiveRules>>,
}

impl Asked<'_> {
    fn accepted(&self) -> String {
        joined(&marks::has(self.style.marks.accept), "--jump RETURN")
    }

    /// The target of a packet that is dropped at that place.
    fn denied(&self, direction: Direction, place: DeniedBy) -> String {
        self.style.at(&DenyPoint { direction, place }).deny.into_owned()
    }

    /// Returns with the accept bit set, drops, or goes on. The verdict's bits are clear before.
    /// `ends_drop`: a packet that no policy of a tier decides about is dropped, unless the tier says
    /// otherwise.
    fn tiers(&self, tiers: &[TierAcl], direction: Direction, ends_drop: bool) -> Vec<String> {
        let pass = self.style.marks.pass;
        let mut chain = Vec::new();
        for (i, tier) in tiers.iter().enumerate() {
            if i > 0 {
                chain.push(marks::clear(pass));
            }
            for (j, policy) in tier.policies.iter().enumerate() {
                let jump = if self.policies.contains_key(policy) {
                    format!("--jump {}", names::policy(policy, direction))
                } else {
                    self.style.denies(direction).into_owned()
                };
                // Nothing has passed yet before the first one.
                let not_passed = if j > 0 { marks::lacks(pass) } else { String::new() };
                chain.push(joined(&not_passed, &jump));
                chain.push(self.accepted());
            }
            if ends_drop && tier.default_action == TierAction::Deny {
                let deny = self.denied(direction, DeniedBy::EndOfTier(tier.tier.clone()));
                chain.push(joined(&marks::lacks(pass), &deny));
            }
        }
        chain
    }

    /// Returns with the accept bit set, drops, or goes on.
    fn profiles(&self, profiles: &[Name], direction: Direction) -> Vec<String> {
        let mut chain = Vec::new();
        for profile in profiles {
            if self.profiles.contains_key(profile) {
                chain.push(format!("--jump {}", names::profile(profile, direction)));
                chain.push(self.accepted());
            } else {
                chain.push(self.style.denies(direction).into_owned());
            }
        }
        chain
    }
}

/// One direction of a class. It returns with the accept bit set, or drops.
pub fn class(
    acl: &DirectionAcl,
    direction: Direction,
    state: &DesiredState,
    style: &Style,
) -> Vec<String> {
    let DesiredState { policies, profiles, .. } = state;
    let asked = Asked { style: style.clone(), policies, profiles };
    let mut chain = vec![marks::clear(style.marks.verdicts())];
    chain.extend(asked.tiers(&acl.tiers, direction, true));
    chain.extend(asked.profiles(&acl.profiles, direction));
    chain.push(asked.denied(direction, DeniedBy::End));
    chain
}

/// The chain that finds the class of a packet's endpoint. One lookup per class: the pair of address
/// and interface is in the set, or the rule does not apply. What is in none is dropped. `spoofers` are
/// interfaces from which other addresses may come, each with its class: that of a source only.
pub fn dispatch<'a>(
    classes: impl Iterator<Item = &'a ClassId>,
    spoofers: Option<&BTreeMap<InterfaceName, ClassId>>,
    direction: Direction,
    style: &Style,
) -> Vec<String> {
    let family = style.family;
    let flags = match direction {
        Direction::Egress => "src,src",
        Direction::Ingress => "dst,dst",
    };
    classes
        .map(|id| {
            format!(
                "-m set --match-set {} {flags} --goto {}",
                names::class_set(family, id),
                names::class(id, direction)
            )
        })
        .chain(spoofers.into_iter().flatten().filter(|_| direction == Direction::Egress).map(
            |(interface, id)| {
                // It was counted in this set before.
                format!(
                    "-i {interface} -m set --match-set {} src,src{} --goto {}",
                    names::spoofed(family),
                    spoof::uncounted(style.counted),
                    names::class(id, direction)
                )
            },
        ))
        .chain([style.drops(direction).into_owned()])
        .collect()
}

/// The name of the chain that [`dispatch`] makes.
pub fn dispatch_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "cali-from-wl-dispatch",
        Direction::Ingress => "cali-to-wl-dispatch",
    }
}

/// True for a chain that is made of classes.
pub fn is_of_classes(name: &str) -> bool {
    names::is_class(name)
        || Direction::ALL.iter().any(|direction| dispatch_name(*direction) == name)
}

/// The chains of `table` in a family that is switched off. Nobody decides about packets of that
/// family then, so none comes from a pod, to the host's own addresses neither, and none is forwarded
/// to one. This takes no set, and what an earlier run left is replaced in place.
pub fn off(table: Table, settings: &Settings) -> Vec<(String, Vec<String>)> {
    let (name, way) = match table {
        Table::Raw => ("cali-PREROUTING", "-i"),
        Table::Filter => ("cali-FORWARD", "-o"),
        Table::Mangle | Table::Nat => return Vec::new(),
    };
    let lines = interfaces(settings).map(|p| format!("{way} {p} --jump DROP")).collect();
    vec![(name.to_owned(), lines)]
}

/// The interfaces of pods as `-i` and `-o` take them. No name is longer than 15 characters, and
/// iptables takes no longer pattern: such a prefix is the name.
fn interfaces(settings: &Settings) -> impl Iterator<Item = String> {
    settings
        .interface_prefixes
        .iter()
        .map(|prefix| if prefix.len() < 15 { format!("{prefix}+") } else { prefix.clone() })
}

/// ICMPv6 types that a pod may send before it has an address: multicast listener messages, router
/// solicitation, neighbour solicitation and advertisement. Not 134: a pod is no router.
const ND_TYPES: [u8; 7] = [130, 131, 132, 133, 135, 136, 143];

fn nd_lines(matches: &'static str, target: &'static str) -> impl Iterator<Item = String> {
    ND_TYPES.into_iter().map(move |kind| {
        joined(matches, &format!("-p icmpv6 -m icmp6 --icmpv6-type {kind} {target}"))
    })
}
