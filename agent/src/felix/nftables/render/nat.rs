//! The translation of addresses: it follows from pools, external addresses and settings, and from no
//! policy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use calico_datastore::model::{Cidr, Family, PortRange};

use super::ask::Unit;
use super::names;
use super::spoof::{TCP, UDP, from_guest, port, protocol};
use super::style::{Style, ends, pattern, rule};
use crate::config::METADATA_SERVICE;
use crate::desired::{DesiredState, Externals};
use crate::felix::nftables::object::{
    Base, BaseKind, Chain, Hook, Match, Rule, Side, Statement, Verdict, Way,
};

/// What is translated, and for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nat<'a> {
    pub(super) style: &'a Style,
    pub(super) state: &'a DesiredState,
    pub(super) externals: &'a Externals,
    pub(super) random_fully: bool,
}

/// True when packets of a pool are translated on their way out of all pools.
pub(super) fn masquerades(state: &DesiredState, family: Family) -> bool {
    state.pools.iter().any(|(cidr, nat)| *nat && cidr.family() == family)
}

fn is(side: Side, address: IpAddr) -> Match {
    Match::Address { side, net: Cidr::host(address), not: false }
}

impl Nat<'_> {
    /// The chains: none where there is nothing to translate.
    pub(super) fn unit(self) -> Unit {
        let mut unit = Unit::default();
        let mut put = |name: &str, hook, priority, rules: Vec<Rule>| {
            if !rules.is_empty() {
                let base = Base { kind: BaseKind::Nat, hook, priority };
                let chain = Arc::new(Chain { base: Some(base), rules });
                unit.chains.insert(name.into(), chain);
            }
        };
        let to_pods = self.to_pods();
        let external =
            (!to_pods.is_empty()).then(|| ends(Vec::new(), Verdict::Jump(names::EXTERNAL.into())));
        let first = self.to_metadata_service().into_iter();
        let prerouting = first.chain(external.clone()).collect();
        put("nat-prerouting", Hook::Prerouting, -100, prerouting);
        put("nat-output", Hook::Output, -100, external.into_iter().collect());
        let mut postrouting = Vec::new();
        for family in &self.style.families {
            postrouting.extend(self.hairpins(*family));
        }
        for family in &self.style.families {
            if masquerades(self.state, *family) {
                postrouting.extend(self.masquerade(*family));
            }
        }
        put("nat-postrouting", Hook::Postrouting, 100, postrouting);
        if !to_pods.is_empty() {
            unit.put(names::EXTERNAL.into(), to_pods);
        }
        unit
    }

    /// The address that guests know leads to the metadata service.
    fn to_metadata_service(self) -> Option<Rule> {
        let service = self.style.settings.metadata_service()?;
        let matches = vec![
            from_guest(),
            protocol(TCP),
            is(Side::Destination, (*METADATA_SERVICE.ip()).into()),
            port(Side::Destination, METADATA_SERVICE.port()),
        ];
        let to = Statement::Dnat { to: (*service.ip()).into(), port: Some(service.port()) };
        Some(rule(matches, vec![to]))
    }

    fn pairs(self, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.externals.pairs(family)
    }

    /// Packets for an external address go to the pod, before routing and before policy.
    fn to_pods(self) -> Vec<Rule> {
        let families = self.style.families.iter();
        let one = |(outside, inside): (IpAddr, IpAddr)| {
            let to = Statement::Dnat { to: inside, port: None };
            rule(vec![is(Side::Destination, outside)], vec![to])
        };
        families.flat_map(|family| self.pairs(*family)).map(one).collect()
    }

    /// A pod that sends to its own external address would get packets from itself, which it drops. It
    /// sees that address instead: the lowest, when it has several. Whatever else it sends keeps its
    /// source.
    fn hairpins(self, family: Family) -> Vec<Rule> {
        let mut done = BTreeSet::new();
        let first = self.pairs(family).filter(|(_, inside)| done.insert(*inside));
        let one = |(outside, inside): (IpAddr, IpAddr)| {
            let own = vec![is(Side::Source, inside), is(Side::Destination, inside)];
            let to = Statement::Snat { to: Some(outside), ports: None, random_fully: false };
            rule(own, vec![to])
        };
        first.map(one).collect()
    }

    /// What leaves the pools gets another source address, and with a range of ports one of those: TCP
    /// and UDP, in rules of their own. A translation is the end, so each packet meets one of them.
    fn masquerade(self, family: Family) -> Vec<Rule> {
        let settings = &self.style.settings;
        let asks = |side, set, not| Match::AddressIn { side, family, set, mask: None, not };
        let mut leaves = vec![
            asks(Side::Source, names::masq_pools(family), false),
            asks(Side::Destination, names::all_pools(family), true),
        ];
        if let Some(text) = &settings.nat_outgoing_interface {
            let (text, begins) = match text.strip_suffix('+') {
                Some(prefix) => (prefix, true),
                None => (text.as_str(), false),
            };
            // By an interface that no name can be of nothing leaves.
            let Some(name) = pattern(text, begins) else { return Vec::new() };
            leaves.insert(0, Match::Interface { way: Way::Out, name, not: false });
        }
        let mut wanted = settings.nat_outgoing_addresses.iter().copied();
        let to = wanted.find(|address| Family::of(*address) == family);
        // Two connections that ask for a port at the same moment seldom ask for the same.
        let random_fully = self.random_fully;
        let source = |ports| vec![Statement::Counter, Statement::Snat { to, ports, random_fully }];
        let with = |number: u8, range: PortRange| {
            let matches = [vec![protocol(number)], leaves.clone()].concat();
            rule(matches, source(Some(range)))
        };
        let ports = settings.nat_port_range.into_iter();
        let mut rules: Vec<Rule> =
            ports.flat_map(|range| [TCP, UDP].map(|number| with(number, range))).collect();
        rules.push(rule(leaves.clone(), source(None)));
        rules
    }
}
