//! Rules of one address family as every backend understands them: typed matches and verdicts.
//!
//! Classes and tiers are already neutral in [`crate::desired`]; what is left to do before any
//! backend can build from them is to take one family out of a rule, and to bring a rule into a form
//! that says every criterion once. There are no chains, no marks and no names of kernel objects
//! here: nftables builds them quite differently from iptables.

pub mod deny;
mod family;
#[cfg(test)]
mod tests;

use calico_datastore::model::{Action, Family, IcmpMatch, Protocol};

use crate::desired::{ActiveRule, ActiveRules, SetId, SideMatch};

/// Which way a packet goes, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// One rule of one family. All criteria are AND-ed; each list is OR-ed inside.
///
/// What holds for every rule that [`rules`] makes: all prefixes are of the family, a rule with
/// ports has a protocol that has ports, a rule with an ICMP type has the family's ICMP protocol,
/// and at most one of `protocol` and `not_protocol` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens on a match. [`Action::Log`] goes on with the next rule.
    pub action: Action,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this one.
    pub not_protocol: Option<Protocol>,
    /// Only this ICMP type.
    pub icmp: Option<IcmpMatch>,
    /// Any ICMP message but this one.
    pub not_icmp: Option<IcmpMatch>,
    /// Where the packet comes from.
    pub source: SideMatch,
    /// Where the packet goes to.
    pub destination: SideMatch,
}

/// Every set that the rules of a policy or profile name.
pub fn sets_named(rules: &ActiveRules) -> impl Iterator<Item = &SetId> {
    rules.ingress.iter().chain(&rules.egress).flat_map(|rule| {
        [&rule.source, &rule.destination].into_iter().flat_map(|side| {
            let (plain, named) = (&side.sets, &side.named_ports);
            plain.iter().chain(&side.not_sets).chain(named).chain(&side.not_named_ports)
        })
    })
}

/// The rules of one direction of a policy or profile that exist for `family`, in order.
pub fn rules(rules: &ActiveRules, direction: Direction, family: Family) -> Vec<Rule> {
    let list = match direction {
        Direction::Ingress => &rules.ingress,
        Direction::Egress => &rules.egress,
    };
    list.iter().flat_map(|rule| family::rules_of(rule, family)).collect()
}

/// What one rule is for packets of `family`, as [`rules`] makes it.
pub fn rules_of(rule: &ActiveRule, family: Family) -> Vec<Rule> {
    family::rules_of(rule, family)
}
