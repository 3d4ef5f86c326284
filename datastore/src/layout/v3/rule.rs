//! Rules: criteria, and namespaces and service accounts folded into selectors.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{At, FieldError};
use super::wire::{Object, Scalar, Text, each, filled, list, selector};
use super::{net, port};
use crate::model::{Action, Family, IcmpMatch, Peer, Ports, Protocol, Rule, Selector, Unevaluable};

/// The label by which an endpoint's namespace is known.
pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
/// The label by which an endpoint's service account is known.
pub(super) const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Labels of an endpoint's namespace, inherited from the profile `kns.<namespace>`.
pub(super) const NAMESPACE_PREFIX: &str = "pcns.";
/// Labels of an endpoint's service account, inherited from `ksa.<namespace>.<account>`.
pub(super) const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";

/// A rule as stored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireRule<'a> {
    #[serde(borrow, default)]
    action: Option<Text<'a>>,
    #[serde(default)]
    ip_version: Option<i64>,
    #[serde(borrow, default)]
    protocol: Option<Scalar<'a>>,
    #[serde(borrow, default)]
    not_protocol: Option<Scalar<'a>>,
    #[serde(default)]
    icmp: Option<Object<WireIcmp>>,
    #[serde(default, rename = "notICMP")]
    not_icmp: Option<Object<WireIcmp>>,
    #[serde(borrow, default)]
    source: Option<Object<WirePeer<'a>>>,
    #[serde(borrow, default)]
    destination: Option<Object<WirePeer<'a>>>,
    #[serde(default)]
    http: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct WireIcmp {
    #[serde(default, rename = "type")]
    icmp_type: Option<i64>,
    #[serde(default)]
    code: Option<i64>,
}

/// `source` or `destination`. Writers before 3.32 always store both, later ones leave empty ones
/// out.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePeer<'a> {
    #[serde(borrow, default)]
    nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    not_nets: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    not_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    namespace_selector: Option<Text<'a>>,
    #[serde(borrow, default)]
    service_accounts: Option<Object<WireServiceAccounts<'a>>>,
    #[serde(borrow, default)]
    ports: Option<Vec<Scalar<'a>>>,
    #[serde(borrow, default)]
    not_ports: Option<Vec<Scalar<'a>>>,
    #[serde(default)]
    services: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct WireServiceAccounts<'a> {
    #[serde(borrow, default)]
    names: Option<Vec<Text<'a>>>,
    #[serde(borrow, default)]
    selector: Option<Text<'a>>,
}

/// A list of rules. `namespace` is that of the policy they belong to; `None` for global policies
/// and profiles.
pub(super) fn rules(
    field: &str,
    list: &Option<Vec<Object<WireRule<'_>>>>,
    namespace: Option<&str>,
) -> Result<Vec<Rule>, FieldError> {
    each(field, list, |wire| rule(wire, namespace))
}

fn rule(wire: &WireRule<'_>, namespace: Option<&str>) -> Result<Rule, FieldError> {
    let nobody = Object::default();
    let source = wire.source.as_ref().unwrap_or(&nobody);
    let destination = wire.destination.as_ref().unwrap_or(&nobody);
    let unevaluable = if source.services.is_some() || destination.services.is_some() {
        Some(Unevaluable::Services)
    } else {
        wire.http.as_ref().map(|_| Unevaluable::Http)
    };
    let rule = Rule {
        action: action(filled(&wire.action).unwrap_or_default()).at("action")?,
        family: wire.ip_version.map(family).transpose().at("ipVersion")?,
        protocol: wire.protocol.as_ref().map(port::protocol).transpose().at("protocol")?,
        not_protocol: wire
            .not_protocol
            .as_ref()
            .map(port::protocol)
            .transpose()
            .at("notProtocol")?,
        icmp: wire.icmp.as_ref().map(icmp).transpose().at("icmp")?.flatten(),
        not_icmp: wire.not_icmp.as_ref().map(icmp).transpose().at("notICMP")?.flatten(),
        source: peer(source, namespace).at("source")?,
        destination: peer(destination, namespace).at("destination")?,
        unevaluable,
    };
    check_ports(&rule)?;
    check_icmp(&rule)?;
    Ok(rule)
}

/// Any case, though every known writer stores a capital: to refuse the policy over a letter would
/// lose its Denies and open traffic, and no other meaning is possible. An action that is missing is
/// refused; only v1 data means Allow by it.
fn action(text: &str) -> Result<Action, FieldError> {
    match text.to_ascii_lowercase().as_str() {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        "log" => Ok(Action::Log),
        "pass" => Ok(Action::Pass),
        _ => Err(FieldError::new(format_args!("{text:?} is not Allow, Deny, Log or Pass"))),
    }
}

fn family(version: i64) -> Result<Family, FieldError> {
    match version {
        4 => Ok(Family::V4),
        6 => Ok(Family::V6),
        _ => Err(FieldError::new(format_args!("{version} is not 4 or 6"))),
    }
}

/// `{}` is no criterion.
fn icmp(wire: &Object<WireIcmp>) -> Result<Option<IcmpMatch>, FieldError> {
    let code = wire
        .code
        .map(u8::try_from)
        .transpose()
        .map_err(|_| FieldError::of("code", "must be between 0 and 255"))?;
    match wire.icmp_type.map(u8::try_from) {
        // 255 is reserved; iptables takes it for "any".
        Some(Ok(icmp_type)) if icmp_type < 255 => Ok(Some(IcmpMatch { icmp_type, code })),
        Some(_) => Err(FieldError::of("type", "must be between 0 and 254")),
        None if code.is_some() => Err(FieldError::of("code", "needs a type")),
        None => Ok(None),
    }
}

/// Numbers need a protocol that has ports. A named port brings its own; without a protocol in the
/// rule it means TCP.
fn check_ports(rule: &Rule) -> Result<(), FieldError> {
    let lists = [
        ("source.ports", &rule.source.ports),
        ("source.notPorts", &rule.source.not_ports),
        ("destination.ports", &rule.destination.ports),
        ("destination.notPorts", &rule.destination.not_ports),
    ];
    for (field, ports) in lists.into_iter().filter(|(_, ports)| !Ports::is_empty(ports)) {
        match rule.protocol {
            Some(protocol) if protocol.has_ports() => {}
            Some(protocol) => {
                return Err(FieldError::of(
                    field,
                    format_args!("protocol {protocol} has no ports"),
                ));
            }
            None if ports.ranges.is_empty() => {}
            None => return Err(FieldError::of(field, "needs protocol TCP, UDP or SCTP")),
        }
    }
    Ok(())
}

fn check_icmp(rule: &Rule) -> Result<(), FieldError> {
    let is_icmp = matches!(rule.protocol, Some(Protocol::ICMP | Protocol::ICMPV6));
    for (field, criterion) in [("icmp", rule.icmp), ("notICMP", rule.not_icmp)] {
        if criterion.is_some() && !is_icmp {
            return Err(FieldError::of(field, "needs protocol ICMP or ICMPv6"));
        }
    }
    match (rule.protocol, rule.family) {
        (Some(Protocol::ICMP), Some(Family::V6)) | (Some(Protocol::ICMPV6), Some(Family::V4)) => {
            Err(FieldError::of("protocol", "does not exist in the rule's ipVersion"))
        }
        _ => Ok(()),
    }
}

fn peer(wire: &WirePeer<'_>, namespace: Option<&str>) -> Result<Peer, FieldError> {
    Ok(Peer {
        nets: each("nets", &wire.nets, net::cidr)?,
        not_nets: each("notNets", &wire.not_nets, net::cidr)?,
        selector: peer_selector(wire, namespace)?,
        not_selector: selector("notSelector", &wire.not_selector)?,
        ports: port::ports("ports", &wire.ports)?,
        not_ports: port::ports("notPorts", &wire.not_ports)?,
    })
}

/// The endpoints that a side of a rule means: its selector, service accounts and namespaces in
/// one. A namespaced policy means its own namespace as soon as it selects endpoints at all, be it
/// by `notSelector`; a rule with only `nets` selects none.
fn peer_selector(
    wire: &WirePeer<'_>,
    namespace: Option<&str>,
) -> Result<Option<Selector>, FieldError> {
    let accounts =
        wire.service_accounts.as_ref().map(accounts_selector).transpose().at("serviceAccounts")?;
    let endpoints = both(accounts.flatten(), selector("selector", &wire.selector)?);
    let selects_namespaces = filled(&wire.namespace_selector).is_some();
    let namespaces = match (selector("namespaceSelector", &wire.namespace_selector)?, namespace) {
        (Some(given), _) => Some(namespaces_selector(&given)?),
        (None, Some(own)) => Some(label_equals(NAMESPACE, own)?),
        (None, None) => None,
    };
    let selects = endpoints.is_some() || filled(&wire.not_selector).is_some() || selects_namespaces;
    Ok(if selects { both(namespaces, endpoints) } else { endpoints })
}

/// `all()` here means every namespace, `global()` what is in none.
fn namespaces_selector(given: &Selector) -> Result<Selector, FieldError> {
    let any = label_present(NAMESPACE)?;
    Ok(given
        .with_label_prefix(NAMESPACE_PREFIX)
        .replacing_all_with(&any)
        .replacing_global_with(&any.not()))
}

fn accounts_selector(
    wire: &Object<WireServiceAccounts<'_>>,
) -> Result<Option<Selector>, FieldError> {
    let by_label = selector("selector", &wire.selector)?
        .map(|given| given.with_label_prefix(SERVICE_ACCOUNT_PREFIX));
    let names = list(&wire.names);
    let by_name = if names.is_empty() {
        None
    } else {
        let names = names.iter().map(|name| &**name);
        let in_names =
            Selector::one_of(SERVICE_ACCOUNT, names).map_err(|e| FieldError::of("names", e))?;
        Some(in_names)
    };
    Ok(both(by_label, by_name))
}

/// The conjunction of what is there.
pub(in crate::layout) fn both(left: Option<Selector>, right: Option<Selector>) -> Option<Selector> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.and(&right)),
        (left, right) => left.or(right),
    }
}

/// `label == "value"`.
pub(super) fn label_equals(label: &str, value: &str) -> Result<Selector, FieldError> {
    Selector::equals(label, value).map_err(FieldError::new)
}

/// `has(label)`.
pub(in crate::layout) fn label_present(label: &str) -> Result<Selector, FieldError> {
    Selector::has(label).map_err(FieldError::new)
}
