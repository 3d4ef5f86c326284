//! The requests that make and remove an interface, as values. It does no I/O.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use calico_datastore::model::{InterfaceName, Mac};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Mode, Step};
use super::{GATEWAY_V4, GATEWAY_V6, HOST_MAC, Plan};

/// The interface that every namespace has under this index.
const LOOPBACK: u32 = 1;
/// An interface without default routes has its own in table `TABLE + its index`.
const TABLE: u32 = 1_000_000;
/// The preference of the rules that lead there: before the main table (32766).
const RULE_PRIORITY: u32 = 20_000;

/// The interface by name.
pub(super) fn link_named(name: &InterfaceName) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.as_str().to_owned()), no_counters()];
    RouteNetlinkMessage::GetLink(link)
}

/// The interface by index.
pub(super) fn link_at(index: u32) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(no_counters());
    RouteNetlinkMessage::GetLink(link)
}

/// Every interface.
pub(super) fn links() -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(no_counters());
    RouteNetlinkMessage::GetLink(link)
}

/// They are most of an answer.
fn no_counters() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// The veth pair, both sides down; the pod's side never exists outside of its namespace.
pub(super) fn pair(plan: &Plan, netns: RawFd, host_mac: Mac) -> Step {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(plan.ifname.as_str().to_owned()),
        LinkAttribute::Mtu(plan.mtu),
        LinkAttribute::NetNsFd(netns),
    ];
    peer.attributes.extend(plan.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(plan.host_name.as_str().to_owned()),
        LinkAttribute::Mtu(plan.mtu),
        LinkAttribute::Address(host_mac.bytes().to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    Step {
        operation: "make the veth pair",
        subject: format!("{} with {} in {}", plan.host_name, plan.ifname, plan.netns.display()),
        mode: Mode::Create,
        message: RouteNetlinkMessage::NewLink(link),
    }
}

/// Removes an interface.
pub(super) fn removal(index: u32, name: &InterfaceName) -> Step {
    let mut link = LinkMessage::default();
    link.header.index = index;
    Step {
        operation: "remove the interface",
        subject: name.to_string(),
        mode: Mode::Remove,
        message: RouteNetlinkMessage::DelLink(link),
    }
}

/// Makes the host's side ready.
///
/// Its link-local address is the pods' IPv6 gateway. It is what the kernel makes of [`HOST_MAC`], so
/// that it is there again after the interface was down; given here as well, because the kernel makes
/// it only once both sides are up, and in its own time.
pub(super) fn host_side(plan: &Plan, index: u32) -> Vec<Step> {
    let name = &plan.host_name;
    let mut steps = Vec::new();
    if plan.has_v6() {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::Eui64);
        link.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        steps.push(Step {
            operation: "choose how link-local addresses are made",
            subject: name.to_string(),
            mode: Mode::Change,
            message: RouteNetlinkMessage::SetLink(link),
        });
    }
    steps.push(up(index, name.as_str()));
    if plan.has_v6() {
        let mut step = address(index, name, GATEWAY_V6.into(), 64, AddressScope::Link);
        // The kernel may have been faster.
        step.mode = Mode::Replace;
        steps.push(step);
    }
    steps
}

/// Makes the pod's side ready.
pub(super) fn pod_side(plan: &Plan, index: u32, host_mac: Mac) -> Vec<Step> {
    let name = &plan.ifname;
    let mut steps = vec![up(LOOPBACK, "lo"), up(index, name.as_str())];
    for ip in &plan.addresses {
        let len = if ip.is_ipv4() { 32 } else { 128 };
        steps.push(address(index, name, *ip, len, AddressScope::Universe));
    }
    let table =
        if plan.default_routes { u32::from(RouteHeader::RT_TABLE_MAIN) } else { table_of(index) };
    for gateway in plan.gateways() {
        // Before the routes: the first packet must find it.
        steps.push(neighbour(index, name, gateway, host_mac));
        if gateway.is_ipv4() {
            steps.push(route(index, name, table, Some(gateway), None));
        }
        steps.push(route(index, name, table, None, Some(gateway)));
    }
    if !plan.default_routes {
        for ip in &plan.addresses {
            steps.push(rule_removal(Some(*ip), None, ip.is_ipv4()));
            steps.push(rule(*ip, table));
        }
    }
    steps
}

/// Removes a rule that leads to the table of an interface.
pub(super) fn rule_to_removal(index: u32, v4: bool) -> Step {
    rule_removal(None, Some(table_of(index)), v4)
}

/// True for a rule that leads to the table of an interface.
pub(super) fn leads_to(rule: &RuleMessage, index: u32) -> bool {
    rule.attributes.contains(&RuleAttribute::Table(table_of(index)))
        && rule.attributes.contains(&RuleAttribute::Priority(RULE_PRIORITY))
}

fn table_of(index: u32) -> u32 {
    TABLE.saturating_add(index)
}

fn up(index: u32, name: &str) -> Step {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    Step {
        operation: "switch on",
        subject: name.to_owned(),
        mode: Mode::Change,
        message: RouteNetlinkMessage::SetLink(link),
    }
}

fn address(index: u32, name: &InterfaceName, ip: IpAddr, len: u8, scope: AddressScope) -> Step {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(ip);
    message.header.prefix_len = len;
    message.header.scope = scope;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if ip.is_ipv6() {
        // Addresses come from where each is given once; the check would cost the pod a second.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Step {
        operation: "add the address",
        subject: format!("{ip}/{len} to {name}"),
        mode: Mode::Create,
        message: RouteNetlinkMessage::NewAddress(message),
    }
}

fn neighbour(index: u32, name: &InterfaceName, ip: IpAddr, mac: Mac) -> Step {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    let destination = match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec()),
    ];
    Step {
        operation: "add the neighbour",
        subject: format!("{ip} ({HOST_MAC}) on {name}"),
        mode: Mode::Replace,
        message: RouteNetlinkMessage::NewNeighbour(message),
    }
}

/// A route to one address, or a default route.
fn route(
    index: u32,
    name: &InterfaceName,
    table: u32,
    to: Option<IpAddr>,
    via: Option<IpAddr>,
) -> Step {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = to.or(via).map_or(AddressFamily::Inet, family);
    header.destination_prefix_length = match to {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => 0,
    };
    header.protocol = RouteProtocol::Boot;
    header.kind = RouteType::Unicast;
    header.scope = if via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(table));
    attributes.extend(to.map(|ip| RouteAttribute::Destination(route_address(ip))));
    attributes.push(RouteAttribute::Oif(index));
    attributes.extend(via.map(|ip| RouteAttribute::Gateway(route_address(ip))));
    let subject = match (to, via) {
        (Some(to), _) => format!("{to} dev {name}"),
        (_, Some(via)) => format!("default via {via} dev {name}"),
        _ => format!("default dev {name}"),
    };
    Step {
        operation: "add the route",
        subject,
        mode: Mode::Create,
        message: RouteNetlinkMessage::NewRoute(message),
    }
}

/// What comes from an address goes by its interface's own table.
fn rule(ip: IpAddr, table: u32) -> Step {
    Step {
        operation: "add the rule",
        subject: format!("from {ip} lookup {table}"),
        mode: Mode::Create,
        message: RouteNetlinkMessage::NewRule(rule_message(Some(ip), Some(table), ip.is_ipv4())),
    }
}

fn rule_removal(from: Option<IpAddr>, table: Option<u32>, v4: bool) -> Step {
    Step {
        operation: "remove the rule",
        subject: match (from, table) {
            (Some(ip), _) => format!("from {ip}"),
            (None, table) => format!("lookup {}", table.unwrap_or_default()),
        },
        mode: Mode::Remove,
        message: RouteNetlinkMessage::DelRule(rule_message(from, table, v4)),
    }
}

fn rule_message(from: Option<IpAddr>, table: Option<u32>, v4: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(RULE_PRIORITY));
    if let Some(ip) = from {
        message.header.src_len = if v4 { 32 } else { 128 };
        message.attributes.push(RuleAttribute::Source(ip));
    }
    message.attributes.extend(table.map(RuleAttribute::Table));
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

impl Plan {
    pub(super) fn has_v6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// The gateways of the families that the pod has.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.addresses.iter().any(IpAddr::is_ipv4);
        let v4: Option<Ipv4Addr> = v4.then_some(GATEWAY_V4);
        let v6: Option<Ipv6Addr> = self.has_v6().then_some(GATEWAY_V6);
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }
}
