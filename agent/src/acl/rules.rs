//! Rules with their selectors turned into address sets.

use std::collections::BTreeMap;

use calico_datastore::model::{
    Action, Name, Peer, Ports, Profile, Protocol, Rule, Selector, Unevaluable,
};

use super::set_spec::SetSpec;
use crate::desired::{ActiveRule, ActiveRules, SetId, SideMatch};

/// Rules ready for the dataplane, and what they need.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// The rules.
    pub(super) rules: ActiveRules,
    /// The sets that the rules use.
    pub(super) sets: BTreeMap<SetId, SetSpec>,
}

/// The rules of a profile. `stored` is the object of that name.
pub(super) fn of_profile(name: &Name, stored: Option<&Profile>) -> Resolved {
    let built_in = |rules| Resolved { rules, ..Resolved::default() };
    match stored {
        Some(profile) => resolve(&profile.ingress, &profile.egress),
        None if *name == Profile::DEFAULT_ALLOW => built_in(allow_all()),
        None => built_in(drop_all()),
    }
}

/// The rules of a profile that does not exist: everything is dropped. Nothing falls through to the
/// next profile of the list, because nobody knows what the missing one would have denied.
pub(super) fn drop_all() -> ActiveRules {
    let mut rules = everything(Action::Deny);
    for rule in rules.ingress.iter_mut().chain(&mut rules.egress) {
        rule.origin = ActiveRule::UNWRITTEN;
    }
    rules
}

/// The rules of the built-in profile `projectcalico-default-allow`.
pub(super) fn allow_all() -> ActiveRules {
    everything(Action::Allow)
}

fn everything(action: Action) -> ActiveRules {
    let resolved = resolve(&[Rule::any(action)], &[Rule::any(action)]);
    resolved.rules
}

/// Resolves the rules of a policy or a profile.
pub(super) fn resolve(ingress: &[Rule], egress: &[Rule]) -> Resolved {
    let mut resolved = Resolved::default();
    resolved.rules.ingress = resolved.direction(ingress);
    resolved.rules.egress = resolved.direction(egress);
    resolved
}

/// Whether a rule is in force although this host cannot evaluate one of its criteria. Who wants to
/// deny some requests of a connection had rather lose the others too than let all of them pass; the
/// original's rules in the kernel do not know http either. Services are a set, and one that is
/// empty here.
pub(super) fn stands_without(criterion: Unevaluable, action: Action) -> bool {
    criterion == Unevaluable::Http && action == Action::Deny
}

impl Resolved {
    fn direction(&mut self, rules: &[Rule]) -> Vec<ActiveRule> {
        let stands = |(_, rule): &(usize, &Rule)| {
            rule.unevaluable.is_none_or(|criterion| stands_without(criterion, rule.action))
        };
        let all = rules.iter().enumerate().filter(stands);
        all.map(|(index, rule)| self.rule(index, rule)).collect()
    }

    fn rule(&mut self, index: usize, rule: &Rule) -> ActiveRule {
        // The protocol of a port's name where the rule does not say: as in the original.
        let ports_of = rule.protocol.filter(|p| p.has_ports()).unwrap_or(Protocol::TCP);
        ActiveRule {
            // No value of the store has room for more rules than this counts.
            origin: u32::try_from(index).unwrap_or(u32::MAX),
            action: rule.action,
            family: rule.family,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source: self.side(&rule.source, ports_of),
            destination: self.side(&rule.destination, ports_of),
        }
    }

    /// A selector and its exception are one set, as in the original: the addresses of those whom the
    /// one matches and the other does not. It differs from two sets where an address has several
    /// owners (a network set over a pod's address): an owner that is excepted does not take the
    /// address away from one that is not. Without a selector the exception is a set by itself,
    /// and every other address matches, also of nobody known.
    fn side(&mut self, peer: &Peer, protocol: Protocol) -> SideMatch {
        let (positive, exception) = match (&peer.selector, &peer.not_selector) {
            (Some(selector), Some(except)) => (Some(&selector.and(&except.not())), None),
            (selector, except) => (selector.as_ref(), except.as_ref()),
        };
        // The sets of named ports hold only endpoints that the selector matches, so with nothing
        // but named ports the selector's own set would ask the same thing twice.
        let covered = peer.ports.ranges.is_empty() && !peer.ports.named.is_empty();
        let selector = positive.filter(|_| !covered);
        SideMatch {
            nets: peer.nets.clone(),
            not_nets: peer.not_nets.clone(),
            sets: selector.map(|selector| self.addresses(selector)).into_iter().collect(),
            not_sets: exception.map(|selector| self.addresses(selector)).into_iter().collect(),
            ports: peer.ports.ranges.clone(),
            named_ports: self.named(&peer.ports, positive, protocol),
            not_ports: peer.not_ports.ranges.clone(),
            not_named_ports: self.named(&peer.not_ports, positive, protocol),
        }
    }

    fn named(
        &mut self,
        ports: &Ports,
        selector: Option<&Selector>,
        protocol: Protocol,
    ) -> Vec<SetId> {
        let mut ids = Vec::with_capacity(ports.named.len());
        for name in &ports.named {
            let id = self.ports(selector, protocol, name);
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    fn addresses(&mut self, selector: &Selector) -> SetId {
        self.need(SetSpec::Addresses(selector.clone()))
    }

    fn ports(&mut self, selector: Option<&Selector>, protocol: Protocol, name: &Name) -> SetId {
        let selector = selector.cloned().unwrap_or_else(Selector::all);
        self.need(SetSpec::Ports(selector, protocol, name.clone()))
    }

    fn need(&mut self, spec: SetSpec) -> SetId {
        let id = spec.id();
        self.sets.insert(id.clone(), spec);
        id
    }
}
