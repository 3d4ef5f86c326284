//! Rules. A criterion is negated by a `!` in front of its name.

use serde::Deserialize;

use super::v3::error::{At, FieldError};
use super::v3::rule::{both, label_present};
use super::v3::wire::{Object, Scalar, Text, each, filled, selector};
use super::v3::{net, port};
use crate::model::{Action, Cidr, Family, IcmpMatch, Peer, Ports, Protocol, Rule, Selector};

/// A rule as stored. `log_prefix` has no effect, as for the original from its version 2.0 on.
#[derive(Debug, Deserialize)]
pub(super) struct WireRule<'a> {
    #[serde(borrow, default)]
    action: Option<Text<'a>>,
    #[serde(default)]
    ip_version: Option<i64>,
    #[serde(borrow, default)]
    protocol: Option<Scalar<'a>>,
    #[serde(borrow, default, rename = "!protocol")]
    not_protocol: Option<Scalar<'a>>,
    #[serde(default)]
    icmp_type: Option<i64>,
    #[serde(default)]
    icmp_code: Option<i64>,
    #[serde(default, rename = "!icmp_type")]
    not_icmp_type: Option<i64>,
    #[serde(default, rename = "!icmp_code")]
    not_icmp_code: Option<i64>,
    #[serde(borrow, default)]
    src_tag: Option<Text<'a>>,
    #[serde(borrow, default)]
    src_net: Option<Text<'a>>,
    #[serde(borrow, default)]
    src_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    src_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    src_ports: Option<Vec<Scalar<'a>>>,
    #[serde(borrow, default, rename = "!src_tag")]
    not_src_tag: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!src_net")]
    not_src_net: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!src_nets")]
    not_src_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default, rename = "!src_selector")]
    not_src_selector: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!src_ports")]
    not_src_ports: Option<Vec<Scalar<'a>>>,
    #[serde(borrow, default)]
    dst_tag: Option<Text<'a>>,
    #[serde(borrow, default)]
    dst_net: Option<Text<'a>>,
    #[serde(borrow, default)]
    dst_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    dst_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    dst_ports: Option<Vec<Scalar<'a>>>,
    #[serde(borrow, default, rename = "!dst_tag")]
    not_dst_tag: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!dst_net")]
    not_dst_net: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!dst_nets")]
    not_dst_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default, rename = "!dst_selector")]
    not_dst_selector: Option<Text<'a>>,
    #[serde(borrow, default, rename = "!dst_ports")]
    not_dst_ports: Option<Vec<Scalar<'a>>>,
}

/// A list of rules.
pub(super) fn rules(
    field: &str,
    list: &Option<Vec<Object<WireRule<'_>>>>,
) -> Result<Vec<Rule>, FieldError> {
    each(field, list, |wire| rule(wire))
}

fn rule(wire: &WireRule<'_>) -> Result<Rule, FieldError> {
    let protocol = |scalar: &Option<Scalar<'_>>| scalar.as_ref().map(port::protocol).transpose();
    let rule = Rule {
        action: action(filled(&wire.action)).at("action")?,
        family: wire.ip_version.map(family).transpose().at("ip_version")?,
        protocol: protocol(&wire.protocol).at("protocol")?,
        not_protocol: protocol(&wire.not_protocol).at("!protocol")?,
        icmp: icmp("", wire.icmp_type, wire.icmp_code)?,
        not_icmp: icmp("!", wire.not_icmp_type, wire.not_icmp_code)?,
        source: source(wire)?,
        destination: destination(wire)?,
        unevaluable: None,
    };
    check_ports(&rule)?;
    check_icmp(&rule)?;
    Ok(rule)
}

/// A rule that says nothing allows. `pass` is what the API calls `next-tier`.
fn action(text: Option<&str>) -> Result<Action, FieldError> {
    let Some(text) = text else { return Ok(Action::Allow) };
    match text.to_ascii_lowercase().as_str() {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        "log" => Ok(Action::Log),
        "next-tier" | "pass" => Ok(Action::Pass),
        _ => Err(FieldError::new(format_args!("{text:?} is not allow, deny, log or next-tier"))),
    }
}

fn family(version: i64) -> Result<Family, FieldError> {
    match version {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        _ => Err(FieldError::new(format_args!("{version} is not 4 or 6"))),
    }
}

fn icmp(not: &str, kind: Option<i64>, code: Option<i64>) -> Result<Option<IcmpMatch>, FieldError> {
    let error = |field: &str, reason: &str| FieldError::of(&format!("{not}{field}"), reason);
    let code = code.map(u8::try_from).transpose();
    let code = code.map_err(|_| error("icmp_code", "must be between 0 and 255"))?;
    match kind.map(u8::try_from) {
        // 255 is reserved; iptables takes it for "any".
        Some(Ok(icmp_type)) if icmp_type < 255 => Ok(Some(IcmpMatch { icmp_type, code })),
        Some(_) => Err(error("icmp_type", "must be between 0 and 254")),
        None if code.is_some() => Err(error("icmp_code", "needs a type")),
        None => Ok(None),
    }
}

fn source(wire: &WireRule<'_>) -> Result<Peer, FieldError> {
    Ok(Peer {
        nets: nets(["src_net", "src_nets"], &wire.src_net, &wire.src_nets)?,
        not_nets: nets(["!src_net", "!src_nets"], &wire.not_src_net, &wire.not_src_nets)?,
        selector: both(
            selector("src_selector", &wire.src_selector)?,
            tag("src_tag", &wire.src_tag)?,
        ),
        not_selector: either(
            selector("!src_selector", &wire.not_src_selector)?,
            tag("!src_tag", &wire.not_src_tag)?,
        ),
        ports: port::ports("src_ports", &wire.src_ports)?,
        not_ports: port::ports("!src_ports", &wire.not_src_ports)?,
    })
}

fn destination(wire: &WireRule<'_>) -> Result<Peer, FieldError> {
    Ok(Peer {
        nets: nets(["dst_net", "dst_nets"], &wire.dst_net, &wire.dst_nets)?,
        not_nets: nets(["!dst_net", "!dst_nets"], &wire.not_dst_net, &wire.not_dst_nets)?,
        selector: both(
            selector("dst_selector", &wire.dst_selector)?,
            tag("dst_tag", &wire.dst_tag)?,
        ),
        not_selector: either(
            selector("!dst_selector", &wire.not_dst_selector)?,
            tag("!dst_tag", &wire.not_dst_tag)?,
        ),
        ports: port::ports("dst_ports", &wire.dst_ports)?,
        not_ports: port::ports("!dst_ports", &wire.not_dst_ports)?,
    })
}

/// Both forms may stand beside each other; any of their prefixes will do.
fn nets(
    [singular, plural]: [&str; 2],
    one: &Option<Text<'_>>,
    many: &Option<Vec<Text<'_>>>,
) -> Result<Vec<Cidr>, FieldError> {
    let mut nets = each(plural, many, net::cidr)?;
    if let Some(one) = one.as_ref().filter(|one| !one.is_empty()) {
        nets.push(net::cidr(one).at(singular)?);
    }
    Ok(nets)
}

/// A tag is a label without a value.
fn tag(field: &str, tag: &Option<Text<'_>>) -> Result<Option<Selector>, FieldError> {
    filled(tag).map(label_present).transpose().at(field)
}

/// Neither of two is meant: their union is not.
fn either(left: Option<Selector>, right: Option<Selector>) -> Option<Selector> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.or(&right)),
        (left, right) => left.or(right),
    }
}

/// Ports need a protocol that has some. A named port brings its own; without a protocol in the rule
/// it means TCP.
fn check_ports(rule: &Rule) -> Result<(), FieldError> {
    let lists = [
        ("src_ports", &rule.source.ports),
        ("!src_ports", &rule.source.not_ports),
        ("dst_ports", &rule.destination.ports),
        ("!dst_ports", &rule.destination.not_ports),
    ];
    for (field, ports) in lists.into_iter().filter(|(_, ports)| !Ports::is_empty(ports)) {
        match rule.protocol {
            Some(protocol) if protocol.has_ports() => {}
            Some(protocol) => {
                let reason = format_args!("protocol {protocol} has no ports");
                return Err(FieldError::of(field, reason));
            }
            None if ports.ranges.is_empty() => {}
            None => return Err(FieldError::of(field, "needs protocol tcp, udp or sctp")),
        }
    }
    Ok(())
}

fn check_icmp(rule: &Rule) -> Result<(), FieldError> {
    let is_icmp = matches!(rule.protocol, Some(Protocol::ICMP | Protocol::ICMPV6));
    for (field, criterion) in [("icmp_type", rule.icmp), ("!icmp_type", rule.not_icmp)] {
        if criterion.is_some() && !is_icmp {
            return Err(FieldError::of(field, "needs protocol icmp or icmpv6"));
        }
    }
    match (rule.protocol, rule.family) {
        (Some(Protocol::ICMP), Some(Family::V6)) | (Some(Protocol::ICMPV6), Some(Family::V4)) => {
            Err(FieldError::of("protocol", "does not exist in the rule's ip_version"))
        }
        _ => Ok(()),
    }
}
