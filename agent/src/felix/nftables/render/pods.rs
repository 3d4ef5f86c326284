//! The base chains for packets from and to pods.

use std::sync::Arc;

use calico_datastore::model::Family;

use super::ask::Unit;
use super::names::{self, OfPods};
use super::place::Place;
use super::spoof::{ND_TYPES, TCP, UDP, address, dhcp, from_guest, icmpv6, port, protocol};
use super::style::{Style, counted, drops, ends, rule};
use crate::config::{HostAction, RKT_METADATA_PORT};
use crate::felix::nftables::object::{
    Base, BaseKind, Chain, CtStates, DispatchKey, Hook, Match, Rule, Side, Statement, Verdict, Way,
};
use crate::felix::ruleset::Direction;

/// UDP port of VXLAN, `VXLANPort` of the original.
const VXLAN_PORT: u16 = 4789;
/// Protocol number of IP in IP (RFC 2003).
const IPIP: u8 = 4;

/// What the chains of pods are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pods<'a> {
    pub(super) style: &'a Style,
    /// Families of which some endpoint has prefixes.
    pub(super) nets: [bool; 2],
    /// Families of which some endpoint sends from listed prefixes.
    pub(super) spoofers: [bool; 2],
    /// The frames of some are checked.
    pub(super) macs: bool,
    /// Classes are found by group; else by name.
    pub(super) groups: bool,
}

/// The place of a family in a pair.
pub(super) fn at(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// A chain that the kernel calls.
pub(super) fn base(hook: Hook, priority: i32, rules: Vec<Rule>) -> Arc<Chain> {
    let base = Base { kind: BaseKind::Filter, hook, priority };
    Arc::new(Chain { base: Some(base), rules })
}

/// It is of a connection that was allowed.
pub(super) fn established() -> Rule {
    let states = CtStates::ESTABLISHED.or(CtStates::RELATED);
    ends(vec![Match::CtState { states, not: false }], Verdict::Accept)
}

/// It is of no connection.
pub(super) fn invalid() -> Match {
    Match::CtState { states: CtStates::INVALID, not: false }
}

/// It is of IPv6, which is switched off.
pub(super) fn of_v6() -> Match {
    Match::Family(Family::V6)
}

impl Pods<'_> {
    /// What asks for the endpoint of a packet in one of the sets, for each family that has it.
    pub(super) fn known(&self, set: OfPods, way: Way) -> impl Iterator<Item = Match> {
        let (nets, spoofers) = (self.nets, self.spoofers);
        let families = self.style.families.clone().into_iter();
        families.filter(move |family| !set.is_spoofed() || spoofers[at(*family)]).map(
            move |family| {
                let set = names::of_pods(set, family, nets[at(family)]);
                Match::InterfaceAddressIn { way, family, set, not: false }
            },
        )
    }

    /// What knows the source of a packet, and counts it.
    fn senders(&self) -> impl Iterator<Item = Match> {
        let [own, listed] = match self.style.counts() {
            true => [OfPods::Sent, OfPods::SentSpoofed],
            false => [OfPods::Known, OfPods::Spoofed],
        };
        self.known(own, Way::In).chain(self.known(listed, Way::In))
    }

    fn dispatch(&self, direction: Direction) -> Rule {
        let (key, map) = match (direction, self.groups) {
            (Direction::Egress, true) => (DispatchKey::InGroup, names::FROM),
            (Direction::Egress, false) => (DispatchKey::InName, names::FROM),
            (Direction::Ingress, true) => (DispatchKey::OutGroup, names::TO),
            (Direction::Ingress, false) => (DispatchKey::OutName, names::TO),
        };
        rule(Vec::new(), vec![Statement::Dispatch { key, map: map.into() }])
    }

    /// All of them.
    pub(super) fn put(&self, unit: &mut Unit) {
        self.put_forward(unit);
        self.put_input(unit);
        unit.put("anti-spoof".into(), self.anti_spoof());
        if self.style.counts() {
            self.put_ends(unit);
        }
    }

    /// What comes first of all, before connections are known. Of a family that is switched off no set
    /// knows anybody, so none of its packets passes here, and none to a pod later.
    pub(super) fn prerouting(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for name in self.style.pods() {
            let from = Match::Interface { way: Way::In, name, not: false };
            out.push(ends(vec![from], Verdict::Goto("anti-spoof".into())));
        }
        out
    }

    /// The source's egress, then the destination's ingress. An endpoint that went away, or one that
    /// never was, meets the drop before the shortcut of known connections, in either direction.
    fn put_forward(&self, unit: &mut Unit) {
        let [from, to] = [Place::Pod(Direction::Egress), Place::Pod(Direction::Ingress)];
        let mut rules = vec![ends(self.style.not_pods(Way::In), Verdict::Accept)];
        let goto = |one: Match| ends(vec![one], Verdict::Goto("from-pod".into()));
        rules.extend(self.senders().map(goto));
        rules.push(drops(Vec::new()));
        unit.chains.insert("forward-from-pod".into(), base(Hook::Forward, -2, rules));

        let mut rules = vec![established()];
        rules.extend(self.invalid(from));
        // Tunnels are the hosts' affair: what a pod wraps itself would come out at another host as the
        // packet of any pod it likes, behind all checks of its source.
        let vxlan = vec![protocol(UDP), port(Side::Destination, VXLAN_PORT)];
        rules.push(rule(vxlan, self.style.drop(from)));
        rules.push(rule(vec![protocol(IPIP)], self.style.drop(from)));
        rules.push(self.dispatch(Direction::Egress));
        rules.push(rule(Vec::new(), self.style.drop(from)));
        unit.put("from-pod".into(), rules);

        let mut rules = vec![ends(self.style.not_pods(Way::Out), Verdict::Accept)];
        let receivers = if self.style.counts() { OfPods::Received } else { OfPods::Known };
        let goto = |one: Match| ends(vec![one], Verdict::Goto("to-pod".into()));
        rules.extend(self.known(receivers, Way::Out).map(goto));
        // It was sent by somebody who may send it, and there is nobody to get it.
        rules.push(rule(Vec::new(), self.style.drop(from)));
        unit.chains.insert("forward-to-pod".into(), base(Hook::Forward, -1, rules));

        let mut rules = vec![established()];
        rules.extend(self.invalid(to));
        rules.push(self.dispatch(Direction::Ingress));
        rules.push(rule(Vec::new(), self.style.drop(to)));
        unit.put("to-pod".into(), rules);
    }

    fn invalid(&self, place: Place) -> Option<Rule> {
        let drops = !self.style.settings.allow_conntrack_invalid;
        drops.then(|| rule(vec![invalid()], self.style.drop(place)))
    }

    /// From a pod to its host: the pod's egress, and then what the host takes.
    fn put_input(&self, unit: &mut Unit) {
        let settings = &self.style.settings;
        let from = Place::Pod(Direction::Egress);
        let others = ends(self.style.not_pods(Way::In), Verdict::Accept);
        // Without these the pod cannot even find its host. The source was checked before.
        let v6 = !self.style.is_v6_off();
        let discovery = v6.then(|| ends(icmpv6(&ND_TYPES).into(), Verdict::Accept));
        let to_host = self.asks_its_host();

        let mut rules = vec![others.clone()];
        rules.extend(discovery.clone());
        rules.extend(self.asks_for_an_address());
        let known = if to_host.is_empty() { "from-pod" } else { "from-guest" };
        let goto = |one: Match| ends(vec![one], Verdict::Goto(known.into()));
        rules.extend(self.senders().map(goto));
        rules.push(drops(Vec::new()));
        unit.chains.insert("input-from-pod".into(), base(Hook::Input, -2, rules));
        if !to_host.is_empty() {
            let mut rules = to_host.clone();
            rules.push(ends(Vec::new(), Verdict::Goto("from-pod".into())));
            unit.put("from-guest".into(), rules);
        }

        if settings.endpoint_to_host != HostAction::Drop {
            return;
        }
        let mut rules = vec![others, established()];
        rules.extend(discovery);
        rules.extend(self.asks_for_an_address());
        rules.extend(to_host);
        if settings.rkt_metadata_service {
            let service = port(Side::Destination, RKT_METADATA_PORT);
            let of_v4 = Match::Family(Family::V4);
            rules.push(ends(vec![of_v4, protocol(TCP), service], Verdict::Accept));
        }
        rules.push(rule(Vec::new(), self.style.drop(from)));
        unit.chains.insert("input-pod-to-host".into(), base(Hook::Input, -1, rules));
    }

    /// What guests of OpenStack ask who have an address: DHCP again, DNS, metadata.
    fn asks_its_host(&self) -> Vec<Rule> {
        let settings = &self.style.settings;
        if !settings.has_openstack() {
            return Vec::new();
        }
        let mut out: Vec<Rule> = Vec::new();
        for family in &self.style.families {
            let mut matches = vec![from_guest(), Match::Family(*family)];
            matches.extend(dhcp(*family));
            out.push(ends(matches, Verdict::Accept));
        }
        let dns = vec![from_guest(), protocol(UDP), port(Side::Destination, 53)];
        out.push(ends(dns, Verdict::Accept));
        if let Some(service) = settings.metadata_service() {
            let matches = vec![
                from_guest(),
                protocol(TCP),
                address(Side::Destination, &service.ip().to_string()),
                port(Side::Destination, service.port()),
            ];
            out.push(ends(matches, Verdict::Accept));
        }
        out
    }

    /// The chains that count what is dropped, and drop it: of the endpoint that asked for it.
    ///
    /// What was allowed is the rest of what was counted before: what the sender may not send is never
    /// looked up for its receiver. Only what a host endpoint drops on the way to a pod is dropped before
    /// it was: it is counted here as well.
    fn put_ends(&self, unit: &mut Unit) {
        let all = [false].into_iter().chain(self.style.rejects().then_some(true));
        for rejects in all {
            let end = || match rejects {
                true => vec![Statement::Counter, Statement::Reject],
                false => counted(Verdict::Drop),
            };
            let last = rule(Vec::new(), end());
            let from = self.known(OfPods::DeniedFrom, Way::In);
            let from = from.chain(self.known(OfPods::DeniedSpoofed, Way::In));
            let from = from.map(|one| rule(vec![one], end())).chain([last.clone()]).collect();
            unit.put(names::ends(Direction::Egress, rejects, false), from);
            let to = self.known(OfPods::DeniedTo, Way::Out);
            let to = to.map(|one| rule(vec![one], end())).chain([last.clone()]).collect();
            unit.put(names::ends(Direction::Ingress, rejects, false), to);
            let both = self.known(OfPods::Received, Way::Out);
            let both = both.zip(self.known(OfPods::DeniedTo, Way::Out));
            let both = both.map(|(received, denied)| rule(vec![received, denied], end()));
            unit.put(names::ends(Direction::Ingress, rejects, true), both.chain([last]).collect());
        }
    }
}
