//! The chains of host endpoints: what the host's own interfaces let in, out and through.
//!
//! They are there only when a host endpoint is in force. One bit of the mark says from one place to the
//! next that a packet was allowed early; every packet loses it before anything asks for it, and what is
//! forwarded loses it again, so that behind OUTPUT it says another thing: of what the host sends to an
//! address that was translated it is still to be asked by which interface it leaves.

use calico_datastore::model::{InterfaceName, PortRange};

use super::ask::{Asked, Unit};
use super::names::{self, HostChain};
use super::place::Place;
use super::pods::{base, established, invalid, of_v6};
use super::spoof::{ND_TYPES, ROUTER_ADVERTISEMENT, icmpv6, interface, protocol};
use super::style::{ends, rule};
use crate::config::{Failsafe, Settings};
use crate::desired::{LocalHostEndpoint, TierAcl};
use crate::felix::hosts::choose::{Chosen, LOOPBACK};
use crate::felix::nftables::object::{
    Hook, InterfacePattern, Match, Rule, Side, Statement, Verdict, Way,
};
use crate::felix::ruleset::Direction::{self, Egress, Ingress};

/// What the chains of host endpoints are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hosts<'a> {
    pub(super) asked: Asked<'a>,
    pub(super) chosen: &'a Chosen,
}

fn way(direction: Direction) -> Way {
    match direction {
        Ingress => Way::In,
        Egress => Way::Out,
    }
}

fn tiers(endpoint: &LocalHostEndpoint, chain: HostChain) -> &[TierAcl] {
    let LocalHostEndpoint { normal, forward, untracked, pre_dnat, .. } = endpoint;
    match chain {
        HostChain::Own(Place::Untracked(Ingress)) => &untracked.ingress,
        HostChain::Own(Place::Untracked(Egress)) => &untracked.egress,
        HostChain::Own(Place::PreDnat) => pre_dnat,
        HostChain::Forward(Ingress) => &forward.ingress,
        HostChain::Forward(Egress) => &forward.egress,
        HostChain::Own(place) => match place.direction() {
            Ingress => &normal.ingress,
            Egress => &normal.egress,
        },
    }
}

/// True for an endpoint that has a chain of that kind.
fn has(endpoint: &LocalHostEndpoint, chain: HostChain) -> bool {
    let always = matches!(chain, HostChain::Own(Place::Host(_) | Place::Late));
    always || !tiers(endpoint, chain).is_empty()
}

impl Hosts<'_> {
    /// Everything but what every packet meets first.
    pub(super) fn put(self, unit: &mut Unit) {
        if self.chosen.is_empty() {
            return;
        }
        let mut output = vec![self.clear()];
        output.extend(self.untracked(Egress, unit));
        unit.chains.insert("raw-output".into(), base(Hook::Output, -300, output));
        self.put_early(unit);
        self.put_forward(unit);
        self.put_own(unit);
        self.put_late(unit);
        for direction in Direction::ALL {
            unit.put(names::failsafe(direction, false), self.failsafes(direction, false));
        }
    }

    /// What every packet meets first: it may bear marks of a tunnel that it came out of.
    pub(super) fn first(self) -> Option<Rule> {
        (!self.chosen.is_empty()).then(|| self.clear())
    }

    /// Asks the policies that are not to be tracked, behind all that is asked of pods.
    pub(super) fn untracked(self, direction: Direction, unit: &mut Unit) -> Vec<Rule> {
        let kind = HostChain::Own(Place::Untracked(direction));
        if !self.any(kind) {
            return Vec::new();
        }
        let place = Place::Untracked(direction);
        for (name, endpoint) in self.endpoints().filter(|(_, endpoint)| has(endpoint, kind)) {
            let chain = names::host(kind, name);
            let failsafe = names::failsafe(direction, true);
            let mut rules = vec![ends(Vec::new(), Verdict::Jump(failsafe))];
            let tiers = tiers(endpoint, kind);
            rules.extend(self.asked.tiers(tiers, place, false, &chain, unit));
            unit.put(chain, rules);
        }
        unit.put(names::failsafe(direction, true), self.failsafes(direction, true));
        self.skip_v6().chain(self.dispatch(kind)).collect()
    }

    /// Policies that are asked before the destination is translated. What they allow is not asked again:
    /// no later chain drops what belongs to nothing.
    fn put_early(self, unit: &mut Unit) {
        let kind = HostChain::Own(Place::PreDnat);
        if !self.any(kind) {
            return;
        }
        for (name, endpoint) in self.endpoints().filter(|(_, endpoint)| has(endpoint, kind)) {
            let chain = names::host(kind, name);
            let mut rules: Vec<Rule> = self.invalid(Place::PreDnat).into_iter().collect();
            let failsafe = names::failsafe(Ingress, false);
            rules.push(ends(Vec::new(), Verdict::Jump(failsafe)));
            let tiers = tiers(endpoint, kind);
            rules.extend(self.asked.tiers(tiers, Place::PreDnat, false, &chain, unit));
            unit.put(chain, rules);
        }
        let mut rules: Vec<Rule> = self.skip_v6().collect();
        rules.push(established());
        rules.push(ends(vec![self.marked()], Verdict::Accept));
        rules.extend(self.dispatch(kind));
        unit.chains.insert("mangle-prerouting".into(), base(Hook::Prerouting, -150, rules));
    }

    /// What is forwarded: the way in before the pods, the way out after them.
    fn put_forward(self, unit: &mut Unit) {
        for (direction, priority) in [(Ingress, -3), (Egress, 0)] {
            let kind = HostChain::Forward(direction);
            let place = Place::Host(direction);
            for (name, endpoint) in self.endpoints().filter(|(_, endpoint)| has(endpoint, kind)) {
                let chain = names::host(kind, name);
                let mut rules = vec![established()];
                rules.extend(self.invalid(place));
                // What every tier passes on no profile denies.
                let tiers = tiers(endpoint, kind);
                rules.extend(self.asked.tiers(tiers, place, true, &chain, unit));
                unit.put(chain, rules);
            }
            let mut rules: Vec<Rule> = self.skip_v6().collect();
            if direction == Ingress {
                rules.push(self.accept_marked());
            }
            rules.extend(self.dispatch(kind));
            let name = match direction {
                Ingress => "forward-from-host",
                Egress => "forward-to-host",
            };
            unit.chains.insert(name.into(), base(Hook::Forward, priority, rules));
        }
    }

    /// What the host itself receives and sends.
    fn put_own(self, unit: &mut Unit) {
        for direction in Direction::ALL {
            self.put_endpoints(Place::Host(direction), unit);
        }
        let kind = |direction| HostChain::Own(Place::Host(direction));
        let mut rules: Vec<Rule> = self.skip_v6().collect();
        rules.push(ends(vec![self.marked()], Verdict::Accept));
        rules.extend(self.dispatch(kind(Ingress)));
        unit.chains.insert("input-host".into(), base(Hook::Input, 0, rules));

        let mut rules: Vec<Rule> = self.skip_v6().collect();
        rules.push(self.accept_marked());
        // By which interface it leaves is told only on the way out.
        let Asked { style, .. } = self.asked;
        let mark = Statement::SetMark { mask: style.mark, value: style.mark };
        let accept = Statement::Verdict(Verdict::Accept);
        rules.push(rule(vec![Match::CtDnat], vec![mark, accept]));
        rules.extend(self.dispatch(kind(Egress)));
        unit.chains.insert("output-host".into(), base(Hook::Output, 0, rules));
    }

    /// What the host sends to an address that was translated.
    fn put_late(self, unit: &mut Unit) {
        self.put_endpoints(Place::Late, unit);
        let Asked { style, .. } = self.asked;
        let unmarked = Match::Mark { mask: style.mark, value: 0 };
        let mut rules = vec![ends(vec![unmarked], Verdict::Accept), self.clear()];
        rules.extend(self.dispatch(HostChain::Own(Place::Late)));
        unit.chains.insert("mangle-postrouting".into(), base(Hook::Postrouting, -150, rules));
    }

    /// The chains of what the host itself receives or sends.
    fn put_endpoints(self, place: Place, unit: &mut Unit) {
        let kind = HostChain::Own(place);
        for (name, endpoint) in self.endpoints() {
            let chain = names::host(kind, name);
            let mut rules = vec![established()];
            // Of what the host sends itself nothing is counted.
            rules.extend(self.invalid(Place::Late));
            let failsafe = names::failsafe(place.direction(), false);
            rules.push(ends(Vec::new(), Verdict::Jump(failsafe)));
            rules.extend(self.asked.tiers(tiers(endpoint, kind), place, true, &chain, unit));
            let rules = self.asked.profiles(rules, &endpoint.profiles, place, unit);
            unit.put(chain, rules);
        }
    }

    /// A packet of no connection is dropped, unless the settings say otherwise.
    fn invalid(self, place: Place) -> Option<Rule> {
        let Asked { style, .. } = self.asked;
        let drops = !style.settings.allow_conntrack_invalid;
        drops.then(|| rule(vec![invalid()], style.drop(place)))
    }

    fn marked(self) -> Match {
        let mark = self.asked.style.mark;
        Match::Mark { mask: mark, value: mark }
    }

    fn clear(self) -> Rule {
        rule(Vec::new(), vec![Statement::SetMark { mask: self.asked.style.mark, value: 0 }])
    }

    /// What was allowed early passes, and says no more so.
    fn accept_marked(self) -> Rule {
        let clear = Statement::SetMark { mask: self.asked.style.mark, value: 0 };
        rule(vec![self.marked()], vec![clear, Statement::Verdict(Verdict::Accept)])
    }

    /// With IPv6 switched off nobody polices it: dropping it would take the host from the network.
    fn skip_v6(self) -> impl Iterator<Item = Rule> {
        let off = self.asked.style.is_v6_off();
        off.then(|| ends(vec![of_v6()], Verdict::Accept)).into_iter()
    }

    /// The rules that let fail-safe ports pass, and that without which nobody is found on the link:
    /// what ARP is for IPv4 no rule sees, and it must not depend on policies for IPv6. `untracked`:
    /// nothing is known of connections, so the answers to those of the other direction pass here, too.
    fn failsafes(self, direction: Direction, untracked: bool) -> Vec<Rule> {
        let Settings { failsafe_inbound, failsafe_outbound, .. } = &self.asked.style.settings;
        let (own, other, peer) = match direction {
            Ingress => (failsafe_inbound, failsafe_outbound, Side::Source),
            Egress => (failsafe_outbound, failsafe_inbound, Side::Destination),
        };
        let mut rules = Vec::new();
        if !self.asked.style.is_v6_off() {
            // The host, unlike a pod, learns its routes from routers, and may be one.
            let types = [ND_TYPES.as_slice(), &[ROUTER_ADVERTISEMENT]].concat();
            rules.push(ends(icmpv6(&types).into(), Verdict::Accept));
        }
        rules.extend(accepting(own, peer, Side::Destination));
        if untracked {
            rules.extend(accepting(other, peer, Side::Source));
        }
        rules
    }

    /// Finds the endpoint of the interface: those that have a chain of that kind.
    fn dispatch(self, kind: HostChain) -> Vec<Rule> {
        let direction = match kind {
            HostChain::Own(place) => place.direction(),
            HostChain::Forward(direction) => direction,
        };
        let way = way(direction);
        let others = self.of_all().filter(|endpoint| has(endpoint, kind)).is_some();
        let mut rules = Vec::new();
        for (name, endpoint) in self.named() {
            if has(endpoint, kind) {
                let chain = names::host(kind, Some(name.as_str()));
                rules.push(ends(vec![interface(way, name)], Verdict::Goto(chain)));
            } else if others {
                rules.push(ends(vec![interface(way, name)], Verdict::Accept));
            }
        }
        if others {
            let loopback = LOOPBACK.parse::<InterfaceName>().into_iter();
            let excluded = loopback.chain(self.chosen.excluded.iter().cloned());
            // Pods have policies of their own; what they send never comes so far in the first chain.
            let first = kind == HostChain::Own(Place::Untracked(Ingress));
            let pods = self.asked.style.pods().filter(|_| !first);
            let not = excluded.map(InterfacePattern::Is).chain(pods);
            let not = not.map(|name| Match::Interface { way, name, not: false });
            rules.extend(not.map(|one| ends(vec![one], Verdict::Accept)));
            rules.push(ends(Vec::new(), Verdict::Goto(names::host(kind, None))));
        }
        rules
    }

    /// The endpoints of one interface each.
    fn named(&self) -> impl Iterator<Item = (&InterfaceName, &LocalHostEndpoint)> {
        let all = &self.asked.state.host_endpoints.endpoints;
        self.chosen.interfaces.iter().filter_map(|(name, id)| Some((name, &**all.get(id)?)))
    }

    /// The endpoint of all other interfaces.
    fn of_all(&self) -> Option<&LocalHostEndpoint> {
        let id = self.chosen.all.as_ref()?;
        self.asked.state.host_endpoints.endpoints.get(id).map(|endpoint| &**endpoint)
    }

    /// Every endpoint with the name that its chains are called by.
    fn endpoints(&self) -> impl Iterator<Item = (Option<&str>, &LocalHostEndpoint)> {
        let named = self.named().map(|(name, endpoint)| (Some(name.as_str()), endpoint));
        named.chain(self.of_all().map(|endpoint| (None, endpoint)))
    }

    fn any(&self, kind: HostChain) -> bool {
        self.endpoints().any(|(_, endpoint)| has(endpoint, kind))
    }
}

/// Rules that accept these ports; those with the same protocol and peer share a rule.
fn accepting(all: &[Failsafe], peer: Side, side: Side) -> Vec<Rule> {
    let mut sorted: Vec<&Failsafe> = all.iter().collect();
    sorted.sort();
    sorted.dedup();
    let same = |a: &&Failsafe, b: &&Failsafe| (a.protocol, a.net) == (b.protocol, b.net);
    let one = |group: &[&Failsafe]| {
        let Failsafe { protocol: of, net, .. } = *group[0];
        let net = net.map(|net| match net.prefix_len() {
            0 => Match::Family(net.family()),
            _ => Match::Address { side: peer, net, not: false },
        });
        let ranges = group.iter().map(|one| PortRange::single(one.port)).collect();
        let ports = Match::Ports { side, ranges, not: false };
        let matches = net.into_iter().chain([protocol(of.number()), ports]).collect();
        ends(matches, Verdict::Accept)
    };
    sorted.chunk_by(same).map(one).collect()
}
