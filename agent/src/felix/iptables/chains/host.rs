//! The chains of host endpoints: what the host's own interfaces let in, out and through.
//!
//! They are there only when a host endpoint is in force. The order in which a packet meets them is that
//! of the original:
//!
//! * `raw` PREROUTING and OUTPUT: policies that are not to be tracked. What they allow is marked.
//! * `mangle` PREROUTING: policies asked before the destination is translated. The same.
//! * `filter` INPUT and OUTPUT: what bears the mark passes, all else is asked for the host itself:
//!   fail-safe ports, tiers, profiles, drop.
//! * `filter` FORWARD: the way in, unless it bears the mark; then the policies of pods; then the way
//!   out. Interfaces without a policy that applies on forward leave a packet as it is.
//! * `mangle` POSTROUTING: what the host sends to an address that was translated: only here it is
//!   known by which interface it leaves.

use calico_datastore::model::{Family, InterfaceName};

use super::spoof::ROUTER_ADVERTISEMENT;
use super::{Asked, interfaces, nd_lines};
use crate::config::{AllowAction, Failsafe, Settings};
use crate::desired::{DesiredState, LocalHostEndpoint, TierAcl};
use crate::felix::hosts::choose::{ALL, Chosen, LOOPBACK};
use crate::felix::iptables::marks;
use crate::felix::iptables::names::{self, HostChain};
use crate::felix::iptables::rules::{Style, joined};
use crate::felix::iptables::save::Table;
use crate::felix::ruleset::Direction;
use crate::felix::ruleset::deny::DeniedBy;

/// Most ports that one rule takes.
const PORTS: usize = 15;

/// What the chains of host endpoints are made of.
#[derive(Clone, Copy, Debug)]
pub struct Hosts<'a> {
    /// The endpoints, and what they ask.
    pub state: &'a DesiredState,
    /// Whose interfaces are whose.
    pub chosen: &'a Chosen,
    /// The family.
    pub style: &'a Style,
}

type Chains = Vec<(String, Vec<String>)>;

impl Hosts<'_> {
    /// The chains of `table` that are there for host endpoints only.
    pub fn chains(self, table: Table) -> Chains {
        match table {
            _ if self.chosen.is_empty() => Chains::new(),
            Table::Raw => self.raw(),
            Table::Mangle => self.mangle(),
            Table::Nat => Chains::new(),
            Table::Filter => self.filter(),
        }
    }

    /// What comes first in `raw` PREROUTING, and what last: the packet may bear marks of a tunnel that
    /// it came out of, and what pods send never gets behind the middle.
    pub fn prerouting(self, lines: &mut Vec<String>) {
        if self.chosen.is_empty() {
            return;
        }
        lines.insert(0, marks::clear(self.style.marks.all()));
        if self.any(|endpoint| !endpoint.untracked.ingress.is_empty()) {
            lines.extend(self.untracked(dispatch_name(Direction::Ingress)));
        }
    }

    fn raw(self) -> Chains {
        let mut out = Chains::new();
        let mut output = vec![marks::clear(self.style.marks.all())];
        for direction in Direction::ALL {
            let kind = HostChain::Own(direction);
            let tiers = |endpoint: &LocalHostEndpoint| match direction {
                Direction::Ingress => endpoint.untracked.ingress.clone(),
                Direction::Egress => endpoint.untracked.egress.clone(),
            };
            if !self.any(|endpoint| !tiers(endpoint).is_empty()) {
                continue;
            }
            for (name, endpoint) in self.endpoints() {
                let tiers = tiers(endpoint);
                if tiers.is_empty() {
                    continue;
                }
                let mut lines = vec![format!("--jump {}", names::failsafe(direction))];
                lines.push(marks::clear(self.style.marks.verdicts()));
                lines.extend(self.asked(Table::Raw).tiers(&tiers, direction, false));
                out.push((names::host(kind, name), lines));
            }
            out.push((names::failsafe(direction), self.failsafes(direction, true)));
            let lines = self.dispatch(kind, |endpoint| !tiers(endpoint).is_empty());
            out.push((dispatch_name(direction).to_owned(), lines));
            if direction == Direction::Egress {
                output.extend(self.untracked(dispatch_name(direction)));
            }
        }
        out.push(("cali-OUTPUT".to_owned(), output));
        out
    }

    /// Asks the policies that are not to be tracked.
    fn untracked(self, dispatch: &str) -> [String; 4] {
        let marks = self.style.marks;
        [
            format!("--jump {dispatch}"),
            marks::clear(marks.all() & !marks.accept),
            joined(&marks::has(marks.accept), "--jump CT --notrack"),
            joined(&marks::has(marks.accept), "--jump ACCEPT"),
        ]
    }

    fn mangle(self) -> Chains {
        let marks = self.style.marks;
        let mut out = Chains::new();
        let has_pre_dnat = |endpoint: &LocalHostEndpoint| !endpoint.pre_dnat.is_empty();
        if self.any(has_pre_dnat) {
            let direction = Direction::Ingress;
            for (name, endpoint) in self.endpoints().filter(|(_, e)| has_pre_dnat(e)) {
                let mut lines = vec![format!("--jump {}", names::failsafe(direction))];
                lines.push(marks::clear(marks.verdicts()));
                lines.extend(self.asked(Table::Mangle).tiers(&endpoint.pre_dnat, direction, false));
                out.push((names::host(HostChain::Own(direction), name), lines));
            }
            out.push((names::failsafe(direction), self.failsafes(direction, false)));
            let lines = self.dispatch(HostChain::Own(direction), has_pre_dnat);
            out.push((dispatch_name(direction).to_owned(), lines));
            let allow = target(self.state.settings.mangle_allow);
            let accepted = joined(&marks::has(marks.accept), allow);
            let prerouting = vec![
                format!("-m conntrack --ctstate RELATED,ESTABLISHED {allow}"),
                accepted.clone(),
                format!("--jump {}", dispatch_name(direction)),
                accepted,
            ];
            out.push(("cali-PREROUTING".to_owned(), prerouting));
        }
        let direction = Direction::Egress;
        for (name, endpoint) in self.endpoints() {
            let lines = self.own(endpoint, direction, Table::Mangle, AllowAction::Accept);
            out.push((names::host(HostChain::Own(direction), name), lines));
        }
        out.push((names::failsafe(direction), self.failsafes(direction, false)));
        let lines = self.dispatch(HostChain::Own(direction), |_| true);
        out.push((dispatch_name(direction).to_owned(), lines));
        let mut postrouting =
            vec![joined(&marks::lacks(marks.scratch0), "--jump RETURN"), marks::clear(marks.all())];
        let pods = interfaces(&self.state.settings);
        postrouting.extend(pods.map(|pods| format!("-o {pods} --jump RETURN")));
        postrouting.push(format!("--jump {}", dispatch_name(direction)));
        out.push(("cali-POSTROUTING".to_owned(), postrouting));
        out
    }

    fn filter(self) -> Chains {
        let mut out = Chains::new();
        let allow = self.state.settings.filter_allow;
        for direction in Direction::ALL {
            let (own, forward) = (HostChain::Own(direction), HostChain::Forward(direction));
            for (name, endpoint) in self.endpoints() {
                let lines = self.own(endpoint, direction, Table::Filter, allow);
                out.push((names::host(own, name), lines));
                let tiers = forward_tiers(endpoint, direction);
                if !tiers.is_empty() {
                    out.push((names::host(forward, name), self.forward(tiers, direction)));
                }
            }
            out.push((names::failsafe(direction), self.failsafes(direction, false)));
            out.push((dispatch_name(direction).to_owned(), self.dispatch(own, |_| true)));
            let lines =
                self.dispatch(forward, |endpoint| !forward_tiers(endpoint, direction).is_empty());
            out.push((forward_name(direction).to_owned(), lines));
        }
        out.push(("cali-OUTPUT".to_owned(), self.output()));
        out.push((FORWARD_END.to_owned(), self.forward_end()));
        out
    }

    /// One direction of what the host itself receives or sends. It returns with the accept bit set,
    /// or drops.
    fn own(
        self,
        endpoint: &LocalHostEndpoint,
        direction: Direction,
        table: Table,
        allow: AllowAction,
    ) -> Vec<String> {
        let tiers = match direction {
            Direction::Ingress => &endpoint.normal.ingress,
            Direction::Egress => &endpoint.normal.egress,
        };
        let established = "-m conntrack --ctstate RELATED,ESTABLISHED";
        let mut lines = match allow {
            AllowAction::Accept => vec![format!("{established} --jump ACCEPT")],
            AllowAction::Return => self.pass_on(established).into(),
        };
        lines.extend(self.invalid("--jump DROP"));
        lines.push(format!("--jump {}", names::failsafe(direction)));
        lines.push(marks::clear(self.style.marks.verdicts()));
        let asked = self.asked(table);
        lines.extend(asked.tiers(tiers, direction, true));
        lines.extend(asked.profiles(&endpoint.profiles, direction));
        lines.push(asked.denied(direction, DeniedBy::End));
        lines
    }

    /// One direction of what passes through. It returns with the accept bit set, or drops.
    fn forward(self, tiers: &[TierAcl], direction: Direction) -> Vec<String> {
        // Not accepted here: of a packet to a pod it is still to be asked whether the pod is there.
        let mut lines: Vec<String> =
            self.pass_on("-m conntrack --ctstate RELATED,ESTABLISHED").into();
        lines.extend(self.invalid(&self.style.drops(direction)));
        lines.push(marks::clear(self.style.marks.verdicts()));
        let asked = self.asked(Table::Filter);
        lines.extend(asked.tiers(tiers, direction, true));
        // What every tier passes on no profile denies.
        lines.push(marks::put(self.style.marks.accept));
        lines
    }

    fn pass_on(self, matches: &str) -> [String; 2] {
        [joined(matches, &marks::put(self.style.marks.accept)), joined(matches, "--jump RETURN")]
    }

    fn invalid(self, target: &str) -> Option<String> {
        let drops = !self.state.settings.allow_conntrack_invalid;
        drops.then(|| format!("-m conntrack --ctstate INVALID {target}"))
    }

    fn output(self) -> Vec<String> {
        let marks = self.style.marks;
        let translated = "-m conntrack --ctstate DNAT";
        let accepted = joined(&marks::has(marks.accept), target(self.state.settings.filter_allow));
        let mut lines = vec![
            accepted.clone(),
            marks::clear(marks.all()),
            // By which interface it leaves is told only in POSTROUTING.
            joined(translated, &marks::put(marks.scratch0)),
            joined(translated, "--jump RETURN"),
        ];
        let pods = interfaces(&self.state.settings);
        lines.extend(pods.map(|pods| format!("-o {pods} --jump RETURN")));
        lines.push(format!("--jump {}", dispatch_name(Direction::Egress)));
        lines.push(marks::clear(marks.all() & !marks.accept));
        lines.push(accepted);
        lines
    }

    fn forward_end(self) -> Vec<String> {
        let marks = self.style.marks;
        vec![
            format!("--jump {}", forward_name(Direction::Egress)),
            marks::clear(marks.all() & !marks.accept),
            joined(&marks::has(marks.accept), target(self.state.settings.filter_allow)),
        ]
    }

    /// The rules that let fail-safe ports pass, and that without which nobody is found on the link:
    /// what ARP is for IPv4 no rule sees, and it must not depend on policies for IPv6. `untracked`:
    /// nothing is known of connections, so the answers to those of the other direction pass here, too.
    fn failsafes(self, direction: Direction, untracked: bool) -> Vec<String> {
        let Settings { failsafe_inbound, failsafe_outbound, .. } = &*self.state.settings;
        let (own, other) = match direction {
            Direction::Ingress => (failsafe_inbound, failsafe_outbound),
            Direction::Egress => (failsafe_outbound, failsafe_inbound),
        };
        let peer = match direction {
            Direction::Ingress => "--source",
            Direction::Egress => "--destination",
        };
        let mut lines = Vec::new();
        if self.style.family == Family::V6 {
            lines.extend(nd_lines("", "--jump ACCEPT"));
            // The host, unlike a pod, learns its routes from routers, and may be one.
            lines.push(format!(
                "-p icmpv6 -m icmp6 --icmpv6-type {ROUTER_ADVERTISEMENT} --jump ACCEPT"
            ));
        }
        lines.extend(accepting(own, self.style.family, peer, "--destination-ports"));
        if untracked {
            lines.extend(accepting(other, self.style.family, peer, "--source-ports"));
        }
        lines
    }

    /// Finds the endpoint of the interface: those for which `has` says yes have a chain of that kind.
    fn dispatch(self, kind: HostChain, has: impl Fn(&LocalHostEndpoint) -> bool) -> Vec<String> {
        let way = match kind.direction() {
            Direction::Ingress => "-i",
            Direction::Egress => "-o",
        };
        let others = self.of_all().filter(|endpoint| has(endpoint));
        let mut lines = Vec::new();
        for (interface, endpoint) in self.named() {
            if has(endpoint) {
                let chain = names::host(kind, interface.as_str());
                lines.push(format!("{way} {interface} --goto {chain}"));
            } else if others.is_some() {
                lines.push(format!("{way} {interface} --jump RETURN"));
            }
        }
        if others.is_some() {
            let loopback = [LOOPBACK.to_owned()].into_iter();
            let excluded = self.chosen.excluded.iter().map(ToString::to_string);
            let not = loopback.chain(excluded).chain(interfaces(&self.state.settings));
            lines.extend(not.map(|interface| format!("{way} {interface} --jump RETURN")));
            lines.push(format!("--goto {}", names::host(kind, ALL)));
        }
        lines
    }

    fn asked(&self, table: Table) -> Asked<'_> {
        let host = &self.state.host_endpoints;
        Asked { style: self.style.of(table), policies: &host.policies, profiles: &host.profiles }
    }

    /// The endpoints of one interface each.
    fn named(&self) -> impl Iterator<Item = (&InterfaceName, &LocalHostEndpoint)> {
        let all = &self.state.host_endpoints.endpoints;
        self.chosen.interfaces.iter().filter_map(|(name, id)| Some((name, &**all.get(id)?)))
    }

    /// The endpoint of all other interfaces.
    fn of_all(&self) -> Option<&LocalHostEndpoint> {
        let id = self.chosen.all.as_ref()?;
        self.state.host_endpoints.endpoints.get(id).map(|endpoint| &**endpoint)
    }

    /// Every endpoint with the name that its chains are called by.
    fn endpoints(&self) -> impl Iterator<Item = (&str, &LocalHostEndpoint)> {
        let named = self.named().map(|(name, endpoint)| (name.as_str(), endpoint));
        named.chain(self.of_all().map(|endpoint| (ALL, endpoint)))
    }

    fn any(&self, what: impl Fn(&LocalHostEndpoint) -> bool) -> bool {
        self.endpoints().any(|(_, endpoint)| what(endpoint))
    }
}

/// Where the chains for forwarded packets end.
pub const FORWARD_END: &str = "cali-forward-end";

/// The chain that finds the endpoint of what the host itself receives or sends.
pub(super) fn dispatch_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "cali-from-host-endpoint",
        Direction::Egress => "cali-to-host-endpoint",
    }
}

/// The chain that finds the endpoint of what comes in, or goes out, to be forwarded.
pub(super) fn forward_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "cali-from-hep-forward",
        Direction::Egress => "cali-to-hep-forward",
    }
}

fn forward_tiers(endpoint: &LocalHostEndpoint, direction: Direction) -> &[TierAcl] {
    match direction {
        Direction::Ingress => &endpoint.forward.ingress,
        Direction::Egress => &endpoint.forward.egress,
    }
}

fn target(allow: AllowAction) -> &'static str {
    match allow {
        AllowAction::Accept => "--jump ACCEPT",
        AllowAction::Return => "--jump RETURN",
    }
}

/// Rules that accept these ports; those with the same protocol and peer share a rule.
fn accepting(all: &[Failsafe], family: Family, peer: &str, ports: &str) -> Vec<String> {
    let mut sorted: Vec<&Failsafe> = all.iter().filter(|one| one.is_of(family)).collect();
    sorted.sort();
    sorted.dedup();
    let same = |a: &&Failsafe, b: &&Failsafe| (a.protocol, a.net) == (b.protocol, b.net);
    let mut lines = Vec::new();
    for group in sorted.chunk_by(same).flat_map(|group| group.chunks(PORTS)) {
        let Failsafe { protocol, net, .. } = group[0];
        let list: Vec<String> = group.iter().map(|one| one.port.to_string()).collect();
        let net = net.filter(|net| net.prefix_len() > 0).map(|net| format!(" {peer} {net}"));
        let net = net.unwrap_or_default();
        let list = list.join(",");
        lines.push(format!("-p {protocol}{net} -m multiport {ports} {list} --jump ACCEPT"));
    }
    lines
}
