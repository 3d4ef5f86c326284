//! Rules in words, and why one does not match. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_datastore::model::{Action, Cidr, Family, PortRange, Protocol};
use imbl::OrdMap;

use crate::desired::verdict::{Criterion, Flow, Miss};
use crate::desired::{ActiveRule, AddressSet, Member, SetId, SideMatch};

/// The sets that rules name.
type Sets = OrdMap<SetId, AddressSet>;

/// How many prefixes or ports are named.
const NAMED: usize = 6;

/// `allow`, `deny`, `log` or `pass`.
pub(super) fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Log => "log",
        Action::Pass => "pass",
    }
}

/// The rule: `allow tcp from role == "frontend" to port 80,8000-8100`.
pub(super) fn rule(rule: &ActiveRule, sets: &Sets) -> String {
    let mut text = action(rule.action).to_owned();
    // Writing to a String cannot fail.
    let _ = criteria(&mut text, rule, sets);
    text
}

fn criteria(text: &mut String, rule: &ActiveRule, sets: &Sets) -> std::fmt::Result {
    if let Some(family) = rule.family {
        write!(text, " {family}")?;
    }
    if let Some(protocol) = rule.protocol {
        write!(text, " {protocol}")?;
    }
    if let Some(protocol) = rule.not_protocol {
        write!(text, " not {protocol}")?;
    }
    for (icmp, not) in [(rule.icmp, ""), (rule.not_icmp, "not ")] {
        if let Some(icmp) = icmp {
            write!(text, " {not}type {}", icmp.icmp_type)?;
            if let Some(code) = icmp.code {
                write!(text, " code {code}")?;
            }
        }
    }
    for (word, side) in [("from", &rule.source), ("to", &rule.destination)] {
        let parts = side_words(side, sets);
        if !parts.is_empty() {
            write!(text, " {word} {}", parts.join(" and "))?;
        }
    }
    Ok(())
}

fn side_words(side: &SideMatch, sets: &Sets) -> Vec<String> {
    let mut parts = Vec::new();
    if !side.nets.is_empty() {
        parts.push(some(&side.nets, Cidr::to_string));
    }
    if !side.not_nets.is_empty() {
        parts.push(format!("not {}", some(&side.not_nets, Cidr::to_string)));
    }
    parts.extend(side.sets.iter().map(|id| selector(sets, id)));
    parts.extend(side.not_sets.iter().map(|id| format!("not ({})", selector(sets, id))));
    let ports = |ports: &[PortRange], named: &[SetId]| {
        let mut list = Vec::new();
        if !ports.is_empty() {
            list.push(some(ports, range));
        }
        list.extend(named.iter().map(|id| named_port(sets, id)));
        list.join(" or ")
    };
    let (yes, no) =
        (ports(&side.ports, &side.named_ports), ports(&side.not_ports, &side.not_named_ports));
    if !yes.is_empty() {
        parts.push(format!("port {yes}"));
    }
    if !no.is_empty() {
        parts.push(format!("not port {no}"));
    }
    parts
}

fn some<T>(list: &[T], text: impl Fn(&T) -> String) -> String {
    let first: Vec<_> = list.iter().take(NAMED).map(text).collect();
    match list.len().saturating_sub(NAMED) {
        0 => first.join(","),
        more => format!("{} and {more} more", first.join(",")),
    }
}

fn range(ports: &PortRange) -> String {
    match (ports.first(), ports.last()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

/// The selector that a set stands for.
pub(super) fn selector(sets: &Sets, id: &SetId) -> String {
    sets.get(id).map_or_else(|| id.to_string(), |set| set.selector.to_string())
}

/// `http`, or `http of role == "web"`: what the set of a named port stands for.
fn named_port(sets: &Sets, id: &SetId) -> String {
    let whole = selector(sets, id);
    let mut parts = whole.rsplitn(3, "; ");
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(_), Some("all()")) => name.to_owned(),
        (Some(name), Some(_), Some(selector)) => format!("{name} of {selector}"),
        _ => whole,
    }
}

/// Why the rule does not match the flow: `the protocol is udp`.
pub(super) fn miss(miss: Miss<'_>, rule: &ActiveRule, flow: &Flow, sets: &Sets) -> String {
    let protocol = protocol(flow.protocol);
    match miss {
        Miss::Family => format!("the packet is {}", Family::of(flow.source)),
        Miss::Protocol | Miss::NotProtocol => format!("the protocol is {protocol}"),
        Miss::NoIcmp => format!("{protocol} has no such types"),
        Miss::Icmp | Miss::NotIcmp => match flow.icmp {
            Some((kind, code)) => format!("the type is {kind} and the code {code}"),
            None => format!("{protocol} has no types"),
        },
        Miss::NoPorts => format!("{protocol} has no ports that rules can name"),
        Miss::Source(criterion) => {
            let port = flow.ports.map(|(from, _)| from);
            side_miss(criterion, &rule.source, ("source", flow.source, port), sets)
        }
        Miss::Destination(criterion) => {
            let port = flow.ports.map(|(_, to)| to);
            side_miss(criterion, &rule.destination, ("destination", flow.destination, port), sets)
        }
    }
}

fn side_miss(
    criterion: Criterion<'_>,
    side: &SideMatch,
    (word, address, port): (&str, IpAddr, Option<u16>),
    sets: &Sets,
) -> String {
    let port = || port.map_or_else(|| "no port".to_owned(), |port| format!("{word} port {port}"));
    match criterion {
        Criterion::Nets => {
            format!("{word} {address} is not in {}", some(&side.nets, Cidr::to_string))
        }
        Criterion::NotNets => {
            format!("{word} {address} is in {}", some(&side.not_nets, Cidr::to_string))
        }
        Criterion::ForeignNotNets => {
            "its prefixes are of the other family, so it is not for this one".to_owned()
        }
        Criterion::Set(id) => {
            let (selector, members) = (selector(sets, id), members(sets, id));
            format!("{word} {address} is not in {selector} ({members})")
        }
        Criterion::NotSet(id) => format!("{word} {address} is in {}", selector(sets, id)),
        Criterion::Ports => {
            let one = SideMatch {
                ports: side.ports.clone(),
                named_ports: side.named_ports.clone(),
                ..SideMatch::default()
            };
            let wanted = side_words(&one, sets).join("");
            let wanted = wanted.strip_prefix("port ").unwrap_or(&wanted);
            let called = called(sets, &side.named_ports, address);
            format!("{} is not {wanted}{called}", port())
        }
        Criterion::NotPorts => format!("it is {}", port()),
        Criterion::NotNamedPort(id) => {
            format!("{} is {}", port(), named_port(sets, id))
        }
    }
}

/// Which ports of the address have one of the names: ` (which is 8080 there)`.
fn called(sets: &Sets, named: &[SetId], address: IpAddr) -> String {
    let sets = named.iter().filter_map(|id| sets.get(id));
    let numbers = sets.flat_map(|set| {
        let of_address = set.members.iter().filter_map(|member| match member {
            Member::Port(of, _, port) if *of == address => Some(*port),
            _ => None,
        });
        of_address.collect::<Vec<_>>()
    });
    let mut numbers: Vec<String> = numbers.map(|port| port.to_string()).collect();
    numbers.dedup();
    match (named.is_empty(), numbers.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(" (a name that {address} has not)"),
        (false, false) => format!(" (which is {} there)", numbers.join(",")),
    }
}

fn members(sets: &Sets, id: &SetId) -> String {
    match sets.get(id).map_or(0, |set| set.members.len()) {
        0 => "nobody is".to_owned(),
        1 => "1 member".to_owned(),
        many => format!("{many} members"),
    }
}

/// A protocol's name.
pub(super) fn protocol(protocol: Option<Protocol>) -> String {
    protocol.map_or_else(|| "0".to_owned(), |protocol| protocol.to_string())
}
