//! Objects in the words of nft: for people, and for `nft -c -f`. What is written to the kernel goes
//! another way.

use std::fmt::Write as _;
use std::net::IpAddr;

use calico_datastore::model::{Cidr, Family, PortRange};

use super::contents::{Contents, Set};
use super::object::{
    BaseKind, Chain, CtStates, DispatchKey, Element, Hook, InterfacePattern, Match, Rule, SetKind,
    Side, Statement, Verdict, Way,
};

/// The table as `nft -f` takes it. Elements are sorted.
pub fn table(name: &str, contents: &Contents) -> String {
    let mut out = format!("table inet {name} {{\n");
    for (name, one) in &contents.sets {
        set(&mut out, name, one);
    }
    for (name, one) in &contents.chains {
        chain(&mut out, name, one);
    }
    out.push_str("}\n");
    out
}

fn set(out: &mut String, name: &str, set: &Set) {
    let of = |family| match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let (key, interval) = match set.spec.kind {
        SetKind::Address(family) => (of(family).to_owned(), false),
        SetKind::Interval(family) => (of(family).to_owned(), true),
        SetKind::AddressPort(family) => {
            (format!("{} . inet_proto . inet_service", of(family)), false)
        }
        SetKind::InterfaceAddress(family) => (format!("ifname . {}", of(family)), false),
        SetKind::InterfaceNet(family) => (format!("ifname . {}", of(family)), true),
        SetKind::Interface => ("ifname".to_owned(), false),
        SetKind::InterfaceMac => ("ifname . ether_addr".to_owned(), false),
        SetKind::VerdictsByGroup => ("devgroup : verdict".to_owned(), false),
        SetKind::VerdictsByName => ("ifname : verdict".to_owned(), false),
    };
    let map = matches!(set.spec.kind, SetKind::VerdictsByGroup | SetKind::VerdictsByName);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\t{} {name} {{", if map { "map" } else { "set" });
    let _ = writeln!(out, "\t\ttype {key}");
    if interval {
        out.push_str("\t\tflags interval\n");
    }
    if set.spec.counters {
        out.push_str("\t\tcounter\n");
    }
    let mut elements: Vec<Element> = set.elements.iter().collect();
    elements.sort();
    let elements: Vec<String> = elements.iter().map(element).collect();
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(", "));
    }
    out.push_str("\t}\n");
}

/// An element.
pub fn element(element: &Element) -> String {
    match element {
        Element::Address(address) => address.to_string(),
        Element::Range(first, last) if first == last => first.to_string(),
        Element::Range(first, last) => match prefix(*first, *last) {
            Some(net) => net.to_string(),
            None => format!("{first}-{last}"),
        },
        Element::AddressPort(address, number, port) => {
            format!("{address} . {} . {port}", protocol(*number))
        }
        Element::InterfaceAddress(name, address) => format!("\"{name}\" . {address}"),
        Element::InterfaceNet(name, net) => format!("\"{name}\" . {}", address(net)),
        Element::Interface(name) => format!("\"{name}\""),
        Element::InterfaceMac(name, mac) => format!("\"{name}\" . {mac}"),
        Element::Group(_, to) | Element::Named(_, to) => {
            format!("{} : {}", key(element), verdict(to))
        }
    }
}

/// What an element is found by: of a map, not where it leads.
pub fn key(element: &Element) -> String {
    match element {
        Element::Group(group, _) => group.to_string(),
        Element::Named(name, _) => format!("\"{name}\""),
        other => self::element(other),
    }
}

/// The prefix that is that range.
fn prefix(first: IpAddr, last: IpAddr) -> Option<Cidr> {
    let end = |net: &Cidr| net.nth(net.size().wrapping_sub(1)) == Some(last);
    let all = (0..=Family::of(first).host_len()).filter_map(|len| Cidr::new(first, len).ok());
    all.into_iter().find(|net| net.address() == first && end(net))
}

fn chain(out: &mut String, name: &str, chain: &Chain) {
    let _ = writeln!(out, "\tchain {name} {{");
    if let Some(base) = chain.base {
        let kind = match base.kind {
            BaseKind::Filter => "filter",
            BaseKind::Nat => "nat",
        };
        let hook = match base.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        let priority = base.priority;
        let _ = writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
    }
    for one in &chain.rules {
        let _ = writeln!(out, "\t\t{}", rule(one));
    }
    out.push_str("\t}\n");
}

/// A rule.
pub fn rule(rule: &Rule) -> String {
    let v6 = rule.matches.iter().any(|one| {
        matches!(one, Match::Family(Family::V6) | Match::Protocol { number: 58, not: false })
    });
    let matches = rule.matches.iter().map(|one| one_match(one, v6));
    let statements = rule.statements.iter().map(statement);
    let comment = rule.comment.as_ref().map(|text| format!("comment \"{text}\""));
    matches.chain(statements).chain(comment).collect::<Vec<_>>().join(" ")
}

fn one_match(one: &Match, v6: bool) -> String {
    let not = |not: &bool| if *not { "!= " } else { "" };
    let icmp = if v6 { "icmpv6" } else { "icmp" };
    match one {
        Match::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Match::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Match::Protocol { number, not: n } => {
            format!("meta l4proto {}{}", not(n), protocol(*number))
        }
        // No packet is of two families.
        Match::Address { net, not: true, .. } if net.prefix_len() == 0 => {
            "meta nfproto ipv4 meta nfproto ipv6".to_owned()
        }
        Match::Address { net, .. } if net.prefix_len() == 0 => {
            one_match(&Match::Family(net.family()), v6)
        }
        Match::Address { side: of, net, not: n } => {
            format!("{} {}{}", side(net.family(), *of), not(n), address(net))
        }
        Match::AddressAmong { side: of, nets, not: n } => {
            let mut sorted = nets.clone();
            sorted.sort();
            // nft takes none that another one covers.
            let mut apart: Vec<Cidr> = Vec::new();
            for net in sorted {
                if !apart.last().is_some_and(|last| last.covers(&net)) {
                    apart.push(net);
                }
            }
            let all: Vec<String> = apart.iter().map(address).collect();
            let family = nets.first().map_or(Family::V4, Cidr::family);
            format!("{} {}{{ {} }}", side(family, *of), not(n), all.join(", "))
        }
        Match::AddressIn { side: of, family, set, mask, not: n } => {
            let mask = mask.map(|len| format!("& {} ", netmask(*family, len)));
            format!("{} {}{}@{set}", side(*family, *of), mask.unwrap_or_default(), not(n))
        }
        Match::Ports { side: of, ranges, not: n } => {
            let all: Vec<String> = ranges.iter().copied().map(ports).collect();
            match all.as_slice() {
                [one] => format!("th {} {}{one}", port(*of), not(n)),
                all => format!("th {} {}{{ {} }}", port(*of), not(n), all.join(", ")),
            }
        }
        Match::AddressPortIn { side: of, family, set, not: n } => {
            let (address, port) = (side(*family, *of), port(*of));
            format!("{address} . meta l4proto . th {port} {}@{set}", not(n))
        }
        Match::Icmp { icmp_type, code: None, not: n } => {
            format!("{icmp} type {}{icmp_type}", not(n))
        }
        Match::Icmp { icmp_type, code: Some(code), not: n } => {
            format!("{icmp} type . {icmp} code {}{{ {icmp_type} . {code} }}", not(n))
        }
        Match::IcmpAmong { types } => {
            let all: Vec<String> = types.iter().map(ToString::to_string).collect();
            format!("{icmp} type {{ {} }}", all.join(", "))
        }
        Match::Interface { way, name, not: n } => match name {
            InterfacePattern::Is(name) => format!("{} {}\"{name}\"", interface(*way), not(n)),
            InterfacePattern::Begins(start) => {
                format!("{} {}\"{start}*\"", interface(*way), not(n))
            }
        },
        Match::InterfaceAddressIn { way, family, set, not: n } => {
            let of = match way {
                Way::In => Side::Source,
                Way::Out => Side::Destination,
            };
            format!("{} . {} {}@{set}", interface(*way), side(*family, of), not(n))
        }
        Match::InterfaceIn { way, set, not: n } => {
            format!("{} {}@{set}", interface(*way), not(n))
        }
        Match::SourceMacIn { set, not: n } => format!("iifname . ether saddr {}@{set}", not(n)),
        Match::CtState { states, not: false } => format!("ct state {}", ct_states(*states, ",")),
        Match::CtState { states, not: true } => {
            format!("ct state & ({}) == 0", ct_states(*states, " | "))
        }
        Match::CtDnat => "ct status dnat".to_owned(),
        Match::Mark { mask, value } => format!("meta mark & {mask:#010x} == {value:#010x}"),
        Match::Limit { rate, burst } => format!("limit rate {rate}/second burst {burst} packets"),
    }
}

/// A statement.
pub fn statement(one: &Statement) -> String {
    match one {
        Statement::Counter => "counter".to_owned(),
        Statement::Log { prefix } => format!("log prefix \"{prefix}\" level notice"),
        Statement::LogGroup { group, prefix } => format!("log prefix \"{prefix}\" group {group}"),
        Statement::SetMark { mask, value: 0 } => {
            format!("meta mark set meta mark & {:#010x}", !mask)
        }
        Statement::SetMark { mask, value } => {
            format!("meta mark set meta mark & {:#010x} | {value:#010x}", !mask)
        }
        Statement::Notrack => "notrack".to_owned(),
        Statement::Dispatch { key, map } => {
            let key = match key {
                DispatchKey::InGroup => "iifgroup",
                DispatchKey::OutGroup => "oifgroup",
                DispatchKey::InName => "iifname",
                DispatchKey::OutName => "oifname",
            };
            format!("{key} vmap @{map}")
        }
        Statement::Dnat { to, port } => {
            let port = port.map(PortRange::single);
            format!("dnat {}", translated(*to, port))
        }
        Statement::Snat { to, ports: range, random_fully } => {
            let random = if *random_fully { " fully-random" } else { "" };
            match (to, range) {
                (Some(to), range) => format!("snat {}{random}", translated(*to, *range)),
                (None, Some(range)) => format!("masquerade to :{}{random}", ports(*range)),
                (None, None) => format!("masquerade{random}"),
            }
        }
        Statement::Reject => "reject".to_owned(),
        Statement::Verdict(to) => verdict(to),
    }
}

fn translated(to: IpAddr, range: Option<PortRange>) -> String {
    match (to, range) {
        (IpAddr::V4(to), None) => format!("ip to {to}"),
        (IpAddr::V4(to), Some(range)) => format!("ip to {to}:{}", ports(range)),
        (IpAddr::V6(to), None) => format!("ip6 to {to}"),
        (IpAddr::V6(to), Some(range)) => format!("ip6 to [{to}]:{}", ports(range)),
    }
}

/// A verdict.
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(to) => format!("jump {to}"),
        Verdict::Goto(to) => format!("goto {to}"),
    }
}

fn side(family: Family, side: Side) -> &'static str {
    match (family, side) {
        (Family::V4, Side::Source) => "ip saddr",
        (Family::V4, Side::Destination) => "ip daddr",
        (Family::V6, Side::Source) => "ip6 saddr",
        (Family::V6, Side::Destination) => "ip6 daddr",
    }
}

fn port(side: Side) -> &'static str {
    match side {
        Side::Source => "sport",
        Side::Destination => "dport",
    }
}

fn interface(way: Way) -> &'static str {
    match way {
        Way::In => "iifname",
        Way::Out => "oifname",
    }
}

fn ports(range: PortRange) -> String {
    match (range.first(), range.last()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn address(net: &Cidr) -> String {
    if net.is_host() { net.address().to_string() } else { net.to_string() }
}

fn netmask(family: Family, len: u8) -> IpAddr {
    let full: IpAddr = match family {
        Family::V4 => [255; 4].into(),
        Family::V6 => [255; 16].into(),
    };
    Cidr::new(full, len).map_or(full, |net| net.address())
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "ipv6-icmp".to_owned(),
        132 => "sctp".to_owned(),
        number => number.to_string(),
    }
}

fn ct_states(states: CtStates, between: &str) -> String {
    let all = [
        (CtStates::INVALID, "invalid"),
        (CtStates::ESTABLISHED, "established"),
        (CtStates::RELATED, "related"),
        (CtStates::NEW, "new"),
        (CtStates::UNTRACKED, "untracked"),
    ];
    let named = all.into_iter().filter(|(one, _)| states.0 & one.0 != 0).map(|(_, name)| name);
    named.collect::<Vec<_>>().join(between)
}
