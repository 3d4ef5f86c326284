//! Takes one address family out of a rule, and says every criterion once.

use calico_datastore::model::{Cidr, Family, Protocol};

use super::Rule;
use crate::desired::{ActiveRule, SideMatch};

/// The protocols that a port criterion without a protocol speaks of.
const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// The rules that `rule` is for packets of `family`: none when it cannot match any, one normally,
/// and one for each protocol that has ports when it names ports but no protocol.
pub(super) fn rules_of(rule: &ActiveRule, family: Family) -> Vec<Rule> {
    if rule.family.is_some_and(|only| only != family) {
        return Vec::new();
    }
    let (Some(source), Some(destination)) =
        (side_of(&rule.source, family), side_of(&rule.destination, family))
    else {
        return Vec::new();
    };
    let Some(protocols) = protocols(rule, family) else { return Vec::new() };
    let not_protocol = match protocols.as_slice() {
        // A positive protocol says all that a negated one could add.
        [None] => rule.not_protocol,
        _ => None,
    };
    protocols
        .into_iter()
        .map(|protocol| Rule {
            action: rule.action,
            protocol,
            not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source: source.clone(),
            destination: destination.clone(),
        })
        .collect()
}

/// The side with the prefixes of `family` only, or `None` when no packet of the family can match:
/// a list that is not empty, positive or negated, holds none of the family (the original's rule),
/// or everything is excluded.
fn side_of(side: &SideMatch, family: Family) -> Option<SideMatch> {
    let keep = |nets: &[Cidr]| -> Option<Vec<Cidr>> {
        let kept: Vec<_> = nets.iter().filter(|net| net.family() == family).copied().collect();
        (nets.is_empty() || !kept.is_empty()).then_some(kept)
    };
    let not_nets = keep(&side.not_nets)?;
    if not_nets.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    let mut nets = keep(&side.nets)?;
    // "Anywhere" is no criterion; iptables-save would not even print it.
    if nets.iter().any(|net| net.prefix_len() == 0) {
        nets.clear();
    }
    Some(SideMatch { nets, not_nets, ..side.clone() })
}

fn has_ports(side: &SideMatch) -> bool {
    !(side.ports.is_empty()
        && side.not_ports.is_empty()
        && side.named_ports.is_empty()
        && side.not_named_ports.is_empty())
}

/// True when the ports have to be compared by number, which needs a protocol that has them.
fn needs_protocol(side: &SideMatch) -> bool {
    !(side.ports.is_empty() && side.not_ports.is_empty())
}

/// The positive protocols that the criteria leave: `[None]` = any. `None` when they contradict.
fn protocols(rule: &ActiveRule, family: Family) -> Option<Vec<Option<Protocol>>> {
    let icmp = match family {
        Family::V4 => Protocol::ICMP,
        Family::V6 => Protocol::ICMPV6,
    };
    let mut wanted = match rule.protocol {
        Some(protocol) => vec![Some(protocol)],
        None => vec![None],
    };
    if rule.icmp.is_some() || rule.not_icmp.is_some() {
        // A type is one of the family's own ICMP; the number 8 means another thing in the other.
        if rule.protocol.is_some_and(|protocol| protocol != icmp) {
            return None;
        }
        wanted = vec![Some(icmp)];
    }
    let (source, destination) = (&rule.source, &rule.destination);
    if has_ports(source) || has_ports(destination) {
        wanted = match wanted.as_slice() {
            [Some(protocol)] if WITH_PORTS.contains(protocol) => wanted,
            [Some(_)] => return None,
            // A named port's set knows its protocol.
            _ if !needs_protocol(source) && !needs_protocol(destination) => wanted,
            _ => WITH_PORTS.map(Some).to_vec(),
        };
    }
    wanted.retain(|protocol| protocol.is_none() || *protocol != rule.not_protocol);
    (!wanted.is_empty()).then_some(wanted)
}
