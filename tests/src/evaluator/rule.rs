//! One rule: its JSON, and whether a packet is what it speaks of.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::net::Net;
use super::selector::Selector;
use super::{Members, Packet};

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Accepted.
    Allow,
    /// Dropped.
    Deny,
    /// On to the next tier.
    Pass,
    /// Noted; the next rule decides.
    Log,
}

/// An entry of a port list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Both ends are meant.
    Range(u16, u16),
    /// What endpoints call so.
    Named(String),
}

/// One side of a rule, selectors already rewritten for the namespace of its policy.
#[derive(Clone, Debug, Default)]
struct Entity {
    nets: Vec<Net>,
    not_nets: Vec<Net>,
    selector: Option<Selector>,
    not_selector: Option<Selector>,
    ports: Vec<Port>,
    not_ports: Vec<Port>,
}

/// ICMP type, and a code if that matters.
type Icmp = (u8, Option<u8>);

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// It asks for something that cannot be known here: it never matches.
    unknowable: bool,
    ip_version: Option<u64>,
    protocol: Option<u8>,
    not_protocol: Option<u8>,
    icmp: Option<Icmp>,
    not_icmp: Option<Icmp>,
    source: Entity,
    destination: Entity,
}

impl Rule {
    /// Reads a rule of a policy in `namespace`, which is `None` for global policies and profiles.
    ///
    /// # Errors
    /// When it is no rule; the whole object counts as absent then.
    pub fn parse(json: &Value, namespace: Option<&str>) -> Result<Self> {
        let action = match json["action"].as_str() {
            Some("Allow") => Action::Allow,
            Some("Deny") => Action::Deny,
            Some("Pass") => Action::Pass,
            Some("Log") => Action::Log,
            other => bail!("action {other:?}"),
        };
        let ip_version = match &json["ipVersion"] {
            Value::Null => None,
            number => Some(number.as_u64().filter(|v| [4, 6].contains(v)).context("ipVersion")?),
        };
        let protocol = protocol(&json["protocol"])?;
        ensure!((protocol, ip_version) != (Some(ICMP), Some(6)), "ICMP over IPv6");
        ensure!((protocol, ip_version) != (Some(ICMPV6), Some(4)), "ICMPv6 over IPv4");
        let source = Entity::parse(&json["source"], namespace)?;
        let destination = Entity::parse(&json["destination"], namespace)?;
        let ports = || {
            let sides = [&source, &destination].into_iter();
            sides.flat_map(|side| side.ports.iter().chain(&side.not_ports))
        };
        // Without a protocol a name is one of a TCP port, and a number is none of anything.
        let only_names = ports().all(|port| matches!(port, Port::Named(_)));
        ensure!(
            ports().next().is_none()
                || matches!(protocol, Some(TCP | UDP | SCTP))
                || (protocol.is_none() && only_names),
            "ports of protocol {protocol:?}"
        );
        Ok(Self {
            action,
            unknowable: (!json["http"].is_null() && action != Action::Deny)
                || !json["source"]["services"].is_null()
                || !json["destination"]["services"].is_null(),
            ip_version,
            protocol,
            not_protocol: self::protocol(&json["notProtocol"])?,
            icmp: icmp(&json["icmp"])?,
            not_icmp: icmp(&json["notICMP"])?,
            source,
            destination,
        })
    }

    /// True when it speaks of this packet.
    pub fn matches(&self, packet: &Packet, members: &Members) -> bool {
        let is_icmp = |(kind, code): Icmp| {
            packet.icmp.is_some_and(|(k, c)| k == kind && code.is_none_or(|code| code == c))
        };
        !self.unknowable
            && self.ip_version.is_none_or(|v| (v == 4) == packet.from.is_ipv4())
            && self.protocol.is_none_or(|p| p == packet.protocol)
            && self.not_protocol.is_none_or(|p| p != packet.protocol)
            && self.icmp.is_none_or(is_icmp)
            && self.not_icmp.is_none_or(|not| !is_icmp(not))
            && self.side(&self.source, packet.from, packet.source_port, packet, members)
            && self.side(&self.destination, packet.to, packet.port, packet, members)
    }

    fn side(
        &self,
        side: &Entity,
        address: IpAddr,
        port: Option<u16>,
        packet: &Packet,
        members: &Members,
    ) -> bool {
        // A list of nets of the other family alone takes the rule away from this family, also when
        // the list is negated.
        for list in [&side.nets, &side.not_nets] {
            if !list.is_empty() && !list.iter().any(|net| net.is_v4() == packet.from.is_ipv4()) {
                return false;
            }
        }
        let named = |name: &str| {
            let protocol = self.protocol.filter(|p| [TCP, UDP, SCTP].contains(p)).unwrap_or(TCP);
            protocol == packet.protocol
                && port.is_some_and(|port| {
                    members.has_port(side.selector.as_ref(), name, address, protocol, port)
                })
        };
        let in_ports = |list: &[Port]| {
            list.iter().any(|entry| match entry {
                Port::Range(low, high) => port.is_some_and(|p| (*low..=*high).contains(&p)),
                Port::Named(name) => named(name),
            })
        };
        (side.nets.is_empty() || side.nets.iter().any(|net| net.contains(address)))
            && !side.not_nets.iter().any(|net| net.contains(address))
            && side.selector.as_ref().is_none_or(|s| members.contains(s, address))
            && side.not_selector.as_ref().is_none_or(|s| !members.contains(s, address))
            && (side.ports.is_empty() || in_ports(&side.ports))
            && !in_ports(&side.not_ports)
    }
}

impl Entity {
    fn parse(json: &Value, namespace: Option<&str>) -> Result<Self> {
        let nets = |value: &Value| -> Result<Vec<Net>> {
            list(value)?.iter().map(|net| Net::parse(net.as_str().context("net")?)).collect()
        };
        let ports =
            |value: &Value| -> Result<Vec<Port>> { list(value)?.iter().map(port).collect() };
        let selector = |value: &Value| -> Result<Option<Selector>> {
            text(value)?.map(Selector::parse).transpose()
        };
        let has_namespace = Selector::Has(NAMESPACE.to_owned());
        let outside = Selector::Not(Box::new(has_namespace.clone()));
        let namespace_selector = selector(&json["namespaceSelector"])?;
        let namespace_term = match (&namespace_selector, namespace) {
            (Some(given), _) => Some(given.prefixed("pcns.").replacing(&has_namespace, &outside)),
            (None, Some(name)) => Some(Selector::equal(NAMESPACE, name)),
            (None, None) => None,
        };
        let accounts = service_accounts(&json["serviceAccounts"])?;
        let own = both(accounts, selector(&json["selector"])?);
        let not_selector = selector(&json["notSelector"])?;
        let about_endpoints =
            own.is_some() || not_selector.is_some() || namespace_selector.is_some();
        let selector = if about_endpoints { both(namespace_term, own) } else { own };
        // A selector and its exception mean whom the one matches and the other does not.
        let (selector, not_selector) = match (selector, not_selector) {
            (Some(meant), Some(except)) => {
                (both(Some(meant), Some(Selector::Not(Box::new(except)))), None)
            }
            apart => apart,
        };
        Ok(Self {
            nets: nets(&json["nets"])?,
            not_nets: nets(&json["notNets"])?,
            selector,
            not_selector,
            ports: ports(&json["ports"])?,
            not_ports: ports(&json["notPorts"])?,
        })
    }
}

/// The label that holds an endpoint's namespace.
pub(super) const NAMESPACE: &str = "projectcalico.org/namespace";
/// The label that holds an endpoint's service account.
pub(super) const ACCOUNT: &str = "projectcalico.org/serviceaccount";

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// `serviceAccountSelector`, or the selector among a rule's service accounts.
pub(super) fn account_selector(text: &str) -> Result<Selector> {
    Ok(Selector::parse(text)?.prefixed("pcsa."))
}

fn service_accounts(json: &Value) -> Result<Option<Selector>> {
    let names: Vec<String> =
        list(&json["names"])?.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect();
    let names = (!names.is_empty()).then(|| Selector::In(ACCOUNT.to_owned(), names));
    let selector = text(&json["selector"])?.map(account_selector).transpose()?;
    Ok(both(selector, names))
}

/// Both of two selectors, where they are given.
pub(super) fn both(a: Option<Selector>, b: Option<Selector>) -> Option<Selector> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Selector::And(vec![a, b])),
        (a, b) => a.or(b),
    }
}

/// A list, for which `null` and absence stand as well.
pub(super) fn list(value: &Value) -> Result<&[Value]> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(all) => Ok(all),
        other => bail!("{other} is no list"),
    }
}

/// A text that is there and not empty.
pub(super) fn text(value: &Value) -> Result<Option<&str>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        other => bail!("{other} is no text"),
    }
}

/// A protocol by name in any case, by number, or by digits.
pub(super) fn protocol(value: &Value) -> Result<Option<u8>> {
    let number = |n: u64| u8::try_from(n).ok().filter(|n| *n > 0).context("protocol number");
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Number(n) => number(n.as_u64().context("protocol number")?)?,
        Value::String(name) => match name.to_ascii_lowercase().as_str() {
            "tcp" => TCP,
            "udp" => UDP,
            "icmp" => ICMP,
            "icmpv6" => ICMPV6,
            "sctp" => SCTP,
            "udplite" => 136,
            digits => number(digits.parse().with_context(|| format!("protocol {digits:?}"))?)?,
        },
        other => bail!("protocol {other}"),
    }))
}

fn icmp(json: &Value) -> Result<Option<Icmp>> {
    if json.is_null() {
        return Ok(None);
    }
    let byte = |value: &Value, most: u64| -> Result<Option<u8>> {
        if value.is_null() {
            return Ok(None);
        }
        let number = value.as_u64().filter(|n| *n <= most).context("ICMP number")?;
        Ok(Some(u8::try_from(number)?))
    };
    let (kind, code) = (byte(&json["type"], 254)?, byte(&json["code"], 255)?);
    match (kind, code) {
        (None, None) => Ok(None),
        (None, Some(_)) => bail!("an ICMP code without a type"),
        (Some(kind), code) => Ok(Some((kind, code))),
    }
}

fn port(value: &Value) -> Result<Port> {
    let number = |text: &str| text.parse::<u16>().with_context(|| format!("port {text:?}"));
    if let Some(n) = value.as_u64() {
        let n = u16::try_from(n).context("port number")?;
        return Ok(Port::Range(n, n));
    }
    let text = value.as_str().with_context(|| format!("port {value}"))?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_digits(text) {
        return Ok(Port::Range(number(text)?, number(text)?));
    }
    if let Some((low, high)) = text.split_once(':') {
        let (low, high) = (number(low)?, number(high)?);
        ensure!(low <= high, "an empty port range");
        return Ok(Port::Range(low, high));
    }
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    ensure!((1..=128).contains(&text.len()) && text.bytes().all(is_name), "port name {text:?}");
    Ok(Port::Named(text.to_owned()))
}
