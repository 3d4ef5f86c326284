//! Elements of the sets that are not made of rules: endpoints, their classes, pools.

use std::collections::BTreeMap;

use calico_datastore::model::{Cidr, Family};

use super::members::{range, shortest};
use super::names::{self, OfPods};
use super::nat::masquerades;
use super::pods::at;
use super::style::Style;
use crate::desired::{ClassId, DesiredState, LocalEndpoint};
use crate::felix::nftables::object::{Element, Name, SetKind, SetSpec, Verdict};
use crate::felix::ruleset::Direction;

/// Which of those sets there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sets<'a> {
    pub(super) style: &'a Style,
    pub(super) nets: [bool; 2],
    pub(super) spoofers: [bool; 2],
    pub(super) macs: bool,
    pub(super) groups: bool,
}

/// The prefixes that an endpoint has. "Any address" is nobody's own: an endpoint that may use any is
/// none we know of.
pub(super) fn own(endpoint: &LocalEndpoint, family: Family) -> impl Iterator<Item = &Cidr> {
    let own = endpoint.addresses.iter();
    own.filter(move |net| net.family() == family && net.prefix_len() > 0)
}

impl Sets<'_> {
    /// The sets and maps of endpoints.
    pub(super) fn specs(&self) -> BTreeMap<Name, SetSpec> {
        let mut out = BTreeMap::new();
        for family in self.style.families.iter().copied() {
            for set in OfPods::ALL.into_iter().filter(|set| self.has(*set, family)) {
                let nets = self.nets[at(family)];
                let kind = match nets || set.is_spoofed() {
                    true => SetKind::InterfaceNet(family),
                    false => SetKind::InterfaceAddress(family),
                };
                let spec = SetSpec { kind, counters: set.counts() };
                out.insert(names::of_pods(set, family, nets), spec);
            }
        }
        let mut plain = |name: &str, kind| {
            out.insert(name.into(), SetSpec { kind, counters: false });
        };
        if self.macs {
            plain(names::CHECKED, SetKind::Interface);
            plain(names::MACS, SetKind::InterfaceMac);
        }
        let kind = if self.groups { SetKind::VerdictsByGroup } else { SetKind::VerdictsByName };
        plain(names::FROM, kind);
        plain(names::TO, kind);
        out
    }

    fn has(&self, set: OfPods, family: Family) -> bool {
        (self.style.counts() || !set.counts()) && (self.spoofers[at(family)] || !set.is_spoofed())
    }

    /// What an endpoint is in them.
    pub(super) fn of_endpoint(&self, endpoint: &LocalEndpoint) -> Vec<(Name, Element)> {
        let interface = &endpoint.interface;
        let mut out = Vec::new();
        for family in self.style.families.iter().copied() {
            let nets = self.nets[at(family)];
            let own = shortest(own(endpoint, family));
            let may = self.style.settings.source_spoofing;
            let listed = endpoint.spoof.iter().filter(|net| may && net.family() == family);
            let listed = shortest(listed);
            for set in OfPods::ALL.into_iter().filter(|set| self.has(*set, family)) {
                let of = if set.is_spoofed() { &listed } else { &own };
                let name = names::of_pods(set, family, nets);
                for net in of {
                    let element = match nets || set.is_spoofed() {
                        true => Element::InterfaceNet(interface.clone(), *net),
                        false => Element::InterfaceAddress(interface.clone(), net.address()),
                    };
                    out.push((name.clone(), element));
                }
            }
        }
        if let Some(mac) = endpoint.mac.filter(|_| self.macs) {
            out.push((names::CHECKED.into(), Element::Interface(interface.clone())));
            out.push((names::MACS.into(), Element::InterfaceMac(interface.clone(), mac)));
        }
        if !self.groups {
            out.extend(dispatch().map(|(map, direction)| {
                let to = leads(&endpoint.class, direction);
                (map, Element::Named(interface.clone(), to))
            }));
        }
        out
    }
}

/// The maps of verdicts, and the direction of each.
pub(super) fn dispatch() -> impl Iterator<Item = (Name, Direction)> {
    let both = [(names::FROM, Direction::Egress), (names::TO, Direction::Ingress)];
    both.into_iter().map(|(name, direction)| (Name::from(name), direction))
}

/// Where the maps lead for a class. Elements are looked up as they are when the rule is asked, so a packet
/// that is in the old rules while a class comes finds the way to chains that have no rules yet: it comes
/// back, and is dropped behind the map. After a goto the base chain would accept it.
pub(super) fn leads(class: &ClassId, direction: Direction) -> Verdict {
    Verdict::Jump(names::class(class, direction))
}

/// The sets of pools with all that they hold: where none is masqueraded nobody asks.
pub(super) fn pools(
    state: &DesiredState,
    families: &[Family],
) -> BTreeMap<Name, (SetSpec, Vec<Element>)> {
    let mut out = BTreeMap::new();
    for family in families.iter().copied().filter(|family| masquerades(state, *family)) {
        let of = |all: bool| {
            let pools = state.pools.iter().filter(|(_, nat)| all || **nat).map(|(cidr, _)| cidr);
            let ranges = shortest(pools.filter(|cidr| cidr.family() == family)).into_iter();
            ranges.map(range).collect::<Vec<Element>>()
        };
        let spec = SetSpec { kind: SetKind::Interval(family), counters: false };
        out.insert(names::all_pools(family), (spec, of(true)));
        out.insert(names::masq_pools(family), (spec, of(false)));
    }
    out
}
